//! API keys at the hub: what is kept of them, how many may live, what stays as it was written.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::lab::{HandClock, Lab, demo, document, identity_spec};

fn key(n: u8, identity: &str) -> Value {
    json!({
        "kind": "api-key", "identity": identity, "key_id": format!("{n:016x}"),
        "digest": URL_SAFE_NO_PAD.encode([n; 32]), "issued": "2026-01-01T00:00:00Z",
    })
}

fn with(mut spec: Value, member: &str, value: Value) -> Value {
    spec[member] = value;
    spec
}

async fn lab(directory: &std::path::Path) -> Lab {
    let lab = Lab::start(directory, HandClock::new()).await;
    let mut documents = demo();
    documents.push(document("identity", "other", identity_spec("other")));
    lab.apply(&documents).await;
    lab
}

async fn try_apply(lab: &Lab, documents: &[Value]) -> (u16, Value) {
    lab.ask("POST", "/v1/apply", Some(json!({ "documents": documents }))).await
}

#[tokio::test]
async fn two_keys_of_an_identity_may_live() {
    let directory = tempfile::tempdir().unwrap();
    let lab = lab(directory.path()).await;
    let keys: Vec<_> = (1..=2).map(|n| document("credential", &format!("k{n}"), key(n, "ledger"))).collect();
    assert_eq!(try_apply(&lab, &keys).await.0, 200);
    let third = |spec: Value| vec![document("credential", "k3", spec)];
    let (status, told) = try_apply(&lab, &third(key(3, "ledger"))).await;
    assert_eq!(status, 422, "{told:#}");
    assert!(told.to_string().contains("`k1`, `k2`"), "{told:#}");
    let rows = [
        ("another's", third(key(3, "other")), 200),
        (
            "already over",
            vec![document("credential", "k4", with(key(4, "ledger"), "expires", json!("2026-01-02")))],
            200,
        ),
        (
            "one ends in the same breath",
            vec![
                document("credential", "k1", with(key(1, "ledger"), "status", json!("revoked"))),
                document("credential", "k5", key(5, "ledger")),
            ],
            200,
        ),
        ("and now two live again", vec![document("credential", "k6", key(6, "ledger"))], 422),
        ("one that is over stays so", vec![document("credential", "k4", key(4, "ledger"))], 200),
        (
            "one that is over returns",
            vec![document("credential", "k4", with(key(4, "ledger"), "expires", json!("2027-01-01")))],
            409,
        ),
        ("so two live still", vec![document("credential", "k6", key(6, "ledger"))], 422),
    ];
    for (what, documents, expected) in rows {
        let (status, told) = try_apply(&lab, &documents).await;
        assert_eq!(status, expected, "{what}: {told:#}");
    }
    let target = json!({ "target": { "credential": "k2" }, "reason": "test" });
    let (status, told) = lab.ask("POST", "/v1/tenants/demo/revocations", Some(target)).await;
    assert!((200..300).contains(&status), "{told:#}");
    let (status, told) = try_apply(&lab, &[document("credential", "k6", key(6, "ledger"))]).await;
    assert_eq!(status, 200, "a revoked one does not count: {told:#}");
    lab.stop().await;
}

#[tokio::test]
async fn what_a_key_is_stays() {
    let directory = tempfile::tempdir().unwrap();
    let lab = lab(directory.path()).await;
    assert_eq!(try_apply(&lab, &[document("credential", "k1", key(1, "ledger"))]).await.0, 200);
    let thumbprint = json!({ "kind": "signing-key", "fingerprint": URL_SAFE_NO_PAD.encode([9; 32]) });
    let rows = [
        ("digest", with(key(1, "ledger"), "digest", json!(URL_SAFE_NO_PAD.encode([2; 32]))), 409),
        ("id", with(key(1, "ledger"), "key_id", json!("00000000000000ff")), 409),
        ("identity", key(1, "other"), 409),
        ("kind", thumbprint, 409),
        ("rotation date", with(key(1, "ledger"), "rotate_by", json!("2027-01-01")), 200),
        ("end", with(key(1, "ledger"), "expires", json!("2027-01-01")), 200),
        ("later end", with(key(1, "ledger"), "expires", json!("2027-01-02")), 409),
        ("sooner end", with(key(1, "ledger"), "expires", json!("2026-12-31")), 200),
        ("the end before", with(key(1, "ledger"), "expires", json!("2027-01-01")), 409),
        ("later made", with(key(1, "ledger"), "issued", json!("2026-01-01T00:00:01Z")), 409),
        ("revoked", with(key(1, "ledger"), "status", json!("revoked")), 200),
        ("back", key(1, "ledger"), 409),
    ];
    for (what, spec, expected) in rows {
        let (status, told) = try_apply(&lab, &[document("credential", "k1", spec)]).await;
        assert_eq!(status, expected, "{what}: {told:#}");
    }
    let (status, told) = try_apply(&lab, &[document("credential", "k2", key(1, "other"))]).await;
    assert_eq!(status, 422, "an id is one key's: {told:#}");
    assert_eq!(try_apply(&lab, &[document("credential", "k3", key(3, "other"))]).await.0, 200);
    let stop = json!({ "status": "suspended", "reason": "test" });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/identity/other/status", Some(stop)).await.0, 200);
    let gone = "/v1/tenants/demo/credential/k3";
    let (status, told) = lab.ask("DELETE", gone, None).await;
    assert_eq!(status, 409, "a stopped identity's key cannot be given to another: {told:#}");
    let go = json!({ "status": "active", "reason": "test" });
    assert_eq!(lab.ask("POST", "/v1/tenants/demo/identity/other/status", Some(go)).await.0, 200);
    let (status, told) = lab.ask("DELETE", gone, None).await;
    assert_eq!(status, 200, "{told:#}");
    let (_, shown) = lab.ask("GET", "/v1/tenants/demo/credential/k1", None).await;
    assert_eq!(shown["spec"]["key_id"], "0000000000000001");
    assert_eq!(shown["spec"]["expires"], "2026-12-31T00:00:00Z", "left out, it stays: {shown:#}");
    assert_eq!(shown["spec"].get("fingerprint"), None, "{shown:#}");
    lab.stop().await;
}

/// The clock of the hub stands at 2026-06-21T00:00:01Z.
#[tokio::test]
async fn a_cut_off_is_not_outlived() {
    let directory = tempfile::tempdir().unwrap();
    let lab = lab(directory.path()).await;
    let made = |n: u8, time: &str| {
        let spec = with(key(n, "ledger"), "issued", json!(time));
        [document("credential", &format!("k{n}"), spec)]
    };
    for (n, time, expected) in
        [(1, "2026-06-21T00:10:02Z", 409), (2, "2026-06-21T00:10:01Z", 200), (3, "2026-06-20T00:00:00Z", 200)]
    {
        let (status, told) = try_apply(&lab, &made(n, time)).await;
        assert_eq!(status, expected, "{time}: {told:#}");
    }
    let target = json!({ "target": { "identity": "ledger", "issued_before": "2026-06-21T00:00:01Z" }, "reason": "test" });
    let (status, told) = lab.ask("POST", "/v1/tenants/demo/revocations", Some(target)).await;
    assert!((200..300).contains(&status), "{told:#}");
    for (name, expected) in [("k3", 409), ("k2", 200)] {
        let (status, told) = lab.ask("DELETE", &format!("/v1/tenants/demo/credential/{name}"), None).await;
        assert_eq!(status, expected, "{name}: {told:#}");
    }
    lab.stop().await;
}
