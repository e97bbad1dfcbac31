//! The HTTP API over real sockets: who may ask, what is refused and how, what becomes of records.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use portreeve::hub::{Hub, HubError, HubSettings, api};
use serde_json::{Value, json};

use super::lab::{HandClock, Lab, demo, document, identity_spec, issuer_spec, resource_spec, settings};

async fn lab() -> (tempfile::TempDir, Lab) {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::start(directory.path(), HandClock::new()).await;
    (directory, lab)
}

/// Asks, and expects a problem of `status` whose first fault is at `path` (empty: has no faults) and says `text`.
async fn refused(lab: &Lab, ask: (&str, &str, Option<Value>), status: u16, path: &str, text: &str) {
    let (method, address, body) = ask;
    let (found, problem) = lab.ask(method, address, body).await;
    assert_eq!(found, status, "{method} {address}: {problem:#}");
    assert_eq!(problem["status"], status);
    assert!(problem["type"].as_str().unwrap().starts_with("urn:portreeve:problem:"));
    assert_eq!(problem["errors"][0]["path"].as_str().unwrap_or(""), path, "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains(text), "{problem:#}");
}

fn one(kind: &str, name: &str, spec: Value) -> Option<Value> {
    Some(json!({ "documents": [document(kind, name, spec)] }))
}

#[test]
fn the_description_and_the_router_are_in_step() {
    let document = serde_json::to_value(api::document()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            described.insert((method.to_uppercase(), path.clone()));
            let guarded = operation["security"][0].get("admin").is_some();
            assert_eq!(guarded, path != "/openapi.json", "{method} {path}");
            let named = path.split('{').skip(1).map(|part| part.split('}').next().unwrap());
            let given = operation["parameters"].as_array().cloned().unwrap_or_default();
            for name in named {
                assert!(given.iter().any(|p| p["name"] == name && p["in"] == "path"), "{path}: {name}");
            }
        }
    }
    let routed = api::addresses().into_iter().map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(described, routed.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_admin_token_opens() {
    let (_directory, lab) = lab().await;
    assert!(lab.token.starts_with("prt_admin_"));
    let wrong = format!("{}x", lab.token);
    for token in [None, Some(""), Some("prt_admin_"), Some(wrong.as_str())] {
        for path in ["/v1/status", "/v1/nowhere", "/"] {
            let (status, headers, problem) = lab.ask_as(token, "GET", path, None).await;
            assert_eq!(status, 401, "{token:?} {path}");
            assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            assert_eq!(headers["content-type"], "application/problem+json");
            assert_eq!(problem["status"], 401);
        }
    }
    let (status, _, document) = lab.ask_as(None, "GET", "/openapi.json", None).await;
    assert_eq!((status, &document["info"]["title"]), (200, &json!("Portreeve hub")));
    assert_eq!(lab.ask("GET", "/v1/status", None).await.0, 200);
    refused(&lab, ("GET", "/v1/nowhere", None), 404, "", "no such address").await;
    refused(&lab, ("PUT", "/v1/apply", None), 405, "", "does not take that method").await;
    lab.stop().await;
}

#[test]
fn a_token_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Hub::open(settings(directory.path()), HandClock::new()).unwrap());
    let file = directory.path().join("admin.token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Hub::open(settings(directory.path()), HandClock::new()).unwrap_err().to_string();
        assert!(error.contains("admin.token") && error.contains("chmod 600"), "{error}");
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "secret\n").unwrap();
    let error = Hub::open(settings(directory.path()), HandClock::new()).unwrap_err().to_string();
    assert!(error.contains("holds no admin token"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(directory.path());
    settings.api = taken.local_addr().unwrap();
    let hub = Hub::open(settings, HandClock::new()).unwrap();
    let error = hub.bind().await.unwrap_err();
    assert!(matches!(error, HubError::Listen { .. }));
    let (text, address) = (error.to_string(), taken.local_addr().unwrap().to_string());
    assert!(text.contains(&format!("cannot listen on {address}")), "{text}");
    assert!(text.contains("choose another port"), "{text}");
}

#[test]
fn nothing_listens_beyond_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let local = settings(directory.path());
    let beyond = "0.0.0.0:0".parse().unwrap();
    for open in [HubSettings { stream: beyond, ..local.clone() }, HubSettings { api: beyond, ..local }] {
        let error = Hub::open(open, HandClock::new()).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:0") && error.contains("loopback"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_live_and_are_listed() {
    let (_directory, lab) = lab().await;
    let applied = lab.apply(&demo()).await;
    let tenant = &applied["tenants"][0];
    assert_eq!((&tenant["tenant"], &tenant["revision"]), (&json!("demo"), &json!(1)));
    // The default policy comes along with a tenant's first documents.
    assert_eq!(tenant["changes"].as_array().unwrap().len(), 5);
    assert!(tenant["changes"].as_array().unwrap().iter().all(|change| change["action"] == "create"));
    let (_, policy) = lab.ask("GET", "/v1/tenants/demo/policy/default", None).await;
    assert_eq!(policy["spec"]["mode"], "enforce");
    assert_eq!(policy["spec"]["hygiene"]["environment"], "deny");
    let (_, page) = lab.ask("GET", "/v1/tenants/demo/identity?limit=1", None).await;
    assert_eq!((&page["items"][0]["name"], &page["next"]), (&json!("batch"), &json!("batch")));
    let (_, page) = lab.ask("GET", "/v1/tenants/demo/identity?limit=1&after=batch", None).await;
    assert_eq!((&page["items"][0]["name"], &page["next"]), (&json!("ledger"), &Value::Null));
    let ledger = &page["items"][0];
    assert_eq!(ledger["spec"]["review_due"], "2027-05-01T00:00:00Z");
    assert_eq!((&ledger["generation"], &ledger["revision"]), (&json!(1), &json!(1)));
    let body = json!({ "name": "new", "spec": identity_spec("new") });
    let (status, made) = lab.ask("POST", "/v1/tenants/demo/identity", Some(body.clone())).await;
    assert_eq!((status, &made["revision"], &made["kind"]), (201, &json!(2), &json!("identity")));
    refused(&lab, ("POST", "/v1/tenants/demo/identity", Some(body)), 409, "name", "exists already").await;
    let (_, status) = lab.ask("GET", "/v1/status", None).await;
    assert_eq!(status["revision"], 2);
    assert_eq!(status["tenants"][0]["identities"]["active"], 3);
    assert_eq!(status["tenants"][0]["policies"], 1);
    assert_eq!(status["cluster_id"].as_str().unwrap().len(), 32);
    refused(&lab, ("GET", "/v1/tenants/demo/identity/none", None), 404, "", "no identity of tenant").await;
    refused(&lab, ("GET", "/v1/tenants/demo/robot", None), 404, "", "expected one of issuer").await;
    refused(&lab, ("GET", "/v1/tenants/Demo/identity", None), 422, "tenant", "malformed name").await;
    refused(&lab, ("GET", "/v1/tenants/demo/identity?limit=0", None), 422, "limit", "1 to 1000").await;
    refused(&lab, ("GET", "/v1/tenants/demo/identity?limt=1", None), 400, "", "limt").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_replaced_and_removed() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let path = "/v1/tenants/demo/resource/orders";
    let mut spec = resource_spec();
    spec["environment"] = json!("test");
    let body = json!({ "spec": spec, "expect_revision": 7 });
    refused(&lab, ("PUT", path, Some(body)), 409, "expect_revision", "at revision 1, not 7").await;
    let body = json!({ "spec": spec, "expect_revision": 1 });
    let (status, made) = lab.ask("PUT", path, Some(body)).await;
    assert_eq!((status, &made["revision"], &made["spec"]["environment"]), (200, &json!(2), &json!("test")));
    assert_eq!(lab.ask("DELETE", path, None).await, (200, json!({ "revision": 3 })));
    assert_eq!(lab.ask("GET", path, None).await.0, 404);
    refused(&lab, ("DELETE", path, None), 404, "", "no resource is named `orders`").await;
    let body = json!({ "name": "orders", "spec": resource_spec() });
    let new = ("POST", "/v1/tenants/demo/resource", Some(body));
    refused(&lab, new, 409, "name", "names are never reused").await;
    let again = ("POST", "/v1/apply", one("resource", "orders", resource_spec()));
    refused(&lab, again, 409, "documents[0].name", "names are never reused").await;
    let identity = ("DELETE", "/v1/tenants/demo/identity/ledger", None);
    refused(&lab, identity, 405, "", "portreeve identity retire ledger").await;
    let issuer = ("DELETE", "/v1/tenants/demo/issuer/main", None);
    refused(&lab, issuer, 409, "", "is bound to issuer `main`").await;
    refused(&lab, ("DELETE", "/v1/tenants/none/issuer/main", None), 404, "", "no tenant is named").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_says_what_it_would_do_and_does_nothing_twice() {
    let (_directory, lab) = lab().await;
    let documents = demo();
    let body = Some(json!({ "documents": documents }));
    let (_, dry) = lab.ask("POST", "/v1/apply?dry_run=true", body.clone()).await;
    assert_eq!(dry["tenants"][0]["revision"], 0);
    assert_eq!(lab.ask("GET", "/v1/status", None).await.1["revision"], 0);
    lab.apply(&documents).await;
    let again = lab.apply(&documents).await;
    let actions = again["tenants"][0]["changes"].as_array().unwrap();
    assert!(actions.iter().all(|change| change["action"] == "unchanged"), "{again:#}");
    assert_eq!(again["tenants"][0]["revision"], 1);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_is_judged_whole_before_anything_is_kept() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut elsewhere = document("resource", "x", resource_spec());
    elsewhere["tenant"] = json!("another");
    let mut bad = document("resource", "y", resource_spec());
    bad["spec"]["routes"][1]["path"] = json!("orders");
    let body = Some(json!({ "documents": [elsewhere, bad] }));
    refused(&lab, ("POST", "/v1/apply", body), 422, "documents[1].spec.routes[1].path", "/orders").await;
    let (_, status) = lab.ask("GET", "/v1/status", None).await;
    assert_eq!((&status["revision"], status["tenants"].as_array().unwrap().len()), (&json!(1), 1));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_must_go_together() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let mut stranger = identity_spec("x");
    stranger["bindings"][0]["issuer"] = json!("none");
    let taken = identity_spec("ledger");
    let mut same_iss = issuer_spec();
    same_iss["iss"] = json!("https://issuer.example");
    let key = json!({ "kind": "signing-key", "fingerprint": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE" });
    lab.apply(&[document("credential", "k1", key.clone())]).await;
    let mut owned = key.clone();
    owned["identity"] = json!("none");
    let exception = |identity: &str, expires: &str| {
        json!({
            "identities": [identity], "lifts": ["policy.denied"], "reason": "x",
            "owner": { "team": "a" }, "approver": { "team": "b" }, "expires": expires,
        })
    };
    let rows = [
        ("identity", stranger, "bindings[0].issuer", "no issuer is named `none`"),
        ("identity", taken, "bindings[0]", "is bound to identity `ledger`"),
        ("issuer", same_iss, "iss", "is the `iss` of issuer `main`"),
        ("credential", key, "fingerprint", "that of credential `k1`"),
        ("credential", owned, "identity", "no identity is named `none`"),
        ("exception", exception("none", "2026-07-01"), "identities[0]", "no identity is named `none`"),
        ("exception", exception("batch", "2026-06-20"), "expires", "is past"),
        ("exception", exception("batch", "2026-12-31"), "expires", "at most 90 days"),
        ("policy", json!({ "cedar": "permit(" }), "cedar", "policy set `new`"),
        (
            "policy",
            json!({ "cedar": "permit(principal, action, resource) when { principal.nose };" }),
            "cedar",
            "nose",
        ),
    ];
    for (kind, spec, path, text) in rows {
        let ask = ("POST", "/v1/apply", one(kind, "new", spec));
        refused(&lab, ask, 422, &format!("documents[0].spec.{path}"), text).await;
    }
    let good = exception("batch", "2026-09-01");
    lab.apply(&[document("exception", "new", good)]).await;
    // Within one set of documents, too; and a subject may move from one identity to another.
    let twice = json!({ "documents": [
        document("identity", "a", identity_spec("same")), document("identity", "b", identity_spec("same")),
    ] });
    refused(&lab, ("POST", "/v1/apply", Some(twice)), 422, "documents[1].spec.bindings[0]", "`a`").await;
    let mut freed = identity_spec("ledger-2");
    freed["owner"] = json!({ "team": "x" });
    lab.apply(&[
        document("identity", "mover", identity_spec("ledger")),
        document("identity", "ledger", freed),
    ])
    .await;
    let double = json!({ "documents": [
        document("resource", "z", resource_spec()), document("resource", "z", resource_spec()),
    ] });
    refused(&lab, ("POST", "/v1/apply", Some(double)), 422, "documents[1].spec", "is there twice").await;
    lab.stop().await;
}

async fn set_status(lab: &Lab, body: Value) -> (u16, Value) {
    lab.ask("POST", "/v1/tenants/demo/identity/ledger/status", Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_does_not_bring_back_what_was_stopped() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let (status, held) = set_status(&lab, json!({ "status": "suspended", "reason": "odd calls" })).await;
    assert_eq!((status, &held["generation"], &held["spec"]["status"]), (200, &json!(2), &json!("suspended")));
    // A document that does not name the status keeps it; one that does is refused.
    let kept = lab.apply(&demo()[2..3]).await;
    assert_eq!(kept["tenants"][0]["changes"][0]["action"], "unchanged");
    for status in ["active", "pending"] {
        let mut spec = identity_spec("ledger");
        spec["status"] = json!(status);
        let ask = ("POST", "/v1/apply", one("identity", "ledger", spec.clone()));
        refused(&lab, ask, 409, "documents[0].spec.status", "portreeve identity resume ledger").await;
        let ask = ("PUT", "/v1/tenants/demo/identity/ledger", Some(json!({ "spec": spec })));
        refused(&lab, ask, 409, "spec.status", "portreeve identity resume ledger").await;
    }
    let (status, held) = set_status(&lab, json!({ "status": "active", "reason": "cleared" })).await;
    assert_eq!((status, &held["generation"], &held["spec"]["status"]), (200, &json!(3), &json!("active")));
    let (_, same) = set_status(&lab, json!({ "status": "active", "reason": "again" })).await;
    assert_eq!(same["revision"], held["revision"]);
    assert_eq!(set_status(&lab, json!({ "status": "retired", "reason": "done" })).await.0, 200);
    let (status, problem) = set_status(&lab, json!({ "status": "active", "reason": "oops" })).await;
    assert_eq!(status, 409, "{problem:#}");
    let (status, problem) = set_status(&lab, json!({ "status": "active" })).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("missing field `reason`")), (422, true));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_outlives_every_edit_until_it_is_named() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let revoked = lab.revoke("ledger").await;
    let name = revoked["name"].as_str().unwrap();
    let body = json!({ "target": { "identity": "ledger" }, "reason": "again" });
    let (status, same) = lab.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await;
    assert_eq!((status, &same["name"]), (200, &revoked["name"]));
    let generation = async || {
        let path = format!("/v1/tenants/demo/revocation/{name}");
        lab.ask("GET", &path, None).await.1["spec"]["target"]["generation"].clone()
    };
    assert_eq!(generation().await, 1);
    // A change of status begins a generation: the revocation goes along.
    let (_, held) = set_status(&lab, json!({ "status": "suspended", "reason": "x" })).await;
    assert_eq!((held["generation"].clone(), generation().await), (json!(2), json!(2)));
    let (status, problem) = set_status(&lab, json!({ "status": "active", "reason": "x" })).await;
    assert_eq!((status, problem["errors"][0]["path"].as_str()), (409, Some("lifts")), "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains(name));
    let body = json!({ "status": "active", "reason": "x", "lifts": ["r99"] });
    assert_eq!(set_status(&lab, body).await.0, 409);
    lab.clock.pass(Duration::from_secs(1));
    let (status, back) =
        set_status(&lab, json!({ "status": "active", "reason": "cleared", "lifts": [name] })).await;
    assert_eq!((status, &back["generation"]), (200, &json!(3)), "{back:#}");
    assert_eq!(back["spec"]["not_before"], "2026-06-21T00:00:02Z");
    assert_eq!(generation().await, 2);
    // What it was refused for stays refused: `not_before` only rises.
    let kept = lab.apply(&demo()[2..3]).await;
    assert_eq!(kept["tenants"][0]["changes"][0]["action"], "unchanged");
    let mut earlier = identity_spec("ledger");
    earlier["not_before"] = json!("2026-01-01");
    let ask = ("POST", "/v1/apply", one("identity", "ledger", earlier));
    refused(&lab, ask, 409, "documents[0].spec.not_before", "only rise").await;
    let again = lab.revoke("ledger").await;
    assert_ne!(again["name"], revoked["name"]);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_take_four_shapes() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    let digest = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    lab.apply(&[document("credential", "k1", json!({ "kind": "signing-key", "fingerprint": digest }))]).await;
    let revoke = async |target: Value| {
        let body = json!({ "target": target, "reason": "test" });
        lab.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await
    };
    let later = "2026-06-21T01:00:00Z";
    let taken = [
        json!({ "credential": "k1" }),
        json!({ "identity": "batch", "issued_before": "2026-06-20" }),
        json!({ "issuer": "main", "jti": "t-1", "expires": later }),
        json!({ "token_digest": digest, "expires": later }),
    ];
    for target in taken {
        let (status, made) = revoke(target.clone()).await;
        assert_eq!(status, 201, "{target} {made:#}");
        assert_eq!(made["name"], format!("r{}", made["revision"]));
        assert_eq!(made["state"], "EFFECTIVE", "nobody is there to be waited for");
        let (status, same) = revoke(target).await;
        assert_eq!((status, &same["name"]), (200, &made["name"]));
    }
    let unknown = [
        (json!({ "identity": "none" }), "no identity is named `none`"),
        (json!({ "credential": "none" }), "no credential is named `none`"),
        (json!({ "issuer": "none", "jti": "x", "expires": later }), "no issuer is named `none`"),
    ];
    for (target, text) in unknown {
        let (status, problem) = revoke(target).await;
        assert_eq!((status, problem["detail"].as_str().unwrap().contains(text)), (404, true), "{problem:#}");
    }
    let bad = [
        (json!({}), "target"),
        (json!({ "identity": "ledger", "credential": "k1" }), "target"),
        (json!({ "issuer": "main", "jti": "x" }), "target"),
        (json!({ "token_digest": digest, "expires": "2026-06-20" }), "target.expires"),
        (json!({ "token_digest": "AQ", "expires": later }), "target.token_digest"),
        (json!({ "identity": "ledger", "generation": 9 }), "target.generation"),
        (json!({ "identiy": "ledger" }), "target.identiy"),
    ];
    for (target, path) in bad {
        let (status, problem) = revoke(target).await;
        assert_eq!((status, problem["errors"][0]["path"].as_str()), (422, Some(path)), "{problem:#}");
    }
    // A revoked credential's record holds the revocation: it neither goes nor changes its fingerprint.
    refused(&lab, ("DELETE", "/v1/tenants/demo/credential/k1", None), 409, "", "is revoked").await;
    let other = json!({ "kind": "signing-key", "fingerprint": digest.replace('B', "C") });
    let ask = ("POST", "/v1/apply", one("credential", "k1", other));
    refused(&lab, ask, 409, "documents[0].spec.fingerprint", "is fixed").await;
    refused(&lab, ("DELETE", "/v1/tenants/demo/revocation/r3", None), 405, "", "identity reinstate").await;
    refused(&lab, ("GET", "/v1/revisions/999/receipts", None), 404, "", "no commit").await;
    refused(&lab, ("GET", "/v1/tenants/demo/revocations/r99/receipts", None), 404, "", "r99").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_begins_with_a_policy_that_enforces() {
    let (_directory, lab) = lab().await;
    let mut own = document("policy", "own", json!({ "cedar": "permit(principal, action, resource);" }));
    own["tenant"] = json!("has-own");
    let mut shadow = own.clone();
    shadow["tenant"] = json!("has-shadow");
    shadow["spec"]["mode"] = json!("shadow");
    lab.apply(&[own, shadow]).await;
    let policies = async |tenant: &str| {
        let (_, page) = lab.ask("GET", &format!("/v1/tenants/{tenant}/policy"), None).await;
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(policies("has-own").await, ["own"]);
    assert_eq!(policies("has-shadow").await, ["default", "own"]);
    let ask = ("POST", "/v1/apply", one("policy", "default", json!({ "cedar": "", "mode": "shadow" })));
    refused(&lab, ask, 422, "documents[0].spec.mode", "`default` enforces").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_at_their_bounds() {
    let (_directory, lab) = lab().await;
    let long = Some(json!({ "documents": [], "x": "y".repeat(api::BODY_BYTES_MAX) }));
    let (status, problem) = lab.ask("POST", "/v1/apply", long).await;
    assert_eq!((status, &problem["status"]), (413, &json!(413)));
    refused(&lab, ("POST", "/v1/apply", None), 400, "", "no JSON").await;
    refused(&lab, ("POST", "/v1/apply", Some(json!({ "documents": [] }))), 422, "documents", "empty").await;
    let unknown = Some(json!({ "documents": [], "dry": 1 }));
    refused(&lab, ("POST", "/v1/apply", unknown), 422, "dry", "unknown field").await;
    let misplaced = json!({ "documents": [{ "kind": "robot", "tenant": "D", "name": "x", "spec": {} }] });
    refused(&lab, ("POST", "/v1/apply", Some(misplaced)), 422, "documents[0].kind", "robot").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stopped_does_not_come_back_under_another_name() {
    let (_directory, lab) = lab().await;
    lab.apply(&demo()).await;
    lab.revoke("ledger").await;
    // A rename, in one request or in two: the subject would be somebody that nothing was taken from.
    let bare = document("identity", "ledger", identity_spec("ledger-2"));
    let renamed = json!({ "documents": [document("identity", "ledger-new", identity_spec("ledger")), bare] });
    let at = "documents[1].spec.bindings";
    refused(&lab, ("POST", "/v1/apply", Some(renamed)), 409, at, "`ledger` of issuer `main`").await;
    let put = Some(json!({ "spec": identity_spec("ledger-2") }));
    let ask = ("PUT", "/v1/tenants/demo/identity/ledger", put);
    refused(&lab, ask, 409, "spec.bindings", "it is revoked").await;
    // More subjects are no way out.
    let mut more = identity_spec("ledger");
    more["bindings"].as_array_mut().unwrap().push(json!({ "issuer": "main", "subject": "ledger-2" }));
    lab.apply(&[document("identity", "ledger", more)]).await;
    for status in ["suspended", "retired"] {
        let change = json!({ "status": status, "reason": "x" });
        assert_eq!(lab.ask("POST", "/v1/tenants/demo/identity/batch/status", Some(change)).await.0, 200);
        let moved = one("identity", "batch", identity_spec("batch-2"));
        refused(&lab, ("POST", "/v1/apply", moved), 409, "documents[0].spec.bindings", status).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_does_not_come_back_by_another_issuer_record() {
    let (_directory, lab) = lab().await;
    let documents = demo();
    lab.apply(&documents).await;
    let target = json!({ "issuer": "main", "jti": "t-1", "expires": "2027-01-01T00:00:00Z" });
    let body = json!({ "target": target, "reason": "leaked" });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await.0, 201);
    // Revoked tokens are found by the issuer record's name: its `iss` must not wander to another.
    let mut elsewhere = documents[0]["spec"].clone();
    elsewhere["iss"] = json!("https://elsewhere.example");
    let swapped = json!({ "documents": [
        document("issuer", "main", elsewhere), document("issuer", "main-2", documents[0]["spec"].clone()),
    ] });
    refused(&lab, ("POST", "/v1/apply", Some(swapped)), 409, "documents[0].spec.iss", "is fixed").await;
    let unbound = json!({ "type": "workload", "environment": "prod" });
    lab.apply(&[document("identity", "ledger", unbound.clone()), document("identity", "batch", unbound)])
        .await;
    let remove = ("DELETE", "/v1/tenants/demo/issuer/main", None);
    refused(&lab, remove, 409, "", "revoked tokens").await;
    lab.stop().await;
}
