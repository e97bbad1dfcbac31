//! The SPIFFE Workload API over a real Unix socket: what arrives, rotates and is withdrawn, and what rests on it.

mod certificates;
mod keys;
mod streams;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::core::identity::{LocalTrust, SnapshotCell};
use portreeve::core::time::Clock;
use portreeve::mtls::{LiveBundles, LiveIdentity};
use portreeve::workload::{JwtBundles, Wanted, WorkloadClient, WorkloadStatus};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::spiffe::Agent;
use crate::support::world::World;

const DOMAIN: &str = "spiffe://acme.example";
const LEDGER: &str = "spiffe://acme.example/ns/pay/ledger";
const PROXY: &str = "spiffe://acme.example/portreeve";
const HOST: &str = "orders.test";

/// An agent, and a client that follows it in a time of its own.
struct Followed {
    agent: Agent,
    identity: Arc<LiveIdentity>,
    bundles: Arc<LiveBundles>,
    status: Arc<WorkloadStatus>,
    /// How long the client wanted to wait, each time.
    waits: Arc<Mutex<Vec<Duration>>>,
    /// A permit ends one wait.
    time: Arc<Semaphore>,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
    _folder: tempfile::TempDir,
}

/// What is read by whoever is followed for.
struct Read {
    trust: Arc<LocalTrust>,
    state: Arc<SnapshotCell>,
    clock: Arc<dyn Clock>,
    moved: Arc<dyn Fn() + Send + Sync>,
}

impl Read {
    fn of(world: &World) -> Self {
        Self {
            trust: Arc::clone(&world.trust),
            state: Arc::clone(&world.state),
            clock: world.clock.clone(),
            moved: Arc::new(|| {}),
        }
    }
}

/// What is asked for beside nothing.
#[derive(Clone, Copy, Default)]
struct Ask<'a> {
    identity: bool,
    authorities: bool,
    domains: &'a [&'a str],
}

impl Followed {
    fn new(agent: impl FnOnce(&Agent)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Agent::start(&folder.path().join("agent.sock"));
        agent(&made);
        Self {
            agent: made,
            identity: Arc::default(),
            bundles: Arc::default(),
            status: Arc::default(),
            waits: Arc::default(),
            time: Arc::new(Semaphore::new(0)),
            stop: CancellationToken::new(),
            runtime: None,
            _folder: folder,
        }
    }

    /// Begins to follow.
    fn follow(&mut self, ask: Ask<'_>, read: Read) {
        let keys = JwtBundles::new(ask.domains.iter().map(|domain| Arc::from(*domain)).collect());
        if !ask.domains.is_empty() {
            keys.govern(&read.trust);
        }
        let wanted = Wanted {
            identity: ask.identity.then(|| Arc::clone(&self.identity)),
            authorities: ask.authorities.then(|| Arc::clone(&self.bundles)),
            keys: (!ask.domains.is_empty()).then(|| Arc::new(keys)),
        };
        let (waits, time) = (Arc::clone(&self.waits), Arc::clone(&self.time));
        let client = WorkloadClient {
            endpoint: self.agent.socket(),
            wanted,
            trust: read.trust,
            state: read.state,
            status: Arc::clone(&self.status),
            clock: read.clock,
            moved: read.moved,
            pause: Arc::new(move |wait| {
                waits.lock().unwrap().push(wait);
                let time = Arc::clone(&time);
                Box::pin(async move { time.acquire().await.unwrap().forget() })
            }),
            jitter: 7,
        };
        let runtime = crate::support::tls::runtime();
        runtime.spawn(client.run(self.stop.clone()));
        self.runtime = Some(runtime);
    }

    /// How often it has wanted to wait.
    fn waited(&self) -> usize {
        self.waits.lock().unwrap().len()
    }

    /// Ends one wait.
    fn pass(&self) {
        self.time.add_permits(1);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
