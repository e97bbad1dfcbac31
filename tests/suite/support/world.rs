//! One tenant, one issuer, one resource, a pipeline over them: changed by a row at a time.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::core::credential::{
    FingerprintKey, Introspect, MissingKeys, Presented, ProofNonces, TokenCache, Verified,
};
use portreeve::core::evidence::{Decision, Door, EvidenceLog, EvidenceMode, ExchangeFacts};
use portreeve::core::id::{Epoch, Name};
use portreeve::core::identity::{
    Batch, Binding, Change, Entitlement, Hygiene, Identity, IdentityStatus, IdentityType, Keyer, Lease,
    LocalTrust, Owner, PolicyMode, PolicySet, Record, Resource, ResourceRoute, Snapshot, SnapshotCell,
};
use portreeve::core::policy::{
    CanonicalPath, DEFAULT_POLICY, Exchange, PathPattern, PolicyMemory, Presentation, Reason, Remembered,
    RouteRules, ServiceRef, Staleness,
};
use portreeve::core::time::Clock as _;
use portreeve::pep::Proofs;
use portreeve::pipeline::Pipeline;
use serde_json::{Value, json};

use super::clock::ManualClock;
use super::evidence::MemoryLog;
use super::issuer::TestIssuer;

/// The tenant of every record here.
pub(crate) const TENANT: &str = "demo";
/// The audience of every route here.
pub(crate) const AUDIENCE: &str = "orders";

/// Remembers verified tokens without bound.
#[derive(Default)]
pub(crate) struct MapCache(Mutex<HashMap<[u8; 32], Arc<Verified>>>);

impl TokenCache for MapCache {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Verified>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn store(&self, key: [u8; 32], verified: Arc<Verified>) {
        self.0.lock().unwrap().insert(key, verified);
    }
}

/// Remembers policy answers without bound.
#[derive(Default)]
pub(crate) struct MapMemory(Mutex<HashMap<[u8; 32], Arc<Remembered>>>);

impl PolicyMemory for MapMemory {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Remembered>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn store(&self, key: [u8; 32], answer: Arc<Remembered>) {
        self.0.lock().unwrap().insert(key, answer);
    }
}

/// Everything a decision needs, with handles to change it.
pub(crate) struct World {
    pub(crate) issuer: TestIssuer,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) state: Arc<SnapshotCell>,
    pub(crate) trust: Arc<LocalTrust>,
    pub(crate) pipeline: Pipeline,
    /// Whom front doors over it have ask about opaque tokens.
    pub(crate) introspect: Option<Arc<dyn Introspect>>,
}

/// A name that is known to be well formed.
pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// An active production workload of this subject that may read orders.
pub(crate) fn identity(subject: &str) -> Identity {
    Identity {
        kind: IdentityType::Workload,
        environment: "prod".into(),
        status: IdentityStatus::Active,
        owner: Owner { team: Some("payments".into()), ..Owner::default() },
        ticket: None,
        end: None,
        review_due: None,
        third_party: false,
        risk: None,
        labels: BTreeMap::new(),
        entitlements: vec![Entitlement {
            name: "orders:read".into(),
            source: None,
            granted: None,
            expires: None,
        }],
        bindings: vec![Binding { issuer: name("main"), subject: subject.into() }],
        not_before: None,
    }
}

/// The resource `orders`.
pub(crate) fn orders() -> Resource {
    let route = |methods: &[&str], path: &str, requires: &str| ResourceRoute {
        methods: methods.iter().map(|m| Arc::from(*m)).collect(),
        path: PathPattern::parse(path).unwrap(),
        requires: Some(requires.into()),
    };
    Resource {
        environment: "prod".into(),
        owner: Owner::default(),
        routes: vec![
            route(&["GET", "HEAD"], "/orders/**", "orders:read"),
            route(&["POST"], "/orders", "orders:write"),
        ],
    }
}

/// An enforced policy set.
pub(crate) fn policy(cedar: &str, mode: PolicyMode, hygiene: Hygiene) -> Record {
    Record::PolicySet(Arc::new(PolicySet { cedar: cedar.into(), mode, hygiene }))
}

/// The rules of the one route.
pub(crate) fn rules() -> RouteRules {
    RouteRules {
        staleness: Staleness::default(),
        evidence: EvidenceMode::ProcessSafe,
        audiences: Arc::from([Arc::from(AUDIENCE)]),
        clock_skew: Duration::from_secs(30),
        anonymous: false,
        public_origin: None,
        proof_nonces: false,
        upstream: "app".into(),
    }
}

impl World {
    /// What nonces of proofs are made from.
    pub(crate) const NONCE_SECRET: [u8; 32] = [3; 32];

    /// `ledger` may read orders; the state is fresh.
    pub(crate) fn new() -> Self {
        let nonces = Arc::new(ProofNonces::new(&Self::NONCE_SECRET));
        Self::of(|pipeline| pipeline.with_proof_nonces(nonces))
    }

    /// The same, with nothing to know nonces of proofs by.
    pub(crate) fn without_nonces() -> Self {
        Self::of(|pipeline| pipeline)
    }

