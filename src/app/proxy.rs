//! The enforcement point: everything opened and bound, then started; stopped in the reverse order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::clock::{SystemClock, kernel_boot_id};
use super::explain::Explained;
use super::gauges::Gauges;
use super::issuer_keys::IssuerKeys;
use super::observer::OnRecord;
use super::thread::Part;
use super::{AppError, memory, random, secret};
use crate::config::ProxyConfig;
use crate::core::credential::{FingerprintKey, Introspect};
use crate::core::evidence::EvidenceLog;
use crate::core::identity::SnapshotCell;
use crate::core::time::Clock;
use crate::jwks::{DirectKeys, DirectReports};
use crate::pep::{
    ANSWERS_MAX, Asks, AssertionKey, BindError, Bound, ENTRIES_MAX, Exchanges, Introspector, Load, Memory,
    PROOFS_MAX, PolicyAnswers, Proofs, Running as Listening, Serves, UpstreamSettings, VerifiedTokens,
};
use crate::pipeline::Pipeline;
use crate::sink::Shipper;
use crate::spool::SpoolLog;
use crate::state::{self, Applier, Dial, KeyReports, LastKnownGood, ReportQueue, StateStatus};
use crate::telemetry::logging::LogLevel;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Tracer;
use crate::workload::WorkloadStatus;

mod health;
mod keys;
mod operate;
mod reload;
mod settings;
mod tail;
mod tls;
mod traces;
mod workload;

use health::Healths;
pub use reload::ReloadError;
pub(super) use reload::Shown;
use reload::{Live, Reloads, Told};
use traces::Export;
use workload::Workload;

/// A running enforcement point.
#[derive(Debug)]
pub struct Running {
    listeners: Vec<Listening>,
    client: Part,
    exchanges: Part,
    introspection: Option<Part>,
    files: Part,
    health: Option<Part>,
    traces: Option<Part>,
    workload: Option<Part>,
    key_sources: Option<Part>,
    operations: Part,
    shippers: Vec<Shipper>,
    live: Live,
}

/// What readiness is read from.
#[derive(Clone)]
pub(super) struct Condition {
    pub(super) state: Arc<SnapshotCell>,
    pub(super) status: Arc<StateStatus>,
    pub(super) log: Arc<SpoolLog>,
    pub(super) clock: Arc<dyn Clock>,
    /// What follows the configuration.
    pub(super) shown: Arc<Shown>,
    /// The process ends: no further requests should be sent here.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) workload: Arc<WorkloadStatus>,
    healths: Arc<Healths>,
    pub(super) issuer_keys: Arc<IssuerKeys>,
    /// Who fetches keys here, if anybody does.
    pub(super) direct: Option<Arc<DirectKeys>>,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}

/// What every part of one process shares.
struct Core {
    assertion_key: Option<Arc<AssertionKey>>,
    upstreams: BTreeMap<Arc<str>, UpstreamSettings>,
    pipeline: Arc<Pipeline>,
    exchanges: Arc<Exchanges>,
    cache: Arc<VerifiedTokens>,
    introspector: Option<Arc<Introspector>>,
    metrics: Metrics,
    tracer: Option<Arc<Tracer>>,
    memory: Arc<Memory>,
    dial: Arc<dyn Dial>,
    jitter: u64,
    shown: Arc<Shown>,
    workload: Workload,
    condition: Condition,
    incarnation: [u8; 16],
}

/// What parts that are not started yet begin with.
struct Waiting {
    lkg: LastKnownGood,
    reports: ReportQueue,
    asks: Option<Asks>,
    wanted: Option<DirectReports>,
    export: Option<Export>,
}

/// Opens, binds and starts everything that `config` names. Log lines may be re-levelled by `level`.
///
/// # Errors
/// [`AppError`] names the part that cannot start; nothing is left running.
pub fn start(config: &ProxyConfig, level: Option<LogLevel>) -> Result<Running, AppError> {
    let data = &config.enforcement_point.data_dir;
    super::data_folder(data).map_err(AppError::io(format!("data folder {}", data.display())))?;
    let incarnation = random::bytes()?;
    let (lkg, state, clock) = last_state(data)?;

    let assertion_key = settings::assertion_key(config)?;
    let workload = Workload::new(config);
    let upstreams = settings::upstreams(config, &clock, assertion_key.as_ref(), &workload)?;
    let log = settings::open_log(config, &clock, incarnation)?;
    let opened =
        Opened { incarnation, lkg, state, clock, assertion_key, workload, upstreams, log: Arc::clone(&log) };
    let running = start_over(config, opened, level);
    if running.is_err() {
        // Nobody decided by it, and nobody is to be told of it.
        log.abandon();
    }
    running
}

/// What is opened before anything else.
struct Opened {
    incarnation: [u8; 16],
    lkg: LastKnownGood,
    state: Arc<SnapshotCell>,
    clock: Arc<dyn Clock>,
    assertion_key: Option<Arc<AssertionKey>>,
    workload: Workload,
    upstreams: BTreeMap<Arc<str>, UpstreamSettings>,
    log: Arc<SpoolLog>,
}

