//! The mass-revocation guard: everything that denies counts, what exceeds is held before it is committed,
//! and a second principal, or the glass broken on record, lets it through.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portreeve::hub::restore::Restoring;
use portreeve::hub::store::SqliteStore;
use portreeve::hub::{GuardLimits, Hub, HubSettings};
use serde_json::{Value, json};

use super::lab::{HandClock, Lab, document, identity_spec, issuer_spec, patiently, resource_spec, settings};

/// Most that a hub of these tests lets through within a minute.
const LIMIT: usize = 3;
const IDENTITIES: usize = 8;

fn guarded(directory: &Path) -> HubSettings {
    let guard = GuardLimits { count: 3, percent: 1, window: Duration::from_secs(60) };
    HubSettings { guard, ..settings(directory) }
}

async fn start(directory: &Path, clock: Arc<HandClock>) -> Lab {
    let hub = patiently(|| Hub::open(guarded(directory), clock.clone())).unwrap();
    Lab::of(hub, directory, clock).await
}

/// A hub with eight identities of one issuer, and that issuer's key as a credential.
async fn peopled(directory: &Path) -> Lab {
    let lab = start(directory, HandClock::new()).await;
    let issuer = issuer_spec();
    let key = &issuer["keys"]["inline"]["keys"][0];
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, key["x"], key["y"]);
    let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
    let mut documents = vec![
        document("issuer", "main", issuer),
        document("resource", "orders", resource_spec()),
        document("credential", "key", json!({ "kind": "signing-key", "fingerprint": thumbprint })),
    ];
    for n in 0..IDENTITIES {
        let (name, fingerprint) =
            (format!("i{n}"), URL_SAFE_NO_PAD.encode([u8::try_from(n).unwrap() + 1; 32]));
        documents.push(document("identity", &name, identity_spec(&name)));
        let own = json!({ "kind": "signing-key", "identity": name, "fingerprint": fingerprint });
        documents.push(document("credential", &format!("c{n}"), own));
    }
    lab.apply(&documents).await;
    lab
}

