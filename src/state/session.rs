//! One stream: hello, plans, deltas, pings, acknowledgements.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::core::id::Name;
use crate::core::identity::{ApplyError, Batch};
use crate::core::time::Clock;
use crate::state::applier::Applier;
use crate::state::client::ClientSettings;
use crate::state::freshness::Freshness;
use crate::state::status::StateStatus;
use crate::wire::state::{self as wire, WireError};
use crate::wire::state_proto as proto;
use proto::hub_message::Message as FromHub;
use proto::spoke_message::Message as ToHub;
use proto::state_sync_client::StateSyncClient;

/// Largest message taken from a hub, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Largest chunk taken from a hub, in bytes.
const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// Messages to the hub that may wait.
const OUTBOX: usize = 64;
const RECORD_SCHEMA: u32 = 1;
/// A stream without an answer for this many ping intervals is a failed stream.
const SILENT_INTERVALS: u32 = 3;
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot reach the hub: {0}")]
    Transport(String),
    #[error("the hub answered: {0}")]
    Status(String),
    #[error("no answer for {0:?}: the stream is taken for dead")]
    Silent(Duration),
    #[error("the hub broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("cell `{cell}`: {what}: {detail}")]
    Refused { cell: String, what: &'static str, detail: String },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl SessionError {
    /// Whether a human must act: the hub is reachable, and what it says is refused.
    pub(super) fn is_alarm(&self) -> bool {
        !matches!(self, Self::Transport(_) | Self::Status(_) | Self::Silent(_))
    }
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(format!("{:?}: {}", status.code(), status.message()))
    }
}

pub(super) struct Session<'a> {
    pub(super) settings: &'a ClientSettings,
    pub(super) applier: &'a mut Applier,
    pub(super) status: &'a StateStatus,
    pub(super) clock: &'a dyn Clock,
}

/// A stream's two ends.
struct Stream {
    client: StateSyncClient<Channel>,
    outbox: mpsc::Sender<proto::SpokeMessage>,
    freshness: Freshness,
    /// Whether the state was confirmed on this stream.
    confirmed: bool,
}

/// A stream whose plans have been followed.
struct Opened {
    stream: Stream,
    inbox: Streaming<proto::HubMessage>,
    every: Duration,
}

