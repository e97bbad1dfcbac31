//! Front doors over a [`World`], on real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portreeve::core::credential::{FingerprintKey, ProofNonces};
use portreeve::core::evidence::EvidenceLog;
use portreeve::core::identity::Record;
use portreeve::core::policy::{PathPattern, RouteRules, ServiceRef};
use portreeve::core::time::Clock;
use portreeve::pep::{
    Bound, CallerCertificates, Carriers, ENTRIES_MAX, Exchanges, ExtAuthzDoor, ExtAuthzSettings,
    ForwardSettings, Front, Limits, ListenerSettings, Proofs, ProxyDoor, ProxySettings, RequestLimits, Route,
    Routes, Running, UpstreamSettings, VerifiedTokens,
};
use portreeve::pipeline::Pipeline;
use portreeve::telemetry::metrics::Metrics;

use super::PATIENCE;
use super::caller::{Answer, Caller};
use super::world::{MapMemory, TENANT, World, name, rules};

/// A pipeline over the world's state and log.
pub(crate) fn pipeline(world: &World, metrics: &Metrics) -> Arc<Pipeline> {
    Parts::of(world).pipeline(world, metrics)
}

/// What a pipeline has from outside the world's state.
pub(crate) struct Parts {
    pub(crate) log: Arc<dyn EvidenceLog>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Parts {
    /// The world's own.
    pub(crate) fn of(world: &World) -> Self {
        Self { log: Arc::clone(&world.log) as Arc<dyn EvidenceLog>, clock: world.clock.clone() }
    }

    fn pipeline(self, world: &World, metrics: &Metrics) -> Arc<Pipeline> {
        let cache = Arc::new(VerifiedTokens::new(ENTRIES_MAX, metrics.cache()));
        let memory = Arc::new(MapMemory::default());
        let key = FingerprintKey::new([9; 32]);
        let proofs = Arc::new(Proofs::new(Arc::clone(&self.clock), 1000));
        let pipeline = Pipeline::new(Arc::clone(&world.state), self.clock, self.log, cache, memory, key);
        let nonces = Arc::new(ProofNonces::new(&World::NONCE_SECRET));
        let pipeline = pipeline.with_replay_memory(proofs).with_proof_nonces(nonces);
        let pipeline = pipeline.trusting(Arc::clone(&world.trust));
        Arc::new(match &world.introspect {
            Some(introspect) => pipeline.introspecting(Arc::clone(introspect)),
            None => pipeline,
        })
    }
}

/// A listener on any free port, with one worker and short times.
pub(crate) fn listener(workers: usize) -> ListenerSettings {
    let limits = Limits { drain_timeout: Duration::from_secs(5), ..Limits::default() };
    let address = "127.0.0.1:0".parse().unwrap();
    ListenerSettings { name: "inbound".into(), address, workers, tls: None, limits, load: Arc::default() }
}

/// `orders.test/orders/**` is the resource `orders`; `/open/**` is anonymous, on any host.
pub(crate) fn routes() -> Routes {
    routes_and(Vec::new(), |_| {})
}

/// The same, with rules changed by a test.
pub(crate) fn routes_of(change: impl Fn(&mut RouteRules)) -> Routes {
    routes_and(Vec::new(), change)
}

/// The same, after further ones.
pub(crate) fn routes_and(mut first: Vec<Route>, change: impl Fn(&mut RouteRules)) -> Routes {
    let rules_of = |service: Option<&str>| {
        let mut rules = RouteRules { anonymous: service.is_none(), ..rules() };
        change(&mut rules);
        Arc::new(rules)
    };
    let route = |host: Option<&str>, path: &str, service: Option<&str>| Route {
        host: host.map(Arc::from),
        path: Some(PathPattern::parse(path).unwrap()),
        methods: Vec::new(),
        service: service.map(|resource| ServiceRef { tenant: name(TENANT), resource: name(resource) }),
        rules: rules_of(service),
    };
    first.push(route(Some("orders.test"), "/orders/**", Some("orders")));
    first.push(route(None, "/open/**", None));
    Routes::new(first)
}

/// A proxy in front of an upstream.
pub(crate) struct Gate {
    pub(crate) world: World,
    pub(crate) metrics: Metrics,
    pub(crate) exchanges: Arc<Exchanges>,
    pub(crate) running: Running,
}

impl Gate {
    /// With default settings.
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self::with(upstream, |_, _| {})
    }

