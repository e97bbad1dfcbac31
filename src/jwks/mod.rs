//! Key sets of issuers: where they are, how one is fetched, when it is fetched again.
//!
//! A hub fetches for everybody ([`crate::hub`]); an enforcement point that is told to fetches for
//! itself ([`DirectKeys`]). Deliberately absent: verifying anything, and any address that a token names.

mod direct;
mod discovery;
mod fetch;
mod looked;
mod pace;

pub use direct::{DirectKeys, DirectReports, DirectSettings, DirectSource, DirectView, Place};
pub use discovery::{DiscoveryError, discovery_address};
pub use fetch::{FetchError, Found, fetch};
pub use looked::Looked;
pub use pace::{Pace, RETRY_MAX, RETRY_MIN, jitter};
