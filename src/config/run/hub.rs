//! The configuration of a hub, as run.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::hub as raw;
use crate::config::run::check::Check;
pub use crate::config::run::database::Database;
use crate::config::run::shared::{self, Log};
use crate::core::id::Name;

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
    /// From how many identities on a revocation waits for a second approval.
    pub guard: Guard,
    /// How long what is over is kept.
    pub retention: Retention,
    /// How keys of issuers are fetched.
    pub issuers: Issuers,
    /// Where health and metrics are served.
    pub metrics: SocketAddr,
    /// Diagnostics.
    pub log: Log,
}

/// Where a hub keeps what it knows.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Store {
    /// An SQLite database in this file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which other hubs may share.
    Postgres(Database),
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
    /// Further administrators: the name and the token's file of each.
    pub admins: Vec<(Name, PathBuf)>,
}

/// From how many identities on a revocation waits for a second approval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    /// So many of a tenant within the window.
    pub count: u32,
    /// Or so many of its identities, in percent.
    pub percent: u32,
    /// How far back what was denied counts.
    pub window: Duration,
}

/// How long what is over is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// How long changes stay in the log; 1 hour to 3650 days.
    pub log: Duration,
}

/// How keys of issuers are fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issuers {
    /// Hosts that may be at loopback or private addresses, in lower case.
    pub internal_hosts: BTreeSet<String>,
    /// The only authorities trusted; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// How often keys are fetched when their server does not say.
    pub refresh: Duration,
    /// Shortest time between fetches because a key is missing.
    pub refetch_interval: Duration,
    /// How long keys are kept that cannot be fetched.
    pub keep: Duration,
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
    let admins = admins(check, &raw.api, &below);
    let guard = guard(check, &raw.revocation.guard);
    let retention = retention(check, &raw.retention);
    let issuers = issuers(check, &raw.issuers);
    let metrics = shared::metrics(check, &raw.metrics);
    Some(HubConfig {
        store: store?,
        data_dir: data_dir?,
        witness: witness?,
        state: state?,
        api: Api { address: address?, admin_token_file: token_file?, admins: admins? },
        guard: guard?,
        retention: retention?,
        issuers: issuers?,
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

fn admins(check: &mut Check<'_>, raw: &raw::Api, below: &Path) -> Option<Vec<(Name, PathBuf)>> {
    let mut all: Option<Vec<(Name, PathBuf)>> = Some(Vec::new());
    for (place, admin) in raw.admins.iter().enumerate() {
        let key = Key::root().field("api").field("admins").item(place);
        let name = check.name(&key.field("name"), &admin.name);
        let file = check.path_below(&key.field("token_file"), &admin.token_file, below);
        let (Some(name), Some(file)) = (name, file) else {
            all = None;
            continue;
        };
        let taken = name.as_str() == "admin"
            || all.as_ref().is_some_and(|all| all.iter().any(|(other, _)| *other == name));
        if taken {
            let expected = "a name of its own; `admin` holds `api.admin_token_file`";
            check.refuse(&key.field("name"), quoted(name.as_str()), expected, "choose another name");
            all = None;
        } else if let Some(all) = &mut all {
            all.push((name, file));
        }
    }
    all
}

fn guard(check: &mut Check<'_>, raw: &raw::Guard) -> Option<Guard> {
    let key = Key::root().field("revocation").field("guard");
    let count = check.number(&key.field("count"), raw.count, 1..=1_000_000);
    let percent = check.number(&key.field("percent"), raw.percent, 0..=100);
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    let window = check.duration(&key.field("window"), &raw.window, &bounds);
    Some(Guard { count: count?, percent: percent?, window: window? })
}

fn retention(check: &mut Check<'_>, raw: &raw::Retention) -> Option<Retention> {
    let bounds = Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);
    let log = check.duration(&Key::root().field("retention").field("log"), &raw.log, &bounds);
    Some(Retention { log: log? })
}

fn issuers(check: &mut Check<'_>, raw: &raw::Issuers) -> Option<Issuers> {
    let key = Key::root().field("issuers");
    let internal_hosts = shared::internal_hosts(check, &key.field("internal_hosts"), &raw.internal_hosts);
    let ca = raw.ca.as_ref().map(|path| check.path(&key.field("ca"), path));
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let refresh = check.duration(&key.field("refresh"), &raw.refresh, &(Duration::from_secs(10)..=hours(1)));
    let shortest = Duration::from_secs(1)..=hours(1);
    let refetch_interval = check.duration(&key.field("refetch_interval"), &raw.refetch_interval, &shortest);
    let keep = check.duration(&key.field("keep"), &raw.keep, &(hours(1)..=hours(7 * 24)));
    Some(Issuers {
        internal_hosts: internal_hosts?,
        ca: match ca {
            Some(path) => Some(path?),
            None => None,
        },
        refresh: refresh?,
        refetch_interval: refetch_interval?,
        keep: keep?,
    })
}

fn store(check: &mut Check<'_>, text: &str) -> Option<Store> {
    let key = Key::root().field("hub").field("store");
    match text.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() && !path.contains(['?', '#']) => {
            check.path(&key, path).map(Store::Sqlite)
        }
        Some(("postgresql" | "postgres", _)) => {
            super::database::database(check, &key, text).map(Store::Postgres)
        }
        _ => {
            let expected = "`sqlite://PATH` or `postgresql://USER@HOST/DATABASE`";
            // What looks like a login is not shown: it may hold a password.
            let found = if text.contains(['@', '=']) { "another URL".to_owned() } else { quoted(text) };
            check.refuse(&key, found, expected, "name the database");
            None
        }
    }
}