    /// With settings changed by a test.
    pub(crate) fn with(
        upstream: SocketAddr,
        change: impl FnOnce(&mut ProxySettings, &mut ListenerSettings),
    ) -> Self {
        let world = World::new();
        let parts = Parts::of(&world);
        Self::over(world, parts, upstream, change)
    }

    /// Over a world, with another log or clock than its own.
    pub(crate) fn over(
        world: World,
        parts: Parts,
        upstream: SocketAddr,
        change: impl FnOnce(&mut ProxySettings, &mut ListenerSettings),
    ) -> Self {
        let metrics = Metrics::new();
        let app = UpstreamSettings::new(upstream.ip().to_string().into(), upstream.port());
        let mut settings = ProxySettings {
            listener: "inbound".into(),
            routes: routes(),
            upstreams: BTreeMap::from([("app".into(), app)]),
            carriers: Carriers::default(),
            certificates: CallerCertificates::default(),
            forward: ForwardSettings::default(),
            limits: RequestLimits::default(),
            load: Arc::default(),
            tracer: None,
        };
        let mut bind = listener(1);
        change(&mut settings, &mut bind);
        let exchanges = Arc::new(Exchanges::new(parts.pipeline(&world, &metrics), &metrics));
        let door = ProxyDoor::new(settings, Arc::clone(&exchanges), &metrics).unwrap();
        let running = start(bind, &door);
        Self { world, metrics, exchanges, running }
    }

    /// Publishes records, and tells the open exchanges of them as the writer does; how many it ended at once.
    pub(crate) fn change(&self, records: Vec<(&str, u32, Record)>) -> u64 {
        let batch = self.world.put(records);
        self.exchanges.changed(&batch.cell, &batch.changes, &self.world.state.load())
    }

    /// How often an open exchange was judged again.
    pub(crate) fn judged_again(&self) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix("portreeve_exchanges_rejudged_total "));
        line.unwrap().parse().unwrap()
    }

    /// Waits until as many exchanges are open.
    pub(crate) fn wait_open(&self, count: usize) {
        let begun = std::time::Instant::now();
        while self.exchanges.open() != count {
            assert!(begun.elapsed() < PATIENCE, "{} exchanges are open", self.exchanges.open());
            std::thread::yield_now();
        }
    }

    /// A new connection.
    pub(crate) fn caller(&self) -> Caller {
        Caller::to(self.running.address())
    }

    /// An ordinary token of `ledger`.
    pub(crate) fn token(&self) -> String {
        self.world.token(&self.world.claims("ledger"))
    }

    /// Asks for an order with an ordinary token and further header lines.
    pub(crate) fn order(&self, caller: &mut Caller, lines: &str) -> Answer {
        caller.ask(&self.order_text("GET", lines))
    }

    /// The text of such a request.
    pub(crate) fn order_text(&self, method: &str, lines: &str) -> String {
        let token = self.token();
        format!(
            "{method} /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
        )
    }
}

/// An ext_authz door for the resource `orders`.
pub(crate) fn ext_authz(world: &World, forward: ForwardSettings) -> (Running, ExtAuthzDoor) {
    ext_authz_with(world, |settings| settings.forward = forward)
}

/// The same with settings changed by a test.
pub(crate) fn ext_authz_with(
    world: &World,
    change: impl FnOnce(&mut ExtAuthzSettings),
) -> (Running, ExtAuthzDoor) {
    let metrics = Metrics::new();
    let mut settings = ExtAuthzSettings {
        listener: "envoy".into(),
        service_key: "service".into(),
        default_tenant: Some(name(TENANT)),
        rules: Arc::new(RouteRules { upstream: "".into(), ..rules() }),
        carriers: Carriers::default(),
        takes_certificates: false,
        client_issuer: None,
        forward: ForwardSettings::default(),
        load: Arc::default(),
        tracer: None,
        message_timeout: PATIENCE,
    };
    change(&mut settings);
    let door = ExtAuthzDoor::new(settings, pipeline(world, &metrics), &metrics);
    (start(listener(1), &door), door)
}

/// Binds and starts.
pub(crate) fn start<F: Front>(settings: ListenerSettings, front: &F) -> Running {
    Bound::bind(settings).unwrap().start(front).unwrap()
}
