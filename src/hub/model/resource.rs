//! Resources.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::{self, OwnerSpec};
use super::{Faults, Read};
use crate::core::identity::{Record, Resource, ResourceRoute};
use crate::core::policy::PathPattern;

/// A protected service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a resource's spec")]
pub struct ResourceSpec {
    /// Where it runs.
    pub environment: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerSpec>,
    /// What it offers, first match wins; at most 1024.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
}

/// One route of a resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `methods`, `path`, `requires`")]
pub struct RouteSpec {
    /// Methods; absent or empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Path template: literal segments, `*` for one, a last `**` for the rest.
    pub path: String,
    /// The entitlement a caller needs; absent: the default policy permits nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
}

impl ResourceSpec {
    pub(super) fn read(self, faults: &mut Faults) -> Option<Read> {
        text::bounded(self.routes.len(), ROUTES_MAX, "routes", faults);
        let routes = self.routes.iter().enumerate().filter_map(|(i, r)| r.read(i, faults)).collect();
        let resource = Resource {
            environment: text::needed(&self.environment, "environment", faults),
            owner: self.owner.map(|owner| owner.read("owner", faults)).unwrap_or_default(),
            routes,
        };
        Some(Read::plain(Record::Resource(Arc::new(resource))))
    }
}

impl RouteSpec {
    fn read(&self, place: usize, faults: &mut Faults) -> Option<ResourceRoute> {
        let at = format!("routes[{place}]");
        for (i, method) in self.methods.iter().enumerate() {
            if method.is_empty() || method.len() > 32 || !method.bytes().all(is_method_byte) {
                let given = method.escape_debug();
                faults.push(
                    format_args!("{at}.methods[{i}]"),
                    format_args!("`{given}`: expected an upper-case method such as GET"),
                );
            }
        }
        let requires = text::optional(self.requires.as_ref(), &format!("{at}.requires"), faults);
        let path = PathPattern::parse(&self.path)
            .map_err(|error| faults.push(format_args!("{at}.path"), format_args!("{error}: {PATH_EXPECTED}")))
            .ok()?;
        let methods = self.methods.iter().map(|method| Arc::from(method.as_str())).collect();
        Some(ResourceRoute { methods, path, requires })
    }
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

impl From<&Resource> for ResourceSpec {
    fn from(v: &Resource) -> Self {
        let route = |route: &ResourceRoute| RouteSpec {
            methods: route.methods.iter().map(ToString::to_string).collect(),
            path: route.path.text().to_string(),
            requires: text::shown(route.requires.as_ref()),
        };
        Self {
            environment: v.environment.to_string(),
            owner: OwnerSpec::of(&v.owner),
            routes: v.routes.iter().map(route).collect(),
        }
    }
}

const ROUTES_MAX: usize = 1024;
const PATH_EXPECTED: &str = "expected such as `/orders/*/lines` or `/orders/**`";
