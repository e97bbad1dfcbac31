//! What was revoked stays revoked, by whatever way somebody tries to bring it back: only a reinstatement
//! that names the revocation lifts it, and what it was revoked for stays refused even then.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portreeve::hub::Hub;
use portreeve::hub::restore::Restoring;
use portreeve::hub::store::SqliteStore;
use serde_json::{Value, json};

use super::lab::{HandClock, Lab, demo, document, identity_spec, issuer_spec, patiently, settings};

fn key() -> Value {
    json!({ "kind": "signing-key", "fingerprint": URL_SAFE_NO_PAD.encode([7; 32]) })
}

/// Identity `ledger` and credential `key` of tenant `demo`, both revoked.
async fn revoked(lab: &Lab) -> (String, u64) {
    let mut documents = demo();
    documents.push(document("credential", "key", key()));
    lab.apply(&documents).await;
    let (_, before) = lab.ask("GET", "/v1/tenants/demo/identity/ledger", None).await;
    let whole = lab.revoke("ledger").await["name"].as_str().unwrap().to_owned();
    let body = json!({ "target": { "credential": "key" }, "reason": "test" });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await.0, 201);
    (whole, before["revision"].as_u64().unwrap())
}

async fn all(lab: &Lab, kind: &str) -> Vec<Value> {
    let (_, page) = lab.ask("GET", &format!("/v1/tenants/demo/{kind}"), None).await;
    page["items"].as_array().unwrap().clone()
}

