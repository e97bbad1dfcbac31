//! Keys that an enforcement point fetches itself, in the place of those in its issuers' records.
//!
//! Whose keys they are, the configuration says; that there is such an issuer, and everything else of it,
//! the state does: without a record nothing is fetched. A set that comes takes the place of the one before
//! at once. The last good one counts up to its bound, which travels with it into each decision.
//!
//! Bounds: one fetch an issuer at a time, [`FETCHES_MAX`] in all; a key that is missing brings at most one
//! fetch within `refetch`, and none when it was looked for lately. Nothing is kept on disk.

mod put;
mod standing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fetch::{FetchError, Found, fetch};
use super::looked::Looked;
use super::pace::Pace;
use crate::core::id::Name;
use crate::core::identity::{Issuer, KeySource, LocalTrust, SnapshotCell, SourceKeys};
use crate::core::time::Clock;
use crate::outbound::{Client, OutboundSettings};
use put::Put;
pub use standing::DirectView;
use standing::Standing;

/// An issuer whose keys are fetched here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectSource {
    /// Its tenant.
    pub tenant: Name,
    /// The exact `iss` of its record.
    pub iss: Arc<str>,
    /// Where its keys are: not in the record.
    pub source: KeySource,
}

/// What is fetched, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectSettings {
    /// The issuers.
    pub sources: Vec<DirectSource>,
    /// How often.
    pub pace: Pace,
    /// Where may be asked, and whom to trust.
    pub outbound: OutboundSettings,
    /// How often it is looked what is due.
    pub look_every: Duration,
}

