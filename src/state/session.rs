//! One stream: hello, plans, deltas, pings, acknowledgements.

mod delta;
mod fetch;

use std::collections::HashSet;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::core::id::Name;
use crate::core::identity::{ApplyError, CellState};
use crate::core::time::Clock;
use crate::state::applier::Applier;
use crate::state::client::ClientSettings;
use crate::state::freshness::{Freshness, Heads, Told};
use crate::state::missing::ReportQueue;
use crate::state::status::StateStatus;
use crate::wire::signed;
use crate::wire::state::{self as wire, WireError};
use crate::wire::state_proto as proto;
use proto::hub_message::Message as FromHub;
use proto::spoke_message::Message as ToHub;
use proto::state_sync_client::StateSyncClient;

/// Largest message taken from a hub, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
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
    #[error("the hub answered: {code:?}: {message}")]
    Status { code: tonic::Code, message: String },
    #[error("no answer for {0:?}: the stream is taken for dead")]
    Silent(Duration),
    #[error("{0}")]
    Disk(String),
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
        !matches!(self, Self::Transport(_) | Self::Status { .. } | Self::Silent(_))
    }

    /// Whether a batch was refused for what is held, not for what it says.
    const fn may_be_damage(&self) -> bool {
        matches!(self, Self::Apply(ApplyError::Digest { .. }))
    }

    /// What the hub answered, if it did.
    pub(super) const fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status { code: status.code(), message: status.message().to_owned() }
    }
}

/// What one ordered stream needs of the process.
pub(super) struct Session<'a> {
    pub(super) settings: &'a ClientSettings,
    pub(super) applier: &'a Mutex<Applier>,
    pub(super) status: &'a StateStatus,
    pub(super) clock: &'a dyn Clock,
    pub(super) receipt_key: &'a Ed25519KeyPair,
    /// Told of the hub while a stream is open.
    pub(super) hub: watch::Sender<Option<String>>,
    /// Tells when revocations came into force ahead of the order.
    pub(super) kills: watch::Receiver<u64>,
    /// Cells whose table in memory was found damaged.
    pub(super) mend: mpsc::Receiver<Name>,
    /// Keys that tokens name and the state lacks.
    pub(super) reports: ReportQueue,
    /// Of the scope that is in force; 0: no hub has told one.
    pub(super) scope_version: u64,
}

