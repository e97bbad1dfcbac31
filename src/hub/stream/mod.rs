//! The state stream: hello, a plan for each cell, ordered deltas, heartbeats, acknowledgements.
//!
//! INVARIANT: a heartbeat names a head read from the store after its ping had come, and every
//! delta up to that head was queued on the same stream before it. A member is in the roster
//! before its welcome, and each answer is noted there before it is sent.
//!
//! Bounds: a stream holds a cursor and at most [`QUEUE_MAX`] messages; a slow one only reads later.

mod admit;
mod hello;
mod image;
mod plan;
mod pulse;
mod quarantine;
mod repair;
mod session;
mod urgent;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::admission::Admissions;
use super::blocking;
use super::feed::Feed;
use super::issuers::Issuers;
use super::peer::{Peer, Who};
use super::receipts::Receipts;
use super::roster::Roster;
use crate::core::id::Name;
use crate::core::time::Clock;
use crate::telemetry::hub::HubMetrics;
use crate::wire::state_proto as proto;
use crate::wire::state_proto::state_sync_server::{StateSync, StateSyncServer};
use image::Images;
use pulse::Pulse;
pub(crate) use quarantine::{Frozen, Quarantine};

/// Largest message either way, in bytes: a delta of the largest commit and its frame.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How a stream behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamSettings {
    /// How often an enforcement point is asked to ping.
    pub ping_interval: Duration,
    /// How long a new stream may take to say hello.
    pub hello_timeout: Duration,
    /// How long an enforcement point may leave its queue full.
    pub send_timeout: Duration,
    /// How long it may say nothing.
    pub idle_timeout: Duration,
    /// Most streams at once.
    pub streams_max: usize,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            streams_max: 4096,
        }
    }
}

/// Whom streams hand on to.
pub(crate) struct Partners {
    pub(crate) receipts: Receipts,
    pub(crate) admissions: Arc<Admissions>,
    pub(crate) issuers: Arc<Issuers>,
}

/// What every stream shares.
pub(crate) struct Shared {
    pub(crate) feed: Arc<Feed>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: StreamSettings,
    pub(crate) shutdown: CancellationToken,
    pub(crate) quarantine: Quarantine,
    pub(crate) metrics: HubMetrics,
    pub(crate) admissions: Arc<Admissions>,
    receipts: Receipts,
    issuers: Arc<Issuers>,
    /// Cancelled when it is proven that the store is not the one this hub served from.
    condemned: CancellationToken,
    images: Images,
    pulse: Pulse,
    room: Arc<Semaphore>,
    repairs: Semaphore,
    sessions: TaskTracker,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        feed: Arc<Feed>,
        roster: Arc<Roster>,
        clock: Arc<dyn Clock>,
        settings: StreamSettings,
        partners: Partners,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let Partners { receipts, admissions, issuers } = partners;
        let room = Arc::new(Semaphore::new(settings.streams_max));
        Arc::new(Self {
            pulse: Pulse::new(Arc::clone(&feed), Arc::clone(&clock)),
            images: Images::new(Arc::clone(&feed)),
            quarantine: Quarantine::default(),
            metrics: HubMetrics::default(),
            admissions,
            receipts,
            issuers,
            condemned: CancellationToken::new(),
            sessions: TaskTracker::new(),
            repairs: Semaphore::new(REPAIRS_AT_ONCE),
            feed,
            roster,
            clock,
            settings,
            shutdown,
            room,
        })
    }

    /// Ends every stream and takes no more: what is served here is not what was served before.
    fn condemn(&self, proof: &str) {
        if !self.condemned.is_cancelled() {
            tracing::error!(
                proof,
                "the store was rolled back: this hub serves no state any more; {CONDEMNED}"
            );
            self.condemned.cancel();
        }
    }

    /// Whether it is proven that the store was rolled back.
    pub(crate) fn is_condemned(&self) -> bool {
        self.condemned.is_cancelled()
    }

    /// A place for one more stream.
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        if self.condemned.is_cancelled() {
            return Err(Status::failed_precondition(CONDEMNED));
        }
        if self.shutdown.is_cancelled() {
            return Err(Status::unavailable("the hub is stopping"));
        }
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            tracing::warn!(streams_max = self.settings.streams_max, "a stream was refused: too many");
            Status::resource_exhausted("the hub has as many streams as it takes")
        })
    }

    /// Waits for every stream to have ended; told to by `shutdown`.
    pub(crate) async fn drained(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }
}

