//! One stream, from hello to its end.
//!
//! Two halves run side by side in one task: one reads and never waits for the other side to
//! read, one writes at the pace the other side takes. Between them: pings, and what was sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::hello::{Greeting, Holding};
use super::plan::{Plan, unavailable};
use super::{Shared, hello, plan};
use crate::core::id::Name;
use crate::core::time::BootInstant;
use crate::hub::roster::{Acknowledged, JoinError, Membership};
use crate::hub::store::{CellPosition, Logged};
use crate::wire::state_proto as proto;
use crate::wire::state_proto::hub_message::Message as Down;
use crate::wire::state_proto::spoke_message::Message as Up;

type Outbound = mpsc::Sender<Result<proto::HubMessage, Status>>;

/// Serves one stream. Its end, whatever the reason, is told to the other side if it still listens.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut inbound: Streaming<proto::SpokeMessage>,
    outbound: Outbound,
    peer: Option<SocketAddr>,
) {
    let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let end = match greet(&shared, &mut inbound).await {
        Ok(greeting) => serve(&shared, greeting, inbound, &outbound, &peer).await,
        Err(status) => Err(status),
    };
    if let Err(status) = end {
        tracing::warn!(peer, code = ?status.code(), detail = status.message(), "a stream was ended");
        // Nobody may be left to tell.
        outbound.try_send(Err(status)).ok();
    }
}

async fn greet(shared: &Shared, inbound: &mut Streaming<proto::SpokeMessage>) -> Result<Greeting, Status> {
    let first = tokio::time::timeout(shared.settings.hello_timeout, inbound.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    let first = first.ok_or_else(|| Status::invalid_argument("the stream ended before a hello"))?;
    hello::read(first, &shared.feed.store().identity())
}

async fn serve(
    shared: &Arc<Shared>,
    greeting: Greeting,
    inbound: Streaming<proto::SpokeMessage>,
    outbound: &Outbound,
    peer: &str,
) -> Result<(), Status> {
    let Greeting { key, terms, have } = greeting;
    let spoke = key.spoke_id.clone();
    let membership = shared.roster.join(key, terms).await.map_err(|error| match error {
        JoinError::Full => Status::resource_exhausted(error.to_string()),
        JoinError::Store(error) => unavailable(&error),
    })?;
    tracing::info!(peer, spoke, "an enforcement point came");
    let end = exchange(shared, &membership, have, inbound, outbound).await;
    shared.roster.leave(&membership);
    tracing::info!(peer, spoke, "an enforcement point went");
    end
}

async fn exchange(
    shared: &Arc<Shared>,
    membership: &Membership,
    have: Vec<Holding>,
    inbound: Streaming<proto::SpokeMessage>,
    outbound: &Outbound,
) -> Result<(), Status> {
    let Plan { welcome, cells, cursor, halt } = plan::make(shared, have).await?;
    let sent = Arc::new(Mutex::new(cells.clone()));
    let mut writer = Writer {
        shared,
        membership,
        outbound,
        cells,
        cursor,
        named: HashMap::new(),
        sent: Arc::clone(&sent),
    };
    writer.send(Down::Welcome(welcome)).await?;
    if let Some(detail) = halt {
        // No heartbeat after this: whoever knows more than the hub must not become fresh by it.
        tracing::error!(
            spoke = membership.key.spoke_id,
            detail,
            "an enforcement point knows another history"
        );
        return Err(Status::failed_precondition(detail));
    }
    let (pings, waiting) = mpsc::channel(PINGS_MAX);
    let reader = Reader { shared, membership, sent, pings };
    tokio::select! {
        biased;
        () = membership.fenced.cancelled() => {
            Err(Status::aborted("a newer stream of the same incarnation took over"))
        }
        () = shared.shutdown.cancelled() => Err(Status::unavailable("the hub is stopping")),
        end = reader.run(inbound) => end,
        end = writer.run(shared.feed.subscribe(), waiting) => end,
    }
}

/// A ping, and when it came.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    nonce: u64,
    at: BootInstant,
}

/// What was sent of each cell, so that nothing else can be acknowledged.
type Sent = Arc<Mutex<HashMap<Name, CellPosition>>>;

struct Reader<'a> {
    shared: &'a Shared,
    membership: &'a Membership,
    sent: Sent,
    pings: mpsc::Sender<Arrived>,
}

