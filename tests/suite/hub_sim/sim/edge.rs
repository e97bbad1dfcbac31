//! An enforcement point: the real client, last-known-good and decision, on a machine of the world.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use portreeve::core::credential::{FingerprintKey, Presented, TokenCache, Verified};
use portreeve::core::evidence::{
    Allowed, Decision, Door, EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot,
    Withdrawal,
};
use portreeve::core::id::{DecisionId, Epoch, LogId, Name, Place};
use portreeve::core::identity::{Keyer, Snapshot, SnapshotCell};
use portreeve::core::policy::{
    CanonicalPath, Exchange, PolicyMemory, Presentation, Reason, Remembered, RouteRules, ServiceRef,
    Staleness, Verdict,
};
use portreeve::pipeline::Pipeline;
use portreeve::state::{self, AppliedBatch, Applier, ClientSettings, LastKnownGood, Observer, StateStatus};
use tokio_util::sync::CancellationToken;

use super::host::{Host, HostClock};
use super::issuer::{self, AUDIENCE};
use super::net::{HostId, Net, SimDial};
use super::truth::{Kill, SKEW_US, Token};

/// An enforcement point.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) name: String,
    pub(crate) place: HostId,
    pub(crate) host: Host,
    pub(crate) settings: EdgeSettings,
    pub(crate) running: Option<Running>,
    /// What its log says is in force on this disk.
    pub(crate) log: Arc<EdgeLog>,
    /// How far it was seen to be, by cell: what may not fall.
    pub(crate) seen: BTreeMap<Name, Seen>,
    /// Raised with each process start.
    starts: u64,
}

/// What does not change over restarts.
#[derive(Clone, Debug)]
pub(crate) struct EdgeSettings {
    pub(crate) folder: PathBuf,
    pub(crate) endpoints: Vec<String>,
    pub(crate) deny_after: Duration,
    /// Whether it has a route that is never stale, too.
    pub(crate) waives: bool,
    pub(crate) boot_id: String,
    pub(crate) seed: u64,
}

/// A process of it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) incarnation: [u8; 16],
    pub(crate) state: Arc<SnapshotCell>,
    pub(crate) status: Arc<StateStatus>,
    pub(crate) pipeline: Pipeline,
    pub(crate) stop: CancellationToken,
    pub(crate) client: tokio::task::JoinHandle<()>,
    /// Files of the last-known-good that were refused at start.
    pub(crate) refused: usize,
    exchanges: HashMap<(Token, bool), Arc<Exchange>>,
}

/// How far a cell was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) epoch: Epoch,
    pub(crate) revision: u64,
    pub(crate) kill_revision: u64,
    pub(crate) identities: BTreeMap<Name, (u32, i64)>,
}

/// An allow that has not had its effect yet.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) token: Token,
    pub(crate) waived: bool,
    pub(crate) generation: u32,
    pub(crate) incarnation: [u8; 16],
    allowed: Allowed,
    exchange: Arc<Exchange>,
}

impl Edge {
    pub(crate) fn new(name: String, place: HostId, clock: Arc<HostClock>, settings: EdgeSettings) -> Self {
        Self {
            name,
            place,
            host: Host::new(clock),
            settings,
            running: None,
            log: Arc::default(),
            seen: BTreeMap::new(),
            starts: 0,
        }
    }

    /// A new incarnation's id.
    pub(crate) fn next_incarnation(&mut self) -> [u8; 16] {
        self.starts += 1;
        let mut incarnation = [0; 16];
        incarnation[..8].copy_from_slice(&self.settings.seed.to_be_bytes());
        incarnation[8..].copy_from_slice(&self.starts.to_be_bytes());
        incarnation
    }

