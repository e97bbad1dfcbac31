//! Making the next state from a batch: everything is checked beside the old one, then returned whole.

use super::draft::Draft;
use super::*;
use crate::core::identity::record::KillBatch;

impl Snapshot {
    /// The state after `batch`.
    ///
    /// # Errors
    /// [`ApplyError`] when it does not follow on, is inconsistent, its policies do not compile, or
    /// the cell's digest comes out otherwise than it says.
    pub fn apply(&self, batch: &Batch) -> Result<Self, ApplyError> {
        let (at, epoch) = self.cell(&batch.cell).map_or((0, batch.epoch), |cell| (cell.revision, cell.epoch));
        if epoch != batch.epoch {
            return Err(epoch_error(&batch.cell, epoch, batch.epoch));
        }
        if at != batch.from_revision || batch.to_revision < batch.from_revision {
            return Err(ApplyError::Gap { cell: batch.cell.clone(), at, from: batch.from_revision });
        }
        let mut draft = Draft::new(self, &batch.cell, batch.to_revision, false);
        draft.put(&batch.changes)?;
        let next = draft.finish(batch.epoch, batch.history_hash)?;
        next.is_as_said(&batch.cell, batch.state_digest)?;
        Ok(next.folded(&batch.cell))
    }

    /// The state with revocations in force ahead of the order they were committed in.
    ///
    /// Taking the same again, or what the cell already covers, changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`] when one before it is missing, the cell is absent or of another lineage, or a
    /// change could allow something.
    pub fn kill(&self, batch: &KillBatch) -> Result<Self, ApplyError> {
        let Some(held) = self.cell(&batch.cell) else {
            return Err(ApplyError::Gap { cell: batch.cell.clone(), at: 0, from: batch.previous });
        };
        if held.epoch != batch.epoch {
            return Err(epoch_error(&batch.cell, held.epoch, batch.epoch));
        }
        if batch.revision <= held.kill_revision {
            return Ok(self.clone());
        }
        if batch.previous > held.kill_revision {
            let (at, previous) = (held.kill_revision, batch.previous);
            return Err(ApplyError::KillGap { cell: batch.cell.clone(), at, previous });
        }
        for change in &batch.changes {
            let why = match change {
                change if !change.denies() => "it could allow something, and came among revocations",
                change if change.record.as_ref().is_some_and(|record| record.kind() != change.kind) => {
                    OF_ANOTHER_KIND
                }
                change if change.revision > batch.revision => "the record is newer than its batch",
                _ => continue,
            };
            return Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
        }
        let entries = batch.changes.iter().map(|change| Overlaid::new(&batch.cell, change, false));
        let mut next = self.overlaid(entries.collect());
        next.root = self.root + 1;
        next.in_cell(&batch.cell, |cell| cell.kill_revision = batch.revision);
        Ok(next)
    }

    pub(super) fn in_cell(&mut self, name: &Name, edit: impl FnOnce(&mut CellState)) {
        let mut cells = self.cells.to_vec();
        if let Some(cell) = cells.iter_mut().find(|cell| cell.cell == *name) {
            edit(cell);
        }
        self.cells = Arc::from(cells);
    }

    pub(super) fn is_as_said(&self, cell: &Name, said: Option<StateDigest>) -> Result<(), ApplyError> {
        let found = self.cell(cell).map(|held| held.state_digest);
        match (said, found) {
            (Some(said), Some(found)) if said != found => {
                Err(ApplyError::Digest { cell: cell.clone(), found, said })
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn epoch_error(cell: &Name, held: Epoch, given: Epoch) -> ApplyError {
    ApplyError::Epoch { cell: cell.clone(), held, given }
}

pub(super) const OF_ANOTHER_KIND: &str = "the record is of another kind than its change";
