//! What a store has to pass, run against the SQLite one; and what its file may not be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use portreeve::core::id::Name;
use portreeve::core::identity::{
    Identity, IdentityStatus, IdentityType, Owner, Record, RecordKind, Resource,
};
use portreeve::hub::store::{
    ChangeSet, Conflict, ConflictKind, Edit, EditName, Expect, FaultKind, SqliteStore, StateStore,
    StoreError, StoredMember,
};
use portreeve::wire::state::{decode_body, history_hash};

use super::lab::HandClock;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn resource(environment: &str) -> Record {
    let value = Resource { environment: environment.into(), owner: Owner::default(), routes: Vec::new() };
    Record::Resource(Arc::new(value))
}

fn identity(status: IdentityStatus) -> Record {
    Record::Identity(Arc::new(Identity {
        kind: IdentityType::Workload,
        environment: "prod".into(),
        status,
        owner: Owner::default(),
        ticket: None,
        end: None,
        review_due: None,
        third_party: false,
        risk: None,
        labels: BTreeMap::new(),
        entitlements: Vec::new(),
        bindings: Vec::new(),
        not_before: None,
    }))
}

fn put(tenant: &str, edits: &[(&str, Record)]) -> ChangeSet {
    let edit = |(given, record): &(&str, Record)| Edit::new(record.kind(), name(given), Some(record.clone()));
    ChangeSet { tenant: name(tenant), stands_at: None, edits: edits.iter().map(edit).collect() }
}

fn expect(kind: RecordKind, given: &str, revision: Option<u64>) -> Expect {
    Expect { kind, name: name(given), revision }
}