fn start_over(config: &ProxyConfig, opened: Opened, level: Option<LogLevel>) -> Result<Running, AppError> {
    let Opened { incarnation, lkg, state, clock, assertion_key, workload, upstreams, log } = opened;
    let metrics = Metrics::new();
    let cache = Arc::new(VerifiedTokens::new(ENTRIES_MAX, metrics.cache()));
    let (reports, waiting) = KeyReports::new();
    let (reports, wanted) = keys::open(config, &clock, &workload.trust, reports);
    let pipeline = decisions(config, (&state, &clock, &log), &cache)?;
    let direct = reports.direct.clone();
    let pipeline = pipeline.telling(reports).trusting(Arc::clone(&workload.trust));
    let (introspector, asks) = settings::introspector(config, &clock, &metrics)?.unzip();
    let pipeline = Arc::new(match &introspector {
        Some(introspector) => pipeline.introspecting(Arc::clone(introspector) as Arc<dyn Introspect>),
        None => pipeline,
    });
    let (tracer, export) = traces::open(config, &metrics).unzip();
    let shown = Arc::new(Shown::of(config));
    let jitter = u64::from_le_bytes(random::bytes()?);
    let dial = settings::dial(config, &clock, jitter)?;
    let healths = Healths::register(&metrics, config, &upstreams)?;
    let issuer_keys = keys::shown(&state, &workload.trust, &clock);
    let condition = Condition {
        state,
        status: Arc::default(),
        log,
        clock,
        shown: Arc::clone(&shown),
        stopping: Arc::default(),
        workload: Arc::clone(&workload.status),
        healths,
        issuer_keys,
        direct,
    };
    let exchanges = Arc::new(Exchanges::new(Arc::clone(&pipeline), &metrics));
    let memory = Arc::new(Memory::new(config.memory_budget.or_else(memory::group_budget)));
    let core = Core {
        assertion_key,
        upstreams,
        pipeline,
        exchanges,
        cache,
        introspector,
        metrics,
        tracer,
        memory,
        dial,
        jitter,
        shown,
        workload,
        condition,
        incarnation,
    };
    run(config, core, Waiting { lkg, reports: waiting, asks, wanted, export }, level)
}

/// Where state is kept, the state of before, and a clock that goes on from it.
type LastState = (LastKnownGood, Arc<SnapshotCell>, Arc<dyn Clock>);

/// The state of before, in place of none, where the next is kept, and a clock that goes on from it.
fn last_state(data: &Path) -> Result<LastState, AppError> {
    let clock = Arc::new(SystemClock::new());
    let keyer = settings::keyer(data)?;
    let (lkg, loaded) = LastKnownGood::open(&data.join("state"), &kernel_boot_id(), keyer)?;
    if let Some(anchor) = loaded.anchor {
        // Before any reading is compared with the lease.
        clock.resume(anchor);
    }
    for refused in &loaded.refused {
        tracing::error!(error = %refused, "last-known-good state refused");
    }
    let state = Arc::new(SnapshotCell::new(loaded.snapshot));
    state.set_lease(loaded.lease);
    Ok((lkg, state, clock))
}

/// The decision path over a state and a log, with what it remembers and what it makes nonces from.
fn decisions(
    config: &ProxyConfig,
    (state, clock, log): (&Arc<SnapshotCell>, &Arc<dyn Clock>, &Arc<SpoolLog>),
    cache: &Arc<VerifiedTokens>,
) -> Result<Pipeline, AppError> {
    let key = secret::key(&config.enforcement_point.data_dir.join("fingerprint.key"))?;
    let (state, evidence) = (Arc::clone(state), Arc::clone(log) as Arc<dyn EvidenceLog>);
    let answers = Arc::new(PolicyAnswers::new(ANSWERS_MAX));
    let (proofs, cache) = (Proofs::new(Arc::clone(clock), PROOFS_MAX), Arc::clone(cache));
    let nonces = Arc::new(settings::proof_nonces(config)?);
    let pipeline =
        Pipeline::new(state, Arc::clone(clock), evidence, cache, answers, FingerprintKey::new(key));
    Ok(pipeline.with_replay_memory(Arc::new(proofs)).with_proof_nonces(nonces))
}

