//! Putting whole buckets of a cell in place of what it held, and comparing them.

use std::collections::{BTreeMap as Map, HashSet};

use super::apply::{Step, element, epoch_error};
use super::overlay::Overlaid;
use super::*;
use crate::core::identity::digest::{BUCKETS, Sum, bucket_of};
use crate::core::identity::record::Repair;

impl Snapshot {
    /// The state with some buckets of a cell replaced whole: what they held and the repair does not
    /// name becomes absent, and therefore refused.
    ///
    /// In a newer lineage everything that denied before and is not restated stays in force, carried.
    ///
    /// # Errors
    /// [`ApplyError`] when the position is before the one held, a record belongs to no replaced
    /// bucket or is inconsistent, policies do not compile, or the digest comes out otherwise than said.
    pub fn repair(&self, repair: &Repair) -> Result<Self, ApplyError> {
        let held = self.cell(&repair.cell);
        if let Some(held) = held {
            if repair.epoch < held.epoch {
                return Err(epoch_error(&repair.cell, held.epoch, repair.epoch));
            }
            if repair.epoch == held.epoch && repair.revision < held.revision {
                let (at, from) = (held.revision, repair.revision);
                return Err(ApplyError::Gap { cell: repair.cell.clone(), at, from });
            }
        }
        let other_lineage = held.is_some_and(|held| held.epoch != repair.epoch);
        let damaged = || held.map(|held| held.state_digest) != self.recompute_digest(&repair.cell);
        let inside = |kind, name: &Name| {
            let bucket = repair.buckets.as_ref().map(|buckets| (buckets, bucket_of(kind, name)));
            bucket.is_none_or(|(buckets, bucket)| buckets.contains(&bucket))
        };
        if let Some(stray) = repair.changes.iter().find(|change| !inside(change.kind, &change.name)) {
            let why = "it belongs to no bucket of the repair";
            return Err(ApplyError::Record { kind: stray.kind, name: stray.name.clone(), why });
        }
        let before = self.export(&repair.cell);
        let restated: HashSet<_> = repair.changes.iter().map(|c| (c.kind, c.name.clone())).collect();
        let replaced = before.iter().filter(|change| inside(change.kind, &change.name));
        let erased: Vec<_> = replaced
            .map(|change| (change.kind, change.name.clone()))
            .filter(|at| !restated.contains(at))
            .collect();
        let step = Step {
            cell: &repair.cell,
            epoch: repair.epoch,
            revision: repair.revision,
            history_hash: repair.history_hash,
            changes: &repair.changes,
            erased: &erased,
            may_fall: other_lineage || damaged(),
        };
        let kept = before.iter().filter(|change| !inside(change.kind, &change.name));
        let mut sum = Sum::default();
        kept.chain(&repair.changes).for_each(|change| sum.add(element(change)));
        let mut next = self.advance(&step, Arc::new(sum))?;
        next.is_as_said(&repair.cell, repair.state_digest)?;
        if other_lineage {
            let known = self.overlay_of(&repair.cell);
            let denied = before.iter().filter(|change| change.denies() || has_cut(change));
            let entries = known.iter().chain(denied).map(|change| Overlaid::new(&repair.cell, change, true));
            next = next.without_overlay_of(&repair.cell).overlaid(entries.collect());
        }
        Ok(next.folded(&repair.cell))
    }

    /// The state with `batch` in place of everything the cell held.
    ///
    /// # Errors
    /// As [`Self::repair`].
    pub fn replace_cell(&self, batch: &Batch) -> Result<Self, ApplyError> {
        self.repair(&Repair {
            cell: batch.cell.clone(),
            epoch: batch.epoch,
            revision: batch.to_revision,
            history_hash: batch.history_hash,
            state_digest: batch.state_digest,
            buckets: None,
            changes: batch.changes.clone(),
        })
    }

    /// The state without a cell: whatever asks for it is refused.
    pub fn without_cell(&self, cell: &Name) -> Self {
        let Some(held) = self.cell(cell) else { return self.clone() };
        let erased: Vec<_> = self.export(cell).into_iter().map(|change| (change.kind, change.name)).collect();
        let step = Step {
            cell,
            epoch: held.epoch,
            revision: held.revision,
            history_hash: held.history_hash,
            changes: &[],
            erased: &erased,
            may_fall: false,
        };
        // Without policies there is nothing to compile that could fail.
        let emptied = self.advance(&step, Arc::default()).unwrap_or_else(|_| Self::empty(self.keyer));
        let cells = emptied.cells.iter().filter(|held| held.cell != *cell).cloned().collect();
        Self { cells, root: self.root + 1, ..emptied.without_overlay_of(cell) }
    }

    /// The digest of a cell's records as they lie in memory now. Takes time in proportion to them.
    ///
    /// Differs from [`CellState::state_digest`] only when memory was damaged.
    pub fn recompute_digest(&self, cell: &Name) -> Option<StateDigest> {
        self.cell(cell)?;
        let mut sum = Sum::default();
        self.each(cell, |change| sum.add(element(&change)));
        Some(sum.digest())
    }

    /// The digests of a cell's buckets, in order. Takes time in proportion to its records.
    pub fn bucket_digests(&self, cell: &Name) -> Vec<[u8; 32]> {
        let mut sums: Map<u16, Sum> = Map::new();
        self.each(cell, |change| {
            sums.entry(bucket_of(change.kind, &change.name)).or_default().add(element(&change));
        });
        let empty = Sum::default().digest();
        let digest = |bucket: u16| *sums.get(&bucket).map_or(empty, Sum::digest).as_bytes();
        (0..BUCKETS).map(digest).collect()
    }

    /// Every record of some buckets of a cell, tombstones included.
    pub fn bucket_changes(&self, cell: &Name, buckets: &[u16]) -> Vec<Change> {
        let mut found = Vec::new();
        self.each(cell, |change| {
            if buckets.contains(&bucket_of(change.kind, &change.name)) {
                found.push(change);
            }
        });
        found
    }
}

fn has_cut(change: &Change) -> bool {
    matches!(&change.record, Some(Record::Identity(identity)) if identity.not_before.is_some())
}