/// The gRPC service.
#[derive(Clone, Debug)]
pub(crate) struct StateService(Arc<Shared>);

impl StateService {
    pub(crate) fn server(shared: Arc<Shared>) -> StateSyncServer<Self> {
        StateSyncServer::new(Self(shared))
            .max_decoding_message_size(RECEIVED_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl StateSync for StateService {
    type SyncStream = ReceiverStream<Result<proto::HubMessage, Status>>;
    type GetChunkStream = Answers<proto::ChunkPart>;
    type UrgentStream = ReceiverStream<Result<proto::Signed, Status>>;
    type RepairStream = Answers<proto::RepairPart>;

    async fn urgent(
        &self,
        request: Request<proto::UrgentHello>,
    ) -> Result<Response<Self::UrgentStream>, Status> {
        let shared = Arc::clone(&self.0);
        let place = shared.place()?;
        let peer = Peer::of(&request)?;
        let admitted = shared.admit(&peer, &request.get_ref().spoke_id).await?;
        let have = urgent::greet(&shared, request.get_ref())?;
        let (outbound, messages) = mpsc::channel(QUEUE_MAX);
        let tasks = shared.sessions.clone();
        tasks.spawn(async move {
            let _place = place;
            urgent::run(shared, peer, admitted, have, outbound).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn repair(
        &self,
        request: Request<proto::RepairRequest>,
    ) -> Result<Response<Self::RepairStream>, Status> {
        let shared = Arc::clone(&self.0);
        let Ok(_place) = shared.repairs.acquire().await else {
            return Err(Status::unavailable("the hub is stopping"));
        };
        let peer = Peer::of(&request)?;
        let request = request.into_inner();
        let admitted = shared.admit(&peer, &request.spoke_id).await?;
        let cell = Name::parse(&request.cell).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if !admitted.admission.scope.holds(&cell) {
            return Err(Status::permission_denied(OUT_OF_SCOPE));
        }
        let feed = Arc::clone(&shared.feed);
        let parts = blocking(&**shared.feed.store(), move || repair::make(&feed, &request)).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(parts.into_iter().map(Ok)))))
    }

    async fn sync(
        &self,
        request: Request<Streaming<proto::SpokeMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let shared = Arc::clone(&self.0);
        let place = shared.place()?;
        let peer = Peer::of(&request)?;
        shared.still_certified(&peer)?;
        let (outbound, answers) = mpsc::channel(QUEUE_MAX);
        let tasks = shared.sessions.clone();
        tasks.spawn(async move {
            let _place = place;
            session::run(shared, request.into_inner(), outbound, peer).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn get_chunk(
        &self,
        request: Request<proto::ChunkRequest>,
    ) -> Result<Response<Self::GetChunkStream>, Status> {
        let peer = Peer::of(&request)?;
        let proto::ChunkRequest { cell, hash } = request.into_inner();
        let cell = Name::parse(&cell).map_err(|e| Status::invalid_argument(e.to_string()))?;
        // Without a certificate nobody is named here, and the hash is all there is.
        if !matches!(peer.who, Who::Claimed) && !self.0.admit(&peer, "").await?.admission.scope.holds(&cell) {
            return Err(Status::permission_denied(OUT_OF_SCOPE));
        }
        let chunk = self.0.images.chunk(&cell, &hash).ok_or_else(|| {
            Status::not_found("the hub no longer holds that snapshot: say hello again for a newer one")
        })?;
        let mut rest = chunk;
        let parts = std::iter::from_fn(move || {
            let next = rest.len().min(PART_BYTES);
            (next > 0).then(|| Ok(proto::ChunkPart { data: rest.split_to(next) }))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}

/// What a hub whose store was rolled back says.
const CONDEMNED: &str =
    "the hub's store is not the one it served from: stop it, put that back or run `portreeve hub restore`";
/// What is said of a tenant that an enforcement point may not hold.
const OUT_OF_SCOPE: &str = "the tenant is not in the scope of this enforcement point";
/// Repairs made at once: each reads a whole cell.
const REPAIRS_AT_ONCE: usize = 2;
/// Messages that wait for one stream.
const QUEUE_MAX: usize = 32;
const PART_BYTES: usize = 256 * 1024;
/// Largest message from an enforcement point: a hello that names every cell.
const RECEIVED_BYTES_MAX: usize = 1024 * 1024;
