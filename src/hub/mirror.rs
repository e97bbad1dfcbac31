//! The table that every enforcement point shall hold, kept by the hub in the same form.
//!
//! Fed by the hub's own log, one commit at a time: so each commit's digest is known, and a
//! repair or a snapshot is read from an immutable state while the next ones are made.

use std::collections::HashMap;
use std::path::Path;

use super::store::{FaultKind, Logged, StateStore, StoreError, StoreFault};
use crate::core::id::{Epoch, Name};
use crate::core::identity::{Batch, Keyer, Repair, Snapshot, StateDigest};
use crate::wire::state::{WireError, decode_body};
use crate::wire::state_proto as proto;

/// The state after the last commit taken.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    /// What its tables are keyed by.
    key: u128,
    epoch: Epoch,
    state: Snapshot,
    /// The revision of each cell's last commit that denied something.
    kills: HashMap<Name, u64>,
    /// The last commit taken; cells may be further.
    head: u64,
}

/// What a commit came to.
#[derive(Debug)]
pub(crate) struct Mirrored {
    /// The cell's digest before; `None`: there was no such cell, or it was already further.
    pub(crate) before: Option<StateDigest>,
    /// The cell's digest afterwards; `None`: it was already further.
    pub(crate) digest: Option<StateDigest>,
    /// What it denies, to be sent ahead of the order.
    pub(crate) urgent: Option<proto::Urgent>,
}

impl Mirror {
    /// Reads everything. Blocks.
    pub(crate) fn load(store: &dyn StateStore, key: u128) -> Result<Self, StoreError> {
        let epoch = store.identity().epoch;
        let mut mirror =
            Self { key, epoch, state: Snapshot::empty(Keyer::new(key)), kills: HashMap::new(), head: 0 };
        let (head, cells) = store.cells()?;
        mirror.head = head.revision;
        for cell in cells {
            let Some(image) = store.snapshot(&cell.tenant)? else { continue };
            let whole = Repair {
                cell: cell.tenant.clone(),
                epoch,
                revision: image.position.revision,
                history_hash: image.position.history_hash,
                state_digest: None,
                buckets: None,
                changes: Vec::new(),
            };
            let unreadable = |e: WireError| unusable(store, &cell.tenant, &e);
            let refused = |e| unusable(store, &cell.tenant, &e);
            let mut rebuild = mirror.state.rebuild(&whole).map_err(refused)?;
            let mut last_kill = 0;
            // Unpacked a part at a time, not all at once.
            for part in image.records.chunks(PART) {
                let changes = part.iter().map(|record| record.change().map_err(unreadable));
                let changes = changes.collect::<Result<Vec<_>, _>>()?;
                let denied = changes.iter().filter(|change| change.denies());
                last_kill = denied.map(|change| change.revision).max().unwrap_or(0).max(last_kill);
                rebuild.put(&changes).map_err(refused)?;
            }
            mirror.kills.insert(cell.tenant.clone(), last_kill);
            mirror.state = rebuild.finish().map_err(refused)?;
        }
        Ok(mirror)
    }

    /// What its tables are keyed by.
    pub(crate) const fn key(&self) -> u128 {
        self.key
    }

    /// The state.
    pub(crate) const fn state(&self) -> &Snapshot {
        &self.state
    }

    /// The last commit that is in it.
    pub(crate) const fn head(&self) -> u64 {
        self.head
    }

    /// The lineage.
    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The revision of a cell's last commit that denied something; 0: there is none.
    pub(crate) fn kill_revision(&self, cell: &Name) -> u64 {
        self.kills.get(cell).copied().unwrap_or(0)
    }

    /// The revision of each cell's last commit that denied something.
    pub(crate) const fn kills(&self) -> &HashMap<Name, u64> {
        &self.kills
    }

    /// Takes one commit.
    pub(crate) fn take(&mut self, store: &dyn StateStore, logged: &Logged) -> Result<Mirrored, StoreError> {
        let cell = &logged.tenant;
        let changes = decode_body(&logged.body).map_err(|e| unusable(store, cell, &e))?;
        let urgent = self.urgent(logged, &changes);
        self.head = self.head.max(logged.revision);
        if self.state.cell(cell).is_some_and(|held| held.revision >= logged.revision) {
            return Ok(Mirrored { before: None, digest: None, urgent });
        }
        let digest = |state: &Snapshot| state.cell(cell).map(|held| held.state_digest);
        let before = digest(&self.state);
        let batch = Batch {
            cell: cell.clone(),
            epoch: self.epoch,
            from_revision: logged.from_revision,
            to_revision: logged.revision,
            history_hash: logged.history_hash,
            state_digest: None,
            changes,
        };
        self.state = self.state.apply(&batch).map_err(|e| unusable(store, cell, &e))?;
        Ok(Mirrored { before, digest: digest(&self.state), urgent })
    }

    fn urgent(
        &mut self,
        logged: &Logged,
        changes: &[crate::core::identity::Change],
    ) -> Option<proto::Urgent> {
        let denies: Vec<_> =
            changes.iter().filter(|change| change.denies()).map(crate::wire::state::encode_change).collect();
        if denies.is_empty() {
            return None;
        }
        let last = self.kills.entry(logged.tenant.clone()).or_default();
        // Known already, as when the cell was read further than the log: what was before it is not
        // known any more, but was in force wherever the cell's last commit was.
        let previous = match *last < logged.revision {
            true => std::mem::replace(last, logged.revision),
            false => logged.from_revision,
        };
        Some(proto::Urgent {
            cell: logged.tenant.to_string(),
            epoch: bytes::Bytes::copy_from_slice(self.epoch.as_bytes()),
            previous,
            revision: logged.revision,
            changes: denies,
            hub_time_us: u64::try_from(logged.at.as_micros()).unwrap_or(0),
            critical_features: Vec::new(),
        })
    }
}

/// Records unpacked at a time.
const PART: usize = 4096;

fn unusable(store: &dyn StateStore, cell: &Name, error: &dyn std::fmt::Display) -> StoreError {
    let place = store.describe();
    let what = format_args!("tenant `{cell}` cannot be taken over: {error}");
    StoreFault::new(Path::new(&place), FaultKind::Damaged, what).into()
}