impl Session<'_> {
    /// Runs one stream to its end. `Ok`: the hub closed it in good order, or `stop` was cancelled.
    pub(super) async fn run(
        &mut self,
        channel: Channel,
        stop: &CancellationToken,
    ) -> Result<(), SessionError> {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = self.open(channel) => opened?,
        };
        self.exchange(opened, stop).await
    }

    /// Says hello and follows the welcome's plans.
    async fn open(&mut self, channel: Channel) -> Result<Opened, SessionError> {
        let mut client = StateSyncClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        send(&outbox, ToHub::Hello(self.hello())).await?;
        let mut inbox = in_time(client.sync(ReceiverStream::new(messages))).await?.into_inner();
        let Some(FromHub::Welcome(welcome)) = in_time(inbox.message()).await?.and_then(|m| m.message) else {
            return Err(SessionError::Protocol("its first message is no welcome"));
        };
        let mut stream = Stream { client, outbox, freshness: Freshness::default(), confirmed: false };
        let every = self.welcome(&mut stream, welcome).await?;
        tracing::info!(position = %self.applier.snapshot().position(), "the state stream is open");
        Ok(Opened { stream, inbox, every })
    }

    async fn exchange(&mut self, opened: Opened, stop: &CancellationToken) -> Result<(), SessionError> {
        let Opened { mut stream, mut inbox, every } = opened;
        let mut pings = interval(every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    // Whoever says goodbye is waited for by no receipt: nothing may decide on its lease any more.
                    if self.applier.give_up_lease() {
                        let goodbye = proto::Goodbye { reason: "stopping".into() };
                        send(&stream.outbox, ToHub::Goodbye(goodbye)).await?;
                    }
                    drop(stream);
                    // The hub answers a goodbye by ending the stream.
                    let ended = async { while let Ok(Some(_)) = inbox.message().await {} };
                    if tokio::time::timeout(GOODBYE_TIMEOUT, ended).await.is_err() {
                        tracing::debug!("the hub did not end the stream at a goodbye");
                    }
                    return Ok(());
                }
                _ = pings.tick() => {
                    if answered.elapsed() > every * SILENT_INTERVALS {
                        return Err(SessionError::Silent(answered.elapsed()));
                    }
                    let now = self.clock.now().boot;
                    let nonce = stream.freshness.ping(now);
                    send(&stream.outbox, ToHub::Ping(proto::Ping { nonce, sent_boot_us: now.as_micros(), ..Default::default() })).await?;
                }
                message = inbox.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.receive(&mut stream, message).await?;
                    // Taking it may have lasted: what came meanwhile waits to be read.
                    answered = Instant::now();
                }
            }
        }
    }

    fn hello(&self) -> proto::Hello {
        proto::Hello {
            cluster_id: self.applier.cluster_id(),
            spoke_id: self.settings.spoke_id.clone(),
            incarnation: Bytes::copy_from_slice(&self.settings.incarnation),
            have: self.positions(),
            schema: RECORD_SCHEMA,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            deny_after_max_us: u64::try_from(self.settings.deny_after_max.as_micros()).unwrap_or(u64::MAX),
            waived: self.settings.waived.clone(),
            ..Default::default()
        }
    }

    fn positions(&self) -> Vec<proto::CellPosition> {
        let snapshot = self.applier.snapshot();
        let position = |held: &crate::core::identity::CellState| proto::CellPosition {
            cell: held.cell.to_string(),
            epoch: Bytes::copy_from_slice(held.epoch.as_bytes()),
            revision: held.revision,
            history_hash: Bytes::copy_from_slice(&held.history_hash),
            ..Default::default()
        };
        snapshot.cells().iter().map(position).collect()
    }

    async fn welcome(
        &mut self,
        stream: &mut Stream,
        welcome: proto::Welcome,
    ) -> Result<Duration, SessionError> {
        let known = self.applier.cluster_id();
        if !known.is_empty() && known != welcome.cluster_id {
            return Err(SessionError::Protocol("it belongs to another cluster than the hub before"));
        }
        wire::epoch(&welcome.epoch)?;
        self.applier.set_cluster_id(welcome.cluster_id);
        for plan in welcome.plans {
            self.follow(stream, plan).await?;
        }
        self.status.welcomed();
        self.acknowledge(stream, Vec::new()).await?;
        Ok(Duration::from_millis(u64::from(welcome.ping_interval_ms.clamp(10, 60_000))))
    }

    async fn receive(&mut self, stream: &mut Stream, message: proto::HubMessage) -> Result<(), SessionError> {
        match message.message {
            Some(FromHub::Delta(delta)) => self.delta(stream, &delta).await,
            Some(FromHub::Plan(plan)) => {
                self.follow(stream, plan).await?;
                self.acknowledge(stream, Vec::new()).await
            }
            Some(FromHub::Beat(beat)) => {
                let head =
                    |h: proto::CellHead| Ok((Name::parse(&h.cell).map_err(WireError::from)?, h.revision));
                let heads = beat.heads.into_iter().map(head).collect::<Result<Vec<_>, SessionError>>()?;
                stream.freshness.answered(beat.echo_nonce, heads, beat.hub_time_us);
                self.renew(stream);
                Ok(())
            }
            Some(FromHub::Batch(_) | FromHub::Urgent(_)) => {
                Err(SessionError::Protocol("it sent what was not asked for"))
            }
            Some(FromHub::Welcome(_)) => Err(SessionError::Protocol("it welcomed twice")),
            // A kind of message this build does not know: it can only be optional.
            None => Ok(()),
        }
    }

    fn renew(&mut self, stream: &mut Stream) {
        if let Some(lease) = stream.freshness.covered(&self.applier.snapshot()) {
            self.applier.renew(lease);
            if !std::mem::replace(&mut stream.confirmed, true) {
                tracing::info!("the hub has confirmed the state");
            }
        }
    }

    async fn delta(&mut self, stream: &mut Stream, delta: &proto::Delta) -> Result<(), SessionError> {
        let applied = match self.decode(delta) {
            Ok(batch) => self.applier.delta(&batch, &delta.encode_to_vec()).await.map_err(SessionError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = applied {
            let refusal = proto::Refusal {
                cell: delta.cell.clone(),
                from_revision: delta.from_revision,
                to_revision: delta.to_revision,
                code: "delta.refused".to_owned(),
                detail: error.to_string(),
            };
            self.acknowledge(stream, vec![refusal]).await?;
            return Err(error);
        }
        self.renew(stream);
        self.acknowledge(stream, Vec::new()).await
    }

    fn decode(&self, delta: &proto::Delta) -> Result<Batch, SessionError> {
        let cell = Name::parse(&delta.cell).map_err(WireError::from)?;
        let before = self.applier.snapshot().cell(&cell).map_or([0; 32], |held| held.history_hash);
        Ok(wire::decode_delta(delta, &before)?)
    }

    async fn acknowledge(
        &mut self,
        stream: &Stream,
        refused: Vec<proto::Refusal>,
    ) -> Result<(), SessionError> {
        let ack = proto::Ack {
            in_force: if self.applier.is_kept() { self.positions() } else { Vec::new() },
            effective_boot_us: self.clock.now().boot.as_micros(),
            purged_verifications: self.applier.take_purged(),
            ended_streams: 0,
            refused,
            ..Default::default()
        };
        send(&stream.outbox, ToHub::Ack(ack)).await
    }

    async fn follow(&mut self, stream: &mut Stream, plan: proto::CellPlan) -> Result<(), SessionError> {
        let refused =
            |what| SessionError::Refused { cell: plan.cell.clone(), what, detail: plan.detail.clone() };
        match plan.kind() {
            proto::PlanKind::Resume => {
                let cell = Name::parse(&plan.cell).map_err(WireError::from)?;
                let held = self.applier.snapshot().cell(&cell).map_or(0, |held| held.revision);
                if held == plan.from_revision {
                    return Ok(());
                }
                Err(SessionError::Protocol("it resumes from another revision than the one shown"))
            }
            proto::PlanKind::Snapshot => match &plan.manifest {
                Some(manifest) => self.take_snapshot(stream, manifest).await,
                None => Err(SessionError::Protocol("a snapshot plan has no manifest")),
            },
            proto::PlanKind::HubBehind => Err(refused("the hub is behind what was in force here")),
            proto::PlanKind::Forked => Err(refused("the hub's history is another than the one held here")),
            proto::PlanKind::Unspecified | proto::PlanKind::Repair | proto::PlanKind::Withdrawn => {
                Err(SessionError::Protocol("a plan of a kind this build does not know"))
            }
        }
    }

    async fn take_snapshot(
        &mut self,
        stream: &mut Stream,
        manifest: &proto::Manifest,
    ) -> Result<(), SessionError> {
        let mut changes = Vec::new();
        for chunk in &manifest.chunks {
            let bytes = fetch(stream, manifest, chunk).await?;
            let chunk =
                proto::Chunk::decode(bytes).map_err(|_| SessionError::Protocol("a chunk does not decode"))?;
            for change in &chunk.changes {
                changes.push(wire::decode_change(change)?);
            }
        }
        if changes.len() as u64 != manifest.records {
            return Err(SessionError::Protocol(
                "a snapshot has another number of records than its manifest says",
            ));
        }
        let batch = Batch {
            cell: Name::parse(&manifest.cell).map_err(WireError::from)?,
            epoch: wire::epoch(&manifest.epoch)?,
            from_revision: 0,
            to_revision: manifest.revision,
            history_hash: wire::hash32("history hash", &manifest.history_hash)?,
            state_digest: wire::state_digest(&manifest.state_digest)?,
            changes,
        };
        self.applier.replace(&batch).await?;
        tracing::info!(cell = %batch.cell, revision = batch.to_revision, records = manifest.records, "took a snapshot");
        Ok(())
    }
}

async fn fetch(
    stream: &mut Stream,
    manifest: &proto::Manifest,
    chunk: &proto::ChunkRef,
) -> Result<Bytes, SessionError> {
    if chunk.length > CHUNK_BYTES_MAX {
        return Err(SessionError::Protocol("a chunk is longer than 16 MiB"));
    }
    let request = proto::ChunkRequest { cell: manifest.cell.clone(), hash: chunk.hash.clone() };
    let mut parts = in_time(stream.client.get_chunk(request)).await?.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(part) = in_time(parts.message()).await? {
        if (bytes.len() + part.data.len()) as u64 > chunk.length {
            return Err(SessionError::Protocol("a chunk is longer than its manifest says"));
        }
        bytes.extend_from_slice(&part.data);
    }
    if blake3::hash(&bytes).as_bytes()[..] != chunk.hash[..] {
        return Err(SessionError::Protocol("a chunk's hash is another than its manifest says"));
    }
    Ok(bytes.freeze())
}

async fn send(outbox: &mpsc::Sender<proto::SpokeMessage>, message: ToHub) -> Result<(), SessionError> {
    let message = proto::SpokeMessage { message: Some(message) };
    let queued = tokio::time::timeout(ANSWER_TIMEOUT, outbox.send(message)).await;
    queued
        .map_err(|_| SessionError::Silent(ANSWER_TIMEOUT))?
        .map_err(|_| SessionError::Transport("the stream is closed".to_owned()))
}

/// What the hub says, if it says it in time: a hub that is there and mute must not hold the next one up.
async fn in_time<T>(answer: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, SessionError> {
    Ok(tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .map_err(|_| SessionError::Silent(ANSWER_TIMEOUT))??)
}
