//! What each cell needs: to go on from the log, a snapshot, or a halt because the histories differ.

use std::collections::HashMap;

use bytes::Bytes;
use tonic::Status;

use super::Shared;
use super::hello::Holding;
use crate::core::id::Name;
use crate::hub::blocking;
use crate::hub::store::{CellPosition, StateStore, StoreError, StoreIdentity};
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
    Snapshot,
    HubBehind(String),
    Forked(String),
}

/// Plans every cell of the store, and every cell that was shown.
pub(super) async fn make(shared: &Shared, have: Vec<Holding>) -> Result<Plan, Status> {
    let store = shared.feed.store().clone();
    let identity = store.identity();
    let judged = blocking(&**shared.feed.store(), move || judge(&*store, have)).await;
    let (head, steps) = judged.map_err(|e| unavailable(&e))?;
    let mut plan = Plan {
        welcome: proto::Welcome {
            cluster_id: Bytes::copy_from_slice(&identity.cluster_id),
            epoch: Bytes::copy_from_slice(identity.epoch.as_bytes()),
            head_revision: head,
            plans: Vec::new(),
            ping_interval_ms: u32::try_from(shared.settings.ping_interval.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        },
        cells: HashMap::new(),
        cursor: head,
        halt: None,
    };
    for (position, cell_head, step) in steps {
        plan.add(shared, &identity, position, cell_head, step).await?;
    }
    Ok(plan)
}

impl Plan {
    /// Adds one cell; `position` is what the enforcement point holds of it.
    async fn add(
        &mut self,
        shared: &Shared,
        identity: &StoreIdentity,
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
            Step::Snapshot => {
                let image = shared.images.of(&position.tenant, cell_head).await;
                let image = image.map_err(|e| unavailable(&e))?;
                let image = image.ok_or_else(|| Status::internal("a cell of the store is gone"))?;
                cell.kind = proto::PlanKind::Snapshot as i32;
                cell.manifest = Some(image.manifest(identity));
                self.follow(image.position.clone(), cell_head);
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

fn judge(store: &dyn StateStore, have: Vec<Holding>) -> Result<(u64, Steps), StoreError> {
    let (head, cells) = store.cells()?;
    let mut shown: HashMap<Name, Holding> = have.into_iter().map(|h| (h.cell.clone(), h)).collect();
    let mut steps = Vec::new();
    for cell in cells {
        let held = shown.remove(&cell.tenant);
        let (position, step) = match held {
            Some(held) => (held.position(), judge_cell(store, &cell, &held)?),
            None => (nothing(&cell.tenant), Step::Snapshot),
        };
        steps.push((position, cell.revision, step));
    }
    for held in shown.into_values() {
        let detail = "the hub has no such cell: it was rolled back, or is another hub's".to_owned();
        steps.push((held.position(), 0, Step::HubBehind(detail)));
    }
    steps.sort_by(|a, b| a.0.tenant.cmp(&b.0.tenant));
    Ok((head.revision, steps))
}

fn judge_cell(store: &dyn StateStore, cell: &CellPosition, held: &Holding) -> Result<Step, StoreError> {
    let ours = store.identity().epoch;
    if held.epoch > ours {
        let detail =
            format!("epoch {} was seen, the hub is at {ours}: an older store was put back", held.epoch);
        return Ok(Step::HubBehind(detail));
    }
    if held.epoch < ours {
        return Ok(Step::Snapshot);
    }
    if held.revision > cell.revision {
        let detail = format!("revision {} was seen, the hub is at {}", held.revision, cell.revision);
        return Ok(Step::HubBehind(detail));
    }
    if held.revision == 0 {
        return Ok(Step::Snapshot);
    }
    // The log is whole, so a position that it does not know is of another history.
    match store.logged(held.revision)? {
        Some(logged) if logged.tenant == cell.tenant && logged.history_hash == held.history_hash => {
            Ok(Step::Resume)
        }
        _ => Ok(Step::Forked(format!("another history was seen at revision {}", held.revision))),
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
