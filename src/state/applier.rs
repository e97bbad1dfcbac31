//! The one writer of the published state.

use std::sync::Arc;
use std::time::Duration;

use crate::core::id::Name;
use crate::core::identity::{ApplyError, Batch, Lease, Snapshot, SnapshotCell};
use crate::state::lkg::{LastKnownGood, LkgError};
use crate::state::status::StateStatus;

/// A batch that has just come into force.
#[derive(Debug)]
pub struct AppliedBatch<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// The state with it.
    pub snapshot: &'a Snapshot,
}

/// Is told of each batch once it is in force; answers how many remembered verifications it dropped.
pub trait Observer: Send {
    /// Called on the writer's thread: must not wait.
    fn in_force(&self, applied: &AppliedBatch<'_>) -> u64;
}

/// Applies batches, publishes, waits for the old state to be let go, keeps the last-known-good.
pub struct Applier {
    cell: Arc<SnapshotCell>,
    lkg: LastKnownGood,
    observer: Box<dyn Observer>,
    status: Arc<StateStatus>,
    purged: u64,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").finish_non_exhaustive()
    }
}

/// How often the writer looks whether the old state has been let go.
const QUIESCENCE_POLL: Duration = Duration::from_micros(200);

impl Applier {
    /// Joins the parts.
    pub fn new(
        cell: Arc<SnapshotCell>,
        lkg: LastKnownGood,
        observer: Box<dyn Observer>,
        status: Arc<StateStatus>,
    ) -> Self {
        Self { cell, lkg, observer, status, purged: 0 }
    }

    /// The current state.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.cell.load())
    }

    /// Applies a delta; in force, and on disk, when this returns.
    ///
    /// # Errors
    /// [`ApplyError`] when it does not follow on or is inconsistent: nothing has changed.
    pub(super) async fn delta(&mut self, batch: &Batch, raw: &[u8]) -> Result<(), ApplyError> {
        let next = self.cell.load().apply(batch).inspect_err(|_| self.status.refused())?;
        self.publish(next, batch).await;
        if let Err(error) = self.lkg.append(&batch.cell, raw) {
            disk_failed(&error);
        }
        if self.lkg.is_long(&batch.cell) {
            self.rewrite(&batch.cell);
        }
        self.note_positions();
        Ok(())
    }

    /// Puts a snapshot in place of a cell; in force, and on disk, when this returns.
    ///
    /// # Errors
    /// [`ApplyError`] when it is older than what is held or inconsistent: nothing has changed.
    pub(super) async fn replace(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        let next = self.cell.load().replace_cell(batch).inspect_err(|_| self.status.refused())?;
        self.publish(next, batch).await;
        self.status.resynced();
        self.rewrite(&batch.cell);
        self.note_positions();
        Ok(())
    }

    /// Renews the lease, in memory and beside the last-known-good.
    pub(super) fn renew(&mut self, lease: Lease) {
        self.cell.set_lease(lease);
        self.note_positions();
    }

    /// Writes down what is in force, so that an older last-known-good is recognised as one.
    fn note_positions(&self) {
        if let Err(error) = self.lkg.write_lease(&self.cell.lease(), &self.snapshot()) {
            disk_failed(&error);
        }
    }

    /// Remembered verifications dropped since this was last asked.
    pub(super) fn take_purged(&mut self) -> u64 {
        std::mem::take(&mut self.purged)
    }

    async fn publish(&mut self, next: Snapshot, batch: &Batch) {
        let mut old = self.cell.publish(next);
        // A decision holds the state it reads until its evidence number is assigned.
        while Arc::get_mut(&mut old).is_none() {
            tokio::time::sleep(QUIESCENCE_POLL).await;
        }
        drop(old);
        self.status.applied(batch.changes.len());
        self.purged += self.observer.in_force(&AppliedBatch { batch, snapshot: &self.cell.load() });
    }

    fn rewrite(&mut self, cell: &Name) {
        if let Err(error) = self.lkg.rewrite(cell, &self.snapshot()) {
            disk_failed(&error);
        }
    }
}

fn disk_failed(error: &LkgError) {
    tracing::error!(
        error = %error,
        "last-known-good state cannot be written; a restart without a hub would begin with older state"
    );
}
