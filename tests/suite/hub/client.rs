//! An enforcement point's client against a real hub, and against one that misbehaves.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use portreeve::core::credential::{FingerprintKey, Presented};
use portreeve::core::evidence::Door;
use portreeve::core::identity::{Keyer, SnapshotCell};
use portreeve::core::policy::{CanonicalPath, Exchange, Presentation, Reason, ServiceRef};
use portreeve::pipeline::Pipeline;
use portreeve::state::{
    self, AppliedBatch, Applier, ClientSettings, LastKnownGood, Observer, PlainDial, StateStatus,
};
use portreeve::wire::state_proto as proto;
use portreeve::wire::state_proto::hub_message::Message as Down;
use portreeve::wire::state_proto::state_sync_server::{StateSync, StateSyncServer};
use serde_json::json;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::lab::{HandClock, Lab, demo, until};
use crate::support::evidence::MemoryLog;
use crate::support::world::{MapCache, MapMemory, TENANT, name, rules};

const BOOT: &str = "boot-1";
const MINUTE: Duration = Duration::from_secs(60);

struct Unobserved;

impl Observer for Unobserved {
    fn in_force(&self, _: &AppliedBatch<'_>) -> u64 {
        0
    }
}

fn exchange(token: &str) -> Exchange {
    Exchange {
        listener: "inbound".into(),
        door: Door::Proxy,
        method: "GET".into(),
        path: CanonicalPath::parse("/orders/1").unwrap(),
        service: Some(ServiceRef { tenant: name(TENANT), resource: name("orders") }),
        rules: Arc::new(rules()),
        presentation: Presentation::One(Presented::bearer(token.as_bytes())),
        certificate: None,
        peer: None,
        trace_id: [0; 16],
    }
}

/// A client that runs.
pub(super) struct Client {
    pub(super) state: Arc<SnapshotCell>,
    reports: Arc<state::KeyReports>,
    status: Arc<StateStatus>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Client {
    /// `hubs` are addresses with commas between.
    pub(super) fn start(folder: &Path, hubs: &str, clock: &Arc<HandClock>) -> Self {
        let (lkg, loaded) = open(folder);
        let state = Arc::new(SnapshotCell::new(loaded.snapshot));
        let status = Arc::new(StateStatus::default());
        let applier = Applier::new(Arc::clone(&state), lkg, Box::new(Unobserved), Arc::clone(&status));
        let settings = ClientSettings {
            dial: Arc::new(PlainDial),
            endpoints: hubs.split(',').map(str::to_owned).collect(),
            spoke_id: "edge".to_owned(),
            incarnation: [1; 16],
            deny_after_max: MINUTE,
            waived: Vec::new(),
            jitter: 7,
        };
        let stop = CancellationToken::new();
        let (reports, waiting) = state::KeyReports::new();
        let ended = tokio::spawn(state::run(
            settings,
            applier,
            Arc::clone(&status),
            clock.clone(),
            waiting,
            stop.clone(),
        ));
        Self { state, reports, status, stop, ended }
    }

    /// Judges a GET of `/orders/1` with a token, by the state in force: the reason of a refusal.
    pub(super) fn judge(&self, clock: &Arc<HandClock>) -> impl Fn(&str) -> Option<Reason> + use<> {
        let pipeline = Pipeline::new(
            Arc::clone(&self.state),
            clock.clone(),
            Arc::new(MemoryLog::default()),
            Arc::new(MapCache::default()),
            Arc::new(MapMemory::default()),
            FingerprintKey::new([9; 32]),
        );
        let pipeline = pipeline.telling(self.reports.clone());
        move |token| pipeline.explain(&exchange(token)).0.reason()
    }

    pub(super) async fn confirmed(&self) {
        until("the hub confirms the state", || self.state.lease().fresh_at.is_some()).await;
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.ended).await.expect("an end").unwrap();
    }
}

