//! A new epoch over a store that was put back: the one way on from a rollback or a fork.
//!
//! The new epoch is ordered above everything that was ever named, so that no enforcement point takes the
//! old lineage for it, nor it for the old one; what it revoked and the store no longer knows stays in
//! force at each enforcement point until the new lineage says so itself. Deliberately absent: any
//! attempt to bring lost commits back; whoever made them knows what they said.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::admission::withdraw_tokens;
use super::keys::ClusterKey;
use super::service::open_store;
use super::settings::{HubError, HubSettings};
use super::store::{DirectoryLock, FaultKind, Minted, StateStore, StoreError, StoreFault};
use super::witness::{Seen, Witness};
use crate::core::id::Position;
use crate::core::time::Clock;

/// A store and what was witnessed of it, side by side; held, so that no hub serves meanwhile.
pub struct Restoring {
    settings: HubSettings,
    clock: Arc<dyn Clock>,
    store: Arc<dyn StateStore>,
    lock: Option<DirectoryLock>,
    key: ClusterKey,
    witness: Witness,
    found: Found,
}

impl std::fmt::Debug for Restoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restoring").field("found", &self.found).finish_non_exhaustive()
    }
}

/// What was found before anything was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The store.
    pub store: String,
    /// How far it goes.
    pub head: Position,
    /// The highest head named, of all witnesses read; `None`: none of them holds one.
    pub witnessed: Option<Position>,
    /// The witness of this hub.
    pub witness: PathBuf,
    /// What the witnesses say against the store, if anything.
    pub against: Option<String>,
}

impl Found {
    /// Commits that were named and are not in the store; `None`: they cannot be counted.
    pub fn commits_lost(&self) -> Option<u64> {
        let witnessed = self.witnessed?;
        (witnessed.epoch == self.head.epoch).then(|| witnessed.revision.saturating_sub(self.head.revision))
    }
}

impl Restoring {
    /// Opens the store and its witness, and those of other hubs of it. Blocks.
    ///
    /// # Errors
    /// [`HubError`] names what cannot be opened, and what holds it: a hub that runs, above all.
    pub fn open(settings: HubSettings, others: &[PathBuf], clock: Arc<dyn Clock>) -> Result<Self, HubError> {
        if let Some(file) = settings.store_file() {
            refuse_absent(file)?;
        }
        let key = ClusterKey::load(&settings.data_dir)?;
        let (store, lock) = open_store(&settings, Arc::clone(&clock))?;
        let witness = Witness::open(&settings.witness, settings.store_file(), &key)?;
        let mut seen: Vec<Seen> = witness.seen().into_iter().collect();
        for other in others {
            seen.extend(Witness::look(other, &key)?);
        }
        let mut against = None;
        for seen in &seen {
            // Most often an empty store, which was made where a part of the backup is missing.
            seen.of(&*store, witness.file())?;
            against = against.or(seen.against(&*store)?);
        }
        let found = Found {
            store: store.describe(),
            head: store.heartbeat()?.position,
            witnessed: seen.iter().map(|seen| seen.position).max(),
            witness: witness.file().to_owned(),
            against,
        };
        Ok(Self { settings, clock, store, lock, key, witness, found })
    }

    /// What was found.
    pub const fn found(&self) -> &Found {
        &self.found
    }

    /// Begins the new epoch above everything found, voids the receipts and the join tokens, and witnesses its head. Blocks.
    ///
    /// # Errors
    /// [`HubError`]; when only the witness fails, the epoch has begun, and the next start witnesses it.
    pub fn begin(self) -> Result<Minted, HubError> {
        let Self { settings, clock, store, lock, key, witness, found } = self;
        // Which of them were used since is not known: none is good any more.
        withdraw_tokens(&*store)?;
        let minted = store.mint_epoch(found.witnessed)?;
        tracing::warn!(
            store = found.store, epoch = %minted.position.epoch, revision = minted.position.revision,
            parent = %minted.parent, receipts_voided = minted.voided, "began a new epoch over the store"
        );
        // This handle is of the lineage that was left.
        drop((store, lock));
        let (store, _lock) = open_store(&settings, Arc::clone(&clock))?;
        let begins = minted.position.revision.to_string();
        let before = store.item(LINEAGE, BEGINS)?.map(|item| item.version);
        store.put_item(LINEAGE, BEGINS, begins.as_bytes(), before)?;
        let read_at = clock.now().wall;
        witness.name(&store.heartbeat()?, (store.identity().cluster_id, read_at), &key)?;
        Ok(minted)
    }
}

/// Where the epoch of a restored store begins: no commit up to there is of it. `None`: it is the first.
pub(super) fn begins(store: &dyn StateStore) -> Result<Option<u64>, StoreError> {
    let Some(parent) = store.identity().parent else { return Ok(None) };
    let noted = store.item(LINEAGE, BEGINS)?;
    let noted = noted.and_then(|item| std::str::from_utf8(&item.value).ok()?.parse().ok());
    Ok(Some(parent.revision.max(noted.unwrap_or(0))))
}

const LINEAGE: &str = "lineage";
const BEGINS: &str = "begins";

/// Opening would make a new store where there is none.
pub(super) fn refuse_absent(file: &Path) -> Result<(), HubError> {
    match std::fs::metadata(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let fault = StoreFault::new(file, FaultKind::Damaged, "there is no such file");
            Err(fault.with_remedy("put the backup there, then run this again").into())
        }
        Err(error) => Err(StoreFault::from_io(file, "look for the store", &error).into()),
    }
}
