//! Several hubs over one real database: each serves, each writes, and what one knows the others count in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portreeve::core::id::Name;
use portreeve::core::identity::IdentityStatus;
use portreeve::hub::copy::copy;
use portreeve::hub::store::PostgresSettings;
use portreeve::hub::{Hub, HubSettings, StoreSettings};
use portreeve::wire::state_proto::PlanKind;
use portreeve::wire::state_proto::hub_message::Message as Down;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::lab::{HandClock, Lab, demo, document, identity_spec, settings, until};
use super::stream::{MINUTE, Spoke, hello};
use crate::support::PATIENCE;
use crate::support::postgres::{Postgres, shared};

fn over(directory: &Path, database: &PostgresSettings) -> HubSettings {
    HubSettings { store: StoreSettings::Postgres(database.clone()), ..settings(directory) }
}

fn copy_key(from: &TempDir, to: &TempDir) {
    std::fs::copy(from.path().join("cluster.key"), to.path().join("cluster.key")).unwrap();
}

/// Two hubs over one new database.
struct Pair {
    one: Lab,
    other: Lab,
    clock: Arc<HandClock>,
    _folders: [TempDir; 2],
}

impl Pair {
    async fn start(server: &Postgres, name: &str) -> Self {
        let database = server.database(name);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let clock = HandClock::new();
        let one = Lab::start_with(over(folders[0].path(), &database), clock.clone()).await;
        copy_key(&folders[0], &folders[1]);
        let other = Lab::start_with(over(folders[1].path(), &database), clock.clone()).await;
        Self { one, other, clock, _folders: folders }
    }

    async fn stop(self) {
        self.one.stop().await;
        self.other.stop().await;
    }
}

fn receipts(revoked: &Value) -> String {
    format!("/v1/tenants/demo/revocations/{}/receipts", revoked["name"].as_str().unwrap())
}

