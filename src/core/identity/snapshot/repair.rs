//! Putting whole buckets of a cell in place of what it held, and comparing them.

use std::collections::{BTreeMap as Map, HashSet};

use super::apply::epoch_error;
use super::draft::Draft;
use super::export::Lying;
use super::overlay::Overlaid;
use super::*;
use crate::core::identity::digest::{BUCKETS, bucket, bucket_of};
use crate::core::identity::record::Repair;

/// Records taken away, or copied, in one go.
const PART: usize = 4096;

/// A cell whose records are being put in place, part by part, beside the published state.
///
/// Nothing is visible before [`Self::finish`]. A cell of a million records never lies in memory
/// unpacked.
#[derive(Debug)]
pub struct Rebuild {
    draft: Draft,
    cell: Name,
    epoch: Epoch,
    history_hash: [u8; 32],
    state_digest: Option<StateDigest>,
    buckets: Option<HashSet<u16>>,
    /// What denied in another lineage, to be carried unless it is restated.
    carried: Option<Vec<Change>>,
}

impl Rebuild {
    /// Takes some records over.
    ///
    /// # Errors
    /// [`ApplyError`] when one belongs to no replaced bucket, came before, or is inconsistent: the
    /// whole is to be dropped.
    pub fn put(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        for change in changes {
            let inside = |buckets: &HashSet<u16>| buckets.contains(&bucket_of(change.kind, &change.name));
            let why = if !self.buckets.as_ref().is_none_or(inside) {
                "it belongs to no bucket of the repair"
            } else if self.draft.holds(change.kind, &change.name) {
                "it is there twice"
            } else {
                continue;
            };
            return Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
        }
        self.draft.put(changes)
    }