/// A stream's two ends.
struct Stream {
    client: StateSyncClient<Channel>,
    outbox: mpsc::Sender<proto::SpokeMessage>,
    freshness: Freshness,
    /// Cells of which a batch was refused: only a repair brings them on.
    broken: HashSet<Name>,
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
        hub: &str,
        channel: Channel,
        stop: &CancellationToken,
    ) -> Result<(), SessionError> {
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            opened = self.open(hub, channel) => opened?,
        };
        self.exchange(opened, stop).await
    }

    /// Says hello and follows the welcome's plans.
    async fn open(&mut self, hub: &str, channel: Channel) -> Result<Opened, SessionError> {
        let mut client = StateSyncClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        send(&outbox, ToHub::Hello(self.hello().await)).await?;
        let mut inbox = in_time(client.sync(ReceiverStream::new(messages))).await?.into_inner();
        let Some(FromHub::Welcome(welcome)) = in_time(inbox.message()).await?.and_then(|m| m.message) else {
            return Err(SessionError::Protocol("its first message is no welcome"));
        };
        let mut stream = Stream {
            client,
            outbox,
            freshness: Freshness::default(),
            broken: HashSet::new(),
            confirmed: false,
        };
        let every = self.welcome(hub, &mut stream, welcome).await?;
        let position = self.applier.lock().await.snapshot().position();
        tracing::info!(%position, "the state stream is open");
        Ok(Opened { stream, inbox, every })
    }

    async fn exchange(&mut self, opened: Opened, stop: &CancellationToken) -> Result<(), SessionError> {
        let Opened { mut stream, mut inbox, every } = opened;
        let mut pings = interval(every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        loop {
            let unkept = self.applier.lock().await.has_unkept();
            tokio::select! {
                // In this order: no flood of changes may keep a ping back.
                biased;
                () = stop.cancelled() => {
                    self.part(&stream).await?;
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
                    let now = self.clock.now();
                    let nonce = stream.freshness.ping(now, self.clock.anchor());
                    let ping = proto::Ping {
                        nonce,
                        sent_boot_us: now.boot.as_micros(),
                        deny_after_max_us: self.deny_after_max_us(),
                    };
                    send(&stream.outbox, ToHub::Ping(ping)).await?;
                }
                Ok(()) = self.kills.changed() => {
                    self.renew(&mut stream).await;
                    self.acknowledge(&stream, Vec::new()).await?;
                }
                Some(cell) = self.mend.recv() => {
                    self.repair(&mut stream, &cell).await?;
                    self.status.mended();
                }
                missing = self.reports.next() => {
                    send(&stream.outbox, missing).await?;
                }
                message = inbox.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.receive(&mut stream, message).await?;
                    if self.applier.lock().await.take_came() {
                        // Nothing is decided by it before an answer: that one is not waited for in turn.
                        pings.reset_immediately();
                    }
                    // Taking it may have lasted: what came meanwhile waits to be read.
                    answered = Instant::now();
                }
                // One file in a turn: many cells may be confirmed at once.
                () = std::future::ready(()), if unkept => self.applier.lock().await.keep_one(),
            }
        }
    }

    async fn part(&self, stream: &Stream) -> Result<(), SessionError> {
        let mut applier = self.applier.lock().await;
        while applier.has_unkept() {
            applier.keep_one();
        }
        // Whoever says goodbye is waited for by no receipt: nothing may decide on its lease any more.
        if applier.give_up_lease() {
            let goodbye = proto::Goodbye { reason: "stopping".into() };
            send(&stream.outbox, ToHub::Goodbye(goodbye)).await?;
        }
        Ok(())
    }

    async fn hello(&self) -> proto::Hello {
        let applier = self.applier.lock().await;
        proto::Hello {
            cluster_id: applier.lkg().cluster_id().clone(),
            spoke_id: self.settings.spoke_id.clone(),
            incarnation: Bytes::copy_from_slice(&self.settings.incarnation),
            have: positions(&applier, |_| true),
            schema: RECORD_SCHEMA,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            deny_after_max_us: self.deny_after_max_us(),
            waived: self.settings.waived.clone(),
            head: applier.lkg().head().cloned(),
            receipt_key: Bytes::copy_from_slice(self.receipt_key.public_key().as_ref()),
            scope_version: self.scope_version,
            ..Default::default()
        }
    }

    /// The term that the next answer is asked to grant.
    fn deny_after_max_us(&self) -> u64 {
        u64::try_from(self.settings.deny_after_max.as_micros()).unwrap_or(u64::MAX)
    }

    async fn welcome(
        &mut self,
        hub: &str,
        stream: &mut Stream,
        welcome: proto::Welcome,
    ) -> Result<Duration, SessionError> {
        wire::all_known("welcome", &welcome.critical_features)?;
        wire::epoch(&welcome.epoch)?;
        self.trust(welcome.cluster_id, welcome.signing_keys).await?;
        for plan in welcome.plans {
            self.follow(stream, plan).await?;
        }
        self.scope_version = welcome.scope_version;
        self.status.welcomed();
        self.hub.send_replace(Some(hub.to_owned()));
        self.acknowledge(stream, Vec::new()).await?;
        Ok(Duration::from_millis(u64::from(welcome.ping_interval_ms.clamp(10, 60_000))))
    }

    /// Pins what was told at joining, before anything else is.
    pub(super) async fn pin(&self) -> Result<(), SessionError> {
        match self.settings.dial.pins() {
            Some(pins) => self.trust(pins.cluster_id, pins.signing_keys).await,
            None => Ok(()),
        }
    }

    /// Pins the first cluster and keys that come; others are refused from then on.
    async fn trust(&self, cluster_id: Bytes, keys: Vec<proto::SigningKey>) -> Result<(), SessionError> {
        let mut applier = self.applier.lock().await;
        let known = applier.lkg().cluster_id();
        if !known.is_empty() && *known != cluster_id {
            return Err(SessionError::Protocol("it belongs to another cluster than the hub before"));
        }
        match applier.lkg().keys() {
            [] if keys.is_empty() => Err(SessionError::Protocol("it names no signing key")),
            [] => {
                tracing::info!(keys = keys.len(), "pinned the hub's signing keys");
                applier.pin(cluster_id, keys).map_err(|e| SessionError::Disk(e.to_string()))
            }
            pinned if pinned != keys => {
                Err(SessionError::Protocol("its signing keys are others than those pinned here"))
            }
            _ => Ok(()),
        }
    }

    async fn receive(&mut self, stream: &mut Stream, message: proto::HubMessage) -> Result<(), SessionError> {
        match message.message {
            Some(FromHub::Batch(signed)) => self.delta(stream, &signed).await,
            Some(FromHub::Urgent(signed)) => {
                let mut applier = self.applier.lock().await;
                let kills = wire::open_urgent(&signed, applier.lkg().keys())?;
                applier.kill(&kills, &signed).await?;
                drop(applier);
                self.renew(stream).await;
                self.acknowledge(stream, Vec::new()).await
            }
            Some(FromHub::Plan(plan)) => {
                let scope_version = plan.scope_version;
                self.follow(stream, plan).await?;
                if scope_version != 0 {
                    self.rescope(stream, scope_version);
                }
                self.renew(stream).await;
                self.acknowledge(stream, Vec::new()).await
            }
            Some(FromHub::Beat(beat)) => self.beat(stream, beat).await,
            Some(FromHub::Welcome(_)) => Err(SessionError::Protocol("it welcomed twice")),
            // A kind of message this build does not know: it can only be optional.
            None => Ok(()),
        }
    }

    /// Goes on under another scope, whose plans have been followed: what was answered under the one
    /// before makes nothing fresh any more (I6).
    fn rescope(&mut self, stream: &mut Stream, version: u64) {
        if std::mem::replace(&mut self.scope_version, version) != version {
            stream.freshness.rescope();
        }
    }

    async fn beat(&mut self, stream: &mut Stream, beat: proto::Beat) -> Result<(), SessionError> {
        // What left the scope was told on this stream before.
        let rescoped = beat.scope_version != self.scope_version;
        self.rescope(stream, beat.scope_version);
        if let Some(head) = beat.head {
            let mut applier = self.applier.lock().await;
            signed::verify(&head, applier.lkg().keys(), proto::SignedKind::Head)?;
            applier.set_head(head);
        }
        let named = |h: proto::CellHead| {
            let heads = Heads { revision: h.revision, kill_revision: h.kill_revision };
            Ok((Name::parse(&h.cell).map_err(WireError::from)?, heads))
        };
        let heads = beat.heads.into_iter().map(named).collect::<Result<Vec<_>, SessionError>>()?;
        let told = Told {
            hub_time_us: beat.hub_time_us,
            deny_after_max: Duration::from_micros(beat.deny_after_max_us),
        };
        stream.freshness.answered(beat.echo_nonce, heads, told);
        let confirmed = self.renew(stream).await;
        if rescoped || confirmed { self.acknowledge(stream, Vec::new()).await } else { Ok(()) }
    }

    /// Renews the lease by what has been answered; whether cells were confirmed by that.
    async fn renew(&self, stream: &mut Stream) -> bool {
        let mut applier = self.applier.lock().await;
        // Not in the condition: what it holds of the state would be waited for.
        let covered = stream.freshness.covered(&applier.snapshot());
        let Some(lease) = covered else { return false };
        let confirmed = applier.renew(lease).await;
        if !std::mem::replace(&mut stream.confirmed, true) {
            tracing::info!("the hub has confirmed the state");
        }
        confirmed
    }

    async fn acknowledge(&self, stream: &Stream, refused: Vec<proto::Refusal>) -> Result<(), SessionError> {
        let mut applier = self.applier.lock().await;
        let state = applier.snapshot();
        let carried = state.cells().iter().map(|held| state.carried(&held.cell).len() as u64).sum();
        let now = self.clock.now();
        let ack = proto::Ack {
            in_force: if applier.is_kept() { positions(&applier, |held| held.confirmed) } else { Vec::new() },
            // Nothing is said of a scope while a restart could still hold what left it.
            scope_version: if applier.is_kept() { self.scope_version } else { 0 },
            effective_boot_us: now.boot.as_micros(),
            purged_verifications: applier.take_purged(),
            ended_streams: applier.take_ended(),
            refused,
            cluster_id: applier.lkg().cluster_id().clone(),
            spoke_id: self.settings.spoke_id.clone(),
            incarnation: Bytes::copy_from_slice(&self.settings.incarnation),
            carried_kills: carried,
            drift_found: self.status.drift_found(),
            drift_mended: self.status.drift_mended(),
            wall_us: u64::try_from(now.wall.as_micros()).unwrap_or(0),
        };
        drop(applier);
        let signed = signed::sign_ack(self.receipt_key, Bytes::from(ack.encode_to_vec()));
        send(&stream.outbox, ToHub::SignedAck(signed)).await
    }

    async fn follow(&mut self, stream: &mut Stream, plan: proto::CellPlan) -> Result<(), SessionError> {
        let refused =
            |what| SessionError::Refused { cell: plan.cell.clone(), what, detail: plan.detail.clone() };
        let cell = Name::parse(&plan.cell).map_err(WireError::from)?;
        match plan.kind() {
            proto::PlanKind::Resume => {
                let held = self.applier.lock().await.snapshot().cell(&cell).map_or(0, |held| held.revision);
                if held == plan.from_revision {
                    return Ok(());
                }
                Err(SessionError::Protocol("it resumes from another revision than the one shown"))
            }
            proto::PlanKind::Snapshot => match &plan.signed_manifest {
                Some(manifest) => self.take_snapshot(stream, manifest).await,
                None => Err(SessionError::Protocol("a snapshot plan has no manifest")),
            },
            proto::PlanKind::Repair => {
                tracing::warn!(%cell, why = plan.detail, "the hub has a cell repaired");
                self.repair(stream, &cell).await
            }
            proto::PlanKind::Withdrawn => {
                tracing::info!(%cell, "a cell left the scope");
                self.applier.lock().await.withdraw(&cell).await;
                stream.freshness.forget(&cell);
                Ok(())
            }
            proto::PlanKind::HubBehind => Err(refused("the hub is behind what was in force here")),
            proto::PlanKind::Forked => Err(refused("the hub's history is another than the one held here")),
            proto::PlanKind::Unspecified => {
                Err(SessionError::Protocol("a plan of a kind this build does not know"))
            }
        }
    }
}

