//! The state stream: hello, a plan for each cell, ordered deltas, heartbeats, acknowledgements.
//!
//! INVARIANT: a heartbeat names a head read from the store after its ping had come, and every
//! delta up to that head was queued on the same stream before it. A member is in the roster
//! before its welcome, and each answer is noted there before it is sent.
//!
//! Bounds: a stream holds a cursor and at most [`QUEUE_MAX`] messages; a slow one only reads later.

mod hello;
mod image;
mod plan;
mod pulse;
mod session;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::feed::Feed;
use super::roster::Roster;
use crate::core::id::Name;
use crate::core::time::Clock;
use crate::wire::state_proto as proto;
use crate::wire::state_proto::state_sync_server::{StateSync, StateSyncServer};
use image::Images;
use pulse::Pulse;

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

/// What every stream shares.
pub(crate) struct Shared {
    pub(crate) feed: Arc<Feed>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: StreamSettings,
    pub(crate) shutdown: CancellationToken,
    images: Images,
    pulse: Pulse,
    room: Arc<Semaphore>,
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
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(settings.streams_max));
        let pulse = Pulse::new(Arc::clone(feed.store()), Arc::clone(&clock));
        let images = Images::new(Arc::clone(feed.store()));
        let sessions = TaskTracker::new();
        Arc::new(Self { feed, roster, clock, settings, shutdown, images, pulse, room, sessions })
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
    type UrgentStream = Answers<proto::Signed>;
    type RepairStream = Answers<proto::RepairPart>;

    async fn urgent(
        &self,
        _: Request<Streaming<proto::UrgentMessage>>,
    ) -> Result<Response<Self::UrgentStream>, Status> {
        Err(Status::unimplemented("this hub sends revocations on the ordered stream alone"))
    }

    async fn repair(&self, _: Request<proto::RepairRequest>) -> Result<Response<Self::RepairStream>, Status> {
        Err(Status::unimplemented("this hub repairs by snapshot alone"))
    }

    async fn sync(
        &self,
        request: Request<Streaming<proto::SpokeMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let shared = Arc::clone(&self.0);
        let Ok(place) = Arc::clone(&shared.room).try_acquire_owned() else {
            tracing::warn!(streams_max = shared.settings.streams_max, "a stream was refused: too many");
            return Err(Status::resource_exhausted("the hub has as many streams as it takes"));
        };
        if shared.shutdown.is_cancelled() {
            return Err(Status::unavailable("the hub is stopping"));
        }
        let peer = request.remote_addr();
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
        let proto::ChunkRequest { cell, hash } = request.into_inner();
        let cell = Name::parse(&cell).map_err(|e| Status::invalid_argument(e.to_string()))?;
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

/// Messages that wait for one stream.
const QUEUE_MAX: usize = 32;
const PART_BYTES: usize = 256 * 1024;
/// Largest message from an enforcement point: a hello that names every cell.
const RECEIVED_BYTES_MAX: usize = 1024 * 1024;
