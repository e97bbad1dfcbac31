//! What a hub is told, and why it cannot start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::store::{StoreError, StoreFault};
use super::stream::StreamSettings;

/// What a hub is told.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The store's file.
    pub store: PathBuf,
    /// The hub's directory; only one hub may use it.
    pub data_dir: PathBuf,
    /// Where the state stream listens; loopback only.
    pub stream: SocketAddr,
    /// Where the HTTP API listens; loopback only.
    pub api: SocketAddr,
    /// The admin token's file; made at the first start.
    pub admin_token_file: PathBuf,
    /// The highest head named, in a file outside the store; on another volume by preference.
    pub witness: PathBuf,
    /// How streams behave.
    pub streams: StreamSettings,
}

impl HubSettings {
    /// The store's file; `None`: it is no file of this machine.
    pub(super) fn store_file(&self) -> Option<&Path> {
        Some(&self.store)
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
