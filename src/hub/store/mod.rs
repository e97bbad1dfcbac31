//! The authority's memory: records as they stand and the log of how they came to be so.
//!
//! [`StateStore`] is small and shaped like a log, so that two engines stand behind it, one for a
//! single hub and one that several share; the suite's `hub::store` holds what an engine has to pass. Deliberately absent: any knowledge of
//! what a record may say (that is the model's), and of who listens (the stream's).
//!
//! INVARIANT: revisions are gap-free and in commit order; one commit touches one tenant and
//! is seen whole or not at all; the history hash of a cell chains over every body committed
//! to it; the global hash chains over every history hash; a name once used is never used again.
//! Within an epoch; a new one may begin at a higher revision, and then its log begins there.

mod dump;
mod error;
mod judge;
mod lock;
mod peers;
mod postgres;
mod side;
mod sqlite;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

pub use dump::Dump;
pub use error::{Conflict, ConflictKind, FaultKind, StoreError, StoreFault};
pub use lock::DirectoryLock;
pub use peers::{PEER_SILENT_AFTER, Peer, PeerInForce, PeerMember, PeerStream};
pub use postgres::{PostgresSettings, PostgresStore};
pub use side::{Guarantee, Head, ITEM_BYTES_MAX, Item, ItemConflict, Minted, StoredReceipt, global_hash};
pub use sqlite::SqliteStore;

use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::{Change, Record, RecordKind};
use crate::core::time::Timestamp;
use crate::wire::state::{WireError, decode_record};

/// Largest encoded record, in bytes: one chunk of a snapshot holds at least one.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Largest body of one commit, in bytes: it travels in one message.
pub const BODY_BYTES_MAX: usize = 12 * 1024 * 1024;

/// Which store this is: fixed for as long as it is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreIdentity {
    /// The cluster, named when the store was made.
    pub cluster_id: [u8; 16],
    /// The lineage.
    pub epoch: Epoch,
    /// Where the lineage left the one before it; `None`: it is the first.
    pub parent: Option<Position>,
}

/// One edit of a commit.
#[derive(Clone, PartialEq, Debug)]
pub struct Edit {
    /// Which kind of record.
    pub kind: RecordKind,
    /// Its name.
    pub name: EditName,
    /// The new value; `None`: a tombstone.
    pub record: Option<Record>,
    /// Whether it begins a new generation even where the status stays: a reinstatement.
    pub reinstates: bool,
    /// Whether it lets go of a tombstone or a revocation; there is no new value then.
    pub drops: bool,
}

impl Edit {
    /// An edit of a record whose name is known.
    pub const fn new(kind: RecordKind, name: Name, record: Option<Record>) -> Self {
        Self { kind, name: EditName::Given(name), record, reinstates: false, drops: false }
    }

    /// An edit that lets go of a tombstone or a revocation.
    pub const fn drop(kind: RecordKind, name: Name) -> Self {
        Self { kind, name: EditName::Given(name), record: None, reinstates: false, drops: true }
    }
}

/// How an edit's record is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EditName {
    /// By the caller.
    Given(Name),
    /// `r` and the revision of the commit; at most one edit of a commit.
    ByRevision,
}

/// Edits of one tenant that become visible together.
#[derive(Clone, PartialEq, Debug)]
pub struct ChangeSet {
    /// The tenant.
    pub tenant: Name,
    /// The revision the tenant's cell must stand at; `None`: anywhere. 0: it does not exist yet.
    pub stands_at: Option<u64>,
    /// The edits, at most one a record, at least one.
    pub edits: Vec<Edit>,
}

/// What must hold of one record when the commit happens, or nothing of it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    /// Which kind of record.
    pub kind: RecordKind,
    /// Its name.
    pub name: Name,
    /// The revision of its last change; `None`: it has never existed.
    pub revision: Option<u64>,
}

/// What a commit made.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// Its revision.
    pub revision: u64,
    /// The clock once the store had acknowledged it.
    pub at: Timestamp,
    /// The changes as logged.
    pub changes: Vec<Change>,
}

/// One commit, as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    /// Its revision.
    pub revision: u64,
    /// The tenant it is of.
    pub tenant: Name,
    /// Where the tenant's cell stood before.
    pub from_revision: u64,
    /// The encoded `Batch`.
    pub body: Bytes,
    /// The cell's history hash afterwards.
    pub history_hash: [u8; 32],
    /// The hash over every commit of every cell up to this one: see [`global_hash`].
    pub global_hash: [u8; 32],
    /// The clock inside the transaction.
    pub at: Timestamp,
    /// The clock once the commit was acknowledged, never earlier than that.
    pub acknowledged_at: Option<Timestamp>,
}

/// How far one cell has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CellPosition {
    /// The tenant.
    pub tenant: Name,
    /// The revision of its last commit.
    pub revision: u64,
    /// The history hash there.
    pub history_hash: [u8; 32],
}