    /// The state with what has been put.
    ///
    /// # Errors
    /// [`ApplyError`] when policies do not compile, or the digest comes out otherwise than said.
    pub fn finish(self) -> Result<Snapshot, ApplyError> {
        let mut next = self.draft.finish(self.epoch, self.history_hash)?;
        next.is_as_said(&self.cell, self.state_digest)?;
        if let Some(carried) = self.carried {
            let entries = carried.iter().map(|change| Overlaid::new(&self.cell, change, true));
            next = next.without_overlay_of(&self.cell).overlaid(entries.collect());
        }
        Ok(next.folded(&self.cell))
    }
}

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
        let mut rebuild = self.rebuild(repair)?;
        rebuild.put(&repair.changes)?;
        rebuild.finish()
    }

    /// Begins a repair whose records come in parts. Those of `repair` itself are not taken.
    ///
    /// # Errors
    /// [`ApplyError`] when the position is before the one held.
    pub fn rebuild(&self, repair: &Repair) -> Result<Rebuild, ApplyError> {
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
        let buckets = repair.buckets.as_ref().map(|buckets| buckets.iter().copied().collect::<HashSet<_>>());
        let inside = |kind, name: &str| buckets.as_ref().is_none_or(|set| set.contains(&bucket(kind, name)));
        let (said, found) = (held.map(|held| held.state_digest), self.recompute_digest(&repair.cell));
        let whole = if said == found { self.clone() } else { self.put_in_order() };
        let mut draft = Draft::new(&whole, &repair.cell, repair.revision, other_lineage || said != found);
        if held.is_some() {
            whole.in_parts(&repair.cell, inside, |records| draft.erase(records));
            let (sum, records) = whole.sum_of(&repair.cell, |kind, name| !inside(kind, name));
            draft.goes_on_from(sum, records);
        }
        let carried = other_lineage.then(|| {
            let known = self.overlay_of(&repair.cell).into_iter();
            known.chain(whole.denying(&repair.cell, 0)).collect()
        });
        Ok(Rebuild {
            draft,
            cell: repair.cell.clone(),
            epoch: repair.epoch,
            history_hash: repair.history_hash,
            state_digest: repair.state_digest,
            buckets,
            carried,
        })
    }

    /// The state with `batch` in place of everything the cell held.
    ///
    /// # Errors
    /// As [`Self::repair`].
    pub fn replace_cell(&self, batch: &Batch) -> Result<Self, ApplyError> {
        let mut rebuild = self.rebuild(&Repair {
            cell: batch.cell.clone(),
            epoch: batch.epoch,
            revision: batch.to_revision,
            history_hash: batch.history_hash,
            state_digest: batch.state_digest,
            buckets: None,
            changes: Vec::new(),
        })?;
        rebuild.put(&batch.changes)?;
        rebuild.finish()
    }

    /// The state without a cell: whatever asks for it is refused.
    pub fn without_cell(&self, cell: &Name) -> Self {
        let Some(held) = self.cell(cell) else { return self.clone() };
        let mut draft = Draft::new(self, cell, held.revision, false);
        self.in_parts(cell, |_, _| true, |records| draft.erase(records));
        let cells = self.cells.iter().filter(|held| held.cell != *cell).cloned().collect();
        let left = draft.next.without_overlay_of(cell);
        Self { cells, root: self.root + 1, ..left }
    }

    /// The digest of a cell's records as they lie in memory now. Takes time in proportion to them.
    ///
    /// A record that cannot be read, or not be found where it would be looked for, adds nothing.
    /// Differs from [`CellState::state_digest`] only when memory was damaged.
    pub fn recompute_digest(&self, cell: &Name) -> Option<StateDigest> {
        self.cell(cell)?;
        Some(self.sum_of(cell, |_, _| true).0.digest())
    }

    /// What some records of a cell add up to, and how many they are.
    fn sum_of(&self, cell: &Name, of: impl Fn(RecordKind, &str) -> bool) -> (Sum, u64) {
        let (mut sum, mut records) = (Sum::default(), 0);
        for record in self.lying(cell) {
            if self.kind_and_name(record).is_some_and(|(kind, name)| of(kind, name))
                && let Some(element) = self.element_of(cell, record)
            {
                sum.add(element);
                records += 1;
            }
        }
        (sum, records)
    }

    /// The digests of a cell's buckets, in order. Takes time in proportion to its records.
    pub fn bucket_digests(&self, cell: &Name) -> Vec<[u8; 32]> {
        let mut sums: Map<u16, Sum> = Map::new();
        for record in self.lying(cell) {
            if let Some((kind, name)) = self.kind_and_name(record)
                && let Some(element) = self.element_of(cell, record)
            {
                sums.entry(bucket(kind, name)).or_default().add(element);
            }
        }
        let empty = Sum::default().digest();
        let digest = |bucket: u16| *sums.get(&bucket).map_or(empty, Sum::digest).as_bytes();
        (0..BUCKETS).map(digest).collect()
    }

    /// Every record of some buckets of a cell, tombstones included.
    pub fn bucket_changes(&self, cell: &Name, buckets: &[u16]) -> Vec<Change> {
        let inside = |record: &Lying<'_>| {
            self.kind_and_name(*record).is_some_and(|(kind, name)| buckets.contains(&bucket(kind, name)))
        };
        self.lying(cell).filter(inside).filter_map(|record| self.change(record)).collect()
    }

    /// Shows the kinds and names of some records of a cell, a part at a time.
    fn in_parts(
        &self,
        cell: &Name,
        of: impl Fn(RecordKind, &str) -> bool,
        mut show: impl FnMut(&[(RecordKind, Name)]),
    ) {
        let mut part = Vec::new();
        let named = self.lying(cell).filter_map(|record| self.kind_and_name(record));
        for (kind, name) in named.filter(|(kind, name)| of(*kind, name)) {
            part.extend(Name::parse(name).ok().map(|name| (kind, name)));
            if part.len() == PART {
                show(&part);
                part.clear();
            }
        }
        show(&part);
    }

    /// The identities and credentials of every cell in tables, texts and indexes made anew: after damage
    /// it is not known which of these was hit. What adds nothing to a digest is left out: a name that
    /// was damaged must not become a record of its own.
    fn put_in_order(&self) -> Self {
        let mut next = Self {
            records: Tables {
                identities: Rows::default(),
                credentials: Rows::default(),
                ..self.records.clone()
            },
            texts: Texts::new(self.keyer),
            subjects: Links::default(),
            fingerprints: Links::default(),
            ..self.clone()
        };
        for held in self.cells() {
            let sound = |record: &Lying<'_>| {
                matches!(record, Lying::Packed(..)) && self.element_of(&held.cell, *record).is_some()
            };
            let mut records = self.lying(&held.cell).filter(sound).filter_map(|record| self.change(record));
            loop {
                let part: Vec<_> = records.by_ref().take(PART).collect();
                if part.is_empty() {
                    break;
                }
                next = next.with_rows(&held.cell, &part);
            }
        }
        next
    }
}