/// Whether everything that decisions find the revocations by is as it was.
async fn stands(lab: &Lab, what: &str) {
    let (identities, revocations) = (all(lab, "identity").await, all(lab, "revocation").await);
    let bound = identities.iter().filter(|identity| {
        let bindings = identity["spec"]["bindings"].as_array().cloned().unwrap_or_default();
        bindings.contains(&json!({ "issuer": "main", "subject": "ledger" }))
    });
    let bound: Vec<_> = bound.collect();
    assert_eq!(bound.len(), 1, "{what}: {bound:#?}");
    assert_eq!(bound[0]["name"], "ledger", "{what}");
    let covers = |revocation: &&Value| {
        let target = &revocation["spec"]["target"];
        target["identity"] == json!("ledger")
            && target["generation"].as_u64() >= bound[0]["generation"].as_u64()
    };
    assert!(revocations.iter().any(|revocation| covers(&revocation)), "{what}: {revocations:#?}");
    let keys = all(lab, "credential").await;
    let same: Vec<_> = keys.iter().filter(|k| k["spec"]["fingerprint"] == key()["fingerprint"]).collect();
    assert_eq!(same.iter().map(|key| &key["name"]).collect::<Vec<_>>(), [&json!("key")], "{what}");
    let kills_key = |revocation: &Value| revocation["spec"]["target"] == json!({ "credential": "key" });
    assert!(revocations.iter().any(kills_key), "{what}");
    let issuers = all(lab, "issuer").await;
    let vouch = issuers.iter().filter(|issuer| issuer["spec"]["iss"] == json!("https://issuer.example"));
    assert_eq!(vouch.map(|issuer| &issuer["name"]).collect::<Vec<_>>(), [&json!("main")], "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_back_but_the_named_one_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    let (whole, before) = revoked(&lab).await;
    stands(&lab, "at first").await;
    let with = |member: &str, value: Value| {
        let mut spec = identity_spec("ledger");
        spec[member] = value;
        spec
    };
    let apply = |documents: Vec<Value>| ("POST", "/v1/apply", json!({ "documents": documents }));
    let at = "/v1/tenants/demo/identity/ledger";
    let to = |body: Value| ("POST", "/v1/tenants/demo/identity/ledger/status", body);
    let credential = |name: &str, spec: Value| apply(vec![document("credential", name, spec)]);
    let mut main = issuer_spec();
    main["iss"] = json!("https://elsewhere.example");
    let mut other_key = key();
    other_key["fingerprint"] = json!(URL_SAFE_NO_PAD.encode([8; 32]));
    let active = json!({ "kind": "signing-key", "fingerprint": key()["fingerprint"], "status": "active" });
    let rows: Vec<(&str, &str, Value)> = vec![
        apply(vec![document("identity", "ledger", with("status", json!("active")))]),
        apply(vec![document("identity", "ledger", with("ticket", json!("OPS-1")))]),
        apply(demo()),
        ("PUT", at, json!({ "spec": with("status", json!("active")) })),
        ("PUT", at, json!({ "spec": with("status", json!("active")), "expect_revision": before })),
        ("PUT", at, json!({ "spec": with("ticket", json!("OPS-2")), "expect_revision": before + 99 })),
        ("POST", "/v1/tenants/demo/identity", json!({ "name": "ledger", "spec": identity_spec("ledger") })),
        ("DELETE", at, Value::Null),
        to(json!({ "status": "active", "reason": "x" })),
        to(json!({ "status": "active", "reason": "x", "break_glass": true })),
        to(json!({ "status": "active", "reason": "x", "lifts": ["r1"] })),
        to(json!({ "status": "suspended", "reason": "x" })),
        to(json!({ "status": "active", "reason": "x" })),
        apply(vec![document("identity", "ledger", with("status", json!("active")))]),
        // The subject under another name, at once and one after the other.
        apply(vec![
            document("identity", "ledger", identity_spec("free")),
            document("identity", "ledger-2", identity_spec("ledger")),
        ]),
        apply(vec![document("identity", "ledger", identity_spec("free"))]),
        apply(vec![document("identity", "ledger", with("bindings", json!([])))]),
        apply(vec![document("identity", "ledger-2", identity_spec("ledger"))]),
        apply(vec![document("identity", "batch", identity_spec("ledger"))]),
        // The key under another name, or another key under its own.
        ("DELETE", "/v1/tenants/demo/credential/key", Value::Null),
        credential("key-2", key()),
        credential("key", active.clone()),
        credential("key", other_key),
        ("PUT", "/v1/tenants/demo/credential/key", json!({ "spec": active })),
        ("POST", "/v1/tenants/demo/credential", json!({ "name": "key-2", "spec": key() })),
        // The issuer by which both are found.
        ("DELETE", "/v1/tenants/demo/issuer/main", Value::Null),
        apply(vec![document("issuer", "main", main)]),
        apply(vec![document("issuer", "main-2", issuer_spec())]),
        // The revocation itself.
        ("DELETE", "/v1/tenants/demo/revocation/r2", Value::Null),
        ("PUT", "/v1/tenants/demo/revocation/r2", json!({ "spec": {} })),
        apply(vec![document("revocation", "r2", json!({}))]),
        ("POST", "/v1/tenants/demo/revocation", json!({ "name": "r2", "spec": {} })),
        to(json!({ "status": "retired", "reason": "x" })),
        to(json!({ "status": "active", "reason": "x", "lifts": [whole] })),
    ];
    for (place, (method, path, body)) in rows.iter().enumerate() {
        let body = (!body.is_null()).then(|| body.clone());
        let (status, _) = lab.ask(method, path, body.clone()).await;
        stands(&lab, &format!("row {place}: {method} {path} {body:?} gave {status}")).await;
    }
    lab.stop().await;
    // A new lineage takes nothing back either.
    let restoring = || Restoring::open(settings(directory.path()), &[], HandClock::new());
    patiently(restoring).unwrap().begin().unwrap();
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    stands(&lab, "after a restoration").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_named_way_lifts_it_for_what_comes_later_alone() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    let (whole, _) = revoked(&lab).await;
    let body = json!({ "status": "active", "reason": "x", "lifts": [whole] });
    let path = "/v1/tenants/demo/identity/ledger/status";
    let (status, back) = lab.ask("POST", path, Some(body)).await;
    assert_eq!((status, &back["generation"]), (200, &json!(2)), "{back:#}");
    assert!(back["spec"]["not_before"].is_string(), "what was issued before stays refused");
    lab.stop().await;
}

/// What was issued before a cut-off could live again under another name, once its subject is that one's and
/// its issuer may grant more.
#[tokio::test(flavor = "multi_thread")]
async fn a_subject_is_not_let_go_of_while_any_lifetime_could_bring_its_tokens_back() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HandClock::new();
    let lab = Lab::start(directory.path(), clock.clone()).await;
    lab.apply(&demo()).await;
    let cut =
        json!({ "target": { "identity": "ledger", "issued_before": "2026-06-21T00:00:01Z" }, "reason": "x" });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/revocations", Some(cut)).await.0, 201);
    let lasting = |lifetime: &str| {
        let mut spec = issuer_spec();
        spec["max_lifetime"] = json!(lifetime);
        json!({ "documents": [document("issuer", "main", spec)] })
    };
    let moved = json!({ "documents": [
        document("identity", "ledger", identity_spec("free")),
        document("identity", "ledger-2", identity_spec("ledger")),
    ] });
    let apply = async |body: &Value| lab.ask("POST", "/v1/apply", Some(body.clone())).await;
    assert_eq!(apply(&lasting("1s")).await.0, 200);
    let year = Duration::from_secs(365 * 86_400 + 600);
    for (passes, status) in [(Duration::from_secs(700), 409), (year - Duration::from_secs(700), 409)] {
        clock.pass(passes);
        let (found, problem) = apply(&moved).await;
        assert_eq!(found, status, "{problem:#}");
        assert!(
            problem["detail"].as_str().unwrap().contains("may live until 2027-06-21T00:10:01Z"),
            "{problem:#}"
        );
        // Nothing else of it is touched by the wait.
        assert_eq!(apply(&lasting("24h")).await.0, 200);
        assert_eq!(apply(&lasting("1s")).await.0, 200);
    }
    clock.pass(Duration::from_micros(1));
    let (status, done) = apply(&moved).await;
    assert_eq!(status, 200, "{done:#}");
    lab.stop().await;
}

