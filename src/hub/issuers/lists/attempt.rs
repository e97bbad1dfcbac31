//! One fetch of a list: whose turn it is, the fetch itself, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fetched::Fetched;
use super::{Lists, Place};
use crate::core::credential::{StatusListError, verify_status_list};
use crate::core::identity::{InflateError, Issuer, Record, RecordKind, StatusList};
use crate::core::time::Timestamp;
use crate::hub::authority::{Authority, Listed, Refusal};
use crate::hub::blocking;
use crate::hub::feed::Feed;
use crate::hub::store::StoreError;
use crate::outbound::{OutboundError, Target, TargetError};

/// Where the state of fetching lies in the store.
pub(super) const SPACE: &str = "status-lists";

/// The item of one list.
pub(super) fn item_key(place: &Place) -> String {
    format!("{}/{}", place.tenant, place.name)
}

/// What a fetch is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// Its time has come.
    Due,
    /// Somebody wants it.
    Asked,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Attempted {
    /// It was fetched, well or badly.
    Done(Fetched),
    /// It is not due: another hub was there before.
    NotDue(Fetched),
    /// Somebody is at it.
    Busy(Fetched),
    /// Its issuer's record does not take it, or it is not to be fetched again.
    Gone,
}

struct Turn {
    issuer: Arc<Issuer>,
    state: Fetched,
    version: u64,
}

