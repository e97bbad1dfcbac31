//! What each cell needs: to go on from the log, a repair, a snapshot, or a halt because the
//! histories differ.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;

use super::Shared;
use super::hello::Holding;
use crate::core::id::{Epoch, Name};
use crate::core::identity::Snapshot;
use crate::hub::admission::{Admission, Scope};
use crate::hub::blocking;
use crate::hub::feed::Feed;
use crate::hub::store::{CellPosition, Logged, StateStore, StoreError, StoreIdentity};
use crate::hub::witness::Seen;
use crate::wire::state as wire;
use crate::wire::state_proto as proto;

/// The welcome, and where the stream begins.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) welcome: proto::Welcome,
    /// Each cell's position once its plan was followed.
    pub(super) cells: HashMap<Name, CellPosition>,
    /// The log is read from here.
    pub(super) cursor: u64,
    /// Why the stream must not go on, if so.
    pub(super) halt: Option<String>,
}

/// How one cell goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Resume,
    Repair(&'static str),
    Snapshot,
    /// It is not, or no longer, in the scope.
    Withdrawn,
    HubBehind(String),
    Forked(String),
}

/// Plans every cell of the store that is in the scope, and every cell that was shown.
pub(super) async fn make(shared: &Shared, have: Vec<Holding>, admission: &Admission) -> Result<Plan, Status> {
    let store = shared.feed.store().clone();
    let identity = store.identity();
    let mirror = shared.feed.mirrored();
    let (feed, clock) = (Arc::clone(&shared.feed), Arc::clone(&shared.clock));
    let scope = admission.scope.clone();
    let judged = blocking(&**shared.feed.store(), move || {
        let read_at = clock.now().wall;
        let judged = judge(&*store, mirror.state(), have, &scope)?;
        // The welcome names a head: it is witnessed first, and the mirror that repairs come from holds it.
        feed.name(&feed.follow(&*clock)?, read_at)?;
        Ok::<_, StoreError>(judged)
    });
    let judged = judged.await;
    let (head, steps) = judged.map_err(|e| unavailable(&e))?;
    let mut plan = Plan {
        welcome: proto::Welcome {
            cluster_id: Bytes::copy_from_slice(&identity.cluster_id),
            epoch: Bytes::copy_from_slice(identity.epoch.as_bytes()),
            head_revision: head,
            plans: Vec::new(),
            ping_interval_ms: u32::try_from(shared.settings.ping_interval.as_millis()).unwrap_or(u32::MAX),
            signing_keys: vec![shared.feed.key().public().clone()],
            scope_version: admission.version,
            ..Default::default()
        },
        cells: HashMap::new(),
        cursor: head,
        halt: None,
    };
    for (position, cell_head, step) in steps {
        plan.add(shared, position, cell_head, step).await?;
    }
    Ok(plan)
}

/// What `head` proves against this hub, if anything: that a store it served is gone. That is
/// written to the witness, so that no later start serves either. Blocks.
pub(super) fn proof(feed: &Feed, head: &proto::Signed) -> Result<Option<String>, StoreError> {
    let Ok(seen) = Seen::read(head, feed.key()) else { return Ok(None) };
    let Some(found) = seen.against(&**feed.store())? else { return Ok(None) };
    if let Err(error) = feed.witness().contradict(seen, &found) {
        tracing::error!(%error, "what proves the store to be another could not be written down");
    }
    Ok(Some(found))
}

