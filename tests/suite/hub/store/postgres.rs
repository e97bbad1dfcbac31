//! A store in a real PostgreSQL database: the same list of properties, and what only it can meet.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use portreeve::core::identity::RecordKind;
use portreeve::core::time::Clock as _;
use portreeve::hub::store::{
    ChangeSet, Edit, FaultKind, Guarantee, PeerInForce, PeerMember, PeerStream, PostgresSettings,
    PostgresStore, SqliteStore, StateStore, StoreError, StoredMember,
};

use super::conformance::{conformance, follows_its_own_log, name, put, resource};
use crate::hub::lab::HandClock;
use crate::support::postgres::{FAST, Postgres, shared, through};
use crate::support::until;

fn open(settings: &PostgresSettings) -> PostgresStore {
    PostgresStore::open(settings, HandClock::new()).unwrap()
}

fn fault(error: StoreError) -> (FaultKind, String) {
    match error {
        StoreError::Fault(fault) => (fault.kind(), fault.to_string()),
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn postgres_conforms() {
    let Some(server) = shared() else { return };
    let settings = server.database("conforms");
    conformance(&|| Box::new(open(&settings)));
}

#[test]
fn a_store_that_is_moved_brings_the_names_that_are_never_used_again() {
    let Some(server) = shared() else { return };
    let (settings, directory) = (server.database("moved"), tempfile::tempdir().unwrap());
    let clock = HandClock::new();
    let from = SqliteStore::open(&directory.path().join("hub.db"), clock.clone()).unwrap();
    let edits = |edits: Vec<Edit>| ChangeSet { tenant: name("a"), stands_at: None, edits };
    from.commit(&put("a", &[("gone", resource("1")), ("left", resource("1"))]), &[]).unwrap();
    let removed = ["gone", "left"].map(|it| Edit::new(RecordKind::Resource, name(it), None));
    from.commit(&edits(removed.to_vec()), &[]).unwrap();
    from.commit(&edits(vec![Edit::drop(RecordKind::Resource, name("gone"))]), &[]).unwrap();
    let now = clock.now().wall;
    PostgresStore::fill(&settings, &from.dump().unwrap(), now).unwrap();
    let store = open(&settings);
    assert_eq!(store.dropped(&name("a")).unwrap(), from.dropped(&name("a")).unwrap());
    let again = store.commit(&put("a", &[("gone", resource("2"))]), &[]);
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    // When a record was last changed is not told: it was by then.
    let settled = |before| store.settled(&name("a"), before).unwrap().len();
    let just_after = portreeve::core::time::Timestamp::from_micros(now.as_micros() + 1);
    assert_eq!((settled(now), settled(just_after)), (0, 1));
}

/// What version 2 added is taken away again.
const BACK_TO_VERSION_1: &str = "DROP TABLE portreeve_dropped; DROP INDEX portreeve_record_settled;
    ALTER TABLE portreeve_record DROP COLUMN at_us; UPDATE portreeve_store SET version = 1";

#[test]
fn a_store_of_version_1_is_brought_up() {
    let Some(server) = shared() else { return };
    let settings = server.database("older");
    let seen = |store: &PostgresStore| (store.heartbeat().unwrap(), store.snapshot(&name("a")).unwrap());
    let store = open(&settings);
    store.commit(&put("a", &[("x", resource("1"))]), &[]).unwrap();
    let before = seen(&store);
    drop(store);
    server.psql("older", BACK_TO_VERSION_1);
    let store = open(&settings);
    assert_eq!(seen(&store), before);
    store.commit(&put("a", &[("x", resource("2"))]), &[]).unwrap();
    drop(store);
    open(&settings).commit(&put("a", &[("y", resource("1"))]), &[]).unwrap();
}

#[test]
fn many_may_open_an_empty_database_at_once_and_share_it() {
    let Some(server) = shared() else { return };
    let settings = server.database("shared");
    let stores: Vec<_> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..6).map(|_| scope.spawn(|| open(&settings))).collect();
        opening.into_iter().map(|opened| opened.join().unwrap()).collect()
    });
    let first = stores[0].identity();
    assert!(stores.iter().all(|store| store.identity() == first), "two stores in one database");
    // Everybody commits to the same tenant, and nobody's is lost.
    std::thread::scope(|scope| {
        for (at, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for place in 0..20 {
                    store.commit(&put("a", &[(&format!("n{at}-{place}"), resource("1"))]), &[]).unwrap();
                }
            });
        }
    });
    assert_eq!(stores[1].head().unwrap().revision, 120);
    stores.iter().for_each(|store| follows_its_own_log(store));
    // Only one of those who expect the same is right.
    let moved = |store: &PostgresStore, at| {
        let change = put("a", &[("raced", resource("1"))]);
        let change = portreeve::hub::store::ChangeSet { stands_at: Some(120), ..change };
        (at, store.commit(&change, &[]))
    };
    let raced: Vec<_> = std::thread::scope(|scope| {
        let racing: Vec<_> =
            stores.iter().enumerate().map(|(at, store)| scope.spawn(move || moved(store, at))).collect();
        racing.into_iter().map(|raced| raced.join().unwrap().1).collect()
    });
    assert_eq!(raced.iter().filter(|done| done.is_ok()).count(), 1);
    let lost = raced.iter().filter(|done| matches!(done, Err(StoreError::Moved { found: 121, .. })));
    assert_eq!(lost.count(), 5);
}

