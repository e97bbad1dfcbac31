//! Everything an engine has to pass: one list of properties, run against each.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use portreeve::core::id::{Name, Position};
use portreeve::core::identity::{
    Identity, IdentityStatus, IdentityType, Owner, Record, RecordKind, Resource, Revocation, RevocationTarget,
};
use portreeve::core::time::Timestamp;
use portreeve::hub::store::{
    ChangeSet, Conflict, ConflictKind, Edit, EditName, Expect, FaultKind, Head, ITEM_BYTES_MAX, ItemConflict,
    StateStore, StoreError, StoredMember, StoredReceipt, StoredRecord, global_hash,
};
use portreeve::wire::state::{decode_body, history_hash};

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(super) fn resource(environment: &str) -> Record {
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

pub(super) fn put(tenant: &str, edits: &[(&str, Record)]) -> ChangeSet {
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
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn StateStore>) {
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
    keeps_items(&*store);
    keeps_receipts(&*store);
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
    trims(&*again);
    lets_go(&*again);
    begins_epochs(again, open);
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

fn item_conflict(result: Result<impl std::fmt::Debug, StoreError>) -> (Option<u64>, Option<u64>) {
    match result {
        Err(StoreError::Item(ItemConflict { expected, found, .. })) => (expected, found),
        other => panic!("expected an item's conflict, got {other:?}"),
    }
}

fn keeps_items(store: &dyn StateStore) {
    let first = store.put_item("s", "b", b"1", None).unwrap();
    assert_eq!(item_conflict(store.put_item("s", "b", b"2", None)), (None, Some(first)));
    let second = store.put_item("s", "b", b"2", Some(first)).unwrap();
    assert!(second > first);
    assert_eq!(item_conflict(store.put_item("s", "b", b"3", Some(first))), (Some(first), Some(second)));
    assert_eq!(item_conflict(store.remove_item("s", "b", first)), (Some(first), Some(second)));
    let other = store.put_item("s", "a", b"", None).unwrap();
    store.put_item("t", "a", b"elsewhere", None).unwrap();
    let held: Vec<_> = store.items("s").unwrap().into_iter().map(|i| (i.key, i.value, i.version)).collect();
    assert_eq!(held, [("a".into(), Bytes::new(), other), ("b".into(), Bytes::from_static(b"2"), second)]);
    store.remove_item("s", "b", second).unwrap();
    assert_eq!(store.item("s", "b").unwrap(), None);
    assert_eq!(item_conflict(store.put_item("s", "b", b"4", Some(second))), (Some(second), None));
    assert!(store.put_item("s", "b", b"4", None).unwrap() > second, "a version came back");
    assert_eq!(store.item("s", "b").unwrap().unwrap().value, "4");
    store.put_item("s", "long", &vec![0; ITEM_BYTES_MAX], None).unwrap();
    let long = store.put_item("s", "longer", &vec![0; ITEM_BYTES_MAX + 1], None);
    assert!(matches!(long, Err(StoreError::ItemTooLong { .. })));
    assert_eq!(store.item("s", "longer").unwrap(), None);
}

fn receipt(revision: u64, incarnation: u8, purged: u64) -> StoredReceipt {
    StoredReceipt {
        revision,
        spoke_id: "edge".into(),
        incarnation: [incarnation; 16],
        at: Timestamp::from_seconds(5),
        in_force: revision,
        purged,
        ended_streams: 3,
        ack: Bytes::from_static(b"ack"),
        signature: Bytes::from_static(b"signature"),
        key: [7; 32],
        voided: false,
    }
}

fn keeps_receipts(store: &dyn StateStore) {
    store.save_receipts(&[receipt(9, 1, 1), receipt(9, 2, 2), receipt(10, 1, 1)]).unwrap();
    // The first says when it was first known.
    store.save_receipts(&[receipt(9, 1, 99), receipt(9, 3, 3)]).unwrap();
    let held = store.receipts(9).unwrap();
    assert_eq!(held, [receipt(9, 1, 1), receipt(9, 2, 2), receipt(9, 3, 3)]);
    let bad = StoredReceipt { in_force: u64::MAX, ..receipt(11, 2, 2) };
    store.save_receipts(&[receipt(11, 1, 1), bad]).unwrap_err();
    assert_eq!(store.receipts(11).unwrap(), [], "a batch was kept in part");
}

fn trims(store: &dyn StateStore) {
    let head = store.head().unwrap().revision;
    assert_eq!(store.oldest().unwrap(), 1);
    store.trim(5).unwrap();
    assert_eq!(store.oldest().unwrap(), 5);
    for (asked, held) in [(3, false), (4, true), (5, true)] {
        let first = store.tail(asked, 1).map(|found| found[0].revision);
        let expected = if held { Ok(asked + 1) } else { Err(StoreError::Compacted { oldest: 5 }) };
        assert_eq!(first, expected, "after {asked}");
    }
    assert_eq!(store.logged(4), Err(StoreError::Compacted { oldest: 5 }));
    assert_eq!(store.logged(5).unwrap().unwrap().revision, 5);
    assert_eq!((store.logged(0).unwrap(), store.logged(head + 1).unwrap()), (None, None));
    store.trim(2).unwrap();
    assert_eq!(store.oldest().unwrap(), 5, "what went does not come back");
    let before = store.heartbeat().unwrap();
    store.trim(u64::MAX).unwrap();
    assert_eq!((store.oldest().unwrap(), store.heartbeat().unwrap()), (head + 1, before));
    assert_eq!(store.tail(head, 10).unwrap(), []);
    let next = store.commit(&put("a", &[("after", resource("1"))]), &[]).unwrap().revision;
    let logged = &store.tail(head, 10).unwrap()[0];
    assert_eq!((logged.revision, next), (head + 1, head + 1));
    let chained = global_hash(&before.global_hash, "a", &logged.history_hash);
    assert_eq!(logged.global_hash, chained);
}

fn revocation() -> Record {
    Record::Revocation(Arc::new(Revocation {
        target: RevocationTarget::Credential(name("k")),
        reason: "r".into(),
        requested_by: "t".into(),
        at: Timestamp::from_seconds(1),
    }))
}

/// Only tombstones and revocations are let go of, once the log no longer speaks of them; and of all but
/// revocations the name is kept.
fn lets_go(store: &dyn StateStore) {
    let tenant = name("let-go");
    let now = || store.record(&tenant, RecordKind::Resource, &name("live")).unwrap().unwrap().revision;
    let commit =
        |edits: Vec<Edit>| store.commit(&ChangeSet { tenant: tenant.clone(), stands_at: None, edits }, &[]);
    let mut change = put("let-go", &[("gone", resource("1")), ("live", resource("1"))]);
    change.edits.push(Edit::new(RecordKind::Revocation, name("r1"), Some(revocation())));
    store.commit(&change, &[]).unwrap();
    commit(vec![Edit::new(RecordKind::Resource, name("gone"), None)]).unwrap();
    let far = Timestamp::from_seconds(1 << 40);
    let named = |records: Vec<StoredRecord>| -> Vec<String> {
        records.iter().map(|record| record.name.to_string()).collect()
    };
    assert_eq!(named(store.settled(&tenant, far).unwrap()), Vec::<String>::new(), "the log speaks of them");
    store.trim(u64::MAX).unwrap();
    let settled = store.settled(&tenant, far).unwrap();
    assert_eq!(settled, store.settled(&tenant, far).unwrap());
    let mut names = named(settled);
    names.sort();
    assert_eq!(names, ["gone", "r1"]);
    assert_eq!(
        named(store.settled(&tenant, Timestamp::from_micros(i64::MIN)).unwrap()),
        Vec::<String>::new()
    );
    assert_eq!(named(store.settled(&name("b"), far).unwrap()), Vec::<String>::new(), "of another tenant");
    // What is live, was never there, or is gone already is not let go of.
    let live = commit(vec![Edit::drop(RecordKind::Resource, name("live"))]);
    assert!(matches!(live, Err(StoreError::Malformed { .. })), "{live:?}");
    let never = commit(vec![Edit::drop(RecordKind::Resource, name("never"))]);
    assert_eq!(conflict(never), ConflictKind::Missing);
    assert_eq!(now(), store.snapshot(&tenant).unwrap().unwrap().position.revision - 1);
    let drops = || {
        commit(vec![
            Edit::drop(RecordKind::Resource, name("gone")),
            Edit::drop(RecordKind::Revocation, name("r1")),
        ])
    };
    let done = drops().unwrap();
    assert!(done.changes.iter().all(|change| change.dropped && change.record.is_none()));
    assert_eq!(decode_body(&store.logged(done.revision).unwrap().unwrap().body).unwrap(), done.changes);
    assert_eq!(conflict(drops()), ConflictKind::Removed);
    assert_eq!(named(store.snapshot(&tenant).unwrap().unwrap().records), ["live"]);
    assert_eq!(store.counts(&tenant).unwrap(), [(RecordKind::Resource, 1)]);
    assert_eq!(named(store.settled(&tenant, far).unwrap()), Vec::<String>::new());
    let kept = store.dropped(&tenant).unwrap();
    let held: Vec<_> = kept.iter().map(|it| (it.name.as_str(), it.generation, it.dropped)).collect();
    assert_eq!(held, [("gone", 1, true)]);
    assert_eq!(store.record(&tenant, RecordKind::Resource, &name("gone")).unwrap().as_ref(), kept.first());
    assert_eq!(store.record(&tenant, RecordKind::Revocation, &name("r1")).unwrap(), None);
    let again = store.commit(&put("let-go", &[("gone", resource("2"))]), &[]);
    assert_eq!(conflict(again), ConflictKind::Removed, "a name that was let go of was used again");
}

/// After a restore: above what anybody saw, from a parent that is named, with nothing promised.
fn begins_epochs(store: Box<dyn StateStore>, open: &dyn Fn() -> Box<dyn StateStore>) {
    let before = store.heartbeat().unwrap();
    assert_eq!(store.identity().parent, None);
    let seen = Position { revision: before.position.revision + 7, ..before.position };
    let minted = store.mint_epoch(Some(seen)).unwrap();
    assert_eq!((minted.parent, minted.position.revision, minted.voided), (before.position, seen.revision, 4));
    assert!(minted.position.epoch > before.position.epoch);
    let superseded = store.commit(&put("a", &[("late", resource("1"))]), &[]);
    match superseded {
        Err(StoreError::Fault(fault)) => assert_eq!(fault.kind(), FaultKind::Superseded),
        other => panic!("an older lineage took a commit: {other:?}"),
    }
    drop(store);
    let store = open();
    let identity = store.identity();
    assert_eq!((identity.epoch, identity.parent), (minted.position.epoch, Some(before.position)));
    let head = store.heartbeat().unwrap();
    assert_eq!(head.position, minted.position);
    assert_ne!(head.global_hash, before.global_hash);
    assert!(store.receipts(9).unwrap().iter().all(|receipt| receipt.voided));
    assert_eq!(store.oldest().unwrap(), seen.revision + 1);
    let next = store.commit(&put("a", &[("anew", resource("1"))]), &[]).unwrap();
    assert_eq!(next.revision, seen.revision + 1);
    let again = store.mint_epoch(None).unwrap();
    assert_eq!((again.position.revision, again.voided), (next.revision, 0));
    assert!(again.position.epoch > minted.position.epoch);
}

/// Each cell's log chains from nothing to where the cell stands, and makes what it holds.
pub(super) fn follows_its_own_log(store: &dyn StateStore) {
    let mut global = [0; 32];
    let mut cells: BTreeMap<Name, (u64, [u8; 32])> = BTreeMap::new();
    let mut records: BTreeMap<(Name, RecordKind, Name), (u64, bool)> = BTreeMap::new();
    for logged in store.tail(0, usize::MAX >> 1).unwrap() {
        let (at, hash) = cells.entry(logged.tenant.clone()).or_insert((0, [0; 32]));
        assert_eq!(logged.from_revision, *at);
        *hash = history_hash(hash, logged.revision, &logged.body);
        *at = logged.revision;
        assert_eq!(logged.history_hash, *hash);
        global = global_hash(&global, logged.tenant.as_str(), hash);
        assert_eq!(logged.global_hash, global);
        for change in decode_body(&logged.body).unwrap() {
            let key = (logged.tenant.clone(), change.kind, change.name);
            match change.dropped {
                true => records.remove(&key),
                false => records.insert(key, (change.revision, change.record.is_some())),
            };
        }
    }
    assert_eq!(store.heartbeat().unwrap(), Head { position: store.head().unwrap(), global_hash: global });
    for cell in store.cells().unwrap().1 {
        assert_eq!(cells.remove(&cell.tenant), Some((cell.revision, cell.history_hash)));
        for record in store.snapshot(&cell.tenant).unwrap().unwrap().records {
            let key = (cell.tenant.clone(), record.kind, record.name.clone());
            assert_eq!(records.remove(&key), Some((record.revision, record.body.is_some())));
        }
    }
    assert!(cells.is_empty() && records.is_empty());
}