/// How far some of the cells are, one at a time.
pub(super) fn positions(applier: &Applier, of: impl Fn(&CellState) -> bool) -> Vec<proto::CellPosition> {
    let snapshot = applier.snapshot();
    let position = |held: &CellState| proto::CellPosition {
        cell: held.cell.to_string(),
        epoch: Bytes::copy_from_slice(held.epoch.as_bytes()),
        revision: held.revision,
        history_hash: Bytes::copy_from_slice(&held.history_hash),
        state_digest: Bytes::copy_from_slice(held.state_digest.as_bytes()),
        kill_revision: held.kill_revision,
    };
    snapshot.cells().iter().filter(|held| of(held)).map(position).collect()
}

async fn send(outbox: &mpsc::Sender<proto::SpokeMessage>, message: ToHub) -> Result<(), SessionError> {
    let message = proto::SpokeMessage { message: Some(message) };
    let queued = tokio::time::timeout(ANSWER_TIMEOUT, outbox.send(message)).await;
    queued
        .map_err(|_| SessionError::Silent(ANSWER_TIMEOUT))?
        .map_err(|_| SessionError::Transport("the stream is closed".to_owned()))
}

/// What the hub says, if it says it in time: a hub that is there and mute must not hold the next one up.
pub(super) async fn in_time<T>(
    answer: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, SessionError> {
    Ok(tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .map_err(|_| SessionError::Silent(ANSWER_TIMEOUT))??)
}