/// One request: method, address, body.
type Ask = (&'static str, String, Value);

fn revoke(target: Value) -> Ask {
    ("POST", "/v1/tenants/demo/revocations".to_owned(), json!({ "target": target, "reason": "test" }))
}

fn whole(n: usize) -> Ask {
    revoke(json!({ "identity": format!("i{n}") }))
}

fn status(n: usize, to: &str) -> Ask {
    let path = format!("/v1/tenants/demo/identity/i{n}/status");
    ("POST", path, json!({ "status": to, "reason": "test" }))
}

/// The spec of identity `n` with one member more.
fn with(n: usize, member: &str, value: Value) -> Value {
    let mut spec = identity_spec(&format!("i{n}"));
    spec[member] = value;
    spec
}

fn apply(documents: Vec<Value>) -> Ask {
    ("POST", "/v1/apply".to_owned(), json!({ "documents": documents }))
}

fn edits(range: std::ops::Range<usize>, member: &str, value: &Value) -> Ask {
    apply(range.map(|n| document("identity", &format!("i{n}"), with(n, member, value.clone()))).collect())
}

async fn ask(lab: &Lab, (method, path, body): &Ask) -> (u16, Value) {
    lab.ask(method, path, Some(body.clone())).await
}

async fn revision(lab: &Lab) -> u64 {
    lab.ask("GET", "/v1/status", None).await.1["revision"].as_u64().unwrap()
}

/// The name of what an answer says is held.
fn held(answer: &Value) -> String {
    let one = answer["held"].as_array().map_or(&answer["held"], |all| &all[0]);
    one["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_that_denies_counts_and_nothing_else_does() {
    let each = |of: fn(usize) -> Ask, n: usize| (0..n).map(of).collect::<Vec<_>>();
    let past = json!("2026-06-01");
    let cut = |n| revoke(json!({ "identity": format!("i{n}"), "issued_before": "2026-06-01" }));
    let put = |n: usize| -> Ask {
        (
            "PUT",
            format!("/v1/tenants/demo/identity/i{n}"),
            json!({ "spec": with(n, "status", json!("suspended")) }),
        )
    };
    let token =
        |n: usize| revoke(json!({ "issuer": "main", "jti": format!("t{n}"), "expires": "2027-01-01" }));
    let credential = |n: usize| revoke(json!({ "credential": format!("c{n}") }));
    let new = |n: usize| {
        document("identity", &format!("new{n}"), {
            let mut spec = identity_spec(&format!("new{n}"));
            spec["status"] = json!("pending");
            spec
        })
    };
    let keys = (0..4).map(|n| {
        let fingerprint = URL_SAFE_NO_PAD.encode([u8::try_from(n).unwrap() + 1; 32]);
        let spec = json!({ "kind": "signing-key", "identity": format!("i{n}"), "fingerprint": fingerprint,
            "status": "revoked" });
        document("credential", &format!("c{n}"), spec)
    });
    // The last request of each row is held, or not.
    let rows: Vec<(&str, Vec<Ask>, bool)> = vec![
        ("three identities", each(whole, 3), false),
        ("a fourth", each(whole, 4), true),
        ("the third again", [each(whole, 3), vec![whole(2)]].concat(), false),
        ("what they were issued before", each(cut, 4), true),
        ("suspending", each(|n| status(n, "suspended"), 4), true),
        ("retiring", each(|n| status(n, "retired"), 4), true),
        ("putting as suspended", each(put, 4), true),
        ("applying three as suspended", vec![edits(0..3, "status", &json!("suspended"))], false),
        ("applying four as suspended", vec![edits(0..4, "status", &json!("suspended"))], true),
        ("applying four as ended", vec![edits(0..4, "end", &past)], true),
        ("applying four as cut off", vec![edits(0..4, "not_before", &past)], true),
        ("applying four in two parts", vec![edits(0..2, "end", &past), edits(2..4, "end", &past)], true),
        ("credentials", each(credential, 4), true),
        ("credentials by apply", vec![apply(keys.collect())], true),
        ("the key that all are signed by", vec![revoke(json!({ "credential": "key" }))], true),
        ("tokens", each(token, 4), true),
        ("one identity in four ways", vec![whole(0), cut(0), status(0, "suspended"), credential(0)], false),
        ("of each a little", vec![whole(0), cut(1), status(2, "suspended"), credential(3)], true),
        ("a label of everybody", vec![edits(0..8, "ticket", &json!("OPS-1"))], false),
        ("new ones that may not act yet, then one", vec![apply((0..8).map(new).collect()), whole(0)], false),
    ];
    for (what, asks, is_held) in rows {
        let directory = tempfile::tempdir().unwrap();
        let lab = peopled(directory.path()).await;
        let (last, before) = asks.split_last().unwrap();
        for each in before {
            let (status, answer) = ask(&lab, each).await;
            assert!(matches!(status, 200 | 201), "{what}: {status} {answer:#}");
        }
        let at = revision(&lab).await;
        let (status, answer) = ask(&lab, last).await;
        assert_eq!(status == 202, is_held, "{what}: {status} {answer:#}");
        if is_held {
            assert_eq!(revision(&lab).await, at, "{what}: nothing of it is committed");
            assert!(answer.get("committed_at").is_none() && answer.get("effective_by").is_none(), "no T");
        }
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_passes_and_a_larger_tenant_may_lose_more() {
    let directory = tempfile::tempdir().unwrap();
    let lab = peopled(directory.path()).await;
    for n in 0..LIMIT {
        assert_eq!(ask(&lab, &whole(n)).await.0, 201);
    }
    lab.clock.pass(Duration::from_secs(59));
    assert_eq!(ask(&lab, &whole(3)).await.0, 202);
    lab.clock.pass(Duration::from_secs(2));
    assert_eq!(ask(&lab, &whole(3)).await.0, 201);
    lab.stop().await;
    // Half of eight is more than three.
    let directory = tempfile::tempdir().unwrap();
    peopled(directory.path()).await.stop().await;
    let clock = HandClock::new();
    let guard = GuardLimits { count: 3, percent: 50, window: Duration::from_secs(60) };
    let half = HubSettings { guard, ..settings(directory.path()) };
    let hub = patiently(|| Hub::open(half.clone(), clock.clone())).unwrap();
    let lab = Lab::of(hub, directory.path(), clock).await;
    assert_eq!(ask(&lab, &edits(0..4, "status", &json!("suspended"))).await.0, 200);
    assert_eq!(ask(&lab, &whole(4)).await.0, 202);
    lab.stop().await;
}

/// A request with the second administrator's token.
async fn second(lab: &Lab, directory: &Path, id: &str, answer: &str) -> (u16, Value) {
    let token = std::fs::read_to_string(directory.join("second.token")).unwrap().trim().to_owned();
    let body = json!({ "reason": "seen" });
    let (status, _, answer) =
        lab.ask_as(Some(&token), "POST", &format!("/v1/held/{id}/{answer}"), Some(body)).await;
    (status, answer)
}

async fn own(lab: &Lab, id: &str, answer: &str) -> (u16, Value) {
    lab.ask("POST", &format!("/v1/held/{id}/{answer}"), Some(json!({ "reason": "mine" }))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_principal_lets_it_through_in_slices() {
    let directory = tempfile::tempdir().unwrap();
    let lab = peopled(directory.path()).await;
    let before = revision(&lab).await;
    let (_, answer) = ask(&lab, &edits(0..7, "status", &json!("suspended"))).await;
    let id = held(&answer);
    assert_eq!((&answer["held"][0]["denied"], &answer["held"][0]["limit"]), (&json!(7), &json!(3)));
    // It survives the hub, and whoever asked.
    lab.stop().await;
    let lab = start(directory.path(), HandClock::new()).await;
    let (status, refused) = own(&lab, &id, "approve").await;
    assert_eq!(
        (status, refused["detail"].to_string().contains("another principal")),
        (403, true),
        "{refused}"
    );
    assert_eq!(revision(&lab).await, before);
    let (status, done) = second(&lab, directory.path(), &id, "approve").await;
    assert_eq!((status, &done["held"]["state"]), (200, &json!("released")), "{done:#}");
    let slices: Vec<u64> = (1..=3).map(|n| before + n).collect();
    assert_eq!(done["held"]["revisions"], json!(slices), "three, three and one, each with its own T");
    assert_eq!(
        (&done["held"]["requested_by"], &done["held"]["answered_by"]),
        (&json!("admin"), &json!("second"))
    );
    let (_, status) = lab.ask("GET", "/v1/status", None).await;
    assert_eq!(status["tenants"][0]["identities"]["suspended"], json!(7));
    // What was let through uses nothing up; and nothing is let through twice.
    assert_eq!(ask(&lab, &whole(7)).await.0, 201);
    assert_eq!(second(&lab, directory.path(), &id, "approve").await.0, 409);
    assert_eq!(second(&lab, directory.path(), "h0", "approve").await.0, 404);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_expired_or_of_another_lineage_is_never_committed() {
    let directory = tempfile::tempdir().unwrap();
    let lab = peopled(directory.path()).await;
    let four = edits(0..4, "status", &json!("suspended"));
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(held(&ask(&lab, &four).await.1));
    }
    let before = revision(&lab).await;
    // One may take back what one has asked for.
    assert_eq!(own(&lab, &ids[0], "reject").await.1["held"]["state"], json!("rejected"));
    assert_eq!(second(&lab, directory.path(), &ids[0], "approve").await.0, 409);
    lab.stop().await;
    let restoring = || Restoring::open(guarded(directory.path()), &[], HandClock::new());
    patiently(restoring).unwrap().begin().unwrap();
    let lab = start(directory.path(), HandClock::new()).await;
    let (status, refused) = second(&lab, directory.path(), &ids[1], "approve").await;
    assert_eq!((status, refused["detail"].to_string().contains("expired")), (409, true), "{refused}");
    let id = held(&ask(&lab, &four).await.1);
    lab.clock.pass(Duration::from_secs(86_400));
    assert_eq!(second(&lab, directory.path(), &id, "approve").await.0, 409);
    let (_, list) = lab.ask("GET", "/v1/held", None).await;
    let states: Vec<_> = list["items"].as_array().unwrap().iter().map(|held| &held["state"]).collect();
    assert_eq!(states.iter().filter(|state| ***state == json!("expired")).count(), 3, "{list:#}");
    assert_eq!(revision(&lab).await, before);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_change_is_judged_by_the_records_of_then() {
    let directory = tempfile::tempdir().unwrap();
    let lab = peopled(directory.path()).await;
    for n in 0..LIMIT {
        assert_eq!(ask(&lab, &whole(n)).await.0, 201);
    }
    let stale = with(3, "status", json!("suspended"));
    let (_, record) = lab.ask("GET", "/v1/tenants/demo/identity/i3", None).await;
    let put: Ask = (
        "PUT",
        "/v1/tenants/demo/identity/i3".to_owned(),
        json!({ "spec": stale, "expect_revision": record["revision"] }),
    );
    let id = held(&ask(&lab, &put).await.1);
    lab.apply(&[document("identity", "i3", with(3, "ticket", json!("OPS-7")))]).await;
    let (status, refused) = second(&lab, directory.path(), &id, "approve").await;
    assert_eq!(status, 409, "{refused}");
    let (_, shown) = lab.ask("GET", &format!("/v1/held/{id}"), None).await;
    assert!(shown["held"]["last_error"].to_string().contains("changed"), "{shown:#}");
    assert_eq!(shown["held"]["state"], json!("held"));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_glass_is_broken_on_record() {
    let directory = tempfile::tempdir().unwrap();
    let lab = peopled(directory.path()).await;
    let broken = |mut ask: Ask| {
        ask.2["break_glass"] = json!(true);
        ask
    };
    // Below the limit there is no glass to break.
    assert_eq!(ask(&lab, &broken(whole(0))).await.0, 201);
    assert_eq!(lab.ask("GET", "/v1/held", None).await.1["items"], json!([]));
    for n in 1..LIMIT {
        assert_eq!(ask(&lab, &whole(n)).await.0, 201);
    }
    let (status, revoked) = ask(&lab, &broken(whole(3))).await;
    assert_eq!((status, revoked["revision"].is_u64()), (201, true), "{revoked:#}");
    let (_, list) = lab.ask("GET", "/v1/held", None).await;
    let record = &list["items"][0];
    assert_eq!(
        (&record["break_glass"], &record["answered_by"], &record["answer"]),
        (&json!(true), &json!("admin"), &json!("test"))
    );
    assert_eq!(record["revisions"], json!([revoked["revision"]]));
    let (method, _, body) = edits(4..8, "status", &json!("suspended"));
    let (status, applied) = lab.ask(method, "/v1/apply?break_glass=fire", Some(body)).await;
    assert_eq!(
        (status, applied["tenants"][0]["changes"][0]["action"].clone()),
        (200, json!("update")),
        "{applied:#}"
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hubs_of_one_store_have_one_limit_between_them() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    peopled(one.path()).await.stop().await;
    std::fs::copy(one.path().join("cluster.key"), two.path().join("cluster.key")).unwrap();
    let clock = HandClock::new();
    let open = || SqliteStore::open(&one.path().join("hub.db"), clock.clone()).map_err(Into::into);
    let store = Arc::new(patiently(open).unwrap());
    let mut labs = Vec::new();
    for directory in [&one, &two] {
        let hub = Hub::over(store.clone(), guarded(directory.path()), clock.clone()).unwrap();
        labs.push(Lab::of(hub, directory.path(), clock.clone()).await);
    }
    // Each asks for its own half at once, and again where the other was first.
    let asking = |lab: usize| {
        let labs = &labs;
        async move {
            let mut let_through = 0;
            for n in (0..IDENTITIES).filter(|n| n % 2 == lab) {
                let status = loop {
                    match ask(&labs[lab], &whole(n)).await.0 {
                        409 => {}
                        status => break status,
                    }
                };
                assert!(matches!(status, 201 | 202), "{status}");
                let_through += usize::from(status == 201);
            }
            let_through
        }
    };
    let (left, right) = tokio::join!(asking(0), asking(1));
    assert_eq!(left + right, LIMIT);
    for lab in labs {
        lab.stop().await;
    }
}

#[test]
fn two_principals_cannot_share_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("admin.token");
    let shared = HubSettings { admins: vec![("second".to_owned(), file)], ..settings(directory.path()) };
    let refused = Hub::open(shared, HandClock::new()).unwrap_err().to_string();
    assert!(refused.contains("token of `admin` too"), "{refused}");
}
