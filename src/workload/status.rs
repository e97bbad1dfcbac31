//! What operators see of the Workload API.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// One stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// This workload's own certificate.
    Identity,
    /// Authorities of trust domains.
    Authorities,
    /// Keys of trust domains.
    Keys,
}

impl Feed {
    const ALL: [Self; 3] = [Self::Identity, Self::Authorities, Self::Keys];

    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "X.509-SVID",
            Self::Authorities => "X.509 bundles",
            Self::Keys => "JWT bundles",
        }
    }
}

/// Counters and facts, readable at any time.
#[derive(Debug, Default)]
pub struct WorkloadStatus {
    streams: Mutex<[Option<Standing>; 3]>,
    updates: AtomicU64,
    refused: AtomicU64,
}

/// How a stream stands that is wanted.
#[derive(Clone, Debug, Default)]
struct Standing {
    open: bool,
    /// Whether something has come by it, and has not been withdrawn since.
    holds: bool,
    /// Whether it is not tried again.
    stopped: bool,
    error: Option<String>,
}

impl WorkloadStatus {
    /// Messages that were taken since start.
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Messages that were refused since start, in whole or in part.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Streams that are wanted and not open.
    pub fn down(&self) -> u64 {
        self.streams.lock().iter().flatten().filter(|standing| !standing.open).count() as u64
    }

    /// Whether a certificate is wanted and there is none.
    pub fn lacks_identity(&self) -> bool {
        self.streams.lock()[Feed::Identity as usize].as_ref().is_some_and(|standing| !standing.holds)
    }

    /// What is wrong, a line each.
    pub fn troubles(&self) -> Vec<String> {
        let streams = self.streams.lock();
        let troubled =
            Feed::ALL.into_iter().filter_map(|feed| Some((feed, streams[feed as usize].as_ref()?)));
        let line = |(feed, standing): (Feed, &Standing)| {
            let name = feed.as_str();
            let error = standing.error.as_deref().unwrap_or("not opened yet");
            let then = if standing.stopped { "; it is not tried again" } else { "" };
            (!standing.open).then(|| format!("workload_api: {name}: {error}{then}"))
        };
        troubled.filter_map(line).collect()
    }

    pub(super) fn wanted(&self, feed: Feed) {
        self.streams.lock()[feed as usize].get_or_insert_default();
    }

    pub(super) fn taken(&self, feed: Feed, holds: bool) {
        self.updates.fetch_add(1, Ordering::Relaxed);
        self.streams.lock()[feed as usize] =
            Some(Standing { open: true, holds, stopped: false, error: None });
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, feed: Feed, error: String, stopped: bool) {
        let mut streams = self.streams.lock();
        let standing = streams[feed as usize].get_or_insert_default();
        (standing.open, standing.stopped, standing.error) = (false, stopped, Some(error));
    }

    pub(super) fn withdrawn(&self, feed: Feed) {
        self.streams.lock()[feed as usize].get_or_insert_default().holds = false;
    }
}
