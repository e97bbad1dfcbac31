//! The configuration of a hub, as run.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Where the state stream is served; a loopback address.
    pub state: SocketAddr,
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

/// The administration API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Where it is served; a loopback address.
    pub address: SocketAddr,
    /// The file of the token an administrator shows.
    pub admin_token_file: PathBuf,
}

const NO_TLS: &str = "TLS is not built in yet and what is sent there must not cross a network in clear";

pub(in crate::config) fn hub_config(check: &mut Check<'_>, raw: &raw::HubFile) -> Option<HubConfig> {
    let root = Key::root();
    let store = store(check, &raw.hub.store);
    let data_dir = check.path(&root.field("hub").field("data_dir"), &raw.hub.data_dir);
    let below = data_dir.clone().unwrap_or_default();
    let witness = check.path_below(&root.field("hub").field("witness"), &raw.hub.witness, &below);
    let state = check.loopback(&root.field("state").field("address"), &raw.state.address, NO_TLS);
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