impl Reader<'_> {
    async fn run(&self, mut inbound: Streaming<proto::SpokeMessage>) -> Result<(), Status> {
        loop {
            let next = tokio::time::timeout(self.shared.settings.idle_timeout, inbound.message()).await;
            let next = next.map_err(|_| Status::deadline_exceeded("nothing came for too long"))?;
            let Some(message) = next? else { return Ok(()) };
            match message.message {
                Some(Up::Ping(ping)) => {
                    let arrived = Arrived { nonce: ping.nonce, at: self.shared.clock.now().boot };
                    // Too many wait already: this one goes unanswered, which only shortens a lease.
                    self.pings.try_send(arrived).ok();
                }
                Some(Up::Ack(ack)) => self.acknowledge(ack)?,
                Some(Up::SignedAck(_)) => {
                    return Err(Status::unimplemented("this hub takes acknowledgements without signature"));
                }
                Some(Up::Goodbye(goodbye)) => {
                    tracing::info!(
                        spoke = self.membership.key.spoke_id,
                        reason = %goodbye.reason.escape_debug(),
                        "an enforcement point said goodbye"
                    );
                    return self.shared.roster.goodbye(self.membership).await.map_err(|e| unavailable(&e));
                }
                Some(Up::Hello(_)) => return Err(Status::invalid_argument("a second hello")),
                // An addition of a newer build: what is optional is ignored.
                None => {}
            }
        }
    }

    fn acknowledge(&self, ack: proto::Ack) -> Result<(), Status> {
        let epoch = self.shared.feed.store().identity().epoch;
        let mut positions = Vec::with_capacity(ack.in_force.len());
        for position in &ack.in_force {
            let held = Holding::read(position)?;
            let sent = self.sent.lock().get(&held.cell).cloned();
            let refuse = |why: &str| {
                let cell = &held.cell;
                Err(Status::failed_precondition(format!("acknowledgement of cell `{cell}`: {why}")))
            };
            match sent {
                _ if held.epoch != epoch => return refuse("another epoch"),
                None => return refuse("it was never sent"),
                Some(sent) if held.revision > sent.revision => {
                    return refuse("a revision that was never sent");
                }
                Some(sent) if held.revision == sent.revision && held.history_hash != sent.history_hash => {
                    return refuse("another history");
                }
                Some(_) => positions.push((held.cell, held.revision)),
            }
        }
        let refused = ack.refused.iter().take(REFUSALS_MAX).map(describe).collect::<Vec<_>>();
        for refusal in &refused {
            tracing::warn!(spoke = self.membership.key.spoke_id, refusal, "a batch was refused");
        }
        let ack = Acknowledged {
            positions,
            purged: ack.purged_verifications,
            ended_streams: ack.ended_streams,
            refused,
        };
        self.shared.roster.acknowledged(self.membership, ack);
        Ok(())
    }
}

fn describe(refusal: &proto::Refusal) -> String {
    let short = |text: &str| text.chars().take(200).flat_map(char::escape_debug).collect::<String>();
    let (from, to) = (refusal.from_revision, refusal.to_revision);
    let (cell, code) = (short(&refusal.cell), short(&refusal.code));
    format!("cell `{cell}` {from}..{to}: {code}: {}", short(&refusal.detail))
}

struct Writer<'a> {
    shared: &'a Shared,
    membership: &'a Membership,
    outbound: &'a Outbound,
    cells: HashMap<Name, CellPosition>,
    cursor: u64,
    /// Heads named to this stream so far.
    named: HashMap<Name, u64>,
    sent: Sent,
}

