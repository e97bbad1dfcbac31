//! Metrics that are read when asked for: state, stream, spool.

use std::sync::Arc;

use prometheus::{Gauge, IntGauge, Opts, Registry};

use super::issuer_keys::{IssuerKeys, KeyGauges};
use super::proxy::Shown;
use crate::core::identity::{Freshness, SnapshotCell, SnapshotStats};
use crate::core::time::Clock;
use crate::jwks::DirectKeys;
use crate::pep::{Exchanges, Memory};
use crate::spool::SpoolLog;
use crate::state::StateStatus;
use crate::workload::WorkloadStatus;

/// The gauges of an enforcement point, and what they are read from.
pub(super) struct Gauges {
    state: Arc<SnapshotCell>,
    status: Arc<StateStatus>,
    log: Arc<SpoolLog>,
    clock: Arc<dyn Clock>,
    shown: Arc<Shown>,
    exchanges: Arc<Exchanges>,
    memory: Arc<Memory>,
    workload: Arc<WorkloadStatus>,
    issuer_keys: Arc<IssuerKeys>,
    direct: Option<Arc<DirectKeys>>,
    age: Gauge,
    keys: KeyGauges,
    whole: Vec<(IntGauge, Reading)>,
}

type Reading = fn(&Sources<'_>) -> u64;

struct Sources<'a> {
    freshness: Freshness,
    revision: u64,
    records: SnapshotStats,
    status: &'a StateStatus,
    spool: crate::spool::Stats,
    clock_steps: u64,
    open_exchanges: u64,
    memory: &'a Memory,
    workload: &'a WorkloadStatus,
    direct: Option<&'a DirectKeys>,
}

/// Name, help, and where the value is read. A `_total` here is a counter kept elsewhere.
const READINGS: [(&str, &str, Reading); 34] = [
    ("portreeve_state_revision", "Highest revision in force.", |s| s.revision),
    ("portreeve_state_warn", "1 while the state is older than the shortest warn_after of any route.", |s| {
        u64::from(s.freshness.warn)
    }),
    (
        "portreeve_state_stale",
        "1 while the state is older than every route's deny_after, or than what the hub granted.",
        |s| u64::from(s.freshness.stale),
    ),
    ("portreeve_state_identities", "Identities held, tombstones included.", |s| s.records.identities as u64),
    ("portreeve_state_revocations", "Revocations held, tombstones included.", |s| {
        s.records.revocations as u64
    }),
    ("portreeve_state_connected", "1 while a hub's stream is open.", |s| u64::from(s.status.connected())),
    ("portreeve_state_changes_applied_total", "Changes applied since start.", |s| s.status.changes_applied()),
    ("portreeve_state_batches_refused_total", "Batches refused since start.", |s| s.status.batches_refused()),
    ("portreeve_state_resyncs_total", "Cells replaced by a snapshot since start.", |s| s.status.resyncs()),
    ("portreeve_state_connections_total", "State streams opened since start.", |s| s.status.connections()),
    ("portreeve_state_urgent_connected", "1 while the connection for revocations is open.", |s| {
        u64::from(s.status.urgent_connected())
    }),
    ("portreeve_state_kills_ahead_total", "Revocations in force ahead of the order since start.", |s| {
        s.status.kills_applied()
    }),
    ("portreeve_state_drift_found_total", "Tables found to differ from their digest.", |s| {
        s.status.drift_found()
    }),
    ("portreeve_state_drift_mended_total", "Of these, repaired.", |s| s.status.drift_mended()),
    (
        "portreeve_clock_steps_total",
        "Steps of the wall clock by more than 5 s since the kernel's boot.",
        |s| s.clock_steps,
    ),
    ("portreeve_memory_resident_bytes", "Bytes of the process in memory.", |s| s.memory.resident()),
    ("portreeve_memory_budget_bytes", "Bytes that it may have; 0: any.", |s| s.memory.budget().unwrap_or(0)),
    ("portreeve_exchanges_open", "Forwarded exchanges that are not over.", |s| s.open_exchanges),
    (
        "portreeve_workload_api_streams_down",
        "Streams of the Workload API that are wanted and not open.",
        |s| s.workload.down(),
    ),
    ("portreeve_workload_api_updates_total", "Messages of the Workload API taken since start.", |s| {
        s.workload.updates()
    }),
    (
        "portreeve_workload_api_refused_total",
        "Messages of the Workload API that were not used, in whole or in part, since start.",
        |s| s.workload.refused(),
    ),
    ("portreeve_key_sources_failing", "Issuers of key_sources whose last fetch failed.", |s| {
        s.direct.map_or(0, DirectKeys::failing)
    }),
    ("portreeve_key_source_fetches_total", "Fetches of keys of key_sources since start.", |s| {
        s.direct.map_or(0, DirectKeys::fetches)
    }),
    ("portreeve_key_source_fetch_failures_total", "Of these, those that failed.", |s| {
        s.direct.map_or(0, DirectKeys::fetch_failures)
    }),
    ("portreeve_evidence_decisions_total", "Decisions made.", |s| s.spool.counts.decisions),
    ("portreeve_evidence_records_total", "Decisions recorded one by one.", |s| s.spool.counts.records),
    ("portreeve_evidence_rolled_up_total", "Decisions counted in roll-ups.", |s| s.spool.counts.rolled_up),
    ("portreeve_evidence_lost_total", "Decisions lost, and counted.", |s| s.spool.counts.lost),
    ("portreeve_evidence_abandoned_total", "Requests that went away before a verdict.", |s| {
        s.spool.counts.abandoned
    }),
    ("portreeve_evidence_spool_bytes", "Bytes of all logs on disk.", |s| s.spool.disk_bytes),
    ("portreeve_evidence_suspect_segments_total", "Segments given up after a failed write or sync.", |s| {
        s.spool.suspect_segments
    }),
    (
        "portreeve_evidence_expired_segments_total",
        "Segments removed for room, no sink being configured.",
        |s| s.spool.expired_segments,
    ),
    ("portreeve_evidence_stalled", "1 while nothing can be written.", |s| u64::from(s.spool.stalled)),
    ("portreeve_evidence_failed", "1 when the log can write nothing more.", |s| u64::from(s.spool.failed)),
];