/// Within a runtime, where a hub opens its store.
#[tokio::test]
async fn what_cannot_be_used_is_refused_without_the_password() {
    let Some(server) = shared() else { return };
    let settings = server.database("used");
    drop(open(&settings));
    server.psql("used", "UPDATE portreeve_store SET version = 3");
    let newer = PostgresStore::open(&settings, HandClock::new()).unwrap_err();
    assert_eq!(newer.kind(), FaultKind::Newer);
    assert!(newer.to_string().contains("version 3, this build knows 2"), "{newer}");
    server.psql("used", "DROP TABLE portreeve_store; CREATE TABLE portreeve_store (x int)");
    let other = PostgresStore::open(&settings, HandClock::new()).unwrap_err();
    assert_eq!(other.kind(), FaultKind::Damaged);
    let missing = PostgresStore::open(&server.settings("nowhere"), HandClock::new()).unwrap_err();
    assert_eq!(missing.kind(), FaultKind::Denied);
    let gone = PostgresStore::open(&through("/nowhere".as_ref(), "x"), HandClock::new()).unwrap_err();
    assert_eq!(gone.kind(), FaultKind::Unreachable);
    for fault in [newer, other, missing, gone] {
        let text = format!("{fault} {fault:?}");
        assert!(!text.contains("a secret"), "{text}");
        assert!(text.contains("postgresql://portreeve@/"), "{text}");
    }
    assert!(!format!("{settings:?}").contains("a secret"));
}

#[test]
fn a_new_epoch_ends_every_other_handle() {
    let Some(server) = shared() else { return };
    let settings = server.database("epochs");
    let (one, other) = (open(&settings), open(&settings));
    one.commit(&put("a", &[("x", resource("1"))]), &[]).unwrap();
    one.mint_epoch(None).unwrap();
    // The log of the new epoch goes on at the next revision: it is not taken for the old one's.
    open(&settings).commit(&put("a", &[("y", resource("1"))]), &[]).unwrap();
    let refusals = [
        other.tail(1, 10).map(drop).unwrap_err(),
        other.heartbeat().map(drop).unwrap_err(),
        other.commit(&put("a", &[("z", resource("1"))]), &[]).map(drop).unwrap_err(),
        other.put_item("s", "k", b"1", None).map(drop).unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!(fault(refused).0, FaultKind::Superseded);
    }
}

#[test]
fn a_crash_of_the_server_is_survived() {
    // This one is about what is durable.
    let Some(mut server) = Postgres::start("") else { return };
    let settings = server.database("crashes");
    let store = open(&settings);
    store.commit(&put("a", &[("x", resource("1"))]), &[]).unwrap();
    let before = store.heartbeat().unwrap();
    server.crash_and_restart();
    assert_eq!(store.heartbeat().unwrap(), before);
    assert_eq!(store.commit(&put("a", &[("y", resource("1"))]), &[]).unwrap().revision, 2);
    follows_its_own_log(&store);
    server.end(rustix::process::Signal::QUIT);
    let (kind, text) = fault(store.commit(&put("a", &[("z", resource("1"))]), &[]).unwrap_err());
    assert_eq!(kind, FaultKind::Unreachable, "{text}");
}

/// What becomes of a commit on its way to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Wire {
    Whole,
    /// The connection is cut before the server hears of it.
    CutBefore,
    /// The server hears of it, and its answer is lost.
    CutAfter,
}

