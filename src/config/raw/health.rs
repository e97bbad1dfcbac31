//! Checks of an upstream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::shared::DurationText;

/// Checks of whether it answers. While it does not, requests for it are refused with 503 at once.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// The path that is asked for with GET, without any credential. Default: a connection is enough.
    #[schemars(length(min = 1, max = 2048))]
    pub(in crate::config) path: Option<String>,
    /// From the end of a check to the next; 100ms to 1h.
    #[serde(default = "interval")]
    pub(in crate::config) interval: DurationText,
    /// Longest time that a check may take; 10ms to 1m.
    #[serde(default = "timeout")]
    pub(in crate::config) timeout: DurationText,
    /// Checks in a row that pass until it is healthy again; 1 to 100.
    #[serde(default = "healthy_after")]
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) healthy_after: u64,
    /// Checks in a row that fail until it is unhealthy; 1 to 100.
    #[serde(default = "unhealthy_after")]
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) unhealthy_after: u64,
    /// Statuses that pass; only with `path`. Default: 200 to 299.
    #[schemars(length(min = 1, max = 64), inner(range(min = 200, max = 599)))]
    pub(in crate::config) expected_status: Option<Vec<u64>>,
    /// Whether `/readyz` says 503 while it is unhealthy.
    #[serde(default)]
    pub(in crate::config) gates_readiness: bool,
}

fn interval() -> DurationText {
    "10s".into()
}

fn timeout() -> DurationText {
    "2s".into()
}

const fn healthy_after() -> u64 {
    2
}

const fn unhealthy_after() -> u64 {
    3
}