impl Gauges {
    /// Registers the families.
    #[expect(clippy::too_many_arguments, reason = "each is one source")]
    pub(super) fn register(
        registry: &Registry,
        state: Arc<SnapshotCell>,
        status: Arc<StateStatus>,
        log: Arc<SpoolLog>,
        clock: Arc<dyn Clock>,
        shown: Arc<Shown>,
        exchanges: Arc<Exchanges>,
        memory: Arc<Memory>,
        workload: Arc<WorkloadStatus>,
        issuer_keys: Arc<IssuerKeys>,
        direct: Option<Arc<DirectKeys>>,
    ) -> Result<Self, prometheus::Error> {
        let age = Gauge::with_opts(Opts::new(
            "portreeve_state_age_seconds",
            "Age of the state in force; +Inf when no hub has confirmed it.",
        ))?;
        registry.register(Box::new(age.clone()))?;
        let keys = KeyGauges::register(registry)?;
        let mut whole = Vec::new();
        for (name, help, reading) in READINGS {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            whole.push((gauge, reading));
        }
        Ok(Self {
            state,
            status,
            log,
            clock,
            shown,
            exchanges,
            memory,
            workload,
            issuer_keys,
            direct,
            age,
            keys,
            whole,
        })
    }

    /// Brings every gauge up to date.
    pub(super) fn refresh(&self) {
        let freshness = self.state.lease().freshness(self.clock.now(), &self.shown.longest.load());
        self.age.set(freshness.age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
        self.keys.set(&self.issuer_keys.standing());
        let snapshot = self.state.load();
        let sources = Sources {
            freshness,
            revision: snapshot.position().revision,
            records: snapshot.stats(),
            status: &self.status,
            spool: self.log.stats(),
            clock_steps: self.clock.anchor().steps,
            open_exchanges: self.exchanges.open() as u64,
            memory: &self.memory,
            workload: &self.workload,
            direct: self.direct.as_deref(),
        };
        drop(snapshot);
        for (gauge, reading) in &self.whole {
            gauge.set(i64::try_from(reading(&sources)).unwrap_or(i64::MAX));
        }
    }
}
