//! The store in one SQLite file.
//!
//! Write-ahead log, `synchronous=FULL`: a commit that was acknowledged survives a crash of
//! the machine. One connection writes; readers have their own and never wait for it. Schema:
//!
//! | Table | Holds |
//! |---|---|
//! | `meta` | one row: cluster id (16 bytes), epoch (16), head revision and global hash, where the log begins, version of the last item, the epoch before and where it was left |
//! | `cell` | tenant, revision of its last commit, history hash there |
//! | `record` | tenant, kind (number on the wire), name, generation, revision, body, time of its last change; `NULL` body: tombstone |
//! | `dropped` | tenant, kind, name, generation, revision of what was let go of: its name is never used again |
//! | `change` | revision, tenant, revision of the cell before, body, history and global hash, times in microseconds |
//! | `member` | the roster: enforcement point, incarnation, longest `deny_after`, waived routes |
//! | `item` | small things beside the records, with the version each was written at |
//! | `receipt` | completions of revocations, as signed |
//!
//! `application_id` is 0x50524856, `user_version` the schema's. A new column or table is a new version.

mod commit;
mod dump;
mod fault;
mod read;
mod schema;
mod side;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::side::check_item;
use super::{
    CellImage, CellPosition, ChangeSet, Committed, DirectoryLock, Dump, Expect, FaultKind, Guarantee, Head,
    Item, Logged, Minted, Page, StateStore, StoreError, StoreFault, StoreIdentity, StoredMember,
    StoredReceipt, StoredRecord,
};
use crate::core::id::{Name, Position};
use crate::core::identity::RecordKind;
use crate::core::time::{Clock, Timestamp};
use fault::FileFaults;

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    file: FileFaults,
    /// Which file it is, by device and number: SQLite goes on with it wherever it is moved.
    which: (u64, u64),
    identity: StoreIdentity,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
    clock: ClockHandle,
    broken: AtomicBool,
    superseded: AtomicBool,
    _lock: DirectoryLock,
}

/// The writing connection, and when the last commit on it was acknowledged.
#[derive(Debug)]
struct Writer {
    connection: Connection,
    acknowledged: Option<(u64, Timestamp)>,
}

struct ClockHandle(Arc<dyn Clock>);

impl std::fmt::Debug for ClockHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl SqliteStore {
    /// Opens the store, or makes it when there is no file; checks it and locks its directory.
    ///
    /// # Errors
    /// [`StoreFault`] names the file, what is wrong with it and what to do.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreFault> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let lock = DirectoryLock::acquire(&directory)?;
        let file = FileFaults::new(path);
        let connection = schema::open(&file, clock.now().wall)?;
        let identity = schema::identity(&file, &connection)?;
        let which = which(path).map_err(|e| StoreFault::from_io(path, "look at", &e))?;
        Ok(Self {
            file,
            which,
            identity,
            writer: Mutex::new(Writer { connection, acknowledged: None }),
            readers: Mutex::new(Vec::new()),
            clock: ClockHandle(clock),
            broken: AtomicBool::new(false),
            superseded: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Everything but the log, at one instant. Blocks.
    ///
    /// # Errors
    /// A fault of the store.
    pub fn dump(&self) -> Result<Dump, StoreError> {
        self.read(dump::dump)
    }

    /// Reads on a connection of its own, within one transaction: one instant.
    fn read<T, E: Into<StoreError>>(
        &self,
        work: impl FnOnce(&Connection, &FileFaults) -> Result<T, E>,
    ) -> Result<T, StoreError> {
        self.usable()?;
        let pooled = self.readers.lock().pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => schema::open_reader(&self.file)?,
        };
        let transaction = connection.transaction().map_err(|e| self.file.sql("begin reading", &e))?;
        let result = work(&transaction, &self.file);
        drop(transaction);
        let mut readers = self.readers.lock();
        if readers.len() < READERS_KEPT_MAX {
            readers.push(connection);
        }
        result.map_err(Into::into)
    }

    fn write<T>(&self, work: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.usable()?;
        let mut writer = self.writer.lock();
        let result = work(&mut writer);
        if let Err(StoreError::Fault(fault)) = &result
            && fault.kind() == FaultKind::Io
        {
            // After a failed sync nobody knows what the disk holds: never write over it.
            self.broken.store(true, Ordering::Relaxed);
            tracing::error!(error = %fault, "the hub's store failed; it takes no more changes");
        }
        result
    }

    fn usable(&self) -> Result<(), StoreFault> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(self.file.fault(FaultKind::Io, "an earlier write failed"));
        }
        if self.superseded.load(Ordering::Relaxed) {
            return Err(self.file.fault(FaultKind::Superseded, "a new epoch was begun"));
        }
        // What is written to a file that nobody will open again is not kept.
        if which(self.file.path()).ok() != Some(self.which) {
            let fault = self.file.fault(FaultKind::Io, "it was moved, removed or replaced while it was open");
            return Err(
                fault.with_remedy("put the same file back, or stop the hub and start it on what is there")
            );
        }
        Ok(())
    }
}

