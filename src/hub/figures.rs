//! A hub's numbers, gathered from its parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::door::Door;
use super::enrolment::Enrolling;
use super::issuers::Issuers;
use super::stream::Shared;
use crate::telemetry::hub::{HubMetrics, HubReading};

/// A hub's metrics; each look costs as much as there are members.
#[derive(Clone, Debug)]
pub struct HubFigures {
    pub(super) streams: Arc<Shared>,
    pub(super) issuers: Arc<Issuers>,
    pub(super) enrolling: Arc<Enrolling>,
    pub(super) door: Option<Arc<Door>>,
}

impl HubFigures {
    /// Brings every metric up to date, and gives them.
    pub fn refresh(&self) -> &HubMetrics {
        let streams = &self.streams;
        let fleet = streams.roster.figures(&streams.feed.kill_revisions());
        let counted = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let door = self.door.as_deref().map(Door::counts);
        streams.metrics.show(&HubReading {
            revision: streams.feed.head(),
            serving: !streams.is_condemned(),
            frozen: streams.quarantine.all().len() as u64,
            members: fleet.members,
            connected: fleet.connected,
            pending: fleet.pending,
            quietest_s: fleet.quietest.as_secs(),
            drift_found: fleet.drift_found,
            drift_mended: fleet.drift_mended,
            carried: fleet.carried,
            joined: counted(&self.enrolling.counts.joined),
            renewed: counted(&self.enrolling.counts.renewed),
            unenrolled: counted(&self.enrolling.counts.refused),
            handshakes_failed: door.map_or(0, |counts| counted(&counts.refused)),
            tls_reloads: door.map_or(0, |counts| counted(&counts.reloads)),
            tls_reload_failures: door.map_or(0, |counts| counted(&counts.failed_reloads)),
            issuers: self.issuers.reading(),
        });
        &streams.metrics
    }
}
