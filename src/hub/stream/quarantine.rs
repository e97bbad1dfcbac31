//! Batches that enforcement points refuse: a cell in which several refuse the same is frozen before it.
//!
//! A frozen cell offers the head before the batch, so that nobody goes stale over what they rightly
//! refuse, while revocations go on. The next commit to the cell ends it: state, not history, is what
//! counts, and members are taken past the batch by a repair.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;

use crate::core::id::Name;

/// A cell whose order stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frozen {
    /// The revision offered.
    pub(crate) before: u64,
    /// The revision of the batch that was refused.
    pub(crate) refused: u64,
}

/// What is refused, by whom.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(Mutex<Refusals>);

#[derive(Debug, Default)]
struct Refusals {
    by_batch: BTreeMap<(Name, u64), BTreeSet<String>>,
    frozen: HashMap<Name, Frozen>,
}

impl Quarantine {
    /// Notes that `spoke` refuses a batch; whether the cell is frozen by that.
    ///
    /// More than one must refuse, and more than 1 % of the `members`: one alone may itself be at fault.
    pub(super) fn refused(&self, cell: &Name, batch: Frozen, spoke: &str, members: usize) -> bool {
        let mut held = self.0.lock();
        if held.by_batch.len() >= BATCHES_MAX {
            held.by_batch.pop_first();
        }
        let refusing = held.by_batch.entry((cell.clone(), batch.refused)).or_default();
        if refusing.len() < SPOKES_MAX {
            refusing.insert(spoke.to_owned());
        }
        let several = refusing.len() > 1 && refusing.len() * 100 > members;
        several && held.frozen.insert(cell.clone(), batch).is_none()
    }

    /// Whether a cell is frozen.
    pub(super) fn frozen(&self, cell: &Name) -> Option<Frozen> {
        self.0.lock().frozen.get(cell).copied()
    }

    /// Ends it: a commit after the refused batch has come.
    pub(super) fn thaw(&self, cell: &Name, revision: u64) -> bool {
        let mut held = self.0.lock();
        let ends = held.frozen.get(cell).is_some_and(|frozen| frozen.refused < revision);
        ends && held.frozen.remove(cell).is_some()
    }

    /// Every cell that is frozen.
    pub(crate) fn all(&self) -> Vec<(Name, Frozen)> {
        self.0.lock().frozen.iter().map(|(cell, frozen)| (cell.clone(), *frozen)).collect()
    }
}

const BATCHES_MAX: usize = 256;
const SPOKES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_freezes_nothing() {
        let cell = Name::parse("demo").unwrap();
        let batch = Frozen { before: 4, refused: 5 };
        let quarantine = Quarantine::default();
        assert!(!quarantine.refused(&cell, batch, "a", 2));
        assert!(!quarantine.refused(&cell, batch, "a", 2), "twice the same");
        assert_eq!(quarantine.frozen(&cell), None);
        assert!(quarantine.refused(&cell, batch, "b", 2));
        assert_eq!(quarantine.frozen(&cell), Some(batch));
        assert!(!quarantine.refused(&cell, batch, "c", 3), "frozen already");
        assert!(!quarantine.thaw(&cell, 5), "the batch itself");
        assert!(quarantine.thaw(&cell, 6));
        assert_eq!(quarantine.frozen(&cell), None);
    }

    #[test]
    fn it_takes_more_than_one_percent() {
        let cell = Name::parse("demo").unwrap();
        let batch = Frozen { before: 4, refused: 5 };
        let quarantine = Quarantine::default();
        assert!(!quarantine.refused(&cell, batch, "a", 200));
        assert!(!quarantine.refused(&cell, batch, "b", 200), "exactly 1 %");
        assert!(quarantine.refused(&cell, batch, "c", 200));
    }
}
