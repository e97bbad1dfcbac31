//! Whether a change has to pass the guard.

/// Goes with one change: guarded, or let through by a second principal or by breaking the glass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pass {
    lets_through: bool,
    revisions: Vec<u64>,
}

impl Pass {
    /// What exceeds the guard's limits is stopped.
    pub(crate) const fn guarded() -> Self {
        Self { lets_through: false, revisions: Vec::new() }
    }

    /// It was approved.
    pub(crate) const fn approved() -> Self {
        Self { lets_through: true, revisions: Vec::new() }
    }

    pub(super) const fn lets_through(&self) -> bool {
        self.lets_through
    }

    pub(super) fn committed(&mut self, revision: u64) {
        self.revisions.push(revision);
    }

    /// What it was committed as so far.
    pub(crate) fn revisions(&self) -> &[u64] {
        &self.revisions
    }
}
