//! The configuration of a hub, as run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::hub as raw;
use crate::config::run::check::Check;
use crate::config::run::shared::{self, Log};

/// The configuration of a hub, as run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubConfig {
    /// Where the hub keeps what it knows.
    pub store: Store,
    /// The directory of its keys and token files.
    pub data_dir: PathBuf,
    /// The file of the highest head ever named.
    pub witness: PathBuf,
    /// The state stream.
    pub state: State,
    /// The administration API.
    pub api: Api,
    /// Where health and metrics are served.
    pub metrics: SocketAddr,
    /// Diagnostics.
    pub log: Log,
}

/// Where a hub keeps what it knows.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Store {
    /// An SQLite database in this file.
    Sqlite(PathBuf),
}

/// The state stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Where it is served; a loopback address when it is in clear.
    pub address: SocketAddr,
    /// How it is protected.
    pub security: StateSecurity,
    /// Whether an enforcement point that has been given no tenants has all of them, or none.
    pub all_tenants_by_default: bool,
    /// How long a certificate is good for that an enforcement point is given; 10 min to 30 days.
    pub certificate_lifetime: Duration,
}

/// How the state stream is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateSecurity {
    /// By mutual TLS, with certificates from these files where there are some.
    MutualTls(Option<StateFiles>),
    /// Not at all.
    InsecureCleartext,
}

/// Certificates of the state stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateFiles {
    /// The hub's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of enforcement points' certificates.
    pub client_ca: Option<PathBuf>,
}

/// The administration API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Where it is served; a loopback address.
    pub address: SocketAddr,
    /// The file of the token an administrator shows.
    pub admin_token_file: PathBuf,
}

const NO_TLS: &str = "it speaks no TLS, and an admin token must not cross a network in clear";

pub(in crate::config) fn hub_config(check: &mut Check<'_>, raw: &raw::HubFile) -> Option<HubConfig> {
    let root = Key::root();
    let store = store(check, &raw.hub.store);
    let data_dir = check.path(&root.field("hub").field("data_dir"), &raw.hub.data_dir);
    let below = data_dir.clone().unwrap_or_default();
    let witness = check.path_below(&root.field("hub").field("witness"), &raw.hub.witness, &below);
    let state = state(check, &raw.state);
    let api_key = root.field("api");
    let address = check.loopback(&api_key.field("address"), &raw.api.address, NO_TLS);
    let token_file = check.path_below(&api_key.field("admin_token_file"), &raw.api.admin_token_file, &below);
    let metrics = shared::metrics(check, &raw.metrics);
    Some(HubConfig {
        store: store?,
        data_dir: data_dir?,
        witness: witness?,
        state: state?,
        api: Api { address: address?, admin_token_file: token_file? },
        metrics: metrics?,
        log: shared::log(&raw.log),
    })
}

fn state(check: &mut Check<'_>, raw: &raw::State) -> Option<State> {
    let key = Key::root().field("state");
    let address_key = key.field("address");
    let insecure = key.field("insecure_cleartext_loopback");
    let address = if raw.insecure_cleartext_loopback {
        check.warn(
            &insecure,
            "whoever reaches the state stream on this host may take state and pose as any enforcement point",
        );
        let reason = "what is in clear must not cross a network";
        check.loopback(&address_key, &raw.address, reason)
    } else {
        check.address(&address_key, &raw.address)
    };
    let files = raw.tls.as_ref().map(|raw| tls(check, &key.field("tls"), raw));
    if files.is_some() && raw.insecure_cleartext_loopback {
        let found = "`insecure_cleartext_loopback: true` beside `tls`";
        check.refuse(&insecure, found, "one of the two", "remove one of them");
    }
    let bounds = Duration::from_secs(600)..=Duration::from_secs(30 * 86_400);
    let lifetime = check.duration(&key.field("certificate_lifetime"), &raw.certificate_lifetime, &bounds);
    let security = match files {
        _ if raw.insecure_cleartext_loopback => StateSecurity::InsecureCleartext,
        Some(files) => StateSecurity::MutualTls(Some(files?)),
        None => StateSecurity::MutualTls(None),
    };
    let all = match raw.default_scope {
        Some(default) => default == raw::DefaultScope::All,
        None => raw.insecure_cleartext_loopback,
    };
    Some(State { address: address?, security, all_tenants_by_default: all, certificate_lifetime: lifetime? })
}

fn tls(check: &mut Check<'_>, key: &Key, raw: &raw::StateTls) -> Option<StateFiles> {
    let certificate = check.path(&key.field("certificate"), &raw.certificate);
    let private = check.path(&key.field("key"), &raw.key);
    let client_ca = raw.client_ca.as_ref().map(|path| check.path(&key.field("client_ca"), path));
    let client_ca = match client_ca {
        Some(path) => Some(path?),
        None => None,
    };
    Some(StateFiles { certificate: certificate?, key: private?, client_ca })
}

fn store(check: &mut Check<'_>, text: &str) -> Option<Store> {
    let key = Key::root().field("hub").field("store");
    let expected = "`sqlite:///absolute/path` or `sqlite://relative/path`";
    match text.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() && !path.contains(['?', '#']) => {
            check.path(&key, path).map(Store::Sqlite)
        }
        Some(("postgresql" | "postgres", _)) => {
            // The URL may hold a password: it is not shown.
            let remedy = "use SQLite; PostgreSQL is not built in";
            check.refuse(&key, "a PostgreSQL store", expected, remedy);
            None
        }
        _ => {
            check.refuse(&key, quoted(text), expected, "name the database file");
            None
        }
    }
}
