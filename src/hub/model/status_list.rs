//! Status lists: where an issuer's may be, and what is shown of one.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time::{Time, parse_span, show_span};
use super::{Faults, text};
use crate::core::identity::{StatusList, StatusLists};
use crate::outbound::Target;

/// Where an issuer's status lists may be. Without this, its tokens that name one are refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `uris`")]
pub struct StatusListsSpec {
    /// `https` URIs as tokens name them, 1 to 16. One that ends with `/` stands for those below it; the others are
    /// fetched ahead.
    pub uris: Vec<String>,
    /// Longest time that a list counts after it was fetched, such as `1h`; at least `1m`, at most `7d`.
    #[serde(default = "max_age")]
    pub max_age: String,
}

fn max_age() -> String {
    show_span(MAX_AGE_S)
}

impl StatusListsSpec {
    pub(super) fn read(&self, faults: &mut Faults) -> Option<StatusLists> {
        if self.uris.is_empty() || self.uris.len() > URIS_MAX {
            faults.push("status_lists.uris", format_args!("expected 1 to {URIS_MAX} URIs"));
        }
        let mut seen = BTreeSet::new();
        let uris = self.uris.iter().enumerate().map(|(place, uri)| {
            let at = format!("status_lists.uris[{place}]");
            if let Some(fault) = uri_fault(uri) {
                faults.push(&at, format_args!("`{}` {fault}: expected an `https` URL", uri.escape_debug()));
            }
            if !seen.insert(uri) {
                faults.push(&at, "is there twice");
            }
            text::needed(uri, &at, faults)
        });
        let uris: Vec<Arc<str>> = uris.collect();
        let seconds = parse_span(&self.max_age).and_then(|span| u32::try_from(span.as_secs()).ok());
        let max_age_s = seconds.filter(|s| (MAX_AGE_S_LEAST..=MAX_AGE_S_MOST).contains(s));
        if max_age_s.is_none() {
            let given = self.max_age.escape_debug();
            faults.push("status_lists.max_age", format_args!("`{given}`: expected 1m to 7d, such as `1h`"));
        }
        Some(StatusLists { uris, max_age_s: max_age_s? })
    }
}

fn uri_fault(uri: &str) -> Option<String> {
    let target = match Target::parse(uri) {
        Ok(target) => target,
        Err(error) => return Some(error.to_string()),
    };
    // `https://host` and `https://host/` are one place, and two texts.
    let has_path = uri.strip_prefix("https://").is_some_and(|rest| rest.contains('/'));
    if !has_path {
        return Some("has no path".to_owned());
    }
    (uri.ends_with('/') && target.refuse_query().is_err()).then(|| "has a query".to_owned())
}

impl From<&StatusLists> for StatusListsSpec {
    fn from(v: &StatusLists) -> Self {
        Self {
            uris: v.uris.iter().map(ToString::to_string).collect(),
            max_age: show_span(v.max_age_s.into()),
        }
    }
}

/// A status list, as the hub holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct StatusListSpec {
    /// The issuer's name.
    pub issuer: String,
    /// Its URI.
    pub uri: String,
    /// How many bits a value has.
    pub bits: u8,
    /// How many values there are; 0: it was withdrawn.
    pub entries: u64,
    /// When its issuer made it.
    pub issued: Time,
    /// From then on tokens that name it are refused.
    pub valid_until: Time,
}

impl From<&StatusList> for StatusListSpec {
    fn from(v: &StatusList) -> Self {
        Self {
            issuer: v.issuer.to_string(),
            uri: v.uri.to_string(),
            bits: v.bits.count(),
            entries: v.entries(),
            issued: Time(v.issued),
            valid_until: Time(v.valid_until),
        }
    }
}

const URIS_MAX: usize = 16;
const MAX_AGE_S: u64 = 3600;
const MAX_AGE_S_LEAST: u32 = 60;
const MAX_AGE_S_MOST: u32 = 7 * 86_400;
