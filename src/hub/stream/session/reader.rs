//! The half of a stream that reads, and never waits for the other side to read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Arrived, Order, Sent};
use crate::core::id::Name;
use crate::core::time::BootInstant;
use crate::hub::blocking;
use crate::hub::roster::{Acknowledged, CellInForce, Membership};
use crate::hub::store::{StoreError, StoredReceipt};
use crate::hub::stream::Shared;
use crate::hub::stream::hello::{self, Holding};
use crate::hub::stream::plan::unavailable;
use crate::hub::stream::quarantine::Frozen;
use crate::wire::signed;
use crate::wire::state_proto as proto;
use crate::wire::state_proto::spoke_message::Message as Up;

pub(super) struct Reader<'a> {
    pub(super) shared: &'a Shared,
    pub(super) membership: &'a Membership,
    pub(super) receipt_key: [u8; 32],
    /// Up to where each cell's revocations were in force when last heard of.
    pub(super) covered: HashMap<Name, u64>,
    pub(super) sent: Sent,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) repairs: u32,
    /// Reports of missing keys taken since then.
    pub(super) reports: (u32, BootInstant),
}

impl Reader<'_> {
    pub(super) async fn run(&mut self, mut inbound: Streaming<proto::SpokeMessage>) -> Result<(), Status> {
        loop {
            let next = tokio::time::timeout(self.shared.settings.idle_timeout, inbound.message()).await;
            let next = next.map_err(|_| Status::deadline_exceeded("nothing came for too long"))?;
            let Some(message) = next? else { return Ok(()) };
            match message.message {
                Some(Up::Ping(ping)) => {
                    let arrived = Arrived {
                        nonce: ping.nonce,
                        at: self.shared.clock.now().boot,
                        deny_after_max: hello::term(ping.deny_after_max_us)?,
                    };
                    // Too many wait already: this one goes unanswered, which only shortens a lease.
                    self.orders.try_send(Order::Answer(arrived)).ok();
                }
                Some(Up::SignedAck(ack)) => self.acknowledge(&ack).await?,
                Some(Up::Goodbye(goodbye)) => {
                    tracing::info!(
                        spoke = self.membership.key.spoke_id,
                        reason = %goodbye.reason.escape_debug(),
                        "an enforcement point said goodbye"
                    );
                    return self.shared.roster.goodbye(self.membership).await.map_err(|e| unavailable(&e));
                }
                Some(Up::MissingKey(missing)) => {
                    if let Some(issuer) = self.missing(&missing.cell, &missing.issuer)
                        && (1..=KEY_ID_BYTES_MAX).contains(&missing.key_id.len())
                    {
                        self.shared.issuers.missing(&issuer, &missing.key_id);
                    }
                }
                Some(Up::MissingList(missing)) => {
                    if let Some(issuer) = self.missing(&missing.cell, &missing.issuer)
                        && (1..=URI_BYTES_MAX).contains(&missing.uri.len())
                    {
                        self.shared.issuers.lists().missing(&issuer, &missing.uri);
                    }
                }
                Some(Up::Hello(_)) => return Err(Status::invalid_argument("a second hello")),
                // An addition of a newer build: what is optional is ignored.
                None => {}
            }
        }
    }

    /// The issuer of which something is missing, if it is of a tenant that this stream serves and it
    /// is not reported too often.
    fn missing(&mut self, cell: &str, issuer: &str) -> Option<(Name, Name)> {
        let now = self.shared.clock.now().boot;
        let (taken, since) = self.reports;
        let anew = now.since(since).is_none_or(|passed| passed >= REPORTS_WITHIN);
        self.reports = if anew { (1, now) } else { (taken.saturating_add(1), since) };
        let named = Name::parse(cell).ok().zip(Name::parse(issuer).ok());
        let served = named.filter(|(cell, _)| self.sent.lock().contains_key(cell));
        served.filter(|_| self.reports.0 <= REPORTS_MAX)
    }

    async fn acknowledge(&mut self, signed: &proto::SignedAck) -> Result<(), Status> {
        signed::verify_ack(signed, &self.receipt_key).map_err(|e| Status::unauthenticated(e.to_string()))?;
        let ack = proto::Ack::decode(signed.ack.clone());
        let ack = ack.map_err(|e| Status::invalid_argument(format!("acknowledgement: {e}")))?;
        let key = &self.membership.key;
        if ack.spoke_id != key.spoke_id || ack.incarnation[..] != key.incarnation {
            return Err(Status::invalid_argument("an acknowledgement in another's name"));
        }
        let mut positions = Vec::with_capacity(ack.in_force.len());
        let mut damaged = Vec::new();
        for position in &ack.in_force {
            let held = self.sent_or_known(Holding::read(position)?).await?;
            if self.differs(&held) {
                damaged.push(held.cell.clone());
            }
            let killed = held.kill_revision.min(self.shared.feed.kill_revision(&held.cell));
            positions.push(CellInForce {
                kill_revision: killed.max(held.revision),
                revision: held.revision,
                cell: held.cell,
            });
        }
        let refused = ack.refused.iter().take(REFUSALS_MAX).map(describe).collect::<Vec<_>>();
        for (refusal, text) in ack.refused.iter().zip(&refused) {
            tracing::warn!(spoke = key.spoke_id, refusal = text, "a batch was refused");
            // What a damaged table refuses says nothing of the batch, and the table is repaired already.
            if !damaged.iter().any(|cell| cell.as_str() == refusal.cell) {
                self.refused(refusal)?;
            }
        }
        self.keep_receipts(&positions, &ack, signed);
        let ack = Acknowledged {
            positions,
            purged: ack.purged_verifications,
            ended_streams: ack.ended_streams,
            refused,
            carried: ack.carried_kills,
            drift: (ack.drift_found, ack.drift_mended),
            scope_version: ack.scope_version,
        };
        self.shared.roster.acknowledged(self.membership, ack);
        Ok(())
    }

    /// Has kept what this acknowledgement completes, if it speaks for every copy of the process.
    fn keep_receipts(&mut self, positions: &[CellInForce], ack: &proto::Ack, signed: &proto::SignedAck) {
        let is_alone = self.shared.roster.is_alone(self.membership);
        for CellInForce { cell, revision, kill_revision } in positions {
            // Of one that was not held before: from where it was first sent.
            let first = || self.sent.lock().get(cell).map_or(*kill_revision, |sent| sent.first);
            let before = self.covered.get(cell).copied().unwrap_or_else(first);
            self.covered.insert(cell.clone(), *kill_revision);
            for completed in self.shared.feed.kills_between(cell, before, *kill_revision) {
                self.count(completed);
                let kept = is_alone
                    && self.shared.receipts.keep(StoredReceipt {
                        revision: completed,
                        spoke_id: self.membership.key.spoke_id.clone(),
                        incarnation: self.membership.key.incarnation,
                        at: self.shared.clock.now().wall,
                        in_force: *revision,
                        purged: ack.purged_verifications,
                        ended_streams: ack.ended_streams,
                        ack: signed.ack.clone(),
                        signature: signed.signature.clone(),
                        key: self.receipt_key,
                        voided: false,
                    });
                if !kept {
                    tracing::warn!(
                        spoke = self.membership.key.spoke_id,
                        revision = completed,
                        "a receipt is not kept beyond this run of the hub"
                    );
                }
            }
        }
    }

    /// Counts how long a revocation took to be acknowledged; one from before this run of the hub is not.
    fn count(&self, revision: u64) {
        let committed = self.shared.feed.acknowledged(revision);
        let took = committed.and_then(|at| self.shared.clock.now().boot.since(at.boot));
        if let Some(took) = took {
            self.shared.metrics.receipt(took.as_secs_f64());
        }
    }

    /// A position, if it is one that this hub has sent, or repaired to.
    async fn sent_or_known(&self, held: Holding) -> Result<Holding, Status> {
        let cell = held.cell.clone();
        let refuse =
            |why: &str| Err(Status::failed_precondition(format!("acknowledgement of cell `{cell}`: {why}")));
        if held.epoch != self.shared.feed.store().identity().epoch {
            return refuse("another epoch");
        }
        let Some(sent) = self.sent.lock().get(&held.cell).map(|sent| sent.last.clone()) else {
            return refuse("it was never sent");
        };
        if held.revision < sent.revision {
            return Ok(held);
        }
        if held.revision == sent.revision && held.history_hash == sent.history_hash {
            return Ok(held);
        }
        match self.stood_at(&held).await? {
            true => Ok(held),
            false if held.revision > sent.revision => refuse("a revision that was never sent"),
            false => refuse("another history"),
        }
    }

    async fn stood_at(&self, held: &Holding) -> Result<bool, Status> {
        let feed = &self.shared.feed;
        if let Some(known) = feed.stood_at(&held.cell, held.revision, &held.history_hash) {
            return Ok(known);
        }
        let (store, revision) = (Arc::clone(feed.store()), held.revision);
        let logged = match blocking(&**feed.store(), move || store.logged(revision)).await {
            Err(StoreError::Compacted { .. }) => None,
            other => other.map_err(|e| unavailable(&e))?,
        };
        Ok(logged.is_some_and(|it| it.tenant == held.cell && it.history_hash == held.history_hash))
    }

    /// Whether the table acknowledged is another than the hub's: it is repaired then.
    fn differs(&mut self, held: &Holding) -> bool {
        let ours = self.shared.feed.digest_at(&held.cell, held.revision);
        let differs = ours.zip(held.state_digest).is_some_and(|(ours, theirs)| ours != theirs);
        if differs {
            tracing::error!(
                spoke = self.membership.key.spoke_id, cell = %held.cell, revision = held.revision,
                "an enforcement point's table is another than the hub's; it is repaired"
            );
            self.repair(held.cell.clone(), "the table differs from the hub's");
        }
        differs
    }

    fn refused(&mut self, refusal: &proto::Refusal) -> Result<(), Status> {
        let cell = Name::parse(&refusal.cell).map_err(|e| Status::invalid_argument(e.to_string()))?;
        // Only the newest commit can be held back: what follows another has been sent already.
        let newest = self.shared.feed.newest(&cell).filter(|entry| entry.revision == refusal.to_revision);
        let Some(entry) = newest else {
            self.repair(cell, "a batch was refused");
            return Ok(());
        };
        let batch = Frozen { before: entry.from_revision, refused: entry.revision };
        let members = self.shared.roster.connected();
        let quarantine = &self.shared.quarantine;
        if quarantine.refused(&cell, batch, &self.membership.key.spoke_id, members) {
            tracing::error!(%cell, before = batch.before, refused = batch.refused,
                "several enforcement points refuse a batch: its cell is frozen, revocations go on");
        }
        if quarantine.frozen(&cell).is_none() {
            self.repair(cell, "a batch was refused");
            return Ok(());
        }
        let waits = |_| Status::resource_exhausted("more waits than a stream may have waiting");
        self.orders.try_send(Order::Hold(entry)).map_err(waits)
    }

    /// Has a cell repaired, unless this stream has had more repairs than a sound one needs.
    fn repair(&mut self, cell: Name, why: &'static str) {
        if self.repairs < REPAIRS_MAX {
            self.repairs += 1;
            // Too much waits already: the next acknowledgement asks again.
            self.orders.try_send(Order::Repair(cell, why)).ok();
        }
    }
}

fn describe(refusal: &proto::Refusal) -> String {
    let short = |text: &str| text.chars().take(200).flat_map(char::escape_debug).collect::<String>();
    let (from, to) = (refusal.from_revision, refusal.to_revision);
    let (cell, code) = (short(&refusal.cell), short(&refusal.code));
    format!("cell `{cell}` {from}..{to}: {code}: {}", short(&refusal.detail))
}

const REFUSALS_MAX: usize = 64;
/// Most reports of missing keys within [`REPORTS_WITHIN`]; an enforcement point sends fewer.
const REPORTS_MAX: u32 = 16;
const REPORTS_WITHIN: Duration = Duration::from_secs(1);
const KEY_ID_BYTES_MAX: usize = 256;
const URI_BYTES_MAX: usize = 2048;
/// Repairs of one stream; one that needs more is better begun anew, after its back-off.
const REPAIRS_MAX: u32 = 16;
