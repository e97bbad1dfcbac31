//! Opaque tokens: an issuer that is asked on real sockets, its faults, and what is remembered.

mod doors;
mod faults;
mod memory;
mod pauses;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::core::credential::{AnswerLife, Introspect, Presented};
use portreeve::core::policy::{Exchange, Presentation, Reason};
use portreeve::outbound::Bounds;
use portreeve::pep::{IntrospectionClient, IntrospectionSettings, Introspector, PauseRule};
use portreeve::telemetry::introspection::IntrospectionMetrics;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::conformance::opaque::{active, known};
use crate::support::idp::{Heard, Idp, Reply, TestCa};
use crate::support::world::World;

const PATH: &str = "/introspect";
const SECRET: &str = "s3cret +/";

/// An issuer, a world that knows it, and what asks it.
struct Desk {
    world: World,
    idp: Idp,
    introspector: Arc<Introspector>,
    metrics: Registry,
    heard: Arc<Mutex<Vec<Heard>>>,
    folder: tempfile::TempDir,
    _stop: DropGuard,
    _ca: TestCa,
}

impl Desk {
    /// An issuer that answers as `answers` says of each token.
    async fn new(answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(answers, |_| {}).await
    }

    /// The same, with settings changed by a test.
    async fn with(
        answers: impl Fn(&str) -> Reply + Send + Sync + 'static,
        change: impl FnOnce(&mut IntrospectionSettings),
    ) -> Self {
        let (ca, folder, heard) =
            (TestCa::new(), tempfile::tempdir().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let all = Arc::clone(&heard);
        let idp = Idp::listening(&ca, move |heard| {
            all.lock().unwrap().push(heard.clone());
            let token = heard.body.strip_prefix("token=").and_then(|rest| rest.split('&').next());
            answers(token.expect("a form with a token"))
        })
        .await;
        let secret_file = folder.path().join("secret");
        std::fs::write(&secret_file, format!("{SECRET}\n")).unwrap();
        let endpoint: Arc<str> = idp.url(PATH).into();
        let mut outbound = ca.outbound(&["localhost"]);
        outbound.bounds = Bounds { whole: Duration::from_secs(5), body_bytes_max: 64 * 1024 };
        let mut settings = IntrospectionSettings {
            clients: vec![IntrospectionClient { endpoint, client_id: "port:reeve".into(), secret_file }],
            outbound,
            life: AnswerLife { active: Duration::from_secs(30), refused: Duration::from_secs(5) },
            concurrent_max: 64,
            pause: PauseRule { after: 1000, pause: Duration::from_secs(10) },
        };
        change(&mut settings);
        let (world, metrics, stop) = (World::new(), Registry::new(), CancellationToken::new());
        let counted = IntrospectionMetrics::new(&metrics);
        let (introspector, asks) = Introspector::open(&settings, world.clock.clone(), counted).unwrap();
        tokio::spawn(asks.run(stop.clone()));
        let world = world.introspecting(Arc::clone(&introspector) as Arc<dyn Introspect>);
        known(&world, &idp.url(PATH));
        Self { world, idp, introspector, metrics, heard, folder, _stop: stop.drop_guard(), _ca: ca }
    }

    fn exchange(&self, token: &str) -> Exchange {
        let presentation = Presentation::One(Presented::bearer(token.as_bytes()));
        Exchange { presentation, ..self.world.exchange(None, "GET", "/orders/1") }
    }

    /// Has it asked about, and decides, as a door does.
    async fn decide(&self, token: &str) -> Option<Reason> {
        let mut exchange = self.exchange(token);
        self.world.pipeline.introspect(&mut exchange).await;
        self.settle(&exchange).await
    }

    async fn settle(&self, exchange: &Exchange) -> Option<Reason> {
        use portreeve::core::evidence::Decision;
        let pipeline = &self.world.pipeline;
        let facts = crate::support::world::facts(exchange);
        let pending = pipeline.reserve(exchange.rules.evidence, facts).unwrap();
        match pipeline.check(pending, exchange).await {
            Decision::Deny(denied) => Some(denied.reason()),
            Decision::Allow(allowed) => {
                pipeline.release(allowed, exchange).err().map(|denied| denied.reason())
            }
        }
    }

    fn advance(&self, span: Duration) {
        self.world.clock.advance(span);
        self.world.refresh();
    }

    /// A number that operators see.
    fn count(&self, series: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} in {text}")).parse().unwrap()
    }
}

/// A good answer at the clock's start.
fn good() -> Value {
    active(crate::support::clock::ManualClock::START)
}

fn with(mut answer: Value, member: &str, value: Value) -> Value {
    answer[member] = value;
    answer
}

const MICRO: Duration = Duration::from_micros(1);

fn inactive() -> Reply {
    Reply::json(&json!({ "active": false }))
}
