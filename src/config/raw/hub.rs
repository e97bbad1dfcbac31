//! The sections of a hub.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::shared::{DurationText, Log, Metrics};

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
    /// Bounds on what may be revoked at once.
    #[serde(default)]
    pub(in crate::config) revocation: Revocation,
    /// How long what is over is kept.
    #[serde(default)]
    pub(in crate::config) retention: Retention,
    /// Keys of issuers, which the hub fetches.
    #[serde(default)]
    pub(in crate::config) issuers: Issuers,
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
    /// `sqlite:///absolute/path` or `sqlite://relative/path`, or `postgresql://USER@HOST[:PORT]/DATABASE`, which
    /// several hubs may share. To another machine with `?sslmode=verify-full&sslrootcert=FILE`, or knowingly in
    /// clear with `?sslmode=disable`. A password stands in the URL or in the environment as `PGPASSWORD`.
    #[schemars(regex(pattern = "^(sqlite|postgres|postgresql)://."))]
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
    /// IP address and port.
    pub(in crate::config) address: String,
    /// Certificates of an authority of your own. Default: the hub is its own, and enforcement points join with a token.
    pub(in crate::config) tls: Option<StateTls>,
    /// Speak in clear and take whoever comes for who it says it is; on a loopback address only.
    pub(in crate::config) insecure_cleartext_loopback: bool,
    /// Tenants of an enforcement point that has been given none. Default: `none`; in clear, `all`.
    pub(in crate::config) default_scope: Option<DefaultScope>,
    /// How long a certificate is good for that an enforcement point is given; 10m to 30d. It is renewed at half of that.
    pub(in crate::config) certificate_lifetime: DurationText,
}

impl Default for State {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:7410".to_owned(),
            tls: None,
            insecure_cleartext_loopback: false,
            default_scope: None,
            certificate_lifetime: "24h".into(),
        }
    }
}

/// Certificates of the state stream; read again when a file changes.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct StateTls {
    /// PEM file: the hub's certificate, then its intermediates.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: String,
    /// PEM file: its private key.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: String,
    /// PEM file: authorities of enforcement points' certificates, accepted beside those the hub itself gave.
    #[schemars(length(min = 1))]
    pub(in crate::config) client_ca: Option<String>,
}

/// Tenants of an enforcement point that has been given none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum DefaultScope {
    /// No tenant.
    None,
    /// Every tenant, those to come included.
    All,
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
    /// Further administrators, each with a token of its own: what one asks for, another can approve.
    #[schemars(length(max = 64))]
    pub(in crate::config) admins: Vec<Admin>,
}

/// An administrator.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Admin {
    /// Its name, as it stands beside what it asks for; `admin` is who holds `admin_token_file`.
    pub(in crate::config) name: String,
    /// The file of its token, relative to `data_dir`; made at the first start.
    #[schemars(length(min = 1))]
    pub(in crate::config) token_file: String,
}

/// Bounds on what may be revoked at once.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Revocation {
    /// From how many identities on a revocation waits for a second approval.
    pub(in crate::config) guard: Guard,
}

/// From how many identities on a revocation waits for a second approval: more than the larger of both.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Guard {
    /// So many identities of a tenant within the window.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) count: u64,
    /// So many percent of a tenant's identities within the window.
    #[schemars(range(min = 0, max = 100))]
    pub(in crate::config) percent: u64,
    /// How far back what was denied counts; 1s to 1h.
    pub(in crate::config) window: DurationText,
}

/// How long what is over is kept.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Retention {
    /// Changes stay in the log for so long, 1h to 3650d: an enforcement point that was away for less is sent
    /// what it missed, any other the differences. Revocations of tokens that have ended, and what is left of
    /// removed records, go only after this, too.
    pub(in crate::config) log: DurationText,
}

impl Default for Retention {
    fn default() -> Self {
        Self { log: "7d".into() }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self { count: 50, percent: 1, window: DurationText("60s".to_owned()) }
    }
}

/// Keys of issuers, which the hub fetches over HTTPS.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Issuers {
    /// Hosts that may be at loopback or private addresses: names, or addresses without brackets. All others
    /// are asked at public addresses only.
    #[schemars(length(max = 256))]
    pub(in crate::config) internal_hosts: Vec<String>,
    /// PEM file of the only authorities trusted for these servers. Default: the system's.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca: Option<String>,
    /// How often keys are fetched when their server does not say for how long they are good; 10s to 1h.
    pub(in crate::config) refresh: DurationText,
    /// Shortest time between fetches of one issuer because a token names a key that is not there; 1s to 1h.
    pub(in crate::config) refetch_interval: DurationText,
    /// How long keys are used that can no longer be fetched; 1h to 7d.
    pub(in crate::config) keep: DurationText,
}

impl Default for Issuers {
    fn default() -> Self {
        Self {
            internal_hosts: vec![],
            ca: None,
            refresh: "10m".into(),
            refetch_interval: "30s".into(),
            keep: "24h".into(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:7411".to_owned(),
            admin_token_file: "admin.token".to_owned(),
            admins: vec![],
        }
    }
}