    /// Starts a process from what is on disk.
    pub(crate) fn start(&mut self, net: &Net, incarnation: [u8; 16], spoke_id: &str) {
        let keyer = Keyer::new(u128::from(self.settings.seed));
        let (folder, boot_id) = (&self.settings.folder, &self.settings.boot_id);
        let (lkg, loaded) = LastKnownGood::open(folder, boot_id, keyer).unwrap();
        let state = Arc::new(SnapshotCell::new(loaded.snapshot));
        state.set_lease(loaded.lease);
        let status = Arc::new(StateStatus::default());
        let applier = Applier::new(
            Arc::clone(&state),
            lkg,
            Box::new(OnRecord(Arc::clone(&self.log))),
            Arc::clone(&status),
        );
        let waived = if self.settings.waives { vec!["inbound//static/**".to_owned()] } else { Vec::new() };
        let settings = ClientSettings {
            endpoints: self.settings.endpoints.clone(),
            dial: Arc::new(SimDial { net: net.clone(), from: self.place }),
            spoke_id: spoke_id.to_owned(),
            incarnation,
            deny_after_max: self.settings.deny_after,
            waived,
            jitter: self.settings.seed ^ self.starts,
        };
        let clock = Arc::clone(&self.host.clock);
        let pipeline = Pipeline::new(
            Arc::clone(&state),
            clock.clone(),
            Arc::clone(&self.log) as Arc<dyn EvidenceLog>,
            Arc::new(MapCache::default()),
            Arc::new(MapMemory::default()),
            FingerprintKey::new([9; 32]),
        );
        let stop = CancellationToken::new();
        let runtime = self.host.start();
        let client = runtime.spawn(state::run(
            settings,
            applier,
            Arc::clone(&status),
            clock,
            state::KeyReports::new().1,
            stop.clone(),
        ));
        let (refused, exchanges) = (loaded.refused.len(), HashMap::new());
        self.running =
            Some(Running { incarnation, state, status, pipeline, stop, client, refused, exchanges });
    }

    /// Ends the process between two of its steps.
    pub(crate) fn kill(&mut self) {
        self.host.kill();
        self.running = None;
    }

    /// The state in force, if a process runs.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.running.as_ref().map(|running| Arc::clone(&running.state.load()))
    }

    /// Judges a request with this token, up to the wait for its evidence.
    ///
    /// # Errors
    /// The reason of a refusal.
    pub(crate) fn judge(&mut self, token: &Token, waived: bool) -> Result<Judged, Reason> {
        let limits = Staleness {
            warn_after: Duration::from_secs(1),
            deny_after: (!waived).then_some(self.settings.deny_after),
        };
        let running = self.running.as_mut().ok_or(Reason::StateAbsent)?;
        let key = (token.clone(), waived);
        let exchange =
            Arc::clone(running.exchanges.entry(key).or_insert_with(|| Arc::new(exchange(token, limits))));
        let pending = running.pipeline.reserve(EvidenceMode::ProcessSafe, facts(&exchange));
        let pending = pending.map_err(|denied| denied.reason())?;
        let decision = futures_util::FutureExt::now_or_never(running.pipeline.check(pending, &exchange));
        match decision.expect("evidence in memory is never waited for") {
            Decision::Deny(denied) => Err(denied.reason()),
            Decision::Allow(allowed) => {
                let principal = allowed.verdict().basis().principal.as_ref();
                let generation = principal.map_or(0, |principal| principal.generation());
                let (token, incarnation) = (token.clone(), running.incarnation);
                Ok(Judged { token, waived, generation, incarnation, allowed, exchange })
            }
        }
    }

    /// Takes the last look; whether the allow has its effect.
    pub(crate) fn release(&self, judged: Judged) -> bool {
        let running = self.running.as_ref().filter(|running| running.incarnation == judged.incarnation);
        running.is_some_and(|running| running.pipeline.release(judged.allowed, &judged.exchange).is_ok())
    }

    /// How far each cell is now.
    pub(crate) fn positions(&self) -> BTreeMap<Name, Seen> {
        let Some(snapshot) = self.snapshot() else { return BTreeMap::new() };
        // What nothing is decided by is not kept over a restart either.
        let cells = snapshot.cells().iter().filter(|held| held.confirmed).map(|held| {
            let changes = snapshot.export(&held.cell);
            let identities = changes.iter().filter_map(|change| match &change.record {
                Some(portreeve::core::identity::Record::Identity(identity)) => {
                    let cut = identity.not_before.map_or(i64::MIN, |cut| cut.as_micros());
                    Some((change.name.clone(), (change.generation, cut)))
                }
                _ => None,
            });
            let seen = Seen {
                epoch: held.epoch,
                revision: held.revision,
                kill_revision: held.kill_revision,
                identities: identities.collect(),
            };
            (held.cell.clone(), seen)
        });
        cells.collect()
    }

    /// Forgets what was seen, and put on record, of a tenant that was dropped.
    pub(crate) fn forget(&mut self, cell: &Name) {
        self.seen.remove(cell);
        self.log.kills.lock().retain(|kill| kill.tenant() != cell);
    }

    /// A record of this disk's that denies the token in this generation, if one is in force.
    pub(crate) fn in_force_against(&self, token: &Token, generation: u32) -> Option<Kill> {
        let snapshot = self.snapshot()?;
        let held = snapshot.identity(&token.tenant, &token.identity).and_then(|held| held.value);
        let cut = held.and_then(|held| held.not_before).map(|cut| cut.as_micros());
        self.log.kills.lock().iter().find(|kill| kill.denies(token, generation, cut)).cloned()
    }
}

