//! Keys of issuers that the hub fetches: from a URL, or by discovery at the issuer. Status lists of
//! issuers: see [`lists`].
//!
//! What is fetched becomes a change of the issuer's record when it differs from what is there, and
//! reaches enforcement points like any other. How it went lies beside the records, where every hub
//! on the store sees it: whoever is first takes the turn, and nobody fetches twice.
//!
//! Bounds: one fetch an issuer at a time, [`FETCHES_MAX`] in all; a key that is reported missing
//! brings at most one fetch within `refetch_interval`, and none when it was looked for lately.
//! Deliberately absent: verifying anything, and any fetch that a token's contents point to.

mod attempt;
mod fetched;
pub(crate) mod lists;
mod missing;
mod view;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::authority::Authority;
use super::blocking;
use super::feed::Feed;
use super::store::StoreError;
use crate::core::id::Name;
use crate::core::time::Clock;
use crate::jwks::Pace;
use crate::outbound::{Client, OutboundSettings};
use crate::telemetry::hub::IssuerReading;
use attempt::Why;
use lists::Lists;
use watch::Watch;

pub(crate) use attempt::Attempted;
pub(crate) use view::IssuerKeys;

/// How keys are fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuerSettings {
    /// How often a set is fetched of which its server does not say how long it is good.
    pub refresh: Duration,
    /// Shortest time between fetches of one issuer because a key is missing.
    pub refetch_interval: Duration,
    /// How long keys are kept that can no longer be fetched.
    pub keep: Duration,
    /// How often it is looked what is due.
    pub look_every: Duration,
    /// Where may be asked, and whom to trust.
    pub outbound: OutboundSettings,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(600),
            refetch_interval: Duration::from_secs(30),
            keep: Duration::from_secs(86_400),
            look_every: Duration::from_millis(500),
            outbound: OutboundSettings::default(),
        }
    }
}

/// An issuer: its tenant and its name.
type Key = (Name, Name);

/// Fetches keys of issuers.
pub(crate) struct Issuers {
    feed: Arc<Feed>,
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    client: Client,
    pace: Pace,
    look_every: Duration,
    watch: Mutex<Watch>,
    /// Told when something may be due before the next look.
    wake: Notify,
    room: Semaphore,
    counts: Counts,
    lists: Arc<Lists>,
}

#[derive(Debug, Default)]
struct Counts {
    fetches: AtomicU64,
    failures: AtomicU64,
    reports: AtomicU64,
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuers").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Issuers {
    pub(crate) fn new(
        feed: Arc<Feed>,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
        settings: &IssuerSettings,
    ) -> Self {
        let pace =
            Pace { refresh: settings.refresh, refetch: settings.refetch_interval, keep: settings.keep };
        let lists = Lists::new(Arc::clone(&feed), Arc::clone(&authority), Arc::clone(&clock), settings);
        Self {
            feed,
            authority,
            clock,
            client: Client::new(&settings.outbound),
            pace,
            look_every: settings.look_every,
            watch: Mutex::default(),
            wake: Notify::new(),
            room: Semaphore::new(FETCHES_MAX),
            counts: Counts::default(),
            lists: Arc::new(lists),
        }
    }

    /// Status lists of issuers.
    pub(crate) const fn lists(&self) -> &Arc<Lists> {
        &self.lists
    }

    /// Fetches whatever is due, for ever.
    pub(crate) async fn run(self: &Arc<Self>) {
        tokio::join!(self.run_keys(), self.lists.run());
    }

    async fn run_keys(self: &Arc<Self>) {
        let mut head = self.feed.subscribe();
        let mut fetches = tokio::task::JoinSet::new();
        let mut is_open = true;
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "which issuers' keys are due cannot be seen");
            }
            for (key, why) in self.watch.lock().take_due(self.clock.now().wall) {
                let issuers = Arc::clone(self);
                fetches.spawn(async move {
                    issuers.attempt_due(&key, why).await;
                    issuers.wake.notify_one();
                });
            }
            tokio::select! {
                () = tokio::time::sleep(self.look_every) => {}
                () = self.wake.notified() => {}
                changed = head.changed(), if is_open => is_open = changed.is_ok(),
                Some(done) = fetches.join_next() => {
                    if let Err(error) = done {
                        tracing::error!(%error, "a fetch of keys ended badly");
                    }
                }
            }
        }
    }

    /// Brings what is watched to where the store is.
    async fn look(self: &Arc<Self>) -> Result<(), StoreError> {
        if self.watch.lock().is_at(self.feed.head()) {
            return Ok(());
        }
        let issuers = Arc::clone(self);
        blocking(&**self.feed.store(), move || issuers.watch_cells()).await
    }

    async fn attempt_due(&self, key: &Key, why: Why) {
        let Ok(_room) = self.room.acquire().await else { return };
        let attempted = self.attempt(key, why).await;
        let now = self.clock.now().wall;
        let again = match &attempted {
            Ok(Attempted::NotDue(state) | Attempted::Busy(state)) if why == Why::Missing => {
                Some(state.refetch_at(&self.pace).max(state.claimed_until))
            }
            _ => None,
        };
        let next = match attempted {
            Ok(Attempted::Done(state) | Attempted::NotDue(state)) => Some(state.next),
            // Its holder may fail: look again when it must have ended.
            Ok(Attempted::Busy(state)) => Some(state.claimed_until),
            Ok(Attempted::NotFetched) => None,
            Err(error) => {
                tracing::warn!(tenant = %key.0, issuer = %key.1, %error, "keys cannot be fetched now");
                Some(now.after(RETRY))
            }
        };
        let mut watch = self.watch.lock();
        watch.done(key, next);
        if let Some(at) = again {
            watch.wanted(key, at);
        }
    }

    /// Fetches one issuer's keys now, whatever is due; waits a while for whoever is at it.
    pub(crate) async fn refresh(&self, key: &Key) -> Result<Attempted, StoreError> {
        let Ok(_room) = self.room.acquire().await else { return Ok(Attempted::NotFetched) };
        let begun = tokio::time::Instant::now();
        let attempted = loop {
            match self.attempt(key, Why::Asked).await? {
                Attempted::Busy(_) if begun.elapsed() < BUSY_MAX => tokio::time::sleep(BUSY_LOOK).await,
                other => break other,
            }
        };
        if let Attempted::Done(state) = &attempted {
            self.watch.lock().done(key, Some(state.next));
        }
        Ok(attempted)
    }

    /// Numbers for metrics.
    pub(crate) fn reading(&self) -> IssuerReading {
        let counted = |count: &AtomicU64| count.load(Ordering::Relaxed);
        IssuerReading {
            fetches: counted(&self.counts.fetches),
            fetch_failures: counted(&self.counts.failures),
            missing_reports: counted(&self.counts.reports),
            lists: self.lists.reading(),
            ..self.watch.lock().reading()
        }
    }
}

/// Most fetches at once.
const FETCHES_MAX: usize = 8;
/// How soon it is tried again when the store did not say whose turn it is.
const RETRY: Duration = Duration::from_secs(1);
/// How long somebody who asks waits for a fetch that is under way.
const BUSY_MAX: Duration = Duration::from_secs(10);
const BUSY_LOOK: Duration = Duration::from_millis(20);