/// Where keys are put, and who is told.
pub struct Place {
    /// Where decisions find them.
    pub trust: Arc<LocalTrust>,
    /// The state that says which issuers there are.
    pub state: Arc<SnapshotCell>,
    /// Called after keys have changed: whatever rests on them is to be judged again.
    pub moved: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// Fetches keys of issuers for this process.
pub struct DirectKeys {
    sources: Vec<DirectSource>,
    client: Client,
    pace: Pace,
    look_every: Duration,
    clock: Arc<dyn Clock>,
    standings: Mutex<Vec<Standing>>,
    /// Which record each source is, as the state has it.
    records: ArcSwap<HashMap<Record, usize>>,
    reports: mpsc::Sender<(usize, Arc<str>)>,
    fetches: AtomicU64,
    failures: AtomicU64,
}

/// A record: its tenant and its name.
type Record = (Name, Name);

/// A source's record, and its name.
type Held = Option<(Name, Arc<Issuer>)>;

/// Keys that requests found missing.
#[derive(Debug)]
pub struct DirectReports(mpsc::Receiver<(usize, Arc<str>)>);

impl std::fmt::Debug for DirectKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectKeys").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl DirectKeys {
    /// Over these settings; the keys of its sources' records count no more in `trust`.
    pub fn new(
        settings: DirectSettings,
        clock: Arc<dyn Clock>,
        trust: &LocalTrust,
    ) -> (Arc<Self>, DirectReports) {
        let (reports, waiting) = mpsc::channel(REPORTS_MAX);
        let standings = settings.sources.iter().map(|_| Standing::default()).collect();
        let keys = Self {
            client: Client::new(&settings.outbound),
            sources: settings.sources,
            pace: settings.pace,
            look_every: settings.look_every,
            clock,
            standings: Mutex::new(standings),
            records: ArcSwap::default(),
            reports,
            fetches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        trust.publish_fetched(keys.none());
        (Arc::new(keys), DirectReports(waiting))
    }

    /// A token that nobody verified names this key; whether its issuer is one of those here. Never waits.
    pub fn missing(&self, tenant: &Name, issuer: &Name, key_id: &str) -> bool {
        let Some(&source) = self.records.load().get(&(tenant.clone(), issuer.clone())) else { return false };
        // Without room it is lost: the next look by schedule finds what it was.
        self.reports.try_send((source, Arc::from(key_id))).unwrap_or_default();
        true
    }

    /// Fetches whatever is due, and puts it in its place, until told to stop.
    pub async fn run(self: Arc<Self>, reports: DirectReports, place: Place, stop: CancellationToken) {
        let DirectReports(mut reports) = reports;
        let mut looks = tokio::time::interval(self.look_every);
        let mut fetches = JoinSet::new();
        let (mut put, mut looked) = (Put::default(), Looked::default());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = fetches.join_next() => match done {
                    Ok((source, found)) => self.finish(source, found),
                    // Its source stays busy: a fault of ours must not become a flood.
                    Err(error) => tracing::error!(%error, "a fetch of keys ended badly"),
                },
                _ = looks.tick() => {}
            }
            while let Ok((source, key_id)) = reports.try_recv() {
                self.wanted(source, &key_id, &mut looked);
            }
            let held = self.held(&place.state);
            self.begin(&held, &mut fetches);
            put.bring(&self, &held, &place);
        }
    }

    /// The records of the sources, as the state has them now.
    fn held(&self, state: &SnapshotCell) -> Vec<Held> {
        let snapshot = state.load();
        let held = |source: &DirectSource| {
            let held = snapshot.issuer_of(&source.tenant, &source.iss)?;
            Some((held.name.clone(), Arc::clone(held.value.as_ref()?)))
        };
        self.sources.iter().map(held).collect()
    }

    fn wanted(&self, source: usize, key_id: &str, looked: &mut Looked<usize>) {
        let now = self.clock.now().wall;
        let mut standings = self.standings.lock();
        let lacking = standings.get_mut(source).filter(|standing| standing.lacks(key_id));
        if let Some(standing) = lacking
            && looked.is_news(&source, key_id, now, now.after(self.pace.refetch * LOOKED_FOR))
        {
            standing.want();
        }
    }

    /// Begins what is due.
    fn begin(self: &Arc<Self>, held: &[Held], fetches: &mut JoinSet<(usize, Result<Found, FetchError>)>) {
        let now = self.clock.now().wall;
        let mut standings = self.standings.lock();
        for (source, (standing, held)) in standings.iter_mut().zip(held).enumerate() {
            let Some((_, issuer)) = held else { continue };
            let key_use = issuer.profile.key_use();
            if fetches.len() >= FETCHES_MAX || !standing.begin(key_use, now, self.pace.refetch) {
                continue;
            }
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let keys = Arc::clone(self);
            fetches.spawn(async move {
                let found = match keys.sources.get(source) {
                    Some(of) => fetch(&keys.client, &of.iss, &of.source, key_use).await,
                    None => Err(FetchError::Set("there is no such issuer")),
                };
                (source, found)
            });
        }
    }

    fn finish(&self, source: usize, found: Result<Found, FetchError>) {
        let now = self.clock.now().wall;
        let Some(of) = self.sources.get(source) else { return };
        let mut standings = self.standings.lock();
        let Some(standing) = standings.get_mut(source) else { return };
        let spread = spread(of, self.fetches.load(Ordering::Relaxed));
        match found {
            Ok(found) => {
                if standing.succeeded(found, &self.pace, now, spread) {
                    tracing::info!(tenant = %of.tenant, iss = %of.iss, from = standing.url(), "an issuer's keys changed");
                }
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if standing.failed(error.to_string(), &self.pace, now, spread) {
                    tracing::warn!(tenant = %of.tenant, iss = %of.iss, %error, "an issuer's keys cannot be fetched");
                }
            }
        }
    }

    /// Of the sources, and without any keys.
    fn none(&self) -> SourceKeys {
        SourceKeys::of_issuers(self.sources.iter().map(|of| (of.tenant.clone(), Arc::clone(&of.iss))))
    }

    /// How each source stands.
    pub fn views(&self) -> Vec<DirectView> {
        let standings = self.standings.lock();
        let view = |(of, standing): (&DirectSource, &Standing)| standing.view(of, &self.pace);
        self.sources.iter().zip(&*standings).map(view).collect()
    }

    /// Sources whose last fetch failed.
    pub fn failing(&self) -> u64 {
        self.standings.lock().iter().filter(|standing| standing.is_failing()).count() as u64
    }

    /// Fetches since start.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Of these, those that failed.
    pub fn fetch_failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// How early within the last tenth a next time lies: differs between issuers and times, no more.
fn spread(of: &DirectSource, count: u64) -> u8 {
    let digest = blake3::hash(format!("{}/{}/{count}", of.tenant, of.iss).as_bytes());
    digest.as_bytes().first().copied().unwrap_or_default()
}

/// Most fetches at once.
const FETCHES_MAX: usize = 8;
/// Reports that may wait for the next look.
const REPORTS_MAX: usize = 64;
/// How many refetch intervals a key is not looked for again.
const LOOKED_FOR: u32 = 2;