async fn stands(lab: &Lab, path: &str) -> (Value, Value) {
    let answer = lab.ask("GET", path, None).await.1;
    (answer["state"].clone(), answer["members"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_another_key_does_not_start() {
    let Some(server) = shared() else { return };
    let database = server.database("keys");
    let (first, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lab = Lab::start_with(over(first.path(), &database), HandClock::new()).await;
    let open = |folder: &TempDir| Hub::open(over(folder.path(), &database), HandClock::new());
    let missing = open(&next).unwrap_err().to_string();
    assert!(missing.contains("cluster.key") && missing.contains("copy `cluster.key`"), "{missing}");
    assert!(!next.path().join("cluster.key").exists(), "a key was made for a cluster that has one");
    // One that was made for another cluster.
    let elsewhere = tempfile::tempdir().unwrap();
    drop(Hub::open(settings(elsewhere.path()), HandClock::new()).unwrap());
    copy_key(&elsewhere, &next);
    let another = open(&next).unwrap_err().to_string();
    assert!(another.contains("another key") && another.contains("copy `cluster.key`"), "{another}");
    copy_key(&first, &next);
    drop(open(&next).unwrap());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_hub_commits_the_other_serves_judges_and_counts() {
    let Some(server) = shared() else { return };
    let pair = Pair::start(&server, "pair").await;
    let Pair { one, other, clock, .. } = &pair;
    one.apply(&demo()).await;
    // Judged against what the other hub committed, with names and generations of one store.
    other.apply(&[document("identity", "third", identity_spec("third"))]).await;
    let (status, third) = one.ask("GET", "/v1/tenants/demo/identity/third", None).await;
    assert_eq!((status, &third["revision"]), (200, &json!(2)), "{third:#}");
    let mut edge = Spoke::connect(other, hello("edge", 1, MINUTE)).await;
    edge.welcome().await;
    edge.beat(1).await;
    edge.acknowledge().await;

    // Nobody is connected here, and yet somebody is waited for.
    let revoked = one.revoke("ledger").await;
    let path = receipts(&revoked);
    assert_eq!(revoked["state"], "PENDING", "{revoked:#}");
    assert_eq!(revoked["members"][0]["spoke_id"], "edge");
    assert!(!revoked["effective_by"].is_null());
    edge.beat(2).await;
    assert_eq!(stands(one, &path).await.0, "PENDING", "told and not acknowledged");
    edge.acknowledge().await;
    for lab in [one, other] {
        lab.until_answer(&path, |receipt| {
            receipt["state"] == "EFFECTIVE" && !receipt["members"][0]["signed"].is_null()
        })
        .await;
    }
    let here = one.ask("GET", &path, None).await.1;
    let there = other.ask("GET", &path, None).await.1;
    for field in ["committed_at", "effective_by", "revision"] {
        assert_eq!(here[field], there[field], "{field}");
    }
    // A change that denies nothing is counted by what its hub tells.
    let applied = one.apply(&[document("identity", "fourth", identity_spec("fourth"))]).await;
    let path = format!("/v1/revisions/{}/receipts", applied["tenants"][0]["revision"]);
    assert_eq!(stands(one, &path).await.0, "PENDING");
    edge.beat(3).await;
    edge.acknowledge().await;
    one.until_answer(&path, |receipt| receipt["members"][0]["state"] == "in_force").await;

    // One that never acknowledges is waited for until its lease is over, and not less.
    let revoked = one.revoke("batch").await;
    let path = receipts(&revoked);
    clock.pass(MINUTE);
    assert_eq!(stands(one, &path).await.0, "PENDING");
    clock.pass(Duration::from_secs(1));
    let (state, members) = stands(one, &path).await;
    assert_eq!((state, &members[0]["state"]), (json!("EFFECTIVE"), &json!("lapsed")), "{members:#}");
    // It says goodbye there: nobody waits for it here.
    edge.beat(4).await;
    drop(edge);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_one_hub_gives_reaches_a_stream_of_the_other() {
    let Some(server) = shared() else { return };
    let pair = Pair::start(&server, "scope").await;
    pair.one.apply(&demo()).await;
    let mut edge = Spoke::connect(&pair.other, hello("edge", 1, MINUTE)).await;
    edge.welcome().await;
    edge.beat(1).await;
    let next = async |edge: &mut Spoke, body: Value| {
        let (status, set) = pair.one.ask("PUT", "/v1/fleet/edge/scope", Some(body)).await;
        assert_eq!(status, 200, "{set:#}");
        let Down::Plan(plan) = edge.next().await.unwrap() else { panic!("no plan") };
        assert_eq!((&*plan.cell, json!(plan.scope_version)), ("demo", set["scope_version"].clone()));
        plan.kind()
    };
    assert_eq!(next(&mut edge, json!({ "tenants": [] })).await, PlanKind::Withdrawn);
    assert_eq!(next(&mut edge, json!({ "tenants": ["demo"] })).await, PlanKind::Repair);
    // And who is removed at one hub is turned away by the other.
    assert_eq!(pair.one.ask("DELETE", "/v1/fleet/edge", None).await.0, 200);
    assert_eq!(edge.end().await.code(), tonic::Code::PermissionDenied);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_at_another_hub_ends_the_older_one() {
    let Some(server) = shared() else { return };
    let pair = Pair::start(&server, "fenced").await;
    let Pair { one, other, clock, .. } = &pair;
    one.apply(&demo()).await;
    let mut older = Spoke::connect(one, hello("edge", 1, MINUTE)).await;
    older.welcome().await;
    older.beat(1).await;
    let mut newer = Spoke::connect(other, hello("edge", 1, MINUTE)).await;
    newer.welcome().await;
    assert_eq!(older.end().await.code(), tonic::Code::Aborted);
    // It may have been a copy: the newer one's word is not enough while the older one's lease runs.
    let revoked = other.revoke("ledger").await;
    let path = receipts(&revoked);
    newer.beat(1).await;
    newer.acknowledge().await;
    one.until_answer("/v1/fleet", |fleet| {
        fleet["members"][0]["cells"][0]["kill_revision"] == revoked["revision"]
    })
    .await;
    for lab in [one, other] {
        assert_eq!(stands(lab, &path).await.0, "PENDING", "a copy is not waited for");
    }
    clock.pass(MINUTE + Duration::from_secs(1));
    newer.beat(2).await;
    newer.acknowledge().await;
    for lab in [one, other] {
        lab.until_answer(&path, |receipt| receipt["state"] == "EFFECTIVE").await;
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_racing_edit_at_another_hub_revives_what_was_taken_away() {
    let Some(server) = shared() else { return };
    let pair = Pair::start(&server, "races").await;
    let Pair { one, other, .. } = &pair;
    one.apply(&demo()).await;
    for turn in 0..12 {
        let name = format!("id-{turn}");
        one.apply(&[document("identity", &name, identity_spec(&name))]).await;
        let suspend = json!({ "status": "suspended", "reason": "race" });
        let path = format!("/v1/tenants/demo/identity/{name}/status");
        let mut spec = identity_spec(&name);
        spec["ticket"] = json!("OPS-1");
        let edits = async {
            for _ in 0..4 {
                spec["ticket"] = json!(format!("OPS-{turn}"));
                other.apply(&[document("identity", &name, spec.clone())]).await;
            }
        };
        let ((status, answer), ()) = tokio::join!(one.ask("POST", &path, Some(suspend)), edits);
        assert_eq!(status, 200, "{answer:#}");
        for lab in [one, other] {
            let held = lab.ask("GET", &format!("/v1/tenants/demo/identity/{name}"), None).await.1;
            assert_eq!(held["spec"]["status"], "suspended", "{held:#}");
            assert_eq!(held["spec"]["ticket"], format!("OPS-{turn}"), "an edit was lost");
        }
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_moved_from_sqlite_and_revokes_on() {
    let Some(server) = shared() else { return };
    let database = server.database("moved");
    let (folder, clock) = (tempfile::tempdir().unwrap(), HandClock::new());
    let (from, to) = (settings(folder.path()), over(folder.path(), &database));
    let old = Lab::start(folder.path(), clock.clone()).await;
    old.apply(&demo()).await;
    let revoked = old.revoke("ledger").await;
    let mut edge = Spoke::connect(&old, hello("edge", 1, MINUTE)).await;
    edge.welcome().await;
    edge.beat(1).await;
    edge.acknowledge().await;
    let have = edge.positions();
    let running = copy(&from, &to, clock.clone()).unwrap_err().to_string();
    assert!(running.contains("stop the other hub"), "{running}");
    drop(edge);
    old.stop().await;
    let copied = copy(&from, &to, clock.clone()).unwrap();
    assert_eq!((copied.minted.position.revision, copied.minted.parent.revision), (2, 2));
    assert!(copied.minted.position.epoch > copied.minted.parent.epoch);
    let twice = copy(&from, &to, clock.clone()).unwrap_err().to_string();
    assert!(twice.contains("holds a store already"), "{twice}");

    let new = Lab::start_with(to, clock.clone()).await;
    let name = revoked["name"].as_str().unwrap();
    assert_eq!(new.ask("GET", &format!("/v1/tenants/demo/revocation/{name}"), None).await.0, 200);
    // Its lease may still run, though it has not come back.
    let next = new.revoke("batch").await;
    assert_eq!((&next["revision"], &next["state"]), (&json!(3), &json!("PENDING")), "{next:#}");
    assert_eq!(next["members"][0]["spoke_id"], "edge");
    let hello = portreeve::wire::state_proto::Hello { have, ..hello("edge", 1, MINUTE) };
    let mut edge = Spoke::connect(&new, hello).await;
    let plans = edge.welcome().await;
    assert_eq!(plans, [("demo".to_owned(), portreeve::wire::state_proto::PlanKind::Repair)]);
    new.stop().await;
}

/// Writes through a hub until told to stop; the names of the identities that were acknowledged.
async fn load(api: Arc<Lab>, prefix: &'static str, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut kept = Vec::new();
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("{prefix}-{turn}");
        let documents = json!({ "documents": [document("identity", &name, identity_spec(&name))] });
        let (status, body) = api.ask("POST", "/v1/apply", Some(documents)).await;
        assert_eq!(status, 200, "{body:#}");
        kept.push(name);
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_killed_under_load_loses_nothing() {
    let Some(server) = shared() else { return };
    let database = server.database("killed");
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let clock = HandClock::new();
    let one = Arc::new(Lab::start_with(over(folders[0].path(), &database), clock.clone()).await);
    copy_key(&folders[0], &folders[1]);
    // A runtime of its own is what can be taken away at once, with all that runs on it.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (settings, hand) = (over(folders[1].path(), &database), clock.clone());
    let other = doomed.spawn(async move { Lab::start_with(settings, hand).await }).await.unwrap();
    let other = Arc::new(other);

    one.apply(&demo()).await;
    let revoked = other.revoke("ledger").await;
    let hubs = format!("http://{},http://{}", other.stream, one.stream);
    let client = Client::start(folders[2].path(), &hubs, &clock);
    client.confirmed().await;
    assert_eq!(one.ask("GET", "/v1/status", None).await.1["members_connected"], 0, "it began at the other");
    let stop = Arc::new(AtomicBool::new(false));
    let writing = [
        tokio::spawn(load(Arc::clone(&one), "a", Arc::clone(&stop))),
        tokio::spawn(load(Arc::clone(&one), "b", Arc::clone(&stop))),
    ];
    let through_other = tokio::spawn(load_until_gone(Arc::clone(&other)));
    let (demo, ledger) = (Name::parse("demo").unwrap(), Name::parse("ledger").unwrap());
    let has = |name: &str| client.state.load().identity(&demo, &Name::parse(name).unwrap()).is_some();
    until("changes of both hubs arrive", || has("a-3") && has("c-3")).await;
    doomed.shutdown_background();
    let through_other = through_other.await.unwrap();
    one.until_status(|status| status["members_connected"] == 1).await;
    stop.store(true, Ordering::SeqCst);
    let mut kept = through_other;
    for written in writing {
        kept.extend(written.await.unwrap());
    }
    // Who has written its fourth was told of its third.
    assert!(kept.len() >= 6, "{}", kept.len());
    let last = one.revoke("batch").await;
    until("every change that was acknowledged arrives", || kept.iter().all(|name| has(name))).await;
    until("both revocations arrive", || client.state.load().stats().revocations >= 2).await;
    let state = client.state.load();
    assert_eq!(
        state.identity(&demo, &ledger).unwrap().value.as_ref().unwrap().status,
        IdentityStatus::Active
    );
    // The hub that is gone leases nothing more, and the client's word at this one is complete.
    for revoked in [&revoked, &last] {
        let path = receipts(revoked);
        let looking = async {
            loop {
                let (state, members) = stands(&one, &path).await;
                if state == "EFFECTIVE" {
                    return members;
                }
                clock.pass(Duration::from_millis(200));
            }
        };
        let members = tokio::time::timeout(PATIENCE, looking).await.expect("effective in time");
        assert_eq!(members[0]["state"], "in_force", "{members:#}");
        assert_eq!(members.as_array().unwrap().len(), 1);
    }
    client.stop().await;
    Arc::into_inner(one).unwrap().stop().await;
}

/// Writes through a hub until it is gone; the names of the identities that were acknowledged.
async fn load_until_gone(lab: Arc<Lab>) -> Vec<String> {
    let mut kept = Vec::new();
    for turn in 0.. {
        let name = format!("c-{turn}");
        let documents = json!({ "documents": [document("identity", &name, identity_spec(&name))] });
        match lab.try_ask("POST", "/v1/apply", Some(documents)).await {
            Some((200, _)) => kept.push(name),
            _ => break,
        }
    }
    kept
}
