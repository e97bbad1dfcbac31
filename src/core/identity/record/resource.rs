//! Protected services.

use std::sync::Arc;

use super::identity::Owner;
use crate::core::policy::{CanonicalPath, PathPattern};

/// A protected service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// Where it runs.
    pub environment: Arc<str>,
    /// Who answers for it.
    pub owner: Owner,
    /// What it offers, first match wins.
    pub routes: Vec<ResourceRoute>,
}

/// One route of a resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceRoute {
    /// Methods; empty: any.
    pub methods: Vec<Arc<str>>,
    /// Path template.
    pub path: PathPattern,
    /// The entitlement a caller needs; `None`: the default policy permits nobody.
    pub requires: Option<Arc<str>>,
}

impl ResourceRoute {
    /// Whether a request of this method and path is this route's.
    pub fn matches(&self, method: &str, path: &CanonicalPath) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|held| **held == *method))
            && self.path.matches(path)
    }
}
