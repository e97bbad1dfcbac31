//! The one writer of the published state.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::core::id::Name;
use crate::core::identity::{
    ApplyError, Batch, Change, KillBatch, Lease, RecordKind, Repair, Snapshot, SnapshotCell,
};
use crate::state::lkg::{LastKnownGood, LkgError};
use crate::state::status::StateStatus;
use crate::wire::state_proto as proto;

/// A batch that has just come into force.
#[derive(Debug)]
pub struct AppliedBatch<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// The state with it.
    pub snapshot: &'a Snapshot,
    /// Whether what of it denies came ahead of the order, and was told of then.
    pub ahead: bool,
}

/// Is told of each batch once it is in force; answers how many remembered verifications it dropped.
pub trait Observer: Send {
    /// Called on the writer's thread: must not wait.
    fn in_force(&self, applied: &AppliedBatch<'_>) -> u64;

    /// Called in the same way, and first, when everything that a cell held was put in place anew or is gone.
    fn replaced(&self, cell: &Name) {
        _ = cell;
    }

    /// Open exchanges ended since this was last asked.
    fn take_ended(&self) -> u64 {
        0
    }
}

/// Applies batches, publishes, waits for the old state to be let go, keeps the last-known-good.
pub struct Applier {
    cell: Arc<SnapshotCell>,
    lkg: LastKnownGood,
    observer: Box<dyn Observer>,
    status: Arc<StateStatus>,
    purged: u64,
    kept: bool,
    /// Cells that were confirmed and are not on disk.
    unkept: Vec<Name>,
    came: bool,
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
        Self { cell, lkg, observer, status, purged: 0, kept: true, unkept: Vec::new(), came: false }
    }

