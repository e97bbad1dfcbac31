//! Asking issuers about opaque tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::shared::DurationText;

/// Who is asked about opaque tokens (RFC 7662): servers that the records of issuers name as well.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Introspection {
    /// The servers; at least one. A secret goes to its own and to no other.
    #[schemars(length(min = 1, max = 64))]
    pub(in crate::config) clients: Vec<IntrospectionClient>,
    /// Hosts that may be at loopback or private addresses: names, or addresses without brackets. All others
    /// are asked at public addresses only.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub(in crate::config) internal_hosts: Vec<String>,
    /// PEM file of the only authorities trusted for these servers. Default: the system's.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca: Option<String>,
    /// Longest wait for a whole answer; 50ms to 5s.
    #[serde(default = "timeout")]
    pub(in crate::config) timeout: DurationText,
    /// How long it counts that a token is active, at most, and never beyond its end; 1s to 30s.
    #[serde(default = "active_max")]
    pub(in crate::config) active_max: DurationText,
    /// How long it counts that a token is not active; 1s to 10s.
    #[serde(default = "inactive_max")]
    pub(in crate::config) inactive_max: DurationText,
    /// Questions to one server at once; 1 to 10000. More tokens are refused meanwhile.
    #[serde(default = "max_concurrent")]
    #[schemars(range(min = 1, max = 10_000))]
    pub(in crate::config) max_concurrent: u64,
    /// Failures in a row after which a server is left alone; 1 to 1000.
    #[serde(default = "pause_after")]
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) pause_after: u64,
    /// For how long; 1s to 5m.
    #[serde(default = "pause")]
    pub(in crate::config) pause: DurationText,
}

/// A server, and who we are there.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct IntrospectionClient {
    /// Its `https` URL, exactly as the issuer's record has it.
    #[schemars(length(min = 1, max = 2048))]
    pub(in crate::config) endpoint: String,
    /// The client's id there.
    #[schemars(length(min = 1, max = 256))]
    pub(in crate::config) client_id: String,
    /// The file of its secret, one line; read again when it changes.
    #[schemars(length(min = 1))]
    pub(in crate::config) client_secret_file: String,
}

fn timeout() -> DurationText {
    "2s".into()
}

fn active_max() -> DurationText {
    "30s".into()
}

fn inactive_max() -> DurationText {
    "5s".into()
}

const fn max_concurrent() -> u64 {
    64
}

const fn pause_after() -> u64 {
    5
}

fn pause() -> DurationText {
    "10s".into()
}