    fn of(complete: impl FnOnce(Pipeline) -> Pipeline) -> Self {
        let issuer = TestIssuer::es256();
        let clock = Arc::new(ManualClock::new());
        let log = Arc::new(MemoryLog::default());
        let state = Arc::new(SnapshotCell::new(Snapshot::empty(Keyer::new(7))));
        let pipeline = Pipeline::new(
            Arc::clone(&state),
            clock.clone(),
            Arc::clone(&log) as Arc<dyn EvidenceLog>,
            Arc::new(MapCache::default()),
            Arc::new(MapMemory::default()),
            FingerprintKey::new([9; 32]),
        )
        .with_replay_memory(Arc::new(Proofs::new(clock.clone(), 1000)));
        let trust = Arc::<LocalTrust>::default();
        let pipeline = complete(pipeline).trusting(Arc::clone(&trust));
        let world = Self { issuer, clock, log, state, trust, pipeline, introspect: None };
        world.put(vec![
            ("main", 1, Record::Issuer(Arc::new(world.issuer.record()))),
            ("orders", 1, Record::Resource(Arc::new(orders()))),
            ("default", 1, policy(DEFAULT_POLICY, PolicyMode::Enforce, Hygiene::default())),
            ("ledger", 1, Record::Identity(Arc::new(identity("ledger")))),
        ]);
        world.refresh();
        world
    }

    /// The same, asking about opaque tokens.
    pub(crate) fn introspecting(self, introspect: Arc<dyn Introspect>) -> Self {
        let pipeline = self.pipeline.introspecting(Arc::clone(&introspect));
        Self { pipeline, introspect: Some(introspect), ..self }
    }

    /// The same, telling of keys that are missing.
    pub(crate) fn telling(self, missing: Arc<dyn MissingKeys>) -> Self {
        Self { pipeline: self.pipeline.telling(missing), ..self }
    }

    /// Makes the state as fresh as now.
    pub(crate) fn refresh(&self) {
        let now = self.clock.now();
        let lease = Lease {
            fresh_at: Some(now.boot),
            wall_at: now.wall,
            hub_time_us: 1,
            deny_after_max: Duration::MAX,
            ..Lease::default()
        };
        self.state.set_lease(lease);
    }

    /// Publishes records (name, generation, value) as one batch.
    pub(crate) fn put(&self, records: Vec<(&str, u32, Record)>) -> Batch {
        let cell = name(TENANT);
        let held = self.state.load();
        let from = held.cell(&cell).map_or(0, |c| c.revision);
        let change = |(n, generation, record): (&str, u32, Record)| Change {
            kind: record.kind(),
            name: name(n),
            generation,
            revision: from + 1,
            record: Some(record),
            dropped: false,
        };
        let batch = Batch {
            cell,
            epoch: Epoch::from_bytes([1; 16]),
            from_revision: from,
            to_revision: from + 1,
            history_hash: [0; 32],
            state_digest: None,
            changes: records.into_iter().map(change).collect(),
        };
        let next = held.apply(&batch).unwrap();
        drop(held);
        self.state.publish(next);
        batch
    }

    /// Publishes one identity.
    pub(crate) fn put_identity(&self, named: &str, generation: u32, value: Identity) {
        self.put(vec![(named, generation, Record::Identity(Arc::new(value)))]);
    }

    /// Ordinary claims of a subject, issued now and good for five minutes.
    pub(crate) fn claims(&self, subject: &str) -> Value {
        let now = self.clock.now().wall.as_seconds();
        json!({
            "iss": self.issuer.iss(), "sub": subject, "aud": AUDIENCE,
            "iat": now, "exp": now + 300, "jti": format!("{subject}-1"),
        })
    }

    /// A token of these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.issuer.sign(&self.issuer.header(), claims)
    }

    /// A request with this token.
    pub(crate) fn exchange(&self, token: Option<&str>, method: &str, path: &str) -> Exchange {
        Exchange {
            listener: "inbound".into(),
            door: Door::Proxy,
            method: method.into(),
            path: CanonicalPath::parse(path).unwrap(),
            service: Some(ServiceRef { tenant: name(TENANT), resource: name("orders") }),
            rules: Arc::new(rules()),
            presentation: token
                .map_or(Presentation::Nothing, |t| Presentation::One(Presented::bearer(t.as_bytes()))),
            certificate: None,
            peer: Some([127, 0, 0, 1].into()),
            trace_id: [0; 16],
        }
    }

    /// Decides, waits for the evidence and takes the last look: the reason of a refusal, or `None`.
    pub(crate) fn decide(&self, exchange: &Exchange) -> Option<Reason> {
        self.decide_with(exchange, || {})
    }

    /// The same, with `between` happening after the decision and before the last look.
    pub(crate) fn decide_with(&self, exchange: &Exchange, between: impl FnOnce()) -> Option<Reason> {
        let pending = match self.pipeline.reserve(exchange.rules.evidence, facts(exchange)) {
            Ok(pending) => pending,
            Err(denied) => return Some(denied.reason()),
        };
        let decision = block_on(self.pipeline.check(pending, exchange));
        between();
        match decision {
            Decision::Deny(denied) => Some(denied.reason()),
            Decision::Allow(allowed) => {
                self.pipeline.release(allowed, exchange).err().map(|denied| denied.reason())
            }
        }
    }

    /// Decides a GET of `/orders/1` with an ordinary token of `subject`.
    pub(crate) fn read_orders(&self, subject: &str) -> Option<Reason> {
        let token = self.token(&self.claims(subject));
        self.decide(&self.exchange(Some(&token), "GET", "/orders/1"))
    }
}

/// What a front door knows of an exchange.
pub(crate) fn facts(exchange: &Exchange) -> ExchangeFacts {
    ExchangeFacts {
        listener: Arc::clone(&exchange.listener),
        door: exchange.door,
        method: Arc::clone(&exchange.method),
        peer: exchange.peer,
        trace_id: exchange.trace_id,
        span_id: [0; 8],
    }
}

/// Waits for a future that needs no runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Waits for a future that does input and output.
pub(crate) fn block_on_io<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