    /// The current state.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.cell.load())
    }

    /// What is kept on disk, and whom to trust.
    pub(super) const fn lkg(&self) -> &LastKnownGood {
        &self.lkg
    }

    /// Pins the cluster and its keys for every state from now on.
    ///
    /// # Errors
    /// [`LkgError`] when that cannot be put on disk: nothing is pinned.
    pub(super) fn pin(&mut self, cluster_id: Bytes, keys: Vec<proto::SigningKey>) -> Result<(), LkgError> {
        self.lkg.pin(cluster_id, keys)
    }

    /// Notes a verified head, newer than those before.
    pub(super) fn set_head(&mut self, head: proto::Signed) {
        self.lkg.set_head(head);
    }

    /// Applies a delta; in force, and on disk, when this returns.
    ///
    /// # Errors
    /// [`ApplyError`] when it does not follow on or is inconsistent: nothing has changed.
    pub(super) async fn delta(&mut self, batch: &Batch, raw: &proto::Signed) -> Result<(), ApplyError> {
        let before = self.cell.load().cell(&batch.cell).map_or(0, |held| held.kill_revision);
        let next = self.cell.load().apply(batch).inspect_err(|_| self.status.refused())?;
        self.publish(next).await;
        self.status.applied(batch.changes.len());
        // Whole, also where what of it denies came ahead: a record that is new in it is found only now.
        self.tell_of(batch, before >= batch.to_revision);
        self.keep(&batch.cell, LastKnownGood::append, raw);
        Ok(())
    }

    /// Puts revocations in force ahead of the order; in force, and on disk, when this returns.
    ///
    /// # Errors
    /// [`ApplyError`] when one before them is missing, or they are inconsistent: nothing has changed.
    pub(super) async fn kill(&mut self, kills: &KillBatch, raw: &proto::Signed) -> Result<(), ApplyError> {
        let held = self.snapshot();
        let next = held.kill(kills)?;
        if next.root() == held.root() {
            return Ok(());
        }
        drop(held);
        self.publish(next).await;
        self.status.killed(kills.changes.len());
        self.tell(&Batch {
            cell: kills.cell.clone(),
            epoch: kills.epoch,
            from_revision: kills.previous,
            to_revision: kills.revision,
            history_hash: [0; 32],
            state_digest: None,
            changes: kills.changes.clone(),
        });
        self.keep(&kills.cell, LastKnownGood::append_urgent, raw);
        Ok(())
    }

    /// Puts what some buckets of a cell hold, or all of them, in place of what they held; in
    /// force, and on disk, when this returns.
    ///
    /// The records come in parts, and not from `repair`: they are never in memory unpacked all at once.
    ///
    /// # Errors
    /// Whatever a part is instead of records; [`ApplyError`] when it is older than what is held or
    /// inconsistent. Nothing has changed.
    pub(super) async fn rebuild<E: From<ApplyError>>(
        &mut self,
        repair: &Repair,
        parts: impl IntoIterator<Item = Result<Vec<Change>, E>>,
    ) -> Result<(), E> {
        // What the observer drops memories for; of a whole cell's records that is little.
        let mut told = Vec::new();
        let mut rebuild = self.cell.load().rebuild(repair).inspect_err(|_| self.status.refused())?;
        for part in parts {
            let part = part?;
            rebuild.put(&part).inspect_err(|_| self.status.refused())?;
            let bulk = |kind| matches!(kind, RecordKind::Identity | RecordKind::Credential);
            told.extend(part.into_iter().filter(|change| !bulk(change.kind) || change.denies()));
        }
        let next = rebuild.finish().inspect_err(|_| self.status.refused())?;
        self.publish(next).await;
        self.observer.replaced(&repair.cell);
        self.tell(&Batch {
            cell: repair.cell.clone(),
            epoch: repair.epoch,
            from_revision: 0,
            to_revision: repair.revision,
            history_hash: repair.history_hash,
            state_digest: None,
            changes: told,
        });
        self.status.resynced();
        self.rewrite(&repair.cell);
        self.note_positions();
        Ok(())
    }

    /// Drops a cell; nothing of it is left, here or on disk, when this returns.
    pub(super) async fn withdraw(&mut self, cell: &Name) {
        let next = self.cell.load().without_cell(cell);
        self.publish(next).await;
        self.observer.replaced(cell);
        if let Err(error) = self.lkg.remove(cell) {
            disk_failed(&error);
        }
        self.note_positions();
    }

    /// Renews the lease, in memory and beside the last-known-good; whether cells were confirmed by it.
    pub(super) async fn renew(&mut self, lease: Lease) -> bool {
        self.cell.set_lease(lease);
        let confirmed = self.cell.load().confirmed();
        let confirms = confirmed.is_some();
        if let Some((next, new)) = confirmed {
            self.publish(next).await;
            // Until their files are written a restart has no lease: it is noted for them, too.
            self.unkept.extend(new);
        }
        self.note_positions();
        confirms
    }

    /// Whether cells were confirmed whose files are not written yet.
    pub(super) const fn has_unkept(&self) -> bool {
        !self.unkept.is_empty()
    }

    /// Writes the file of one of them.
    pub(super) fn keep_one(&mut self) {
        if let Some(cell) = self.unkept.pop() {
            self.rewrite(&cell);
        }
    }

    /// Whether a cell has come, since this was last asked, by which nothing is decided yet.
    pub(super) fn take_came(&mut self) -> bool {
        std::mem::take(&mut self.came)
    }

    /// Gives up the lease, in memory and for a restart; `false`: a restart could still begin with it.
    pub(super) fn give_up_lease(&mut self) -> bool {
        self.cell.set_lease(Lease::default());
        self.note_positions();
        self.kept
    }

    /// Writes down what is in force, so that an older last-known-good is recognised as one.
    ///
    /// Where that fails, a restart loses its lease instead: removing a file needs no room.
    fn note_positions(&mut self) {
        let noted = self.lkg.write_lease(&self.cell.lease(), &self.snapshot()).inspect_err(disk_failed);
        self.kept = noted.is_ok() || self.lkg.remove_lease().inspect_err(disk_failed).is_ok();
    }

    /// Whether no restart can take older state than is in force here for fresh.
    ///
    /// INVARIANT: nothing is acknowledged while it is not so: the restart would undo the receipt.
    pub(super) const fn is_kept(&self) -> bool {
        self.kept
    }

    /// Remembered verifications dropped since this was last asked.
    pub(super) fn take_purged(&mut self) -> u64 {
        std::mem::take(&mut self.purged)
    }

    /// Open exchanges ended since this was last asked.
    pub(super) fn take_ended(&self) -> u64 {
        self.observer.take_ended()
    }

    async fn publish(&mut self, next: Snapshot) {
        let next = next.with_new_unconfirmed(&self.cell.load());
        let cells = next.cells().len();
        self.came |= cells > self.cell.load().cells().len();
        let mut old = self.cell.publish(next);
        // A decision holds the state it reads until its evidence number is assigned.
        while Arc::get_mut(&mut old).is_none() {
            tokio::time::sleep(QUIESCENCE_POLL).await;
        }
    }

    fn tell(&mut self, batch: &Batch) {
        self.tell_of(batch, false);
    }

    fn tell_of(&mut self, batch: &Batch, ahead: bool) {
        self.purged += self.observer.in_force(&AppliedBatch { batch, snapshot: &self.cell.load(), ahead });
    }

    /// Writes down what has just come into force, as it came.
    fn keep(
        &mut self,
        cell: &Name,
        append: fn(&mut LastKnownGood, &Name, &proto::Signed) -> Result<(), LkgError>,
        raw: &proto::Signed,
    ) {
        if let Err(error) = append(&mut self.lkg, cell, raw) {
            disk_failed(&error);
        }
        if self.lkg.is_long(cell) {
            self.rewrite(cell);
        }
        self.note_positions();
    }

    /// Writes a cell's file anew, unless nothing is decided by it yet: a restart would.
    fn rewrite(&mut self, cell: &Name) {
        let state = self.snapshot();
        if state.cell(cell).is_some_and(|held| held.confirmed)
            && let Err(error) = self.lkg.rewrite(cell, &state)
        {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Epoch;
    use crate::core::identity::Keyer;
    use crate::core::time::BootInstant;
    use std::path::Path;

    struct Unobserved;

    impl Observer for Unobserved {
        fn in_force(&self, _: &AppliedBatch<'_>) -> u64 {
            0
        }
    }

    const NOTHING: [Result<Vec<Change>, ApplyError>; 0] = [];

    fn base(revision: u64) -> Repair {
        Repair {
            cell: Name::parse("demo").unwrap(),
            epoch: Epoch::from_bytes([1; 16]),
            revision,
            history_hash: [0; 32],
            state_digest: None,
            buckets: None,
            changes: Vec::new(),
        }
    }

    fn lease(us: u64) -> Lease {
        Lease { fresh_at: Some(BootInstant::from_micros(us)), hub_time_us: 1, ..Lease::default() }
    }

    fn open(folder: &Path) -> (Applier, Lease) {
        let (lkg, loaded) = LastKnownGood::open(folder, "boot-1", Keyer::new(1)).unwrap();
        let cell = Arc::new(SnapshotCell::new(loaded.snapshot));
        (Applier::new(cell, lkg, Box::new(Unobserved), Arc::default()), loaded.lease)
    }

    #[tokio::test]
    async fn nothing_is_decided_by_what_no_answer_has_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut applier, _) = open(folder.path());
        applier.pin(Bytes::from_static(&[7; 16]), Vec::new()).unwrap();
        applier.rebuild(&base(1), NOTHING).await.unwrap();
        applier.renew(lease(7)).await;
        applier.keep_one();
        let other = Name::parse("other").unwrap();
        let later = Repair { cell: other.clone(), ..base(2) };
        let confirmed = |applier: &Applier| {
            let state = applier.snapshot();
            state.cells().iter().map(|held| held.confirmed).collect::<Vec<_>>()
        };
        applier.rebuild(&later, NOTHING).await.unwrap();
        assert_eq!(confirmed(&applier), [true, false]);
        assert!(open(folder.path()).0.snapshot().cell(&other).is_none(), "a restart would decide by it");
        let newer = Repair { revision: 3, ..later.clone() };
        applier.rebuild(&newer, NOTHING).await.unwrap();
        assert_eq!(confirmed(&applier), [true, false], "more of it is no answer");
        let root = applier.snapshot().root();
        applier.renew(lease(9)).await;
        assert_eq!(confirmed(&applier), [true, true]);
        assert!(applier.snapshot().root() > root, "what was refused for it is judged anew");
        assert_eq!(open(folder.path()).1, Lease::default(), "its file is still to be written");
        assert!(applier.has_unkept());
        applier.keep_one();
        assert!(!applier.has_unkept());
        let (restarted, kept) = open(folder.path());
        assert!(restarted.snapshot().cell(&other).is_some_and(|held| held.confirmed));
        assert_eq!(kept.fresh_at, lease(9).fresh_at);
        // Gone and back: it is new again.
        applier.withdraw(&other).await;
        applier.rebuild(&newer, NOTHING).await.unwrap();
        assert_eq!(confirmed(&applier), [true, false]);
        assert!(applier.give_up_lease());
        assert_eq!(confirmed(&applier), [true, false], "to give up a lease confirms nothing");
    }

    #[tokio::test]
    async fn a_full_disk_ends_the_lease_of_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (mut applier, _) = open(folder.path());
        applier.pin(Bytes::from_static(&[7; 16]), Vec::new()).unwrap();
        applier.rebuild(&base(1), NOTHING).await.unwrap();
        applier.renew(lease(7)).await;
        applier.keep_one();
        assert_eq!(open(folder.path()).1.fresh_at, Some(BootInstant::from_micros(7)));
        // From here on no file can be made: what is on disk stays behind what is acknowledged.
        for name in ["demo.new", "lease.new"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        applier.rebuild(&base(2), NOTHING).await.unwrap();
        assert_eq!(applier.snapshot().position().revision, 2);
        let (restarted, lease) = open(folder.path());
        assert_eq!(restarted.snapshot().position().revision, 1);
        assert_eq!(lease, Lease::default(), "older state than was acknowledged, taken for fresh");
    }
}
