//! One fetch: whose turn it is, the fetch itself, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fetched::Fetched;
use super::{Issuers, Key};
use crate::core::credential::{NO_KEYS, RefusedKey};
use crate::core::identity::{Issuer, Record, RecordKind};
use crate::core::time::Timestamp;
use crate::hub::authority::{Authority, FetchedKeys, Pass, Refusal};
use crate::hub::blocking;
use crate::hub::feed::Feed;
use crate::hub::store::StoreError;
use crate::jwks::{FetchError, Found, Pace, fetch};

/// Where the state of fetching lies in the store.
pub(super) const SPACE: &str = "issuer-keys";

/// The item of one issuer.
pub(super) fn item_key((tenant, issuer): &Key) -> String {
    format!("{tenant}/{issuer}")
}

/// What a fetch is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Its time has come.
    Scheduled,
    /// A token names a key that is not there.
    Missing,
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
    /// There is no such issuer, or its keys are not fetched.
    NotFetched,
}

/// A turn that was taken.
struct Turn {
    issuer: Arc<Issuer>,
    state: Fetched,
    version: u64,
}

impl Issuers {
    /// Fetches one issuer's keys if it is its turn.
    pub(super) async fn attempt(&self, key: &Key, why: Why) -> Result<Attempted, StoreError> {
        let (feed, clock, pace, asked) =
            (Arc::clone(&self.feed), Arc::clone(&self.clock), self.pace, key.clone());
        let begun = blocking(&**self.feed.store(), move || {
            let now = clock.now().wall;
            let due = |state: &Fetched| match why {
                Why::Scheduled => state.next <= now,
                Why::Missing => state.refetch_at(&pace) <= now,
                Why::Asked => true,
            };
            begin(&feed, &asked, (why, now), due)
        });
        let turn = match begun.await? {
            Begun::Turn(turn) => turn,
            Begun::Not(attempted) => return Ok(attempted),
        };
        self.counts.fetches.fetch_add(1, Ordering::Relaxed);
        let issuer = &turn.issuer;
        let found = fetch(&self.client, &issuer.iss, &issuer.key_source, issuer.profile.key_use()).await;
        if found.is_err() {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.finish(key, turn, found).await
    }

    async fn finish(
        &self,
        key: &Key,
        turn: Turn,
        found: Result<Found, FetchError>,
    ) -> Result<Attempted, StoreError> {
        let (authority, feed) = (Arc::clone(&self.authority), Arc::clone(&self.feed));
        let (clock, pace, of) = (Arc::clone(&self.clock), self.pace, key.clone());
        let finished = blocking(&**self.feed.store(), move || {
            let Turn { issuer, mut state, mut version } = turn;
            let (now, spread) = (clock.now().wall, spread(&of, version));
            let mut claimed = state.clone();
            let keys = match found {
                Ok(Found { url, set, max_age }) => {
                    state.url = Some(url);
                    state.left_out = set.dropped.iter().map(ToString::to_string).collect();
                    state.succeeded(&pace, max_age, now, spread);
                    let until = state.kept_until(&pace);
                    Some(FetchedKeys { jwks: Some(Arc::from(set.jwks)), until, worth: pace.keep / 2 })
                }
                Err(error) => {
                    let over = state.failed(&pace, error.to_string(), now, spread);
                    give_up(&of, over, &error).or_else(|| keep(&state, &pace))
                }
            };
            if keys.is_some() {
                // Taken once more before anything is committed: whose turn was over must not put an older
                // set in place of what another hub fetched meanwhile.
                claimed.claimed_until = now.after(TURN);
                match feed.store().put_item(SPACE, &item_key(&of), &claimed.write(), Some(version)) {
                    Ok(taken) => version = taken,
                    Err(StoreError::Item(_)) => {
                        tracing::warn!(tenant = %of.0, issuer = %of.1, "a fetch lasted too long: its keys are not taken");
                        return Ok((issuer, state));
                    }
                    Err(error) => return Err(error),
                }
            }
            let issuer = match keys {
                Some(keys) => commit(&authority, &of, &issuer, &keys, &state)?.unwrap_or(issuer),
                None => issuer,
            };
            match feed.store().put_item(SPACE, &item_key(&of), &state.write(), Some(version)) {
                Ok(_) => {}
                // The turn lasted too long, or the record is gone: another's word stands.
                Err(StoreError::Item(_)) => tracing::debug!(tenant = %of.0, issuer = %of.1, "overtaken"),
                Err(error) => return Err(error),
            }
            Ok((issuer, state))
        });
        let (issuer, state) = finished.await?;
        self.watch.lock().note(key, &issuer, &state);
        Ok(Attempted::Done(state))
    }
}

/// Tells of a failure; the keys in the place of those that are given up, if it is `over`.
fn give_up(key: &Key, over: bool, error: &FetchError) -> Option<FetchedKeys> {
    tracing::warn!(tenant = %key.0, issuer = %key.1, %error, "an issuer's keys cannot be fetched");
    over.then(|| {
        tracing::error!(tenant = %key.0, issuer = %key.1,
            "an issuer's keys could not be fetched for too long: its tokens are refused until they can be");
        FetchedKeys { jwks: Some(Arc::from(NO_KEYS)), until: None, worth: Duration::ZERO }
    })
}

/// The keys that are there, for all of their time: nobody can say yet when there will be others.
fn keep(state: &Fetched, pace: &Pace) -> Option<FetchedKeys> {
    let until = state.kept_until(pace)?;
    Some(FetchedKeys { jwks: None, until: Some(until), worth: Duration::ZERO })
}

enum Begun {
    Turn(Turn),
    Not(Attempted),
}

/// Takes the turn, if it is due and nobody has it. Blocks.
fn begin(
    feed: &Feed,
    key: &Key,
    (why, now): (Why, Timestamp),
    due: impl Fn(&Fetched) -> bool,
) -> Result<Begun, StoreError> {
    let store = feed.store();
    let Some(issuer) = fetched_issuer(feed, key)? else { return Ok(Begun::Not(Attempted::NotFetched)) };
    let item = store.item(SPACE, &item_key(key))?;
    let version = item.as_ref().map(|item| item.version);
    let mut state = item.map_or_else(|| Fetched::new(&issuer), |item| Fetched::read(&item.value, &issuer));
    if state.claimed_until > now {
        return Ok(Begun::Not(Attempted::Busy(state)));
    }
    if !due(&state) {
        return Ok(Begun::Not(Attempted::NotDue(state)));
    }
    state.claimed_until = now.after(TURN);
    state.attempted = Some(now);
    if why == Why::Missing {
        state.refetched = Some(now);
    }
    match store.put_item(SPACE, &item_key(key), &state.write(), version) {
        Ok(version) => Ok(Begun::Turn(Turn { issuer, state, version })),
        // Another hub took it.
        Err(StoreError::Item(_)) => Ok(Begun::Not(Attempted::Busy(state))),
        Err(error) => Err(error),
    }
}

/// The issuer's record, if its keys are fetched. Blocks.
pub(super) fn fetched_issuer(feed: &Feed, (tenant, name): &Key) -> Result<Option<Arc<Issuer>>, StoreError> {
    let stored = feed.store().record(tenant, RecordKind::Issuer, name)?;
    let change = stored.and_then(|stored| stored.change().ok());
    Ok(match change.and_then(|change| change.record) {
        Some(Record::Issuer(issuer)) if issuer.key_source.is_fetched() => Some(issuer),
        _ => None,
    })
}

/// Makes the keys a change of the record, if they are others than there. The record as it then is;
/// `None`: it was changed meanwhile, and is fetched anew.
fn commit(
    authority: &Authority,
    key: &Key,
    fetched_for: &Issuer,
    keys: &FetchedKeys,
    state: &Fetched,
) -> Result<Option<Arc<Issuer>>, StoreError> {
    match authority.set_keys(key, fetched_for, keys, &mut Pass::guarded()) {
        Ok(Some((issuer, revision))) => {
            let same = issuer.jwks == fetched_for.jwks;
            if let Some(revision) = revision.filter(|_| !same) {
                tracing::info!(tenant = %key.0, issuer = %key.1, revision, keys = issuer.keys.len(),
                    from = state.url, "an issuer's keys changed");
                let refused = issuer.keys.refused().iter().map(RefusedKey::to_string);
                for why in refused.chain(state.left_out.iter().cloned()) {
                    tracing::warn!(tenant = %key.0, issuer = %key.1, why, "a key is refused, the others are used");
                }
            }
            Ok(Some(issuer))
        }
        Ok(None) => Ok(None),
        Err(Refusal::Store { error, .. }) => Err(error),
        Err(refusal) => {
            tracing::error!(tenant = %key.0, issuer = %key.1, %refusal, "an issuer's keys cannot be written");
            Ok(None)
        }
    }
}

/// How early within the last tenth a next time lies: differs between issuers and times, no more.
fn spread(key: &Key, version: u64) -> u8 {
    let digest = blake3::hash(format!("{}/{version}", item_key(key)).as_bytes());
    digest.as_bytes().first().copied().unwrap_or_default()
}

/// How long a turn lasts at most: discovery and set each have their whole time.
const TURN: Duration = Duration::from_secs(15);
