//! Configuration: what is written in a file, and what runs.
//!
//! A file becomes a tree of nodes that know their place; variables are substituted in
//! its scalars; the tree is read as raw types; those are judged section by section and
//! become [`ProxyConfig`] or [`HubConfig`]. Each error names file, line, key, what was
//! found, what was expected and what to do; one run names all it can. Deliberately
//! absent: secrets (files are named, never their content), opening anything but the one
//! file, and logging.

mod endpoint;
mod error;
mod key;
mod raw;
mod read;
mod run;
mod schema;
mod substitute;
mod tree;
mod units;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

pub use self::endpoint::Endpoint;
pub use self::error::{ConfigError, FileFault, Problem, Problems};
pub use self::run::callers::{CallerCertificates, ForwardedCertificate};
pub use self::run::carriers::Carriers;
pub use self::run::evidence::{Evidence, Sink, Spool};
pub use self::run::health::Health;
pub use self::run::hub::{Api, Database, HubConfig, Issuers, State, StateFiles, StateSecurity, Store};
pub use self::run::hub_client::{HubAccess, HubClient};
pub use self::run::introspection::{Introspection, IntrospectionClient};
pub use self::run::key_sources::{DirectIssuer, KeySources};
pub use self::run::listener::{
    Authorities, Certificate, ClientCertificates, ExtAuthzListener, Limits, Listener, ListenerKind,
    ProxyListener, Tls,
};
pub use self::run::proxy::{Credentials, EnforcementPoint, ProxyConfig};
pub use self::run::route::{Route, service_ref};
pub use self::run::shared::{Log, LogFormat, LogLevel};
pub use self::run::traces::Traces;
pub use self::run::upstream::{
    Assertion, Forward, OwnCertificate, Upstream, UpstreamAddress, UpstreamCredential, UpstreamTls,
};
pub use self::run::workload::WorkloadApi;
pub use self::schema::schema;

use self::raw::hub::HubFile;
use self::raw::proxy::ProxyFile;
use self::run::check::Check;
use self::tree::Node;

/// Largest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// What a configuration takes from around it.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The host's name: the default of `enforcement_point.id`.
    pub host_name: &'a str,
    /// Processor cores there are: the default of `workers`.
    pub cores: usize,
    /// Looks up a variable for `${NAME}`; [`process_variable`] for those of the process.
    pub variables: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("host_name", &self.host_name)
            .field("cores", &self.cores)
            .finish_non_exhaustive()
    }
}

/// A variable of the process; `None` when it is absent or not UTF-8. The one place that reads them.
pub fn process_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A configuration that can run, and what weakens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    /// What an operator should hear at each start: one line each, with file, line and key.
    pub warnings: Vec<String>,
}

/// What a configuration file is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// An enforcement point.
    Proxy,
    /// The hub.
    Hub,
}

impl Role {
    /// The role's name: its subcommand.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Hub => "hub",
        }
    }
}

/// Reads the file of an enforcement point. Relative paths in it are relative to its directory.
///
/// # Errors
/// [`ConfigError`] says what is wrong with the file.
pub fn load_proxy(path: &Path, environment: &Environment<'_>) -> Result<Loaded<ProxyConfig>, ConfigError> {
    parse_proxy(&read_text(path)?, path, environment)
}

/// Reads the file of a hub. Relative paths in it are relative to its directory.
///
/// # Errors
/// [`ConfigError`] says what is wrong with the file.
pub fn load_hub(path: &Path, environment: &Environment<'_>) -> Result<Loaded<HubConfig>, ConfigError> {
    parse_hub(&read_text(path)?, path, environment)
}

/// Reads the text of an enforcement point's file, as if it stood at `origin`.
///
/// # Errors
/// [`ConfigError::Empty`], [`ConfigError::Syntax`], [`ConfigError::OtherRole`] or [`ConfigError::Rejected`].
pub fn parse_proxy(
    text: &str,
    origin: &Path,
    environment: &Environment<'_>,
) -> Result<Loaded<ProxyConfig>, ConfigError> {
    parse::<ProxyFile, _>(text, origin, environment, Role::Proxy, run::proxy::proxy_config)
}

