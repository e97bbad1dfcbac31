//! What a hub is told, and why it cannot start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::admission::Scope;
use super::guard::GuardLimits;
use super::issuers::IssuerSettings;
use super::retention::RetentionSettings;
use super::store::{PostgresSettings, StoreError, StoreFault};
use super::stream::StreamSettings;
use crate::mtls::FileError;

/// What a hub is told.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The store.
    pub store: StoreSettings,
    /// The hub's directory; only one hub may use it.
    pub data_dir: PathBuf,
    /// Where the state stream listens; loopback only when it is in clear.
    pub stream: SocketAddr,
    /// Where the HTTP API listens; loopback only.
    pub api: SocketAddr,
    /// The admin token's file; made at the first start.
    pub admin_token_file: PathBuf,
    /// Further administrators: the name and the token's file of each; names are unique and not `admin`.
    pub admins: Vec<(String, PathBuf)>,
    /// From how many identities on a revocation is held.
    pub guard: GuardLimits,
    /// How long the log, and what denies nothing any more, is kept.
    pub retention: RetentionSettings,
    /// The highest head named, in a file outside the store; on another volume by preference.
    pub witness: PathBuf,
    /// How streams behave.
    pub streams: StreamSettings,
    /// Who may come, and how that is told.
    pub access: AccessSettings,
    /// How keys of issuers are fetched.
    pub issuers: IssuerSettings,
}

/// Which store a hub keeps what it knows in.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum StoreSettings {
    /// An SQLite database in this file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which other hubs may share.
    Postgres(PostgresSettings),
}

/// Who may come to the state stream, and how that is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessSettings {
    /// How the stream is protected.
    pub security: StreamSecurity,
    /// Tenants of an enforcement point that has been given none.
    pub default_scope: Scope,
    /// How long a certificate is good for that the hub makes for an enforcement point.
    pub certificate_lifetime: Duration,
    /// How often files of certificates are looked at.
    pub look_every: Duration,
}

/// How the state stream is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamSecurity {
    /// By mutual TLS; with the cluster's own authority, and these files where there are some.
    MutualTls(Option<TlsFiles>),
    /// Not at all, and whoever comes is who it says it is: on loopback only.
    CleartextOnLoopback,
}

/// Certificates of another authority than the cluster's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// PEM: the hub's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: authorities of enforcement points' certificates, beside the cluster's own.
    pub client_ca: Option<PathBuf>,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            security: StreamSecurity::MutualTls(None),
            default_scope: Scope::none(),
            certificate_lifetime: Duration::from_secs(86_400),
            look_every: Duration::from_secs(5),
        }
    }
}

impl HubSettings {
    /// The store's file; `None`: it is no file of this machine.
    pub(super) fn store_file(&self) -> Option<&Path> {
        match &self.store {
            StoreSettings::Sqlite(file) => Some(file),
            StoreSettings::Postgres(_) => None,
        }
    }
}

/// Why a hub cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be used.
    #[error("`{}`: {what}: {remedy}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A listener cannot be had.
    #[error("{listener}: cannot listen on {address}: {what}; {remedy}")]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file of certificates cannot be used.
    #[error("the state stream: {0}")]
    Certificate(#[from] FileError),
    /// A listener failed while it served.
    #[error("{listener}: {what}")]
    Serve {
        /// Which listener.
        listener: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl From<StoreFault> for HubError {
    fn from(fault: StoreFault) -> Self {
        Self::Store(fault.into())
    }
}