impl Writer<'_> {
    async fn run(
        &mut self,
        mut heads: watch::Receiver<u64>,
        mut pings: mpsc::Receiver<Arrived>,
    ) -> Result<(), Status> {
        loop {
            let head = *heads.borrow_and_update();
            self.deliver(head).await?;
            tokio::select! {
                Some(arrived) = pings.recv() => self.answer(arrived, &mut pings).await?,
                moved = heads.changed() => {
                    moved.map_err(|_| Status::unavailable("the hub is stopping"))?;
                }
            }
        }
    }

    /// Queues every delta up to `head`.
    async fn deliver(&mut self, head: u64) -> Result<(), Status> {
        while self.cursor < head {
            let batch = self.shared.feed.read(self.cursor).await.map_err(|e| unavailable(&e))?;
            if batch.is_empty() {
                return Err(Status::unavailable("the hub's change log ends before its head"));
            }
            for logged in batch {
                self.pass_on(&logged).await?;
                self.cursor = logged.revision;
            }
        }
        Ok(())
    }

    async fn pass_on(&mut self, logged: &Logged) -> Result<(), Status> {
        let epoch = self.shared.feed.store().identity().epoch;
        let position = match self.cells.get(&logged.tenant) {
            Some(position) => position.clone(),
            None => self.announce(logged).await?,
        };
        if logged.revision <= position.revision {
            return Ok(());
        }
        if logged.from_revision != position.revision {
            return Err(Status::internal("the change log of a cell has a gap"));
        }
        let next = CellPosition {
            tenant: logged.tenant.clone(),
            revision: logged.revision,
            history_hash: logged.history_hash,
        };
        // Noted first: an acknowledgement may come back before this task runs again.
        self.sent.lock().insert(logged.tenant.clone(), next.clone());
        self.cells.insert(logged.tenant.clone(), next);
        self.send(Down::Delta(proto::Delta {
            cell: logged.tenant.to_string(),
            epoch: Bytes::copy_from_slice(epoch.as_bytes()),
            from_revision: logged.from_revision,
            to_revision: logged.revision,
            codec: proto::Codec::None as i32,
            body: logged.body.clone(),
            history_hash: Bytes::copy_from_slice(&logged.history_hash),
            hub_time_us: u64::try_from(logged.at.as_micros()).unwrap_or(0),
            ..Default::default()
        }))
        .await
    }

    /// Tells of a cell made after the welcome: its deltas follow from the very first.
    async fn announce(&mut self, logged: &Logged) -> Result<CellPosition, Status> {
        let plan = proto::CellPlan {
            cell: logged.tenant.to_string(),
            kind: proto::PlanKind::Resume as i32,
            from_revision: 0,
            ..Default::default()
        };
        self.send(Down::Plan(plan)).await?;
        Ok(CellPosition { tenant: logged.tenant.clone(), revision: 0, history_hash: [0; 32] })
    }

    /// Answers the pings that wait, with one head read after the last of them had come.
    async fn answer(&mut self, first: Arrived, pings: &mut mpsc::Receiver<Arrived>) -> Result<(), Status> {
        let mut waiting = vec![first];
        while let Ok(next) = pings.try_recv() {
            waiting.push(next);
        }
        // Noted before the head is read: a commit that the answer does not name comes after the
        // note, so nobody takes this member's lease for lapsed while an answer is under way.
        let known = self.shared.feed.head();
        for arrived in &waiting {
            self.shared.roster.answered(self.membership, known, arrived.at);
        }
        let head = self.shared.pulse.head().await.map_err(|e| unavailable(&e))?;
        self.deliver(head.revision).await?;
        for arrived in waiting {
            let heads = self.heads();
            self.send(Down::Beat(proto::Beat {
                echo_nonce: arrived.nonce,
                head_revision: head.revision,
                heads,
                hub_time_us: u64::try_from(head.read_at.as_micros()).unwrap_or(0),
                ..Default::default()
            }))
            .await?;
        }
        Ok(())
    }

    /// Heads that this stream has not been told yet.
    fn heads(&mut self) -> Vec<proto::CellHead> {
        let mut news = Vec::new();
        for (cell, position) in &self.cells {
            if self.named.get(cell) != Some(&position.revision) {
                self.named.insert(cell.clone(), position.revision);
                news.push(proto::CellHead {
                    cell: cell.to_string(),
                    revision: position.revision,
                    ..Default::default()
                });
            }
        }
        news.sort_by(|a, b| a.cell.cmp(&b.cell));
        news
    }

    async fn send(&self, message: Down) -> Result<(), Status> {
        let message = proto::HubMessage { message: Some(message) };
        let queued =
            tokio::time::timeout(self.shared.settings.send_timeout, self.outbound.send(Ok(message))).await;
        match queued {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the enforcement point went away")),
            Err(_) => Err(Status::deadline_exceeded("the enforcement point does not read")),
        }
    }
}

const PINGS_MAX: usize = 16;
const REFUSALS_MAX: usize = 64;