fn conflict(result: Result<impl std::fmt::Debug, StoreError>) -> ConflictKind {
    match result {
        Err(StoreError::Conflict(Conflict { why, .. })) => why,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

/// Everything an engine has to pass. `open` opens the same store again.
fn conformance(open: &dyn Fn() -> Box<dyn StateStore>) {
    let store = open();
    begins_empty(&*store);
    commits_in_order(&*store);
    compares_and_sets(&*store);
    keeps_nothing_of_a_failed_commit(&*store);
    counts_generations(&*store);
    never_reuses_names(&*store);
    names_by_revision(&*store);
    pages(&*store);
    keeps_members(&*store);
    has_no_gaps_under_threads(&*store);
    follows_its_own_log(&*store);
    let (identity, head) = (store.identity(), store.head().unwrap());
    let before: Vec<_> = store.tail(0, usize::MAX >> 1).unwrap();
    drop(store);
    let again = open();
    assert_eq!((again.identity(), again.head().unwrap()), (identity, head));
    let after = again.tail(0, usize::MAX >> 1).unwrap();
    assert_eq!(before.len(), after.len());
    assert!(after.iter().all(|logged| logged.acknowledged_at.is_some_and(|at| at >= logged.at)));
    follows_its_own_log(&*again);
}

fn begins_empty(store: &dyn StateStore) {
    assert!(!store.identity().epoch.is_none());
    assert_eq!(store.identity().epoch.as_bytes()[..8], 1u64.to_be_bytes());
    assert_eq!(store.head().unwrap().revision, 0);
    assert!(store.tail(0, 10).unwrap().is_empty());
    assert_eq!(store.snapshot(&name("a")).unwrap(), None);
    assert_eq!(store.logged(1).unwrap(), None);
}

fn commits_in_order(store: &dyn StateStore) {
    let first = store.commit(&put("a", &[("x", resource("1")), ("y", resource("1"))]), &[]).unwrap();
    let other = store.commit(&put("b", &[("x", resource("1"))]), &[]).unwrap();
    let third = store.commit(&put("a", &[("x", resource("2"))]), &[]).unwrap();
    assert_eq!([first.revision, other.revision, third.revision], [1, 2, 3]);
    let log = store.tail(0, 10).unwrap();
    let shape: Vec<_> = log.iter().map(|l| (l.revision, l.tenant.as_str(), l.from_revision)).collect();
    assert_eq!(shape, [(1, "a", 0), (2, "b", 0), (3, "a", 1)]);
    assert_eq!(store.tail(2, 10).unwrap()[..], log[2..]);
    assert_eq!(store.tail(0, 2).unwrap()[..], log[..2]);
    assert_eq!(decode_body(&log[0].body).unwrap(), first.changes);
    let image = store.snapshot(&name("a")).unwrap().unwrap();
    assert_eq!(image.position.revision, 3);
    let held: Vec<_> = image.records.iter().map(|r| (r.name.as_str(), r.revision)).collect();
    assert_eq!(held, [("x", 3), ("y", 1)]);
    let (head, cells) = store.cells().unwrap();
    let cells: Vec<_> = cells.iter().map(|cell| (cell.tenant.as_str(), cell.revision)).collect();
    assert_eq!((head.revision, cells), (3, vec![("a", 3), ("b", 2)]));
}

fn compares_and_sets(store: &dyn StateStore) {
    let change = put("a", &[("x", resource("3"))]);
    let held = RecordKind::Resource;
    assert_eq!(
        conflict(store.commit(&change, &[expect(held, "x", Some(1))])),
        ConflictKind::Changed { expected: 1, found: 3 }
    );
    assert_eq!(conflict(store.commit(&change, &[expect(held, "x", None)])), ConflictKind::Exists);
    assert_eq!(conflict(store.commit(&change, &[expect(held, "z", Some(1))])), ConflictKind::Missing);
    let moved = ChangeSet { stands_at: Some(1), ..change.clone() };
    assert!(matches!(store.commit(&moved, &[]), Err(StoreError::Moved { expected: 1, found: 3, .. })));
    let both = [expect(held, "x", Some(3)), expect(held, "z", None)];
    let done = store.commit(&ChangeSet { stands_at: Some(3), ..change }, &both).unwrap();
    assert_eq!(done.revision, 4);
}

fn keeps_nothing_of_a_failed_commit(store: &dyn StateStore) {
    let before = (store.head().unwrap(), store.snapshot(&name("a")).unwrap());
    let gone = Edit::new(RecordKind::Resource, name("never"), None);
    let mut change = put("a", &[("new", resource("1")), ("x", resource("9"))]);
    change.edits.push(gone);
    assert_eq!(conflict(store.commit(&change, &[])), ConflictKind::Missing);
    let twice = put("a", &[("new", resource("1")), ("new", resource("2"))]);
    assert!(matches!(store.commit(&twice, &[]), Err(StoreError::Malformed { .. })));
    let empty = ChangeSet { edits: Vec::new(), ..put("fresh", &[]) };
    assert!(matches!(store.commit(&empty, &[]), Err(StoreError::Malformed { .. })));
    let long = put("a", &[("new", resource(&"x".repeat(1024 * 1024)))]);
    assert!(matches!(store.commit(&long, &[]), Err(StoreError::Malformed { .. })));
    assert_eq!((store.head().unwrap(), store.snapshot(&name("a")).unwrap()), before);
    assert_eq!(store.snapshot(&name("fresh")).unwrap(), None);
}

fn counts_generations(store: &dyn StateStore) {
    let step = |status, reinstates| {
        let mut change = put("a", &[("id", identity(status))]);
        change.edits[0].reinstates = reinstates;
        store.commit(&change, &[]).unwrap().changes[0].generation
    };
    assert_eq!(step(IdentityStatus::Active, false), 1);
    assert_eq!(step(IdentityStatus::Active, false), 1);
    assert_eq!(step(IdentityStatus::Suspended, false), 2);
    assert_eq!(step(IdentityStatus::Active, true), 3);
    assert_eq!(step(IdentityStatus::Active, true), 4);
}

fn never_reuses_names(store: &dyn StateStore) {
    store.commit(&put("a", &[("short", resource("1"))]), &[]).unwrap();
    let edit = Edit::new(RecordKind::Resource, name("short"), None);
    let gone = ChangeSet { tenant: name("a"), stands_at: None, edits: vec![edit] };
    store.commit(&gone, &[]).unwrap();
    let tombstone = store.record(&name("a"), RecordKind::Resource, &name("short")).unwrap().unwrap();
    assert_eq!((tombstone.body, tombstone.revision), (None, store.head().unwrap().revision));
    let again = put("a", &[("short", resource("2"))]);
    assert_eq!(conflict(store.commit(&again, &[])), ConflictKind::Removed);
    assert_eq!(conflict(store.commit(&gone, &[])), ConflictKind::Removed);
    let new = expect(RecordKind::Resource, "short", None);
    assert_eq!(conflict(store.commit(&again, &[new])), ConflictKind::Removed);
}

fn names_by_revision(store: &dyn StateStore) {
    let mut change = put("a", &[("ignored", resource("1"))]);
    change.edits[0].name = EditName::ByRevision;
    let done = store.commit(&change, &[]).unwrap();
    assert_eq!(done.changes[0].name.as_str(), format!("r{}", done.revision));
}

fn pages(store: &dyn StateStore) {
    for place in 0..5 {
        store.commit(&put("paged", &[(&format!("n{place}"), resource("1"))]), &[]).unwrap();
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.page(&name("paged"), RecordKind::Resource, after.as_ref(), 2).unwrap();
        assert!(page.records.len() <= 2);
        seen.extend(page.records.iter().map(|record| record.name.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["n0", "n1", "n2", "n3", "n4"]);
    assert_eq!(store.counts(&name("paged")).unwrap(), [(RecordKind::Resource, 5)]);
}

fn keeps_members(store: &dyn StateStore) {
    let member = StoredMember {
        spoke_id: "edge".into(),
        incarnation: [1; 16],
        deny_after_max: Some(std::time::Duration::from_secs(60)),
        waived: vec!["inbound//healthz".into(), "inbound//x".into()],
        build: "1".into(),
    };
    store.save_member(&member).unwrap();
    store.save_member(&StoredMember { deny_after_max: None, ..member.clone() }).unwrap();
    store.save_member(&StoredMember { incarnation: [2; 16], ..member.clone() }).unwrap();
    store.forget_member("edge", &[2; 16]).unwrap();
    assert_eq!(store.members().unwrap(), [StoredMember { deny_after_max: None, ..member }]);
}

fn has_no_gaps_under_threads(store: &dyn StateStore) {
    let from = store.head().unwrap().revision;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for place in 0..25 {
                    let tenant = format!("t{}", thread % 2);
                    let change = put(&tenant, &[(&format!("r{thread}-{place}"), resource("1"))]);
                    store.commit(&change, &[]).unwrap();
                }
            });
        }
    });
    let revisions: Vec<_> = store.tail(from, 1000).unwrap().iter().map(|l| l.revision).collect();
    assert_eq!(revisions, (from + 1..=from + 100).collect::<Vec<_>>());
}