impl Plan {
    /// Adds one cell; `position` is what the enforcement point holds of it.
    async fn add(
        &mut self,
        shared: &Shared,
        position: CellPosition,
        cell_head: u64,
        step: Step,
    ) -> Result<(), Status> {
        let mut cell = proto::CellPlan { cell: position.tenant.to_string(), ..Default::default() };
        match step {
            Step::Resume => {
                cell.kind = proto::PlanKind::Resume as i32;
                cell.from_revision = position.revision;
                self.follow(position, cell_head);
            }
            Step::Repair(why) => {
                cell.kind = proto::PlanKind::Repair as i32;
                why.clone_into(&mut cell.detail);
                // It comes at least to where the mirror stands now; what follows is sent from here.
                self.follow(position, cell_head);
            }
            Step::Snapshot => {
                let image = shared.images.of(&position.tenant, cell_head).await;
                let image = image.ok_or_else(|| Status::unavailable("a cell of the store is being read"))?;
                cell.kind = proto::PlanKind::Snapshot as i32;
                cell.signed_manifest = Some(image.manifest.clone());
                self.follow(image.position.clone(), cell_head);
            }
            Step::Withdrawn => {
                cell.kind = proto::PlanKind::Withdrawn as i32;
                cell.scope_version = self.welcome.scope_version;
            }
            Step::HubBehind(detail) => {
                cell.kind = proto::PlanKind::HubBehind as i32;
                self.stop(&mut cell, detail);
            }
            Step::Forked(detail) => {
                cell.kind = proto::PlanKind::Forked as i32;
                self.stop(&mut cell, detail);
            }
        }
        self.welcome.plans.push(cell);
        Ok(())
    }

    fn follow(&mut self, position: CellPosition, cell_head: u64) {
        if position.revision < cell_head {
            self.cursor = self.cursor.min(position.revision);
        }
        self.cells.insert(position.tenant.clone(), position);
    }

    fn stop(&mut self, cell: &mut proto::CellPlan, detail: String) {
        self.halt.get_or_insert_with(|| format!("cell `{}`: {detail}", cell.cell));
        cell.detail = detail;
    }
}

type Steps = Vec<(CellPosition, u64, Step)>;

fn judge(
    store: &dyn StateStore,
    mirror: &Snapshot,
    have: Vec<Holding>,
    scope: &Scope,
) -> Result<(u64, Steps), StoreError> {
    let (head, cells) = store.cells()?;
    let identity = store.identity();
    let mut shown: HashMap<Name, Holding> = have.into_iter().map(|h| (h.cell.clone(), h)).collect();
    let mut steps = Vec::new();
    for cell in cells.into_iter().filter(|cell| scope.holds(&cell.tenant)) {
        let held = shown.remove(&cell.tenant);
        let (position, step) = match held {
            Some(held) => {
                let step = Facts::gather(store, mirror, &identity, &cell, &held)?.step(&held);
                let repaired = matches!(step, Step::Repair(_));
                (if repaired { mirrored(mirror, &cell) } else { held.position() }, step)
            }
            None => (nothing(&cell.tenant), Step::Snapshot),
        };
        steps.push((position, cell.revision, step));
    }
    for held in shown.into_values() {
        if !scope.holds(&held.cell) {
            steps.push((held.position(), 0, Step::Withdrawn));
            continue;
        }
        steps.push(match absent(&held, identity.epoch) {
            Step::Repair(why) => (nothing(&held.cell), 0, Step::Repair(why)),
            step => (held.position(), 0, step),
        });
    }
    steps.sort_by(|a, b| a.0.tenant.cmp(&b.0.tenant));
    Ok((head.revision, steps))
}

/// How a cell goes on that the store does not have.
///
/// A restored store may lack one that was made after its backup. What was held of it is emptied, so
/// that what denied there is carried until the tenant is made anew.
fn absent(held: &Holding, epoch: Epoch) -> Step {
    if held.epoch < epoch || (held.epoch == epoch && held.revision == 0) {
        return Step::Repair("the restored store has no such cell");
    }
    Step::HubBehind("the hub has no such cell: it was rolled back, or is another hub's".to_owned())
}

/// Where a repair brings a cell at least.
fn mirrored(mirror: &Snapshot, cell: &CellPosition) -> CellPosition {
    let Some(held) = mirror.cell(&cell.tenant) else { return nothing(&cell.tenant) };
    let (revision, history_hash) = (held.revision, held.history_hash);
    CellPosition { tenant: cell.tenant.clone(), revision, history_hash }
}

