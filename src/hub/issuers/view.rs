//! An issuer's keys, as the HTTP API shows them.

use serde::Serialize;
use utoipa::ToSchema;

use super::attempt::{SPACE, item_key};
use super::fetched::Fetched;
use super::{Issuers, Key};
use crate::core::identity::{Issuer, KeySource, Record, RecordKind};
use crate::core::time::Timestamp;
use crate::hub::model::Time;
use crate::hub::store::StoreError;

/// An issuer's keys: those in use, those that are not, and how fetching them went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct IssuerKeys {
    /// Where they come from: `inline`, `url` or `discovery`.
    source: &'static str,
    /// Where the set was found; `null`: it was not fetched.
    url: Option<String>,
    /// The keys in use.
    keys: Vec<KeyInUse>,
    /// Keys that are not used, and why.
    refused: Vec<String>,
    /// When they were last fetched.
    fetched_at: Option<Time>,
    /// When it was last tried.
    attempted_at: Option<Time>,
    /// When it is tried next.
    next_at: Option<Time>,
    /// Failures since it last worked.
    failures: u32,
    /// What went wrong the last time; `null`: nothing.
    last_error: Option<String>,
    /// Until when they are used if they cannot be fetched any more.
    kept_until: Option<Time>,
    /// Whether they were given up because they could not be fetched for too long.
    given_up: bool,
}

/// A key in use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct KeyInUse {
    /// Its `kid`.
    kid: Option<String>,
    /// The one algorithm it verifies.
    algorithm: &'static str,
    /// Its RFC 7638 thumbprint, with SHA-256, in hex.
    thumbprint: String,
}

impl Issuers {
    /// How an issuer's keys stand; `None`: there is no such issuer. Blocks.
    pub(crate) fn keys(&self, key: &Key) -> Result<Option<IssuerKeys>, StoreError> {
        let stored = self.feed.store().record(&key.0, RecordKind::Issuer, &key.1)?;
        let record = stored.and_then(|stored| stored.change().ok()).and_then(|change| change.record);
        let Some(Record::Issuer(issuer)) = record else { return Ok(None) };
        let item = self.feed.store().item(SPACE, &item_key(key))?;
        let state = item.map_or_else(|| Fetched::new(&issuer), |item| Fetched::read(&item.value, &issuer));
        Ok(Some(self.shown(&issuer, &state)))
    }

    fn shown(&self, issuer: &Issuer, state: &Fetched) -> IssuerKeys {
        let is_fetched = issuer.key_source.is_fetched();
        let time = |at: Option<Timestamp>| at.filter(|_| is_fetched).map(Time);
        let in_use = issuer.keys.keys().iter().map(|key| KeyInUse {
            kid: key.key_id().map(ToString::to_string),
            algorithm: key.algorithm().as_str(),
            thumbprint: key.thumbprint().iter().map(|byte| format!("{byte:02x}")).collect(),
        });
        let refused = issuer.keys.refused().iter().map(ToString::to_string);
        IssuerKeys {
            source: match issuer.key_source {
                KeySource::Given => "inline",
                KeySource::Url(_) => "url",
                KeySource::Discovery => "discovery",
            },
            url: state.url.clone(),
            keys: in_use.collect(),
            refused: refused.chain(state.left_out.iter().cloned()).collect(),
            fetched_at: time(state.fetched),
            attempted_at: time(state.attempted),
            next_at: time(Some(state.next)),
            failures: state.failures,
            last_error: state.error.clone(),
            kept_until: time(state.kept_until(&self.pace)),
            given_up: state.dropped,
        }
    }
}