/// Passes bytes on, and cuts the connection that a marked commit comes on.
fn wire(folder: &std::path::Path, server: std::path::PathBuf, next: Arc<AtomicU8>) {
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = UnixStream::connect(server.join(".s.PGSQL.5432")).unwrap();
            let (mut back, mut to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut to).ok());
            let next = Arc::clone(&next);
            std::thread::spawn(move || pass(client, upstream, &next));
        }
    });
}

fn pass(mut client: UnixStream, mut upstream: UnixStream, next: &AtomicU8) {
    let mut wrote = false;
    let mut bytes = [0; 65536];
    while let Ok(read @ 1..) = client.read(&mut bytes) {
        let message = &bytes[..read];
        wrote |= message.windows(20).any(|it| it == b"portreeve_change\n   ");
        let commits = wrote && message.windows(7).any(|it| it == b"COMMIT\0");
        let fate = if commits { next.swap(Wire::Whole as u8, Ordering::SeqCst) } else { Wire::Whole as u8 };
        if fate == Wire::CutBefore as u8 {
            break;
        }
        if fate == Wire::CutAfter as u8 {
            client.shutdown(std::net::Shutdown::Both).unwrap();
        }
        if upstream.write_all(message).is_err() || fate == Wire::CutAfter as u8 {
            break;
        }
        wrote &= !commits;
    }
    client.shutdown(std::net::Shutdown::Both).ok();
    upstream.shutdown(std::net::Shutdown::Write).ok();
}

#[test]
fn a_commit_whose_answer_is_lost_is_looked_for() {
    let Some(server) = shared() else { return };
    server.database("lost");
    let folder = tempfile::tempdir().unwrap();
    let next = Arc::new(AtomicU8::new(Wire::Whole as u8));
    wire(folder.path(), server.folder.path().to_owned(), Arc::clone(&next));
    let store = open(&through(folder.path(), "lost"));
    let commit = |place: &str| store.commit(&put("a", &[(place, resource("1"))]), &[]);
    commit("first").unwrap();
    next.store(Wire::CutAfter as u8, Ordering::SeqCst);
    let found = commit("second").unwrap();
    assert_eq!(found.revision, 2);
    assert_eq!(next.load(Ordering::SeqCst), Wire::Whole as u8, "no commit was cut");
    assert_eq!(store.logged(2).unwrap().unwrap().revision, 2);
    next.store(Wire::CutBefore as u8, Ordering::SeqCst);
    let (kind, text) = fault(commit("third").unwrap_err());
    assert_eq!(kind, FaultKind::Unreachable);
    assert!(text.contains("nothing of it was kept"), "{text}");
    assert_eq!(next.load(Ordering::SeqCst), Wire::Whole as u8, "no commit was cut");
    assert_eq!(
        store.record(&name("a"), portreeve::core::identity::RecordKind::Resource, &name("third")),
        Ok(None)
    );
    assert_eq!(commit("third").unwrap().revision, 3);
    follows_its_own_log(&store);
}