/// Each cell's log chains from nothing to where the cell stands, and makes what it holds.
fn follows_its_own_log(store: &dyn StateStore) {
    let mut cells: BTreeMap<Name, (u64, [u8; 32])> = BTreeMap::new();
    let mut records: BTreeMap<(Name, RecordKind, Name), (u64, bool)> = BTreeMap::new();
    for logged in store.tail(0, usize::MAX >> 1).unwrap() {
        let (at, hash) = cells.entry(logged.tenant.clone()).or_insert((0, [0; 32]));
        assert_eq!(logged.from_revision, *at);
        *hash = history_hash(hash, logged.revision, &logged.body);
        *at = logged.revision;
        assert_eq!(logged.history_hash, *hash);
        for change in decode_body(&logged.body).unwrap() {
            let key = (logged.tenant.clone(), change.kind, change.name);
            records.insert(key, (change.revision, change.record.is_some()));
        }
    }
    for cell in store.cells().unwrap().1 {
        assert_eq!(cells.remove(&cell.tenant), Some((cell.revision, cell.history_hash)));
        for record in store.snapshot(&cell.tenant).unwrap().unwrap().records {
            let key = (cell.tenant.clone(), record.kind, record.name.clone());
            assert_eq!(records.remove(&key), Some((record.revision, record.body.is_some())));
        }
    }
    assert!(cells.is_empty() && records.is_empty());
}

#[test]
fn sqlite_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hub.db");
    conformance(&|| Box::new(SqliteStore::open(&file, HandClock::new()).unwrap()));
}

fn refused(file: &Path) -> (FaultKind, String) {
    let fault = SqliteStore::open(file, HandClock::new()).unwrap_err();
    let text = fault.to_string();
    assert!(text.contains(fault.kind().remedy()) && text.contains("hub.db"), "{text}");
    (fault.kind(), text)
}

fn filled(file: &Path) {
    let store = SqliteStore::open(file, HandClock::new()).unwrap();
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
    raw.pragma_update(None, "user_version", 2).unwrap();
    drop(raw);
    let (kind, text) = refused(&file);
    assert_eq!(kind, FaultKind::Newer);
    assert!(text.contains("version 2, this build knows 1"), "{text}");
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
    SqliteStore::open(&file, HandClock::new()).unwrap();
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
    let store = SqliteStore::open(&file, HandClock::new()).unwrap();
    let before = (store.head().unwrap(), store.snapshot(&name("a")).unwrap());
    assert!(matches!(store.commit(&put("a", &[("x", resource("1"))]), &[]), Err(StoreError::Fault(_))));
    drop(store);
    let again = SqliteStore::open(&file, HandClock::new()).unwrap();
    assert_eq!((again.head().unwrap(), again.snapshot(&name("a")).unwrap()), before);
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