/// A record as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRecord {
    /// Which kind.
    pub kind: RecordKind,
    /// Its name.
    pub name: Name,
    /// Its generation.
    pub generation: u32,
    /// The revision of its last change.
    pub revision: u64,
    /// Its encoded value; `None`: a tombstone.
    pub body: Option<Bytes>,
    /// Whether it was let go of: only its name is kept, which is never used again.
    pub dropped: bool,
}

impl StoredRecord {
    /// The change that made it what it is.
    ///
    /// # Errors
    /// [`WireError`] when the stored bytes cannot be read by this build.
    pub fn change(&self) -> Result<Change, WireError> {
        let record = self.body.as_ref().map(|body| decode_record(self.kind, body)).transpose()?;
        Ok(Change {
            kind: self.kind,
            name: self.name.clone(),
            generation: self.generation,
            revision: self.revision,
            record,
            dropped: self.dropped,
        })
    }
}

/// Everything of one cell at one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CellImage {
    /// How far it goes.
    pub position: CellPosition,
    /// Its records, tombstones included, by kind and name.
    pub records: Vec<StoredRecord>,
}

/// A member of the roster as it survives a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMember {
    /// The enforcement point's id.
    pub spoke_id: String,
    /// Its process start.
    pub incarnation: [u8; 16],
    /// Longest finite `deny_after` of its routes; `None`: it has none.
    pub deny_after_max: Option<Duration>,
    /// Routes that never deny for staleness.
    pub waived: Vec<String>,
    /// Its build.
    pub build: String,
}

/// A page of records of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The records, by name, tombstones left out.
    pub records: Vec<StoredRecord>,
    /// Where the next page begins after; `None`: this is the last.
    pub next: Option<Name>,
}

/// Work that calls a store.
pub type Work = Box<dyn FnOnce() + Send>;