/// Reads the text of a hub's file, as if it stood at `origin`.
///
/// # Errors
/// [`ConfigError::Empty`], [`ConfigError::Syntax`], [`ConfigError::OtherRole`] or [`ConfigError::Rejected`].
pub fn parse_hub(
    text: &str,
    origin: &Path,
    environment: &Environment<'_>,
) -> Result<Loaded<HubConfig>, ConfigError> {
    parse::<HubFile, _>(text, origin, environment, Role::Hub, run::hub::hub_config)
}

/// Which role a file's text is for, by its keys; `None` when it is no YAML mapping or its keys do not tell.
pub fn detect_role(text: &str) -> Option<Role> {
    role_of(&Node::parse("", text).ok()??)
}

/// Reads a configuration file's text.
///
/// # Errors
/// [`ConfigError::Missing`], [`ConfigError::Unreadable`], [`ConfigError::TooLarge`] or [`ConfigError::NotText`].
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    let unreadable = |error: &io::Error| {
        let cause = error.kind().to_string();
        let fault = |text: String| FileFault::new(&file, text);
        match error.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing(fault(
                "no such file, expected a configuration; name it with `--config`".to_owned(),
            )),
            io::ErrorKind::PermissionDenied => ConfigError::Unreadable(fault(format!(
                "{cause}, expected a file that may be read; let this user read it"
            ))),
            _ => ConfigError::Unreadable(fault(format!(
                "{cause}, expected a file that can be read; name another"
            ))),
        }
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("larger than {FILE_BYTES_MAX} bytes, the most that is read; shorten it");
        return Err(ConfigError::TooLarge(FileFault::new(&file, text)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = format!("not UTF-8 at byte {at}, expected UTF-8; save it in that encoding");
        ConfigError::NotText(FileFault::new(&file, text))
    })
}

/// The keys that one role has at the top level and the other has not.
const PROXY_KEYS: [&str; 10] = [
    "enforcement_point",
    "listeners",
    "upstreams",
    "credentials",
    "forward",
    "evidence",
    "admin",
    "workers",
    "drain_timeout",
    "memory_budget",
];
const HUB_KEYS: [&str; 2] = ["state", "api"];

fn role_of(root: &Node) -> Option<Role> {
    let proxy = root.keys().filter(|key| PROXY_KEYS.contains(key)).count();
    let hub = root.keys().filter(|key| HUB_KEYS.contains(key)).count();
    let below = |key| root.child("hub").is_some_and(|node| node.child(key).is_some());
    match (proxy + usize::from(below("endpoints"))).cmp(&(hub + usize::from(below("store")))) {
        std::cmp::Ordering::Greater => Some(Role::Proxy),
        std::cmp::Ordering::Less => Some(Role::Hub),
        std::cmp::Ordering::Equal => None,
    }
}

fn parse<F: serde::de::DeserializeOwned, T>(
    text: &str,
    origin: &Path,
    environment: &Environment<'_>,
    role: Role,
    judge: impl FnOnce(&mut Check<'_>, &F) -> Option<T>,
) -> Result<Loaded<T>, ConfigError> {
    let file = origin.display().to_string();
    let mut root = match Node::parse(&file, text).map_err(ConfigError::Syntax)? {
        Some(root) if !root.is_null() => root,
        _ => return Err(ConfigError::Empty(FileFault::new(&file, empty(role)))),
    };
    if let Some(other) = role_of(&root).filter(|other| *other != role) {
        return Err(ConfigError::OtherRole(FileFault::new(&file, other_role(role, other))));
    }
    let mut problems = substitute::substitute(&file, &mut root, environment.variables);
    if !problems.is_empty() {
        // A value that lacks its variable would be refused a second time, for what it is not.
        return Err(ConfigError::Rejected(Problems::new(problems)));
    }
    let (raw, unread) = read::read::<F>(&file, &root);
    problems.extend(unread);
    let directory = origin.parent().unwrap_or(Path::new(""));
    let mut check = Check::new(&file, directory, &root, environment);
    let config = raw.and_then(|raw| judge(&mut check, &raw));
    problems.append(&mut check.problems);
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, warnings: check.warnings }),
        _ => Err(ConfigError::Rejected(Problems::new(problems))),
    }
}

fn empty(role: Role) -> String {
    let name = role.as_str();
    format!("empty, expected the configuration of a {name}; `portreeve check --schema` describes it")
}

fn other_role(role: Role, other: Role) -> String {
    let (role, other) = (role.as_str(), other.as_str());
    format!(
        "the configuration of a {other}, expected that of a {role}; run `portreeve {other}`, or name another file"
    )
}
