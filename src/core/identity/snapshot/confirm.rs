//! Which cells are decided by: those whose head an answer has named since they came.

use super::*;

impl Snapshot {
    /// The state with every cell that `before` lacks marked as not confirmed.
    ///
    /// INVARIANT (I6): a lease that was taken before a cell came says nothing of that cell. What comes of
    /// it first may be an old image, with the revocations since still on their way; this process may even
    /// have acknowledged them, before the cell left its scope.
    pub fn with_new_unconfirmed(self, before: &Self) -> Self {
        let is_new = |held: &CellState| before.cell(&held.cell).is_none();
        if !self.cells.iter().any(is_new) {
            return self;
        }
        let marked =
            |held: &CellState| CellState { confirmed: held.confirmed && !is_new(held), ..held.clone() };
        let cells = self.cells.iter().map(marked).collect();
        Self { cells, ..self }
    }

    /// The state with every cell confirmed, and those that were not; `None`: it is so already.
    pub fn confirmed(&self) -> Option<(Self, Vec<Name>)> {
        let new = self.cells.iter().filter(|held| !held.confirmed).map(|held| held.cell.clone());
        let new: Vec<Name> = new.collect();
        if new.is_empty() {
            return None;
        }
        let cells = self.cells.iter().map(|held| CellState { confirmed: true, ..held.clone() }).collect();
        Some((Self { cells, root: self.root + 1, ..self.clone() }, new))
    }
}