/// Work that a store has taken on; over when it is done.
pub type Dispatched = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The store behind a hub. Every method but [`Self::dispatch`] blocks: call it from a thread that may.
pub trait StateStore: Send + Sync + fmt::Debug {
    /// Runs work that calls this store: on a thread kept for what blocks. A store that never
    /// blocks, such as one in memory, may run it in place.
    fn dispatch(&self, work: Work) -> Dispatched {
        Box::pin(async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(()) => {}
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is ending; so is whoever waits here.
                Err(_) => std::future::pending().await,
            }
        })
    }

    /// Which store this is.
    fn identity(&self) -> StoreIdentity;

    /// What and where it is, for people.
    fn describe(&self) -> String;

    /// Commits all of `changes`, durably, or nothing.
    ///
    /// Each record's generation begins at 1 and rises by one when the change is a transition
    /// of an identity's life (its status differs from the one before, or the edit reinstates
    /// it), else it stays. Of a record that is let go of only the name is kept, of a revocation nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an expectation does not hold or a name was used before;
    /// [`StoreError::Moved`] when the cell does not stand at `stands_at`; a fault otherwise.
    fn commit(&self, changes: &ChangeSet, expect: &[Expect]) -> Result<Committed, StoreError>;

    /// The head, read from the store itself at the time of the call.
    ///
    /// # Errors
    /// A fault of the store.
    fn head(&self) -> Result<Position, StoreError>;

    /// At most `max` commits after revision `from`, in order, contiguous.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the log no longer holds the one after `from`; a fault of the store.
    fn tail(&self, from: u64, max: usize) -> Result<Vec<Logged>, StoreError>;

    /// One commit; `None` when there is none of that revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when it was trimmed; a fault of the store.
    fn logged(&self, revision: u64) -> Result<Option<Logged>, StoreError>;

    /// Every cell, by tenant, and the head of the same instant.
    ///
    /// # Errors
    /// A fault of the store.
    fn cells(&self) -> Result<(Position, Vec<CellPosition>), StoreError>;

    /// How far one cell has come; `None` when there is no such cell.
    ///
    /// # Errors
    /// A fault of the store.
    fn cell(&self, tenant: &Name) -> Result<Option<CellPosition>, StoreError> {
        Ok(self.cells()?.1.into_iter().find(|cell| cell.tenant == *tenant))
    }

    /// Everything of one cell at one instant; `None` when there is no such cell.
    ///
    /// # Errors
    /// A fault of the store.
    fn snapshot(&self, tenant: &Name) -> Result<Option<CellImage>, StoreError>;

    /// One record, tombstones included, also those let go of; `None` when the name was never used, or by a
    /// revocation that was let go of.
    ///
    /// # Errors
    /// A fault of the store.
    fn record(
        &self,
        tenant: &Name,
        kind: RecordKind,
        name: &Name,
    ) -> Result<Option<StoredRecord>, StoreError>;

    /// At most `max` live records of one kind, by name, after `after`.
    ///
    /// # Errors
    /// A fault of the store.
    fn page(
        &self,
        tenant: &Name,
        kind: RecordKind,
        after: Option<&Name>,
        max: usize,
    ) -> Result<Page, StoreError>;

    /// How many live records of each kind a cell holds.
    ///
    /// # Errors
    /// A fault of the store.
    fn counts(&self, tenant: &Name) -> Result<Vec<(RecordKind, u64)>, StoreError>;

    /// The roster as last saved.
    ///
    /// # Errors
    /// A fault of the store.
    fn members(&self) -> Result<Vec<StoredMember>, StoreError>;

    /// Saves one member, durably.
    ///
    /// # Errors
    /// A fault of the store.
    fn save_member(&self, member: &StoredMember) -> Result<(), StoreError>;

    /// Forgets one member.
    ///
    /// # Errors
    /// A fault of the store.
    fn forget_member(&self, spoke_id: &str, incarnation: &[u8; 16]) -> Result<(), StoreError>;

    /// Whether other processes may write to this store.
    fn is_shared(&self) -> bool;

    /// Waits until another process hints that it committed, or `at_most` so long: a hint may be lost.
    /// Of a store that nobody shares there is nothing to wait for.
    fn await_change(&self, at_most: Duration) {
        let _ = at_most;
    }

    /// The other processes that serve from this store.
    ///
    /// # Errors
    /// A fault of the store.
    fn peers(&self) -> Result<Vec<Peer>, StoreError> {
        Ok(Vec::new())
    }

    /// What another process told of its members after number `after`, in order.
    ///
    /// # Errors
    /// A fault of the store.
    fn told_by(&self, peer: &[u8; 16], after: u64) -> Result<Vec<PeerMember>, StoreError> {
        let _ = (peer, after);
        Ok(Vec::new())
    }

    /// Tells the others how saved members of this process stand; `joined` and `told` are the store's.
    ///
    /// # Errors
    /// A fault of the store.
    fn tell(&self, members: &[PeerMember]) -> Result<(), StoreError> {
        let _ = members;
        Ok(())
    }

    /// Takes out a process that is gone, with all its members.
    ///
    /// # Errors
    /// A fault of the store.
    fn forget_peer(&self, peer: &[u8; 16]) -> Result<(), StoreError> {
        let _ = peer;
        Ok(())
    }

    /// Whether what is acknowledged survives the loss of a machine, as it is set up now.
    ///
    /// # Errors
    /// A fault of the store.
    fn guarantee(&self) -> Result<Guarantee, StoreError>;

    /// The head, at an instant within this call: an engine that others write to proves by a
    /// write of its own that it is still the one that takes commits.
    ///
    /// # Errors
    /// [`FaultKind::Superseded`] when another epoch was begun; another fault of the store.
    fn heartbeat(&self) -> Result<Head, StoreError>;

    /// The oldest revision the log holds; one past the head when it holds none.
    ///
    /// # Errors
    /// A fault of the store.
    fn oldest(&self) -> Result<u64, StoreError>;

    /// Tombstones and revocations of a tenant that were last changed before a time, and that no commit
    /// in the log speaks of any more; by kind and name.
    ///
    /// # Errors
    /// A fault of the store.
    fn settled(&self, tenant: &Name, before: Timestamp) -> Result<Vec<StoredRecord>, StoreError>;

    /// Names of a tenant that were let go of, as tombstones.
    ///
    /// # Errors
    /// A fault of the store.
    fn dropped(&self, tenant: &Name) -> Result<Vec<StoredRecord>, StoreError>;

    /// Lets the log before revision `before` go; the newest commit at the head may go too.
    ///
    /// # Errors
    /// A fault of the store.
    fn trim(&self, before: u64) -> Result<(), StoreError>;

    /// Every item of one space, by key.
    ///
    /// # Errors
    /// A fault of the store.
    fn items(&self, space: &str) -> Result<Vec<Item>, StoreError>;

    /// One item; `None` when there is none.
    ///
    /// # Errors
    /// A fault of the store.
    fn item(&self, space: &str, key: &str) -> Result<Option<Item>, StoreError>;

    /// Writes one item, durably, if it is at version `expected` (`None`: if there is none);
    /// returns its new version.
    ///
    /// # Errors
    /// [`StoreError::Item`] when it is not; [`StoreError::ItemTooLong`]; a fault of the store.
    fn put_item(
        &self,
        space: &str,
        key: &str,
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, StoreError>;

    /// Removes one item, durably, if it is at version `expected`.
    ///
    /// # Errors
    /// [`StoreError::Item`] when it is not; a fault of the store.
    fn remove_item(&self, space: &str, key: &str, expected: u64) -> Result<(), StoreError>;

    /// Saves receipts, all or none, durably. The first of a revision and incarnation stays.
    ///
    /// # Errors
    /// A fault of the store.
    fn save_receipts(&self, receipts: &[StoredReceipt]) -> Result<(), StoreError>;

    /// Receipts of one commit, by enforcement point and incarnation.
    ///
    /// # Errors
    /// A fault of the store.
    fn receipts(&self, revision: u64) -> Result<Vec<StoredReceipt>, StoreError>;

    /// Begins a new epoch: one ordered above the one before, whose next revision is above both
    /// the store's head and `witnessed`. The log begins anew, every receipt is voided. Every other
    /// handle on the store, and this one, refuses from then on: open it again.
    ///
    /// # Errors
    /// A fault of the store; nothing has changed then.
    fn mint_epoch(&self, witnessed: Option<Position>) -> Result<Minted, StoreError>;
}
