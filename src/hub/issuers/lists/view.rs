//! An issuer's status lists, as the HTTP API shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::Lists;
use super::attempt::{SPACE, item_key};
use super::fetched::Fetched;
use crate::core::identity::{Record, RecordKind};
use crate::hub::authority::Refusal;
use crate::hub::issuers::Key;
use crate::hub::model::{StatusListSpec, Time};

/// An issuer's status lists: those that are held, and those that are sought.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct IssuerLists {
    /// The lists, by URI.
    lists: Vec<ListView>,
}

/// A status list, and how fetching it went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct ListView {
    /// The name of its record.
    name: String,
    /// Its URI.
    uri: String,
    /// What is held of it; `null`: nothing.
    held: Option<StatusListSpec>,
    /// When it was last fetched.
    fetched_at: Option<Time>,
    /// When it was last tried.
    attempted_at: Option<Time>,
    /// When it is tried next.
    next_at: Time,
    /// Failures since it last worked.
    failures: u32,
    /// What went wrong the last time; `null`: nothing.
    last_error: Option<String>,
}

impl Lists {
    /// How an issuer's lists stand; `None`: there is no such issuer. Blocks.
    pub(crate) fn show(&self, issuer: &Key) -> Result<Option<IssuerLists>, Refusal> {
        let store = self.feed.store();
        let stored = store.record(&issuer.0, RecordKind::Issuer, &issuer.1)?;
        let record = stored.and_then(|stored| stored.change().ok()).and_then(|change| change.record);
        let Some(Record::Issuer(_)) = record else { return Ok(None) };
        let held: BTreeMap<_, _> = self.authority.status_lists(&issuer.0)?.into_iter().collect();
        let mut lists = Vec::new();
        for place in self.places(issuer)? {
            let item = store.item(SPACE, &item_key(&place))?;
            let state = item.map_or_else(Fetched::default, |item| Fetched::read(&item.value));
            lists.push(ListView {
                name: place.name.to_string(),
                uri: place.uri.to_string(),
                held: held.get(&place.name).map(|list| list.as_ref().into()),
                fetched_at: state.fetched.map(Time),
                attempted_at: state.attempted.map(Time),
                next_at: Time(state.next),
                failures: state.failures,
                last_error: state.error,
            });
        }
        Ok(Some(IssuerLists { lists }))
    }
}