/// What the hub knows of a position it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Facts {
    epoch: Epoch,
    /// The cell's head.
    head: u64,
    past: Past,
    /// Whether the table shown is another than the hub's of the same revision; `false`: not known to be.
    differs: bool,
}

/// How the history shown compares with the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Past {
    Same,
    Other,
    /// The log no longer reaches back so far.
    Compacted,
}

impl Facts {
    fn gather(
        store: &dyn StateStore,
        mirror: &Snapshot,
        identity: &StoreIdentity,
        cell: &CellPosition,
        held: &Holding,
    ) -> Result<Self, StoreError> {
        let looked_up = held.epoch == identity.epoch && (1..=cell.revision).contains(&held.revision);
        let same = |logged: &Logged| logged.tenant == cell.tenant && logged.history_hash == held.history_hash;
        let past = match looked_up.then(|| store.logged(held.revision)) {
            // Where the cell stands, its own hash tells as much as the log.
            Some(_) if held.revision == cell.revision => {
                if held.history_hash == cell.history_hash {
                    Past::Same
                } else {
                    Past::Other
                }
            }
            Some(Ok(Some(logged))) if same(&logged) => Past::Same,
            Some(Err(StoreError::Compacted { .. })) => Past::Compacted,
            Some(Err(error)) => return Err(error),
            _ => Past::Other,
        };
        let ours = mirror.cell(&cell.tenant).filter(|ours| ours.revision == held.revision);
        let differs = ours.is_some_and(|ours| held.state_digest.is_some_and(|it| it != ours.state_digest));
        Ok(Self { epoch: identity.epoch, head: cell.revision, past, differs })
    }

    fn step(&self, held: &Holding) -> Step {
        if held.epoch > self.epoch {
            let (seen, ours) = (held.epoch, self.epoch);
            return Step::HubBehind(format!(
                "epoch {seen} was seen, the hub is at {ours}: an older store was put back"
            ));
        }
        if held.revision == 0 {
            return Step::Snapshot;
        }
        if held.epoch < self.epoch {
            return Step::Repair("the store was restored: a newer epoch");
        }
        let seen = held.revision.max(held.kill_revision);
        if seen > self.head {
            return Step::HubBehind(format!("revision {seen} was seen, the hub is at {}", self.head));
        }
        match self.past {
            Past::Other => Step::Forked(format!("another history was seen at revision {}", held.revision)),
            Past::Compacted => Step::Repair(TRIMMED),
            Past::Same if self.differs => {
                Step::Repair("the table differs from the hub's at the same revision")
            }
            Past::Same => Step::Resume,
        }
    }
}

impl Holding {
    fn position(&self) -> CellPosition {
        CellPosition { tenant: self.cell.clone(), revision: self.revision, history_hash: self.history_hash }
    }
}

fn nothing(tenant: &Name) -> CellPosition {
    CellPosition { tenant: tenant.clone(), revision: 0, history_hash: [0; 32] }
}

/// The store's trouble, without its paths.
pub(super) fn unavailable(error: &StoreError) -> Status {
    tracing::error!(%error, "a stream cannot be served");
    Status::unavailable("the hub's store cannot be read")
}

/// A plan that takes one cell out of the scope of a stream that is open.
pub(super) fn withdrawal(cell: &Name, scope_version: u64) -> proto::CellPlan {
    proto::CellPlan {
        cell: cell.to_string(),
        kind: proto::PlanKind::Withdrawn as i32,
        scope_version,
        ..Default::default()
    }
}

/// A plan to repair one cell of a stream that is open.
pub(super) fn repair(cell: &Name, why: &str) -> proto::CellPlan {
    proto::CellPlan {
        cell: cell.to_string(),
        kind: proto::PlanKind::Repair as i32,
        detail: why.to_owned(),
        ..Default::default()
    }
}

