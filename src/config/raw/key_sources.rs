//! Keys of issuers that are fetched here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::shared::DurationText;

/// Issuers whose keys this enforcement point fetches itself, in the place of those in their records.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct KeySources {
    /// The issuers; at least one.
    #[schemars(length(min = 1, max = 64))]
    pub(in crate::config) issuers: Vec<KeySource>,
    /// Hosts that may be at loopback or private addresses: names, or addresses without brackets. All others
    /// are asked at public addresses only.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub(in crate::config) internal_hosts: Vec<String>,
    /// PEM file of the only authorities trusted for these servers. Default: the system's.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca: Option<String>,
    /// How often keys are fetched when their server does not say for how long they are good; 10s to 1h.
    #[serde(default = "refresh")]
    pub(in crate::config) refresh: DurationText,
    /// Shortest time between fetches of one issuer because a token names a key that is not there; 1s to 1h.
    #[serde(default = "refetch_interval")]
    pub(in crate::config) refetch_interval: DurationText,
    /// How long keys are used that can no longer be fetched; 1h to 7d.
    #[serde(default = "keep")]
    pub(in crate::config) keep: DurationText,
}

/// An issuer, and where its keys are: `url` or `discovery`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct KeySource {
    /// Its tenant. Default: `enforcement_point.tenant`.
    #[schemars(length(min = 1, max = 128))]
    pub(in crate::config) tenant: Option<String>,
    /// The exact `iss` of its record.
    #[schemars(length(min = 1))]
    pub(in crate::config) iss: String,
    /// The `https` URL of a JSON Web Key Set.
    #[schemars(length(min = 1, max = 2048))]
    pub(in crate::config) url: Option<String>,
    /// `true`: found by OpenID Connect discovery at `iss`.
    pub(in crate::config) discovery: Option<bool>,
}

fn refresh() -> DurationText {
    "10m".into()
}

fn refetch_interval() -> DurationText {
    "30s".into()
}

fn keep() -> DurationText {
    "24h".into()
}
