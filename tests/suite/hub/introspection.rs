//! Issuers with opaque tokens: what their records may say, and what the tenant's others let them.

use portreeve::core::identity::RecordKind;
use portreeve::hub::model::{Spec, read_spec};
use serde_json::{Value, json};

use super::lab::{HandClock, Lab, document};

fn spec(iss: &str, introspection: Value) -> Value {
    json!({
        "iss": iss, "profile": "generic", "audiences": ["orders"], "max_lifetime": "1h",
        "introspection": introspection,
    })
}

fn asked(member: &str, value: Value) -> Value {
    let mut asked = json!({ "endpoint": "https://opaque.test/introspect", "subject": "sub" });
    asked[member] = value;
    asked
}

#[test]
fn what_a_record_may_say() {
    let good = || asked("subject", json!("sub"));
    let with = |members: Value| {
        let mut spec = spec("https://opaque.test", good());
        for (member, value) in members.as_object().unwrap() {
            match value {
                Value::Null => drop(spec.as_object_mut().unwrap().remove(member)),
                value => spec[member] = value.clone(),
            }
        }
        spec
    };
    let keys = json!({ "url": "https://opaque.test/jwks" });
    let of = |member, value| with(json!({ "introspection": asked(member, value) }));
    let long = |bytes: usize| json!("p".repeat(bytes));
    // What is written, and the place of the fault; none: it is taken, and read back the same.
    let rows = [
        (with(json!({})), None),
        (with(json!({ "profile": "rfc9068" })), None),
        (of("subject", json!("client_id")), None),
        (of("subject", json!("username")), Some("spec.introspection.subject")),
        (of("endpoint", json!("http://opaque.test/")), Some("spec.introspection.endpoint")),
        (of("endpoint", json!("https://u:p@opaque.test/")), Some("spec.introspection.endpoint")),
        (of("client_secret", json!("x")), Some("spec.introspection.client_secret")),
        (of("token_prefix", json!("op_")), None),
        (of("token_prefix", long(64)), None),
        (of("token_prefix", long(65)), Some("spec.introspection.token_prefix")),
        (of("token_prefix", json!("")), Some("spec.introspection.token_prefix")),
        (of("token_prefix", json!("op.")), Some("spec.introspection.token_prefix")),
        (with(json!({ "algorithms": ["ES256"] })), Some("spec.keys")),
        (with(json!({ "keys": keys })), Some("spec.algorithms")),
        (with(json!({ "algorithms": ["ES256"], "keys": keys })), None),
        (with(json!({ "introspection": null })), Some("spec.algorithms")),
        (with(json!({ "audiences": null })), Some("spec.audiences")),
        (with(json!({ "profile": "jwt-svid" })), Some("spec.introspection")),
        (with(json!({ "profile": "x509", "audiences": null })), Some("spec.introspection")),
    ];
    for (spec, expected) in rows {
        let read = read_spec(RecordKind::Issuer, &spec, "spec");
        match (read, expected) {
            (Ok(read), None) => {
                let shown = serde_json::to_value(Spec::of(&read.record)).unwrap();
                assert_eq!(shown, spec);
            }
            (Err(faults), Some(path)) => {
                let found = faults.list().iter().any(|fault| fault.path == path);
                assert!(found, "{path}: {faults}");
            }
            (read, expected) => panic!("{spec:#}: {read:?}, not {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_issuers_of_a_tenant_have_other_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::start(folder.path(), HandClock::new()).await;
    let issuer = |name: &str, prefix: &str| {
        let asked = if prefix.is_empty() {
            asked("subject", json!("sub"))
        } else {
            asked("token_prefix", json!(prefix))
        };
        document("issuer", name, spec(&format!("https://{name}.test"), asked))
    };
    let apply = async |documents: Vec<Value>| {
        let (status, answer) = lab.ask("POST", "/v1/apply", Some(json!({ "documents": documents }))).await;
        let told = answer["detail"].as_str().unwrap_or_default();
        assert_eq!(status == 422, told.contains("opaque tokens that begin like these"), "{answer:#}");
        status
    };
    assert_eq!(apply(vec![issuer("one", ""), issuer("two", "")]).await, 422, "in one request");
    assert_eq!(apply(vec![issuer("one", ""), issuer("two", "op_")]).await, 200);
    assert_eq!(apply(vec![issuer("three", "")]).await, 422, "beside one that is held");
    assert_eq!(apply(vec![issuer("three", "op_")]).await, 422);
    assert_eq!(apply(vec![issuer("three", "op_3")]).await, 200);
    // What is held gives way in the same request; itself is not in its own way.
    assert_eq!(apply(vec![issuer("one", "op_"), issuer("two", "")]).await, 200);
    assert_eq!(apply(vec![issuer("one", "op_")]).await, 200);
    lab.stop().await;
}