#[test]
fn hubs_tell_each_other_of_their_members() {
    let Some(server) = shared() else { return };
    let settings = server.database("roster");
    let (one, other) = (open(&settings), open(&settings));
    let member = StoredMember {
        spoke_id: "edge".into(),
        incarnation: [1; 16],
        deny_after_max: Some(std::time::Duration::from_secs(60)),
        waived: vec!["inbound//healthz".into()],
        build: "1".into(),
    };
    one.save_member(&member).unwrap();
    // Until more is told, it may hold anything.
    let [peer] = other.peers().unwrap()[..] else { panic!("one other hub") };
    let [told] = &other.told_by(&peer.id, 0).unwrap()[..] else { panic!("one member") };
    assert_eq!((&told.member, told.stream, &told.in_force[..]), (&member, PeerStream::Live, &[][..]));
    assert_eq!(other.told_by(&peer.id, told.told).unwrap(), [], "told twice");
    let in_force = PeerInForce {
        cell: name("demo"),
        revision: 4,
        kill_revision: 5,
        at: portreeve::core::time::Timestamp::from_seconds(9),
        purged: 1,
        ended_streams: 2,
    };
    let holds = Some(vec![name("demo"), name("other")]);
    let left = PeerMember { stream: PeerStream::Left, holds, in_force: vec![in_force], ..told.clone() };
    one.tell(std::slice::from_ref(&left)).unwrap();
    let [again] = &other.told_by(&peer.id, told.told).unwrap()[..] else { panic!("one member") };
    assert_eq!(*again, PeerMember { told: again.told, ..left.clone() });
    // Both know it: the longest lease that anybody granted is what counts.
    let longer = Some(std::time::Duration::from_secs(90));
    other.save_member(&StoredMember { deny_after_max: longer, ..member.clone() }).unwrap();
    assert_eq!(one.members().unwrap().iter().map(|it| it.deny_after_max).collect::<Vec<_>>(), [longer]);
    let [newer] = &one.told_by(&one.peers().unwrap()[0].id, 0).unwrap()[..] else { panic!("one member") };
    assert!(newer.joined > told.joined, "a later stream is not known as one");
    one.forget_member("edge", &[1; 16]).unwrap();
    one.tell(&[left]).unwrap();
    assert_eq!(other.told_by(&peer.id, again.told).unwrap()[0].stream, PeerStream::Gone);
    one.heartbeat().unwrap();
    assert_eq!(other.peers().unwrap()[0].beats, peer.beats + 1);
    // Whoever is given up for dead serves nobody any more, and leases nothing.
    other.forget_peer(&peer.id).unwrap();
    assert_eq!(fault(one.save_member(&member).unwrap_err()).0, FaultKind::Superseded);
    assert_eq!(fault(one.heartbeat().unwrap_err()).0, FaultKind::Superseded);
}

#[test]
fn without_a_standby_nothing_is_guaranteed() {
    let rows = [
        (FAST, "`fsync` is off"),
        ("", "`synchronous_standby_names` is empty"),
        ("synchronous_commit = off", "`synchronous_standby_names` is empty"),
    ];
    for (lines, expected) in rows {
        let Some(server) = Postgres::start(lines) else { return };
        let store = open(&server.database("alone"));
        match store.guarantee().unwrap() {
            Guarantee::NotGuaranteed(why) => assert!(why.contains(expected), "{lines}: {why}"),
            Guarantee::Holds => panic!("{lines}: guaranteed"),
        }
    }
}

/// Runs `work` while nothing that waits for a standby gets to wait for long.
fn while_cancelling<T: Send>(server: &Postgres, work: impl FnOnce() -> T + Send) -> T {
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        until("it has ended", || {
            server.psql("postgres", cancel);
            working.is_finished()
        });
        working.join().unwrap()
    })
}

#[test]
fn a_primary_without_its_standby_confirms_nothing() {
    let Some(primary) = Postgres::start("") else { return };
    let settings = primary.database("replicated");
    let mut standby = primary.standby("one", "");
    primary.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'one'");
    primary.psql("postgres", "SELECT pg_reload_conf()");
    let store = open(&settings);
    until("the standby is there", || store.guarantee().unwrap() == Guarantee::Holds);
    store.commit(&put("a", &[("kept", resource("1"))]), &[]).unwrap();
    let confirmed = store.heartbeat().unwrap();
    assert_eq!(confirmed.position.revision, 1);
    // The standby takes over, and this one does not know.
    standby.promote();
    let change = put("a", &[("lost", resource("1"))]);
    let (kind, text) = fault(while_cancelling(&primary, || store.commit(&change, &[]).unwrap_err()));
    assert_eq!(kind, FaultKind::Unknown);
    assert!(text.contains("no standby confirmed"), "{text}");
    let (kind, text) = fault(while_cancelling(&primary, || store.heartbeat().unwrap_err()));
    assert_eq!(kind, FaultKind::Unreachable);
    assert!(text.contains("no standby confirmed"), "{text}");
    match store.guarantee().unwrap() {
        Guarantee::NotGuaranteed(why) => {
            assert!(why.contains("no synchronous standby is streaming"), "{why}")
        }
        Guarantee::Holds => panic!("guaranteed by a primary that was deposed"),
    }
    // What was confirmed is what the new primary holds, and nothing else.
    let taken_over = open(&standby.settings("replicated"));
    assert_eq!(taken_over.heartbeat().unwrap(), confirmed);
    assert_eq!(taken_over.commit(&put("a", &[("next", resource("1"))]), &[]).unwrap().revision, 2);
    standby.end(rustix::process::Signal::QUIT);
    drop(primary);
}
