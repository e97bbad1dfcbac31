//! One stream, from hello to its end.
//!
//! Two halves run side by side in one task: one reads and never waits for the other side to
//! read, one writes at the pace the other side takes. Between them: pings, and what was sent.

mod reader;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::admit::Admitted;
use super::hello::{Greeting, Holding};
use super::plan::{Plan, unavailable};
use reader::Reader;

use super::{CONDEMNED, Shared, hello, plan};
use crate::core::id::Name;
use crate::core::identity::CellState;
use crate::core::time::BootInstant;
use crate::hub::admission::Admission;
use crate::hub::blocking;
use crate::hub::feed::Entry;
use crate::hub::peer::Peer;
use crate::hub::roster::{JoinError, MemberKey, Membership, Scoped};
use crate::hub::store::{CellPosition, StoreError};
use crate::wire::state_proto as proto;
use crate::wire::state_proto::hub_message::Message as Down;

type Outbound = mpsc::Sender<Result<proto::HubMessage, Status>>;

/// Serves one stream. Its end, whatever the reason, is told to the other side if it still listens.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut inbound: Streaming<proto::SpokeMessage>,
    outbound: Outbound,
    peer: Peer,
) {
    let end = match greet(&shared, &mut inbound).await {
        Ok(greeting) => serve(&shared, greeting, inbound, &outbound, &peer).await,
        Err(status) => Err(status),
    };
    if let Err(status) = end {
        tracing::warn!(peer = peer.place(), code = ?status.code(), detail = status.message(), "a stream was ended");
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
    peer: &Peer,
) -> Result<(), Status> {
    let Greeting { key, terms, have, receipt_key, head } = greeting;
    // Before anything is read: nothing that changes after it is missed.
    let rescoped = shared.admissions.subscribe();
    let Admitted { spoke_id, admission } = shared.admit(peer, &key.spoke_id).await?;
    let key = MemberKey { spoke_id, ..key };
    if let Some(head) = head {
        let feed = Arc::clone(&shared.feed);
        let found = blocking(&**shared.feed.store(), move || plan::proof(&feed, &head)).await;
        if let Some(found) = found.map_err(|e| unavailable(&e))? {
            shared.condemn(&found);
            return Err(Status::failed_precondition(found));
        }
    }
    let spoke = key.spoke_id.clone();
    let scoped = Scoped {
        scope: admission.scope.clone(),
        version: admission.version,
        held: have.iter().map(|held| held.cell.clone()).collect(),
    };
    let membership = shared.roster.join(key, terms, scoped).await.map_err(|error| match error {
        JoinError::Full => Status::resource_exhausted(error.to_string()),
        JoinError::Store(error) => unavailable(&error),
    })?;
    let peer_place = peer.place();
    tracing::info!(peer = peer_place, spoke, "an enforcement point came");
    let covered =
        have.iter().map(|held| (held.cell.clone(), held.kill_revision.max(held.revision))).collect();
    let shown = Shown { have, receipt_key, covered, peer, admission, rescoped };
    let end = exchange(shared, &membership, shown, inbound, outbound).await;
    shared.roster.leave(&membership);
    tracing::info!(peer = peer_place, spoke, "an enforcement point went");
    end
}

/// What a greeting shows beside its name.
struct Shown<'a> {
    peer: &'a Peer,
    admission: Admission,
    rescoped: watch::Receiver<u64>,
    have: Vec<Holding>,
    receipt_key: [u8; 32],
    covered: HashMap<Name, u64>,
}