fn exchange(token: &Token, staleness: Staleness) -> Exchange {
    let presented = Presented::bearer(issuer::sign(token).as_bytes());
    Exchange {
        listener: "inbound".into(),
        door: Door::Proxy,
        method: "GET".into(),
        path: CanonicalPath::parse("/orders/1").unwrap(),
        service: Some(ServiceRef { tenant: token.tenant.clone(), resource: Name::parse("orders").unwrap() }),
        rules: Arc::new(RouteRules {
            staleness,
            evidence: EvidenceMode::ProcessSafe,
            audiences: Arc::from([Arc::from(AUDIENCE)]),
            clock_skew: Duration::from_micros(SKEW_US.unsigned_abs()),
            anonymous: false,
            public_origin: None,
            proof_nonces: false,
            upstream: "app".into(),
        }),
        presentation: Presentation::One(presented),
        certificate: None,
        peer: None,
        trace_id: [0; 16],
    }
}

fn facts(exchange: &Exchange) -> ExchangeFacts {
    ExchangeFacts {
        listener: Arc::clone(&exchange.listener),
        door: exchange.door,
        method: Arc::clone(&exchange.method),
        peer: exchange.peer,
        trace_id: exchange.trace_id,
        span_id: [0; 8],
    }
}

/// The decision log of one disk: what is in force is on record beside what was decided.
#[derive(Debug, Default)]
pub(crate) struct EdgeLog {
    pub(crate) kills: Mutex<BTreeSet<Kill>>,
    records: Mutex<u64>,
}

impl EdgeLog {
    /// What another disk's log says, on a copy of it.
    pub(crate) fn copy_of(other: &Self) -> Self {
        Self { kills: Mutex::new(other.kills.lock().clone()), records: Mutex::new(0) }
    }

    fn number(&self) -> u64 {
        let mut records = self.records.lock();
        *records += 1;
        *records
    }
}

impl EvidenceLog for EdgeLog {
    fn reserve(&self, _: EvidenceMode) -> Reserved {
        Reserved::Held(Slot::new())
    }

    fn decided(
        &self,
        _: Option<Slot>,
        _: EvidenceMode,
        _: &ExchangeFacts,
        _: &Verdict,
    ) -> (DecisionId, Settlement) {
        let place = Place::Recorded(self.number());
        (DecisionId { log: LogId::new(1, 1), place }, Settlement::Settled)
    }

    fn abandoned(&self, _: Option<Slot>, _: &ExchangeFacts) {
        self.number();
    }

    fn withdrawn(&self, _: &Withdrawal) {
        self.number();
    }

    fn severed(&self, _: &Severance) {
        self.number();
    }
}

struct OnRecord(Arc<EdgeLog>);

impl Observer for OnRecord {
    fn in_force(&self, applied: &AppliedBatch<'_>) -> u64 {
        let batch = applied.batch;
        let mut known = self.0.kills.lock();
        for change in &batch.changes {
            // What a higher generation lifted is lifted, also for a lineage that begins below it.
            known.retain(|kill| !kill.is_lifted_by(&batch.cell, change));
            known.extend(Kill::of(&batch.cell, change));
        }
        // A repair tells of no record that lifts something.
        known.retain(|kill| !kill.is_lifted_in(applied.snapshot));
        0
    }
}

#[derive(Default)]
struct MapCache(Mutex<HashMap<[u8; 32], Arc<Verified>>>);

impl TokenCache for MapCache {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Verified>> {
        self.0.lock().get(key).cloned()
    }

    fn store(&self, key: [u8; 32], verified: Arc<Verified>) {
        self.0.lock().insert(key, verified);
    }
}

#[derive(Default)]
struct MapMemory(Mutex<HashMap<[u8; 32], Arc<Remembered>>>);

impl PolicyMemory for MapMemory {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Remembered>> {
        self.0.lock().get(key).cloned()
    }

    fn store(&self, key: [u8; 32], answer: Arc<Remembered>) {
        self.0.lock().insert(key, answer);
    }
}

/// Copies the files of a folder into another, which is emptied first.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