struct Found {
    list: StatusList,
    said: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Outbound(#[from] OutboundError),
    #[error("its URI {0}")]
    Uri(#[from] TargetError),
    #[error("{0}")]
    Token(#[from] StatusListError),
    #[error("{0}")]
    Values(#[from] InflateError),
    #[error("it is older than the one that is held")]
    Older,
    #[error("the issuer's record was changed meanwhile")]
    Changed,
    #[error("{0}")]
    Full(&'static str),
    #[error("{0}")]
    Written(Refusal),
}

impl Lists {
    /// Fetches one list if it is its turn.
    pub(super) async fn attempt(&self, place: &Place, why: Why) -> Result<Attempted, StoreError> {
        let (feed, clock, of) = (Arc::clone(&self.feed), Arc::clone(&self.clock), place.clone());
        let begun = blocking(&**self.feed.store(), move || begin(&feed, &of, why, clock.now().wall)).await?;
        let turn = match begun {
            Begun::Turn(turn) => turn,
            Begun::Not(attempted) => return Ok(attempted),
        };
        self.counts.fetches.fetch_add(1, Ordering::Relaxed);
        let found = self.fetch(place, &turn.issuer).await;
        let (feed, authority, clock) =
            (Arc::clone(&self.feed), Arc::clone(&self.authority), Arc::clone(&self.clock));
        let of = place.clone();
        let work = move || finish(&feed, &authority, &of, turn, found, clock.now().wall);
        let (attempted, failed) = blocking(&**self.feed.store(), work).await?;
        if failed {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.watch.lock().note(place, failed);
        Ok(attempted)
    }

    async fn fetch(&self, place: &Place, issuer: &Issuer) -> Result<Found, FetchError> {
        let answer = self.client.get_status_list(&Target::parse(&place.uri)?).await?;
        let now = self.clock.now().wall;
        let token = verify_status_list(&answer.body, &place.uri, issuer, now)?;
        let max_age = issuer.status_lists.as_ref().map_or(0, |lists| lists.max_age_s);
        let bound = now.after(Duration::from_secs(max_age.into()));
        let mut list = StatusList::withdrawn(place.issuer.clone(), Arc::clone(&place.uri));
        list.bits = token.bits;
        list.issued = token.issued;
        list.valid_until = token.expires.map_or(bound, |end| end.min(bound));
        list.signed_by = token.signed_by;
        Ok(Found { list: list.with_values(token.packed)?, said: token.ttl.or(answer.max_age) })
    }
}

enum Begun {
    Turn(Turn),
    Not(Attempted),
}

/// Takes the turn, if it is due and nobody has it. Blocks.
fn begin(feed: &Feed, place: &Place, why: Why, now: Timestamp) -> Result<Begun, StoreError> {
    let store = feed.store();
    let Some(issuer) = taking_issuer(feed, place)? else { return Ok(Begun::Not(Attempted::Gone)) };
    let item = store.item(SPACE, &item_key(place))?;
    let version = item.as_ref().map(|item| item.version);
    let mut state = item.map_or_else(Fetched::default, |item| Fetched::read(&item.value));
    if state.claimed_until > now {
        return Ok(Begun::Not(Attempted::Busy(state)));
    }
    if why == Why::Due && state.next > now {
        return Ok(Begun::Not(Attempted::NotDue(state)));
    }
    state.claimed_until = now.after(TURN);
    state.attempted = Some(now);
    match store.put_item(SPACE, &item_key(place), &state.write(), version) {
        Ok(version) => Ok(Begun::Turn(Turn { issuer, state, version })),
        // Another hub took it.
        Err(StoreError::Item(_)) => Ok(Begun::Not(Attempted::Busy(state))),
        Err(error) => Err(error),
    }
}

/// The issuer's record, if it takes the list. Blocks.
fn taking_issuer(feed: &Feed, place: &Place) -> Result<Option<Arc<Issuer>>, StoreError> {
    let stored = feed.store().record(&place.tenant, RecordKind::Issuer, &place.issuer)?;
    let change = stored.and_then(|stored| stored.change().ok());
    Ok(match change.and_then(|change| change.record) {
        Some(Record::Issuer(issuer))
            if issuer.status_lists.as_ref().is_some_and(|lists| lists.takes(&place.uri)) =>
        {
            Some(issuer)
        }
        _ => None,
    })
}

/// Writes down what came of a turn; whether it failed. Blocks.
fn finish(
    feed: &Feed,
    authority: &Authority,
    place: &Place,
    turn: Turn,
    found: Result<Found, FetchError>,
    now: Timestamp,
) -> Result<(Attempted, bool), StoreError> {
    let Turn { issuer, mut state, mut version } = turn;
    let spread = blake3::hash(format!("{}/{version}", item_key(place)).as_bytes());
    let spread = spread.as_bytes().first().copied().unwrap_or_default();
    let put = |state: &Fetched, version| {
        feed.store().put_item(SPACE, &item_key(place), &state.write(), Some(version))
    };
    if found.is_ok() {
        // Taken once more before anything is committed, as for keys.
        let claimed = Fetched { claimed_until: now.after(TURN), ..state.clone() };
        match put(&claimed, version) {
            Ok(taken) => version = taken,
            Err(StoreError::Item(_)) => return Ok((Attempted::Busy(state), false)),
            Err(error) => return Err(error),
        }
    }
    let listed = found.and_then(|found| Ok((commit(authority, place, &issuer, found.list)?, found.said)));
    let failed = listed.is_err();
    match listed {
        Ok((list, said)) => state.succeeded(said, list.valid_until, now, spread),
        Err(FetchError::Written(Refusal::Store { error, .. })) => return Err(error),
        Err(error) => {
            tracing::warn!(tenant = %place.tenant, issuer = %place.issuer, uri = %place.uri, %error,
                "a status list cannot be fetched");
            state.failed(&error.to_string(), now, spread);
            if is_given_up(authority, place, &issuer, now) {
                match feed.store().remove_item(SPACE, &item_key(place), version) {
                    Ok(()) | Err(StoreError::Item(_)) => return Ok((Attempted::Gone, true)),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    match put(&state, version) {
        // The turn lasted too long, or the record is gone: another's word stands.
        Ok(_) | Err(StoreError::Item(_)) => Ok((Attempted::Done(state), failed)),
        Err(error) => Err(error),
    }
}

fn commit(
    authority: &Authority,
    place: &Place,
    issuer: &Issuer,
    list: StatusList,
) -> Result<Arc<StatusList>, FetchError> {
    match authority.set_list(&place.tenant, &place.name, issuer, &Arc::new(list)) {
        Ok(Listed::Held(list, revision)) => {
            if let Some(revision) = revision {
                tracing::info!(tenant = %place.tenant, issuer = %place.issuer, uri = %place.uri, revision,
                    entries = list.entries(), "a status list was fetched");
            }
            Ok(list)
        }
        Ok(Listed::Older) => Err(FetchError::Older),
        Ok(Listed::NotTaken) => Err(FetchError::Changed),
        Ok(Listed::Full(why)) => Err(FetchError::Full(why)),
        Err(refusal) => Err(FetchError::Written(refusal)),
    }
}

/// Whether a list that cannot be fetched is not tried again by itself: nobody named it in the issuer's
/// record, and it is not held, or counts no more since long. The next token that names it reports it.
fn is_given_up(authority: &Authority, place: &Place, issuer: &Issuer, now: Timestamp) -> bool {
    let named = issuer.status_lists.iter().flat_map(|lists| &lists.uris).any(|uri| *uri == place.uri);
    let held = authority.status_lists(&place.tenant);
    let held = held.map(|lists| lists.into_iter().find(|(name, _)| *name == place.name));
    match held {
        Ok(None) => !named,
        Ok(Some((_, list))) if !named && list.valid_until.after(GIVEN_UP_AFTER) <= now => {
            authority.withdraw_lists(&place.tenant, Some(&place.name)).is_ok()
        }
        _ => false,
    }
}

/// How long a turn lasts at most.
const TURN: Duration = Duration::from_secs(15);
/// How long a list is sought that counts no more.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(86_400);
