//! Stores: what every engine has to pass, and what their files may not be.

mod conformance;
mod postgres;

use std::path::Path;

use portreeve::hub::store::{FaultKind, SqliteStore, StateStore, StoreError, StoreFault};

use self::conformance::{conformance, follows_its_own_log, name, put, resource};
use super::lab::HandClock;
use crate::hub_sim::sim::store::Disk;
use crate::support::PATIENCE;

/// Opens a store whose lock a process that another test has just begun may hold for a moment: it inherits
/// every file until it is the program that it shall be.
fn opening(file: &Path) -> Result<SqliteStore, StoreFault> {
    let begun = std::time::Instant::now();
    loop {
        match SqliteStore::open(file, HandClock::new()) {
            Err(fault) if fault.kind() == FaultKind::Held && begun.elapsed() < PATIENCE => {
                std::thread::yield_now();
            }
            done => return done,
        }
    }
}

#[test]
fn sqlite_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    conformance(&|| Box::new(opening(&file).unwrap()));
}

/// What the simulation relies on is held to the same.
#[test]
fn a_disk_in_memory_conforms() {
    let disk = Disk::new();
    conformance(&|| Box::new(disk.open_plainly(HandClock::new())));
}

fn refused(file: &Path) -> (FaultKind, String) {
    let fault = opening(file).unwrap_err();
    let text = fault.to_string();
    assert!(text.contains(fault.kind().remedy()) && text.contains("hub.db"), "{text}");
    (fault.kind(), text)
}

fn filled(file: &Path) {
    let store = opening(file).unwrap();
    for place in 0..200 {
        let record = resource(&"x".repeat(500));
        store.commit(&put("a", &[(&format!("n{place}"), record)]), &[]).unwrap();
    }
}

#[test]
fn a_file_that_is_not_a_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    std::fs::write(&file, "listen: 0.0.0.0").unwrap();
    assert_eq!(refused(&file).0, FaultKind::Foreign);
    std::fs::remove_file(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE x (y)").unwrap();
    drop(other);
    assert_eq!(refused(&file).0, FaultKind::Foreign);
}

#[test]
fn a_newer_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    filled(&file);
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.pragma_update(None, "user_version", 4).unwrap();
    drop(raw);
    let (kind, text) = refused(&file);
    assert_eq!(kind, FaultKind::Newer);
    assert!(text.contains("version 4, this build knows 3"), "{text}");
}

/// What versions 2 and 3 added is taken away again.
const BACK_TO_VERSION_1: &str = "
    ALTER TABLE meta DROP COLUMN global_hash;
    ALTER TABLE meta DROP COLUMN oldest;
    ALTER TABLE meta DROP COLUMN item_version;
    ALTER TABLE meta DROP COLUMN parent_epoch;
    ALTER TABLE meta DROP COLUMN parent_revision;
    ALTER TABLE change DROP COLUMN global_hash;
    DROP TABLE dropped;
    DROP INDEX record_settled;
    ALTER TABLE record DROP COLUMN at_us;
    DROP TABLE item;
    DROP TABLE receipt;
    PRAGMA user_version = 1;";

#[test]
fn a_store_of_version_1_is_brought_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    filled(&file);
    let open = || opening(&file).unwrap();
    let seen = |store: SqliteStore| (store.heartbeat().unwrap(), store.tail(0, 1000).unwrap());
    let before = seen(open());
    rusqlite::Connection::open(&file).unwrap().execute_batch(BACK_TO_VERSION_1).unwrap();
    // Midway it fails: nothing of it is kept, and the next start does it.
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute_batch("CREATE TRIGGER full BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    opening(&file).unwrap_err();
    let version: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    raw.execute_batch("DROP TRIGGER full").unwrap();
    drop(raw);
    assert_eq!(seen(open()), before);
    follows_its_own_log(&open());
    open().put_item("s", "k", b"", None).unwrap();
}

#[test]
fn a_damaged_store_is_refused() {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    filled(&file);
    let mut raw = std::fs::File::options().write(true).open(&file).unwrap();
    let length = raw.metadata().unwrap().len();
    assert!(length > 100_000, "{length}");
    raw.seek(SeekFrom::Start(8192)).unwrap();
    raw.write_all(&vec![0x5a; 64 * 1024]).unwrap();
    drop(raw);
    assert_eq!(refused(&file).0, FaultKind::Damaged);
}

#[test]
fn a_directory_takes_one_hub() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    let first = SqliteStore::open(&file, HandClock::new()).unwrap();
    let fault = SqliteStore::open(&file, HandClock::new()).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Held);
    let process = format!("process {}", std::process::id());
    assert!(fault.to_string().contains(&process), "{fault}");
    drop(first);
    opening(&file).unwrap();
}

#[test]
fn a_failed_write_keeps_nothing_of_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    filled(&file);
    // SQLite itself refuses, midway through the transaction.
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute_batch("CREATE TRIGGER full BEFORE INSERT ON change BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    drop(raw);
    let store = opening(&file).unwrap();
    let before = (store.head().unwrap(), store.snapshot(&name("a")).unwrap());
    assert!(matches!(store.commit(&put("a", &[("x", resource("1"))]), &[]), Err(StoreError::Fault(_))));
    drop(store);
    let again = opening(&file).unwrap();
    assert_eq!((again.head().unwrap(), again.snapshot(&name("a")).unwrap()), before);
}

/// SQLite would go on with it, and the next start find none of it.
#[test]
fn a_store_that_is_moved_while_it_is_open_takes_and_tells_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let [file, aside] = ["hub.db", "aside.db"].map(|it| directory.path().join(it));
    let store = opening(&file).unwrap();
    let commit = |place: &str| store.commit(&put("a", &[(place, resource("1"))]), &[]);
    commit("before").unwrap();
    let copied = std::fs::read(&file).unwrap();
    std::fs::rename(&file, &aside).unwrap();
    for replaced in [false, true] {
        if replaced {
            std::fs::write(&file, &copied).unwrap();
        }
        let told = store.heartbeat().map(drop);
        for refused in [commit("meanwhile").map(drop), told] {
            let Err(StoreError::Fault(fault)) = refused else { panic!("{refused:?}, replaced: {replaced}") };
            assert_eq!(fault.kind(), FaultKind::Io);
            assert!(fault.to_string().contains("moved, removed or replaced"), "{fault}");
        }
    }
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(commit("after").unwrap().revision, 2);
}

#[test]
fn only_its_owner_reads_the_store_from_the_first_moment() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("hub.db"), HandClock::new()).unwrap();
    store.commit(&put("a", &[("x", resource("1"))]), &[]).unwrap();
    for name in ["hub.db", "hub.db-wal", "hub.db-shm"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
