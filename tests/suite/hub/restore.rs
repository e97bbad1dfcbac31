//! A store that is put back: seen at the start by its witness, and gone on from in a new epoch.

use std::path::Path;

use portreeve::core::id::Name;
use portreeve::core::identity::{Record, RevocationTarget};
use portreeve::hub::Hub;
use portreeve::hub::restore::Restoring;
use serde_json::json;

use super::client::Client;
use super::lab::{HandClock, Lab, demo, document, patiently, resource_spec, settings, until};

/// Puts files of one directory in place of another's.
fn put(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        std::fs::remove_file(to.join(name)).ok();
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

const STORE: [&str; 3] = ["hub.db", "hub.db-wal", "hub.db-shm"];
const WITNESS: &str = "hub.witness";
const KEY: &str = "cluster.key";

/// A hub's directory after `edits` changes more than the records it began with.
async fn grown(directory: &Path, edits: usize) {
    let lab = Lab::start(directory, HandClock::new()).await;
    lab.apply(&demo()).await;
    for edit in 0..edits {
        changed(&lab, &format!("edit-{edit}")).await;
    }
    lab.stop().await;
}

async fn changed(lab: &Lab, name: &str) {
    lab.apply(&[document("resource", name, resource_spec())]).await;
}

/// What a hub on this directory says at its start; empty: it starts.
fn starts(directory: &Path) -> String {
    patiently(|| Hub::open(settings(directory), HandClock::new()))
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default()
}

fn empty_witness(directory: &Path) {
    std::fs::remove_file(directory.join(WITNESS)).unwrap();
}

/// Overwrites the whole or the newer slot of a witness.
fn damage(directory: &Path, slots: &[usize]) {
    let file = directory.join(WITNESS);
    let mut bytes = std::fs::read(&file).unwrap();
    slots.iter().for_each(|slot| bytes[slot * 4096 + 30] ^= 1);
    std::fs::write(&file, bytes).unwrap();
}

/// The slot that was written last, by its turn.
fn newest(directory: &Path) -> usize {
    let bytes = std::fs::read(directory.join(WITNESS)).unwrap();
    let turn = |slot: usize| -> u64 {
        let text = std::str::from_utf8(&bytes[slot * 4096..(slot + 1) * 4096]).unwrap();
        text.split(' ').nth(2).unwrap().parse().unwrap_or(0)
    };
    usize::from(turn(1) > turn(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_witness_says_against_a_store() {
    let behind = "portreeve hub restore";
    type Mangle = fn(&Path, &Path, &Path);
    // What is done with the newest directory, an older copy of it, and another cluster's.
    let rows: [(&str, Mangle, &[&str]); 12] = [
        ("nothing", |_, _, _| {}, &[]),
        ("an older store", |now, old, _| put(old, now, &STORE), &["signed revision 3", "ends at 1", behind]),
        ("an older witness", |now, old, _| put(old, now, &[WITNESS]), &[]),
        (
            "both older: nobody can know here",
            |now, old, _| put(old, now, &[STORE[0], STORE[1], STORE[2], WITNESS]),
            &[],
        ),
        (
            "no store",
            |now, _, other| put(&other.join("nowhere"), now, &STORE),
            &["hub.db", "it is not there", "hub.witness", behind],
        ),
        ("no witness", |now, _, _| empty_witness(now), &[]),
        ("its newer slot torn", |now, _, _| damage(now, &[newest(now)]), &[]),
        (
            "its newer slot torn and the store older",
            |now, old, _| {
                damage(now, &[newest(now)]);
                put(old, now, &STORE);
            },
            &["signed revision 2", behind],
        ),
        ("both slots damaged", |now, _, _| damage(now, &[0, 1]), &["neither slot"]),
        ("cut off", |now, _, _| std::fs::write(now.join(WITNESS), b"portreeve").unwrap(), &["neither slot"]),
        ("another cluster's", |now, _, other| put(other, now, &[WITNESS]), &["cluster.key"]),
        (
            "another cluster's, key and all",
            |now, _, other| put(other, now, &[WITNESS, KEY]),
            &["another cluster's store", "hub.witness"],
        ),
    ];
    for (what, mangle, told) in rows {
        let [now, old, other] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        grown(now.path(), 0).await;
        put(now.path(), old.path(), &[STORE[0], STORE[1], STORE[2], WITNESS]);
        let lab = Lab::start(now.path(), HandClock::new()).await;
        changed(&lab, "a").await;
        changed(&lab, "b").await;
        lab.stop().await;
        grown(other.path(), 1).await;
        mangle(now.path(), old.path(), other.path());
        let stood = now.path().join(STORE[0]).exists();
        let said = starts(now.path());
        assert_eq!(now.path().join(STORE[0]).exists(), stood, "{what}: a store was made");
        assert_eq!(said.is_empty(), told.is_empty(), "{what}: {said}");
        assert!(told.iter().all(|part| said.contains(part)), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_at_the_revision_witnessed_is_refused() {
    let [now, old, mine] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    grown(now.path(), 0).await;
    put(now.path(), old.path(), &STORE);
    let lab = Lab::start(now.path(), HandClock::new()).await;
    changed(&lab, "a").await;
    lab.stop().await;
    put(now.path(), mine.path(), &[WITNESS]);
    // Put back, its witness taken away, and gone on as if nothing had been.
    put(old.path(), now.path(), &STORE);
    empty_witness(now.path());
    for (edit, said) in [("other", "another history"), ("more", "another history")] {
        let lab = Lab::start(now.path(), HandClock::new()).await;
        changed(&lab, edit).await;
        lab.stop().await;
        let kept = tempfile::tempdir().unwrap();
        put(now.path(), kept.path(), &[WITNESS]);
        put(mine.path(), now.path(), &[WITNESS]);
        assert!(starts(now.path()).contains(said), "{edit}");
        put(kept.path(), now.path(), &[WITNESS]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_is_held_by_one() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    grown(two.path(), 0).await;
    let lab = Lab::start(one.path(), HandClock::new()).await;
    let shared = portreeve::hub::HubSettings { witness: one.path().join(WITNESS), ..settings(two.path()) };
    std::fs::copy(one.path().join(KEY), two.path().join(KEY)).unwrap();
    let refused = Hub::open(shared, HandClock::new()).unwrap_err().to_string();
    assert!(refused.contains("hub.witness") && refused.contains("another process"), "{refused}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_witnessed_before_anybody_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    lab.apply(&demo()).await;
    let (_, status) = lab.ask("GET", "/v1/status", None).await;
    let witness = &status["witness"];
    assert_eq!((&witness["revision"], &status["revision"]), (&json!(1), &json!(1)));
    assert_eq!((&witness["present"], &witness["apart"]), (&json!(true), &json!(false)));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_put_back_is_gone_on_from_in_a_new_epoch_and_no_revocation_is_lost() {
    let [directory, backup, folder] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let here = directory.path();
    grown(here, 0).await;
    put(here, backup.path(), &STORE);
    let lab = Lab::start(here, HandClock::new()).await;
    let client = Client::start(folder.path(), &format!("http://{}", lab.stream), &lab.clock);
    client.confirmed().await;
    let revoked = lab.revoke("ledger").await;
    let revision = revoked["revision"].as_u64().unwrap();
    lab.until_answer(&format!("/v1/revisions/{revision}/receipts"), |receipt| {
        receipt["members"][0]["signed"].is_object()
    })
    .await;
    client.stop().await;
    lab.stop().await;
    put(backup.path(), here, &STORE);
    assert!(starts(here).contains("portreeve hub restore"));

    // Looking changes nothing.
    let look = patiently(|| Restoring::open(settings(here), &[], HandClock::new())).unwrap();
    let found = look.found().clone();
    assert_eq!((found.commits_lost(), found.head.revision), (Some(1), 1));
    drop(look);
    assert!(starts(here).contains("portreeve hub restore"));
    let minted =
        patiently(|| Restoring::open(settings(here), &[], HandClock::new())).unwrap().begin().unwrap();
    assert!(minted.position > found.witnessed.unwrap());
    assert_eq!((minted.parent, minted.position.revision), (found.head, 2));

    let lab = Lab::start(here, HandClock::new()).await;
    let client = Client::start(folder.path(), &format!("http://{}", lab.stream), &lab.clock);
    let demo_cell = Name::parse("demo").unwrap();
    until("the new epoch is in force", || {
        client.state.load().cell(&demo_cell).is_some_and(|held| held.epoch == minted.position.epoch)
    })
    .await;
    client.confirmed().await;
    let carried = client.state.load().carried(&demo_cell);
    let kills_ledger = |record: &Option<Record>| match record {
        Some(Record::Revocation(revocation)) => match &revocation.target {
            RevocationTarget::Identity { identity, .. } => identity.as_str() == "ledger",
            _ => false,
        },
        _ => false,
    };
    assert!(carried.iter().any(|change| kills_ledger(&change.record)), "{carried:?}");
    lab.until_answer("/v1/fleet", |fleet| fleet["members"][0]["carried_kills"] == json!(1)).await;
    // What was confirmed of it says nothing any more.
    let (status, void) = lab.ask("GET", &format!("/v1/revisions/{revision}/receipts"), None).await;
    assert_eq!((status, &void["state"]), (200, &json!("VOID")), "{void:#}");
    assert_eq!((&void["committed_at"], &void["effective_by"]), (&json!(null), &json!(null)));
    let (_, older) = lab.ask("GET", "/v1/revisions/1/receipts", None).await;
    assert_eq!((&older["state"], &older["members"]), (&json!("VOID"), &json!([])));
    let (status, beyond) = lab.ask("GET", "/v1/revisions/3/receipts", None).await;
    assert_eq!(status, 404, "{beyond:#}");
    // Neither does a suspension that ends lift it: nobody named it.
    for to in ["suspended", "active"] {
        let body = json!({ "status": to, "reason": "x" });
        assert_eq!(lab.ask("POST", "/v1/tenants/demo/identity/ledger/status", Some(body)).await.0, 200);
    }
    let ledger = Name::parse("ledger").unwrap();
    until("the third generation is in force", || {
        client.state.load().identity(&demo_cell, &ledger).is_some_and(|held| held.generation == 3)
    })
    .await;
    assert_eq!(client.state.load().carried(&demo_cell), carried);
    // Restated, it is nobody's to carry.
    lab.revoke("ledger").await;
    until("nothing is carried", || client.state.load().carried(&demo_cell).is_empty()).await;
    client.stop().await;
    lab.stop().await;
    // The lineage goes on, and is witnessed.
    assert_eq!(starts(here), "");
    put(backup.path(), here, &STORE);
    assert!(starts(here).contains("which was left"), "{}", starts(here));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restoration_needs_what_it_restores() {
    let [directory, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let here = directory.path();
    let refused =
        |here: &Path| Restoring::open(settings(here), &[], HandClock::new()).unwrap_err().to_string();
    assert!(refused(here).contains("put the backup there"), "{}", refused(here));
    assert!(!here.join("hub.db").exists(), "nothing was made");
    grown(here, 0).await;
    let lab = Lab::start(here, HandClock::new()).await;
    assert!(refused(here).contains("stop the other hub"), "{}", refused(here));
    lab.stop().await;
    // A witness that another hub kept of the same store counts as well.
    put(here, other.path(), &[STORE[0], STORE[1], STORE[2], KEY]);
    let lab = Lab::start(other.path(), HandClock::new()).await;
    changed(&lab, "a").await;
    lab.stop().await;
    let witness = other.path().join(WITNESS);
    let both =
        patiently(|| Restoring::open(settings(here), std::slice::from_ref(&witness), HandClock::new()))
            .unwrap();
    assert_eq!((both.found().commits_lost(), both.found().against.is_some()), (Some(1), true));
    drop(both);
    // An empty store where the backup should be: of another cluster, and not gone on from.
    let kept = tempfile::tempdir().unwrap();
    put(here, kept.path(), &STORE);
    for file in STORE {
        std::fs::remove_file(here.join(file)).ok();
    }
    std::fs::write(here.join("hub.db"), b"").unwrap();
    let empty = patiently(|| Restoring::open(settings(here), &[], HandClock::new())).unwrap_err().to_string();
    assert!(empty.contains("another cluster's store"), "{empty}");
    put(kept.path(), here, &STORE);
    std::fs::remove_file(here.join(KEY)).unwrap();
    assert!(refused(here).contains("cluster's own key"), "{}", refused(here));
}