/// Reads which records of a cell the digests shown differ in.
pub(super) fn shown_buckets(shown: &[Bytes]) -> Result<Option<Vec<[u8; 32]>>, Status> {
    if shown.is_empty() {
        return Ok(None);
    }
    let digests = shown.iter().map(|bytes| wire::hash32("bucket", bytes)).collect::<Result<Vec<_>, _>>();
    let digests = digests.map_err(|e| Status::invalid_argument(e.to_string()))?;
    if digests.len() != usize::from(crate::core::identity::BUCKETS) {
        return Err(Status::invalid_argument("buckets: expected 1,024 digests, or none"));
    }
    Ok(Some(digests))
}

/// Why a cell is repaired that could not be followed.
pub(super) const TRIMMED: &str = "the change log no longer reaches back so far";

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCHS: [u8; 3] = [1, 2, 3];

    /// Every position that can be shown against everything the hub can know of it.
    #[test]
    fn the_resume_table_is_whole() {
        let mut rows = 0;
        for held in shown() {
            for head in [1, 3, 5] {
                for past in [Past::Same, Past::Other, Past::Compacted] {
                    for differs in [false, true] {
                        let facts = Facts { epoch: Epoch::from_bytes([2; 16]), head, past, differs };
                        holds(&facts, &held, &facts.step(&held));
                        rows += 1;
                    }
                }
            }
        }
        assert_eq!(rows, 3 * 7 * 7 * 3 * 3 * 2);
    }

    /// Every position that can be shown, revocations ahead of the order included.
    fn shown() -> impl Iterator<Item = Holding> {
        let places = (0..=6u64).flat_map(|revision| (0..=6u64).map(move |kill| (revision, kill)));
        let of = |epoch: u8| {
            places.clone().map(move |(revision, kill_revision)| Holding {
                cell: Name::parse("demo").unwrap(),
                epoch: Epoch::from_bytes([epoch; 16]),
                revision,
                history_hash: [0; 32],
                state_digest: None,
                kill_revision,
            })
        };
        EPOCHS.map(of).into_iter().flatten()
    }

    #[test]
    fn a_cell_that_a_restored_store_lacks_is_emptied_and_no_other() {
        for held in shown() {
            let (older, same) = (held.epoch.as_bytes()[0] < 2, held.epoch.as_bytes()[0] == 2);
            let emptied = older || (same && held.revision == 0);
            let step = absent(&held, Epoch::from_bytes([2; 16]));
            assert_eq!(matches!(step, Step::Repair(_)), emptied, "{held:?} {step:?}");
            assert_eq!(matches!(step, Step::HubBehind(_)), !emptied, "{held:?} {step:?}");
        }
    }

    fn holds(facts: &Facts, held: &Holding, step: &Step) {
        let newer = held.epoch > facts.epoch;
        let same = held.epoch == facts.epoch;
        let beyond = same && held.revision.max(held.kill_revision) > facts.head;
        let row = format!("{held:?} {facts:?} → {step:?}");
        match step {
            // Going on is right only where all of the past is known to be the same.
            Step::Resume => {
                assert!(
                    same && !beyond && held.revision > 0 && facts.past == Past::Same && !facts.differs,
                    "{row}"
                );
            }
            Step::Snapshot => assert!(!newer && held.revision == 0, "{row}"),
            Step::Withdrawn => panic!("what is in the scope is not withdrawn: {row}"),
            Step::HubBehind(_) => assert!(newer || (held.revision > 0 && beyond), "{row}"),
            Step::Forked(_) => assert!(same && !beyond && facts.past == Past::Other, "{row}"),
            Step::Repair(_) => {
                let older = held.epoch < facts.epoch;
                let known =
                    !beyond && (facts.past == Past::Compacted || (facts.past == Past::Same && facts.differs));
                assert!(held.revision > 0 && !newer && (older || (same && known)), "{row}");
            }
        }
    }
}
