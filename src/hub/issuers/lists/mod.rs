//! Status lists of issuers, which the hub fetches as it fetches keys.
//!
//! What is fetched: the URIs that an issuer's record names whole, the lists that are held, and what
//! enforcement points report missing, where the issuer's record takes it. How it went lies beside
//! the records, where every hub on the store sees it: whoever is first takes the turn.
//!
//! Bounds: one fetch of a list at a time, [`FETCHES_MAX`] in all; one look for a list that is reported
//! within `refetch_interval`; lists of an issuer and of a tenant as `authority::lists` says.

mod attempt;
mod fetched;
mod view;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::{IssuerSettings, Key};
use crate::core::credential::status_list_name;
use crate::core::id::Name;
use crate::core::time::Clock;
use crate::hub::authority::{Authority, Refusal};
use crate::hub::blocking;
use crate::hub::feed::Feed;
use crate::jwks::Looked;
use crate::outbound::Client;
use crate::telemetry::hub::ListReading;
pub(crate) use attempt::Attempted;
use attempt::Why;
pub(crate) use view::IssuerLists;
use watch::Watch;

/// A list: its issuer and its URI.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    tenant: Name,
    issuer: Name,
    uri: Arc<str>,
    /// The name of its record.
    name: Name,
}

impl Place {
    /// `None`: it can have no name.
    fn new((tenant, issuer): &Key, uri: &str) -> Option<Self> {
        let name = status_list_name(issuer, uri)?;
        Some(Self { tenant: tenant.clone(), issuer: issuer.clone(), uri: Arc::from(uri), name })
    }
}

/// Fetches status lists.
pub(crate) struct Lists {
    feed: Arc<Feed>,
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    client: Client,
    refetch: Duration,
    look_every: Duration,
    watch: Mutex<Watch>,
    looked: Mutex<Looked<super::Key>>,
    wake: Notify,
    room: Semaphore,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    fetches: AtomicU64,
    failures: AtomicU64,
    reports: AtomicU64,
}

impl Lists {
    pub(super) fn new(
        feed: Arc<Feed>,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
        settings: &IssuerSettings,
    ) -> Self {
        Self {
            feed,
            authority,
            clock,
            client: Client::new(&settings.outbound),
            refetch: settings.refetch_interval,
            look_every: settings.look_every,
            watch: Mutex::default(),
            looked: Mutex::default(),
            wake: Notify::new(),
            room: Semaphore::new(FETCHES_MAX),
            counts: Counts::default(),
        }
    }

    /// Fetches whatever is due, for ever.
    pub(super) async fn run(self: &Arc<Self>) {
        let mut head = self.feed.subscribe();
        let mut fetches = tokio::task::JoinSet::new();
        let mut is_open = true;
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "which status lists are due cannot be seen");
            }
            for place in self.watch.lock().take_due(self.clock.now().wall) {
                let lists = Arc::clone(self);
                fetches.spawn(async move {
                    lists.attempt_due(&place).await;
                    lists.wake.notify_one();
                });
            }
            tokio::select! {
                () = tokio::time::sleep(self.look_every) => {}
                () = self.wake.notified() => {}
                changed = head.changed(), if is_open => is_open = changed.is_ok(),
                Some(done) = fetches.join_next() => {
                    if let Err(error) = done {
                        tracing::error!(%error, "a fetch of a status list ended badly");
                    }
                }
            }
        }
    }

    async fn look(self: &Arc<Self>) -> Result<(), Refusal> {
        if self.watch.lock().is_at(self.feed.head()) {
            return Ok(());
        }
        let lists = Arc::clone(self);
        blocking(&**self.feed.store(), move || lists.watch_cells()).await
    }

    async fn attempt_due(&self, place: &Place) {
        let Ok(_room) = self.room.acquire().await else { return };
        let next = match self.attempt(place, Why::Due).await {
            Ok(Attempted::Done(state) | Attempted::NotDue(state)) => Some(state.next),
            // Its holder may fail: look again when it must have ended.
            Ok(Attempted::Busy(state)) => Some(state.claimed_until),
            Ok(Attempted::Gone) => None,
            Err(error) => {
                tracing::warn!(tenant = %place.tenant, issuer = %place.issuer, uri = %place.uri, %error,
                    "a status list cannot be fetched now");
                Some(self.clock.now().wall.after(RETRY))
            }
        };
        self.watch.lock().done(place, next);
    }

    /// A token that verifies names this list. Never waits.
    pub(crate) fn missing(&self, issuer: &Key, uri: &str) {
        self.counts.reports.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now().wall;
        let Some(place) = Place::new(issuer, uri) else { return };
        if self.looked.lock().is_news(issuer, uri, now, now.after(self.refetch))
            && self.watch.lock().wanted(place)
        {
            self.wake.notify_one();
        }
    }

    /// Fetches an issuer's lists now, whatever is due; not those that somebody is at.
    pub(crate) async fn refresh(self: &Arc<Self>, issuer: &Key) -> Result<(), Refusal> {
        let Ok(_room) = self.room.acquire().await else { return Ok(()) };
        let (lists, of) = (Arc::clone(self), issuer.clone());
        let places = blocking(&**self.feed.store(), move || lists.places(&of)).await?;
        for place in places {
            if let Attempted::Done(state) = self.attempt(&place, Why::Asked).await? {
                self.watch.lock().done(&place, Some(state.next));
            }
        }
        Ok(())
    }

    /// Numbers for metrics.
    pub(super) fn reading(&self) -> ListReading {
        let counted = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ListReading {
            fetches: counted(&self.counts.fetches),
            fetch_failures: counted(&self.counts.failures),
            missing_reports: counted(&self.counts.reports),
            ..self.watch.lock().reading()
        }
    }
}

/// Most fetches at once.
const FETCHES_MAX: usize = 8;
/// How soon it is tried again when the store did not say whose turn it is.
const RETRY: Duration = Duration::from_secs(1);