fn open(folder: &Path) -> (LastKnownGood, state::Loaded) {
    LastKnownGood::open(folder, BOOT, Keyer::new(1)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_said_goodbye_does_not_begin_again_on_the_lease_it_gave_up() {
    let (directory, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    lab.apply(&demo()).await;
    let client = Client::start(folder.path(), &format!("http://{}", lab.stream), &lab.clock);
    client.confirmed().await;
    client.stop().await;
    // The hub has let it go: nobody is waited for.
    let revoked = lab.revoke("ledger").await;
    assert_eq!((&revoked["state"], &revoked["members"]), (&json!("EFFECTIVE"), &json!([])));
    let (_, again) = open(folder.path());
    assert_eq!(again.snapshot.position().revision, 1);
    assert_eq!(again.lease.fresh_at, None, "older state under a lease that no receipt waits for");
    lab.stop().await;
}

/// Answers each stream with what it is told, then says nothing more.
struct Fake {
    streams: Arc<AtomicUsize>,
    says: Option<Vec<Down>>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<proto::HubMessage, Status>> + Send>>;

#[tonic::async_trait]
impl StateSync for Fake {
    type SyncStream = Messages;
    type GetChunkStream = Pin<Box<dyn Stream<Item = Result<proto::ChunkPart, Status>> + Send>>;
    type UrgentStream = Pin<Box<dyn Stream<Item = Result<proto::Signed, Status>> + Send>>;
    type RepairStream = Pin<Box<dyn Stream<Item = Result<proto::RepairPart, Status>> + Send>>;

    async fn urgent(&self, _: Request<proto::UrgentHello>) -> Result<Response<Self::UrgentStream>, Status> {
        std::future::pending().await
    }

    async fn repair(&self, _: Request<proto::RepairRequest>) -> Result<Response<Self::RepairStream>, Status> {
        Err(Status::not_found("none"))
    }

    async fn sync(&self, _: Request<Streaming<proto::SpokeMessage>>) -> Result<Response<Messages>, Status> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let Some(says) = self.says.clone() else { return std::future::pending().await };
        let said = tokio_stream::iter(says.into_iter().map(|m| Ok(proto::HubMessage { message: Some(m) })));
        let silence = tokio_stream::pending();
        Ok(Response::new(Box::pin(tokio_stream::StreamExt::chain(said, silence))))
    }

    async fn get_chunk(
        &self,
        _: Request<proto::ChunkRequest>,
    ) -> Result<Response<Self::GetChunkStream>, Status> {
        Err(Status::not_found("none"))
    }
}

async fn fake(says: Option<Vec<Down>>) -> (String, Arc<AtomicUsize>) {
    let streams = Arc::new(AtomicUsize::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = StateSyncServer::new(Fake { streams: Arc::clone(&streams), says });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, streams)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_never_answers_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, streams) = fake(None).await;
    let client = Client::start(folder.path(), &hub, &HandClock::new());
    until("a stream opens", || streams.load(Ordering::SeqCst) > 0).await;
    client.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_hub_is_refused_after_a_restart_too() {
    let (directory, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    lab.apply(&demo()).await;
    let client = Client::start(folder.path(), &format!("http://{}", lab.stream), &lab.clock);
    client.confirmed().await;
    client.stop().await;
    let stranger = proto::Welcome {
        cluster_id: Bytes::from_static(&[2; 16]),
        epoch: Bytes::from_static(&[0xff; 16]),
        ..Default::default()
    };
    let (hub, streams) = fake(Some(vec![Down::Welcome(stranger)])).await;
    let client = Client::start(folder.path(), &hub, &lab.clock);
    until("a second stream opens", || {
        assert!(!client.status.connected(), "welcomed by a stranger");
        streams.load(Ordering::SeqCst) >= 2
    })
    .await;
    assert!(client.status.last_error().unwrap().contains("another cluster"));
    client.stop().await;
    lab.stop().await;
}
