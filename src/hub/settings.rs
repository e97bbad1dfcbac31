//! What a hub is told, and why it cannot start.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::store::{StoreError, StoreFault};
use super::stream::StreamSettings;

/// What a hub is told.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The store's file.
    pub store: PathBuf,
    /// The hub's directory; only one hub may use it.
    pub data_dir: PathBuf,
    /// The state stream's listener.
    pub stream: StreamListener,
    /// The HTTP API's listener.
    pub api: ApiListener,
    /// How streams behave.
    pub streams: StreamSettings,
}

/// The state stream's listener.
#[derive(Clone, Debug)]
pub struct StreamListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate; without one it listens on loopback only.
    pub tls: Option<StreamTls>,
    /// Listens without a certificate beyond loopback: anyone on the path reads identity state.
    pub insecure_plaintext: bool,
}

/// The state stream's certificate.
#[derive(Clone, Debug)]
pub struct StreamTls {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates of those who sign enforcement points' certificates; then one is required.
    pub client_ca: Option<PathBuf>,
}

/// The HTTP API's listener.
#[derive(Clone, Debug)]
pub struct ApiListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// The admin token's file; made at the first start.
    pub admin_token_file: PathBuf,
    /// Listens beyond loopback, where the admin token travels in the clear.
    pub insecure_plaintext: bool,
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
    #[error("{listener} on {address}: {what}: {remedy}")]
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