async fn exchange(
    shared: &Arc<Shared>,
    membership: &Membership,
    shown: Shown<'_>,
    inbound: Streaming<proto::SpokeMessage>,
    outbound: &Outbound,
) -> Result<(), Status> {
    let Plan { welcome, cells, cursor, halt } = plan::make(shared, shown.have, &shown.admission).await?;
    let begun = cells.iter().map(|(cell, position)| (cell.clone(), SentCell::new(position.clone())));
    let sent = Arc::new(Mutex::new(begun.collect()));
    let mut writer = Writer {
        shared,
        membership,
        peer: shown.peer,
        admission: shown.admission,
        outbound,
        cells,
        cursor,
        named: HashMap::new(),
        skipped: HashSet::new(),
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
    let (orders, waiting) = mpsc::channel(ORDERS_MAX);
    let receipt_key = shown.receipt_key;
    let covered = shown.covered;
    let begun = shared.clock.now().boot;
    let mut reader =
        Reader { shared, membership, receipt_key, covered, sent, orders, repairs: 0, reports: (0, begun) };
    tokio::select! {
        biased;
        () = membership.fenced.cancelled() => {
            Err(Status::aborted("a newer stream of the same incarnation took over"))
        }
        () = shared.condemned.cancelled() => Err(Status::failed_precondition(CONDEMNED)),
        () = shared.shutdown.cancelled() => Err(Status::unavailable("the hub is stopping")),
        end = reader.run(inbound) => end,
        end = writer.run(shared.feed.subscribe(), waiting, shown.rescoped) => end,
    }
}

/// What the reading half asks of the writing half.
#[derive(Clone, Debug)]
enum Order {
    /// Answer a ping.
    Answer(Arrived),
    /// Have a cell repaired.
    Repair(Name, &'static str),
    /// A batch was refused, and is held back: the commit after it comes as a repair.
    Hold(Arc<Entry>),
}

/// A ping, and when it came.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    nonce: u64,
    at: BootInstant,
    /// The longest `deny_after` it asks for; `None`: no more than was asked for before.
    deny_after_max: Option<Duration>,
}

/// What was sent of each cell, so that nothing else can be acknowledged.
type Sent = Arc<Mutex<HashMap<Name, SentCell>>>;

/// How far a cell was sent.
#[derive(Clone, Debug)]
struct SentCell {
    /// Where it stood when it was first sent on this stream.
    first: u64,
    last: CellPosition,
}

impl SentCell {
    fn new(position: CellPosition) -> Self {
        Self { first: position.revision, last: position }
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    membership: &'a Membership,
    peer: &'a Peer,
    /// The scope that this stream was told last.
    admission: Admission,
    outbound: &'a Outbound,
    cells: HashMap<Name, CellPosition>,
    cursor: u64,
    /// Heads named to this stream so far: the ordered one and that of the revocations.
    named: HashMap<Name, (u64, u64)>,
    /// Cells of which a batch was held back.
    skipped: HashSet<Name>,
    sent: Sent,
}

impl Writer<'_> {
    async fn run(
        &mut self,
        mut heads: watch::Receiver<u64>,
        mut orders: mpsc::Receiver<Order>,
        mut rescoped: watch::Receiver<u64>,
    ) -> Result<(), Status> {
        loop {
            let head = *heads.borrow_and_update();
            self.deliver(head).await?;
            tokio::select! {
                biased;
                Some(order) = orders.recv() => match order {
                    Order::Answer(arrived) => self.answer(arrived, &mut orders).await?,
                    Order::Repair(cell, why) => self.repair(&cell, why).await?,
                    Order::Hold(refused) => self.hold(&refused).await?,
                },
                _ = rescoped.changed() => self.rescope().await?,
                moved = heads.changed() => {
                    moved.map_err(|_| Status::unavailable("the hub is stopping"))?;
                }
            }
        }
    }

    /// Queues every delta up to `head`.
    async fn deliver(&mut self, head: u64) -> Result<(), Status> {
        while self.cursor < head {
            let batch = match self.shared.feed.read(self.cursor).await {
                Err(StoreError::Compacted { .. }) => {
                    self.leap().await?;
                    continue;
                }
                batch => batch.map_err(|e| unavailable(&e))?,
            };
            if batch.is_empty() {
                return Err(Status::unavailable("the hub's change log ends before its head"));
            }
            for entry in batch {
                self.pass_on(&entry).await?;
                self.cursor = entry.revision;
            }
        }
        Ok(())
    }

    /// Goes on where the mirror stands, past commits that the log no longer holds: whatever they changed
    /// comes as a repair.
    async fn leap(&mut self) -> Result<(), Status> {
        let mirror = self.shared.feed.mirrored();
        for held in mirror.state().cells() {
            let is_there = self.cells.get(&held.cell).is_some_and(|at| at.revision >= held.revision);
            if is_there || !self.admission.scope.holds(&held.cell) {
                continue;
            }
            self.stand_at(held);
            self.send(Down::Plan(plan::repair(&held.cell, plan::TRIMMED))).await?;
        }
        self.cursor = self.cursor.max(mirror.head());
        Ok(())
    }

    /// Notes that a cell is sent as the mirror has it.
    fn stand_at(&mut self, held: &CellState) {
        let (revision, history_hash) = (held.revision, held.history_hash);
        let position = CellPosition { tenant: held.cell.clone(), revision, history_hash };
        self.note(position);
    }

    /// Notes how far a cell is sent, before it is: an acknowledgement may come back before this task
    /// runs again.
    fn note(&mut self, position: CellPosition) {
        let mut sent = self.sent.lock();
        match sent.get_mut(&position.tenant) {
            Some(cell) => cell.last = position.clone(),
            None => drop(sent.insert(position.tenant.clone(), SentCell::new(position.clone()))),
        }
        drop(sent);
        self.cells.insert(position.tenant.clone(), position);
    }

    async fn pass_on(&mut self, entry: &Entry) -> Result<(), Status> {
        if !self.admission.scope.holds(&entry.tenant) {
            return Ok(());
        }
        let position = match self.cells.get(&entry.tenant) {
            Some(position) => position.clone(),
            None => self.announce(entry).await?,
        };
        if entry.revision <= position.revision {
            return Ok(());
        }
        let next = CellPosition {
            tenant: entry.tenant.clone(),
            revision: entry.revision,
            history_hash: entry.history_hash,
        };
        if self.shared.quarantine.thaw(&entry.tenant, entry.revision) {
            tracing::info!(cell = %entry.tenant, revision = entry.revision, "a frozen cell goes on");
        }
        if self.shared.quarantine.frozen(&entry.tenant).is_some() {
            self.skipped.insert(entry.tenant.clone());
            self.cells.insert(entry.tenant.clone(), next);
            let Some(urgent) = entry.urgent.clone() else { return Ok(()) };
            return self.send(Down::Urgent(urgent)).await;
        }
        let follows = entry.from_revision == position.revision;
        self.note(next);
        if self.skipped.remove(&entry.tenant) {
            return self
                .send(Down::Plan(plan::repair(&entry.tenant, "a batch before this was refused")))
                .await;
        }
        if !follows {
            return Err(Status::internal("the change log of a cell has a gap"));
        }
        self.send(Down::Batch(entry.delta.clone())).await
    }

    /// Goes on after a batch that was refused here and is held back: what of it denies is sent, and
    /// the next commit to its cell comes as a repair.
    async fn hold(&mut self, refused: &Entry) -> Result<(), Status> {
        let cell = &refused.tenant;
        if !self.admission.scope.holds(cell) {
            return Ok(());
        }
        if self.cells.get(cell).is_some_and(|position| position.revision > refused.revision) {
            // That commit has been sent already, and was not taken.
            return self.repair(cell, "a batch was refused").await;
        }
        self.skipped.insert(cell.clone());
        let Some(urgent) = refused.urgent.clone() else { return Ok(()) };
        self.send(Down::Urgent(urgent)).await
    }

    /// Tells of a cell made after the welcome: its deltas follow from the very first.
    async fn announce(&mut self, entry: &Entry) -> Result<CellPosition, Status> {
        let plan = proto::CellPlan {
            cell: entry.tenant.to_string(),
            kind: proto::PlanKind::Resume as i32,
            from_revision: 0,
            ..Default::default()
        };
        self.send(Down::Plan(plan)).await?;
        Ok(CellPosition { tenant: entry.tenant.clone(), revision: 0, history_hash: [0; 32] })
    }

    /// Answers the pings that wait, with one head read after the last of them had come.
    async fn answer(&mut self, first: Arrived, orders: &mut mpsc::Receiver<Order>) -> Result<(), Status> {
        let mut waiting = vec![first];
        while let Ok(next) = orders.try_recv() {
            match next {
                Order::Answer(arrived) => waiting.push(arrived),
                Order::Repair(cell, why) => self.repair(&cell, why).await?,
                Order::Hold(refused) => self.hold(&refused).await?,
            }
        }
        self.shared.still_certified(self.peer)?;
        // On disk before it is granted: a restart must not take the lease for shorter.
        let asked = waiting.iter().filter_map(|arrived| arrived.deny_after_max).max();
        let granted = self.shared.roster.grant(self.membership, asked).await.map_err(|e| unavailable(&e))?;
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
                head: Some(head.signed.clone()),
                scope_version: self.admission.version,
                deny_after_max_us: granted.map_or(0, |term| u64::try_from(term.as_micros()).unwrap_or(0)),
                ..Default::default()
            }))
            .await?;
        }
        Ok(())
    }

    /// Has a cell repaired, if it is still in the scope.
    async fn repair(&self, cell: &Name, why: &str) -> Result<(), Status> {
        if !self.admission.scope.holds(cell) {
            return Ok(());
        }
        self.send(Down::Plan(plan::repair(cell, why))).await
    }

    /// Takes out of the stream what left the scope, and brings in what came.
    async fn rescope(&mut self) -> Result<(), Status> {
        let admitted = self.shared.admit(self.peer, &self.membership.key.spoke_id).await?;
        if admitted.admission == self.admission {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.admission, admitted.admission);
        let (scope, version) = (&self.admission.scope, self.admission.version);
        // Noted first: what is acknowledged from here on may be under the new scope.
        let noted = self.shared.roster.rescope(self.membership, scope.clone(), version).await;
        noted.map_err(|e| unavailable(&e))?;
        let gone: Vec<_> = self.cells.keys().filter(|cell| !scope.holds(cell)).cloned().collect();
        tracing::info!(
            spoke = self.membership.key.spoke_id,
            version,
            withdrawn = gone.len(),
            "the scope of an enforcement point changed"
        );
        for cell in gone {
            self.cells.remove(&cell);
            self.named.remove(&cell);
            self.skipped.remove(&cell);
            self.send(Down::Plan(plan::withdrawal(&cell, version))).await?;
        }
        let mirror = self.shared.feed.mirrored();
        for held in mirror.state().cells() {
            if before.scope.holds(&held.cell) || !self.admission.scope.holds(&held.cell) {
                continue;
            }
            self.stand_at(held);
            let plan = plan::repair(&held.cell, "the tenant came into the scope");
            self.send(Down::Plan(proto::CellPlan { scope_version: version, ..plan })).await?;
        }
        // Whoever holds nothing of either learns of the new version, too, by the next heartbeat.
        Ok(())
    }

    /// Heads that this stream has not been told yet.
    fn heads(&mut self) -> Vec<proto::CellHead> {
        let mut news = Vec::new();
        for (cell, position) in &self.cells {
            let frozen = self.shared.quarantine.frozen(cell);
            let revision = frozen.map_or(position.revision, |frozen| frozen.before.min(position.revision));
            let kill_revision = self.shared.feed.kill_revision(cell);
            if self.named.get(cell) != Some(&(revision, kill_revision)) {
                self.named.insert(cell.clone(), (revision, kill_revision));
                news.push(proto::CellHead { cell: cell.to_string(), revision, kill_revision });
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

const ORDERS_MAX: usize = 32;