fn run(
    config: &ProxyConfig,
    core: Core,
    waiting: Waiting,
    level: Option<LogLevel>,
) -> Result<Running, AppError> {
    let Waiting { lkg, reports, asks, wanted, export } = waiting;
    let tls = tls::open(config, &core.condition.clock, &core.workload)?;
    let certificates = tls::certificates(&core, &tls)?;
    // Bind everything before the first thread starts.
    let bound = config.listeners.iter().map(|listener| {
        let load = Arc::new(Load::new(listener.limits.max_requests, Arc::clone(&core.memory)));
        Ok((Bound::bind(settings::listener(config, listener, &load, &tls))?, load))
    });
    let bound = bound.collect::<Result<Vec<_>, BindError>>()?;
    let reloads = Reloads::register(core.metrics.registry());
    let reloads = reloads.map_err(|error| AppError::io("metrics")(std::io::Error::other(error)))?;
    let operations = operate::bind(config, &core, Arc::clone(&certificates), level.clone())?;
    let shippers = settings::shippers(config, &core.condition.log, &core.condition.clock)?;

    let (mut listeners, mut doors, mut serves) = (Vec::new(), Vec::new(), Vec::new());
    for ((bound, load), listener) in bound.into_iter().zip(&config.listeners) {
        let (running, door) =
            settings::serve(config, listener, (bound, Arc::clone(&load)), &core, &mut serves)?;
        listeners.push(running);
        doors.push((door, load));
    }
    let open = Arc::clone(&core.exchanges);
    let exchanges = Part::start("exchanges", move |stop| async move { open.keep(stop).await })?;
    let with_files = Arc::new(ArcSwap::from_pointee(tls::with_files(&core.upstreams)));
    let files = tls::watch(&core, &tls, Arc::clone(&with_files), Arc::clone(&certificates))?;
    let introspection = match asks {
        Some(asks) => Some(Part::start("introspection", move |stop| asks.run(stop))?),
        None => None,
    };
    let workload = workload::start(config, &core)?;
    let health = health::start(&core.upstreams)?;
    let key_sources = keys::start(&core, wanted)?;
    let traces = traces::start(export)?;
    let client = start_client(config, &core, (lkg, reports))?;
    let operations = operate::start(operations, core.condition.clone(), serves, Arc::clone(&core.memory))?;
    let (config, told) = (config.clone(), Told::of(config));
    let live = Live { config, core, doors, tls, files: with_files, told, certificates, level, reloads };
    Ok(Running {
        listeners,
        client,
        exchanges,
        introspection,
        files,
        health,
        traces,
        workload,
        key_sources,
        operations,
        shippers,
        live,
    })
}

fn start_client(
    config: &ProxyConfig,
    core: &Core,
    (lkg, reports): (LastKnownGood, ReportQueue),
) -> Result<Part, AppError> {
    let condition = &core.condition;
    let observer = OnRecord {
        cache: Arc::clone(&core.cache),
        introspector: core.introspector.clone(),
        log: Arc::clone(&condition.log),
        exchanges: Arc::clone(&core.exchanges),
    };
    let applier =
        Applier::new(Arc::clone(&condition.state), lkg, Box::new(observer), Arc::clone(&condition.status));
    let client = settings::client(config, core.incarnation, core.jitter, Arc::clone(&core.dial));
    let (status, clock) = (Arc::clone(&condition.status), Arc::clone(&condition.clock));
    Part::start("state", move |stop| state::run(client, applier, status, clock, reports, stop))
}

impl Running {
    /// Resolves when a part that no decision can do without has ended, which nobody told it to.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let parts = [&self.client, &self.exchanges, &self.files, &self.operations];
        let ended = futures_util::future::select_all(parts.map(|part| Box::pin(part.ended())));
        async move { drop(ended.await) }
    }

    /// Waits until the first state has arrived, at most `limit`; whether it has.
    pub async fn wait_ready(&self, limit: Duration) -> bool {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let ready = async {
            while !self.live.core.condition.readiness().ready {
                looks.tick().await;
            }
        };
        tokio::time::timeout(limit, ready).await.is_ok()
    }

    /// Stops accepting, finishes requests under way, closes the log, delivers what it holds.
    ///
    /// # Errors
    /// [`AppError`] when a part had ended before, or the log cannot be closed in order.
    pub async fn stop(self) -> Result<(), AppError> {
        let condition = &self.live.core.condition;
        condition.stopping.store(true, Ordering::Relaxed);
        self.listeners.iter().for_each(Listening::begin_stop);
        // Said once it is so: whoever reads it may act on it.
        tracing::info!("stopping: requests under way are finished first");
        // The log is closed in order even where a part had ended before.
        let mut ended = Ok(());
        if let Some(health) = self.health {
            ended = health.stop().await;
        }
        for listener in self.listeners {
            let drained = listener.stop().await;
            if drained.cut > 0 {
                tracing::warn!(cut = drained.cut, "connections outlasted the drain timeout");
            }
        }
        let others = [self.introspection, self.workload, self.key_sources, self.traces];
        let others = others.into_iter().flatten();
        for part in [self.client, self.exchanges, self.files].into_iter().chain(others) {
            ended = ended.and(part.stop().await);
        }
        if !condition.log.close() {
            tracing::error!("the end of the decision log is not on stable storage");
        }
        self.shippers.into_iter().for_each(Shipper::stop);
        ended.and(self.operations.stop().await)
    }
}
