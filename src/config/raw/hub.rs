//! The sections of a hub.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::shared::{Log, Metrics};

/// The configuration of a hub: `portreeve hub --config FILE`.
///
/// A relative path is relative to the directory of the file. Any value may hold `${NAME}` or
/// `${NAME:-default}`, an environment variable; `$$` is a dollar sign. The schema describes the value after that.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HubFile {
    /// Where the hub keeps what it knows.
    pub(in crate::config) hub: Hub,
    /// The state stream that enforcement points connect to.
    #[serde(default)]
    pub(in crate::config) state: State,
    /// The administration API.
    #[serde(default)]
    pub(in crate::config) api: Api,
    /// Health and metrics.
    #[serde(default)]
    pub(in crate::config) metrics: Metrics,
    /// Diagnostics.
    #[serde(default)]
    pub(in crate::config) log: Log,
}

/// Where the hub keeps what it knows.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Hub {
    /// `sqlite:///absolute/path` or `sqlite://relative/path`.
    #[schemars(regex(pattern = "^sqlite://."))]
    pub(in crate::config) store: String,
    /// The directory of its keys and token files.
    #[schemars(length(min = 1))]
    pub(in crate::config) data_dir: String,
    /// The file of the highest head ever named, which shows that a store was put back; relative to
    /// `data_dir`. Another volume than the store's is better: what loses the one then keeps the other.
    #[serde(default = "witness")]
    #[schemars(length(min = 1))]
    pub(in crate::config) witness: String,
}

fn witness() -> String {
    "hub.witness".to_owned()
}

/// The state stream that enforcement points connect to, gRPC.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct State {
    /// IP address and port; loopback only.
    pub(in crate::config) address: String,
}

impl Default for State {
    fn default() -> Self {
        Self { address: "127.0.0.1:7410".to_owned() }
    }
}

/// The administration API, HTTP.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Api {
    /// IP address and port; loopback only.
    pub(in crate::config) address: String,
    /// The file of the token an administrator shows; relative to `data_dir`.
    #[schemars(length(min = 1))]
    pub(in crate::config) admin_token_file: String,
}

impl Default for Api {
    fn default() -> Self {
        Self { address: "127.0.0.1:7411".to_owned(), admin_token_file: "admin.token".to_owned() }
    }
}