/// An edit that a second hub made of what it had read before the revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_raced_the_revocation_loses() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    Lab::start(one.path(), HandClock::new()).await.stop().await;
    std::fs::copy(one.path().join("cluster.key"), two.path().join("cluster.key")).unwrap();
    let clock = HandClock::new();
    let open = || SqliteStore::open(&one.path().join("hub.db"), clock.clone()).map_err(Into::into);
    let store = Arc::new(patiently(open).unwrap());
    let mut labs = Vec::new();
    for directory in [&one, &two] {
        let hub = Hub::over(store.clone(), settings(directory.path()), clock.clone()).unwrap();
        labs.push(Lab::of(hub, directory.path(), clock.clone()).await);
    }
    let [here, there] = &labs[..] else { panic!("two hubs") };
    here.apply(&demo()).await;
    // The second hub reads the tenant, and is then overtaken.
    assert_eq!(
        there.ask("POST", "/v1/apply?dry_run=true", Some(json!({ "documents": demo() }))).await.0,
        200
    );
    here.revoke("ledger").await;
    let mut spec = identity_spec("ledger");
    spec["status"] = json!("active");
    spec["ticket"] = json!("OPS-1");
    let body = json!({ "documents": [document("identity", "ledger", spec)] });
    let (first, _) = there.ask("POST", "/v1/apply", Some(body.clone())).await;
    let (second, answer) = there.ask("POST", "/v1/apply", Some(body)).await;
    assert_eq!((first, second), (409, 200), "it lost, read again, and edited what it may: {answer:#}");
    let (_, revocation) = there.ask("GET", "/v1/tenants/demo/revocation", None).await;
    let (_, identity) = there.ask("GET", "/v1/tenants/demo/identity/ledger", None).await;
    assert_eq!(revocation["items"][0]["spec"]["target"]["generation"], identity["generation"]);
    for lab in labs {
        lab.stop().await;
    }
}