fn which(path: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().map(|there| (there.dev(), there.ino()))
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if !*self.broken.get_mut() {
            commit::acknowledge_last(self.writer.get_mut());
        }
    }
}

impl StateStore for SqliteStore {
    fn identity(&self) -> StoreIdentity {
        self.identity
    }

    fn describe(&self) -> String {
        format!("sqlite://{}", self.file.path().display())
    }

    fn commit(&self, changes: &ChangeSet, expect: &[Expect]) -> Result<Committed, StoreError> {
        self.write(|writer| commit::commit(&self.file, writer, &*self.clock.0, changes, expect))
    }

    fn head(&self) -> Result<Position, StoreError> {
        Ok(self.heartbeat()?.position)
    }

    fn tail(&self, from: u64, max: usize) -> Result<Vec<Logged>, StoreError> {
        self.read(|c, file| read::tail(c, file, from, max))
    }

    fn logged(&self, revision: u64) -> Result<Option<Logged>, StoreError> {
        self.read(|c, file| read::logged(c, file, revision))
    }

    fn cells(&self) -> Result<(Position, Vec<CellPosition>), StoreError> {
        self.read(|c, file| Ok::<_, StoreFault>((read::head(c, file)?.position, read::cells(c, file)?)))
    }

    fn snapshot(&self, tenant: &Name) -> Result<Option<CellImage>, StoreError> {
        self.read(|c, file| read::snapshot(c, file, tenant))
    }

    fn record(
        &self,
        tenant: &Name,
        kind: RecordKind,
        name: &Name,
    ) -> Result<Option<StoredRecord>, StoreError> {
        self.read(|c, file| read::record(c, file, tenant, kind, name))
    }

    fn page(
        &self,
        tenant: &Name,
        kind: RecordKind,
        after: Option<&Name>,
        max: usize,
    ) -> Result<Page, StoreError> {
        self.read(|c, file| read::page(c, file, tenant, kind, after, max))
    }

    fn counts(&self, tenant: &Name) -> Result<Vec<(RecordKind, u64)>, StoreError> {
        self.read(|c, file| read::counts(c, file, tenant))
    }

    fn members(&self) -> Result<Vec<StoredMember>, StoreError> {
        self.read(read::members)
    }

    fn save_member(&self, member: &StoredMember) -> Result<(), StoreError> {
        self.write(|writer| commit::save_member(&self.file, &writer.connection, member))
    }

    fn forget_member(&self, spoke_id: &str, incarnation: &[u8; 16]) -> Result<(), StoreError> {
        self.write(|writer| commit::forget_member(&self.file, &writer.connection, spoke_id, incarnation))
    }

    fn is_shared(&self) -> bool {
        false
    }

    /// Holds: one file is one lineage, and an acknowledged commit is on its disk.
    fn guarantee(&self) -> Result<Guarantee, StoreError> {
        Ok(Guarantee::Holds)
    }

    fn heartbeat(&self) -> Result<Head, StoreError> {
        self.read(read::head)
    }

    fn oldest(&self) -> Result<u64, StoreError> {
        self.read(|c, file| Ok::<_, StoreFault>(read::meta(c, file)?.oldest))
    }

    fn settled(&self, tenant: &Name, before: Timestamp) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|c, file| read::settled(c, file, tenant, before))
    }

    fn dropped(&self, tenant: &Name) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|c, file| read::dropped(c, file, tenant))
    }

    fn trim(&self, before: u64) -> Result<(), StoreError> {
        self.write(|writer| side::trim(&self.file, &mut writer.connection, before))
    }

    fn items(&self, space: &str) -> Result<Vec<Item>, StoreError> {
        self.read(|c, file| side::items(c, file, space))
    }

    fn item(&self, space: &str, key: &str) -> Result<Option<Item>, StoreError> {
        self.read(|c, file| side::item(c, file, space, key))
    }

    fn put_item(
        &self,
        space: &str,
        key: &str,
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, StoreError> {
        check_item(space, key, value)?;
        self.write(|w| side::put_item(&self.file, &mut w.connection, (space, key), value, expected))
    }

    fn remove_item(&self, space: &str, key: &str, expected: u64) -> Result<(), StoreError> {
        self.write(|w| side::remove_item(&self.file, &mut w.connection, (space, key), expected))
    }

    fn save_receipts(&self, receipts: &[StoredReceipt]) -> Result<(), StoreError> {
        self.write(|w| side::save_receipts(&self.file, &mut w.connection, receipts))
    }

    fn receipts(&self, revision: u64) -> Result<Vec<StoredReceipt>, StoreError> {
        self.read(|c, file| side::receipts(c, file, revision))
    }

    fn mint_epoch(&self, witnessed: Option<Position>) -> Result<Minted, StoreError> {
        let minted = self.write(|w| side::mint_epoch(&self.file, &mut w.connection, witnessed))?;
        self.superseded.store(true, Ordering::Relaxed);
        Ok(minted)
    }
}

const READERS_KEPT_MAX: usize = 8;
