//! Mutual TLS between hub and enforcement point: who a certificate names, what a join token
//! holds, which hub is trusted, files that are read again when they change, and certificates that change while
//! they are used.
//!
//! Both ends use this room, so that what one writes the other reads. Deliberately absent: who may
//! come (that is the hub's `admission`), sockets, and any process-wide default: the provider and
//! the clock are always named.

mod live;
mod name;
mod pem;
mod token;
mod verify;

pub use live::{DomainTrust, DomainVerifier, LiveBundles, LiveIdentity};
pub use name::{Certified, Cluster, NameError, certified, public_key_digest};
pub use pem::{FileError, Files, Key, certificates, encode, key_pair, validity};
pub use token::{JoinToken, JoinTokenError};
pub use verify::{HubVerifier, WallClock, provider, roots};
