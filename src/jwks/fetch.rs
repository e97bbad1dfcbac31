//! One fetch of an issuer's keys.

use std::time::Duration;

use super::discovery::{DiscoveryError, discovery_address, keys_address, metadata_address};
use crate::core::credential::{CanonicalSet, KeyUse, canonical};
use crate::core::identity::KeySource;
use crate::outbound::{Client, OutboundError, Target, TargetError};

/// What was fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where the set is.
    pub url: String,
    /// The set, in the one form that sets are kept in.
    pub set: CanonicalSet,
    /// For how long its server says that it is good; `None`: it does not say.
    pub max_age: Option<Duration>,
}

/// Why nothing was fetched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer that can be taken.
    #[error("{0}")]
    Outbound(#[from] OutboundError),
    /// Discovery names no place.
    #[error("{0}")]
    Discovery(#[from] DiscoveryError),
    /// The address is none.
    #[error("the address {0}")]
    Address(#[from] TargetError),
    /// The answer is no set, or there is none to fetch.
    #[error("{0}")]
    Set(&'static str),
}

/// Fetches the keys of `iss` from where `source` says that they are.
///
/// # Errors
/// [`FetchError`] says why there are none; nothing of what came is used then.
pub async fn fetch(
    client: &Client,
    iss: &str,
    source: &KeySource,
    key_use: KeyUse,
) -> Result<Found, FetchError> {
    let target = match source {
        KeySource::Url(url) => Target::parse(url)?,
        KeySource::Discovery => {
            let document = match client.get_json(&discovery_address(iss)?).await {
                // Only where there is none: an outage must not decide which of two documents counts.
                Err(error) if error.is_absent() => client.get_json(&metadata_address(iss)?).await?,
                other => other?,
            };
            keys_address(&document.body, iss)?
        }
        KeySource::Given => {
            return Err(FetchError::Set("the keys of this issuer are given, not fetched"));
        }
    };
    let answer = client.get_json(&target).await?;
    let set = canonical(&answer.body, key_use).map_err(FetchError::Set)?;
    Ok(Found { url: target.to_string(), set, max_age: answer.max_age })
}
