//! What a record may say: rows of edits of a document that is taken, and where the fault is.

use portreeve::core::identity::RecordKind;
use portreeve::hub::model::{Spec, read_spec};
use serde_json::{Value, json};

use super::lab::{identity_spec, issuer_spec, resource_spec};

fn exception_spec() -> Value {
    json!({
        "identities": ["batch"], "lifts": ["hygiene.ownerless"], "reason": "owner left", "ticket": "TICKET-77",
        "owner": { "team": "platform" }, "approver": { "person": "m.ortiz" },
        "expires": "2026-08-31T00:00:00Z",
    })
}

fn credential_spec() -> Value {
    json!({
        "kind": "signing-key", "fingerprint": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
        "issued": "2026-01-01", "rotate_by": "2026-12-31", "source": "vault",
    })
}

fn policy_spec() -> Value {
    json!({
        "cedar": "permit(principal, action, resource);", "mode": "enforce",
        "hygiene": { "ownerless": "deny", "review_lapsed": { "mode": "warn", "deny_from": "2027-01-01" } },
    })
}

fn base(kind: RecordKind) -> Value {
    match kind {
        RecordKind::Identity => identity_spec("ledger"),
        RecordKind::Credential => credential_spec(),
        RecordKind::Issuer => issuer_spec(),
        RecordKind::PolicySet => policy_spec(),
        RecordKind::Exception => exception_spec(),
        RecordKind::Resource => resource_spec(),
        RecordKind::Revocation | RecordKind::StatusList => json!({}),
    }
}

fn lists(uris: &[&str]) -> Value {
    json!({ "uris": uris })
}

#[test]
fn an_issuers_status_lists_read_back_the_same() {
    for max_age in [None, Some("1m"), Some("7d")] {
        let mut spec = issuer_spec();
        spec["status_lists"] = lists(&["https://a.test/lists/", "https://a.test/1?a=b"]);
        spec["status_lists"]["max_age"] = json!(max_age.unwrap_or("1h"));
        if max_age.is_none() {
            spec["status_lists"].as_object_mut().unwrap().remove("max_age");
        }
        let read = read_spec(RecordKind::Issuer, &spec, "spec").unwrap();
        let shown = serde_json::to_value(Spec::of(&read.record)).unwrap();
        assert_eq!(shown["status_lists"]["max_age"], max_age.unwrap_or("1h"));
        assert_eq!(read_spec(RecordKind::Issuer, &shown, "spec").unwrap().record, read.record);
        let without = read_spec(RecordKind::Issuer, &issuer_spec(), "spec").unwrap().record;
        assert_ne!(without, read.record, "a change of the lists is a change");
    }
}

#[test]
fn what_is_written_reads_back_the_same() {
    for kind in RecordKind::ALL {
        if matches!(kind, RecordKind::Revocation | RecordKind::StatusList) {
            continue;
        }
        let read = read_spec(kind, &base(kind), "spec").unwrap();
        let shown = serde_json::to_value(Spec::of(&read.record)).unwrap();
        let again = read_spec(kind, &shown, "spec").unwrap();
        assert_eq!(again.record, read.record, "{shown:#}");
    }
}

#[test]
fn faults_name_their_path_and_what_was_expected() {
    use RecordKind::{Credential, Exception, Identity, Issuer, PolicySet, Resource, Revocation};
    let rows: &[(RecordKind, &str, Value, &str, &str)] = &[
        (Identity, "/type", json!("robot"), "spec.type", "expected one of `workload`"),
        (Identity, "/environment", json!(""), "spec.environment", "is empty"),
        (Identity, "/environment", json!("a\u{7}"), "spec.environment", "control character"),
        (Identity, "/colour", json!("red"), "spec.colour", "unknown field `colour`"),
        (Identity, "/status", json!("gone"), "spec.status", "expected one of `pending`"),
        (Identity, "/end", json!("tomorrow"), "spec.end", "expected RFC 3339"),
        (Identity, "/end", json!("2027-01-01T00:00:00"), "spec.end", "expected RFC 3339"),
        (Identity, "/owner", json!("me"), "spec.owner", "an object with `team`"),
        (Identity, "/owner/mail", json!("x"), "spec.owner.mail", "unknown field"),
        (Identity, "/labels", json!({ "a": 1 }), "spec.labels.a", "expected a string"),
        (Identity, "/bindings/0/issuer", json!("Main"), "spec.bindings[0].issuer", "malformed name `Main`"),
        (Identity, "/bindings/0/subject", json!(""), "spec.bindings[0].subject", "is empty"),
        (Identity, "/bindings/0/sub", json!("x"), "spec.bindings[0].sub", "unknown field"),
        (
            Identity,
            "/bindings",
            json!(vec![json!({ "issuer": "a", "subject": "b" }); 65]),
            "spec.bindings",
            "at most 64",
        ),
        (Identity, "/entitlements/0/expires", json!("no"), "spec.entitlements[0].expires", "RFC 3339"),
        (Identity, "/risk", json!("extreme"), "spec.risk", "expected one of `low`"),
        (Issuer, "/iss", json!(""), "spec.iss", "is empty"),
        (Issuer, "/profile", json!("saml"), "spec.profile", "expected one of `generic`, `rfc9068`"),
        (Issuer, "/profile", json!("jwt-svid"), "spec.iss", "is no trust domain"),
        (Issuer, "/iss", json!("kubernetes/serviceaccount"), "spec.iss", "never expire"),
        (
            Issuer,
            "/iss",
            json!("https://token.actions.githubusercontent.com"),
            "spec.profile",
            "expected `github`",
        ),
        (Issuer, "/iss", json!("https://gitlab.com"), "spec.profile", "expected `gitlab`"),
        (Issuer, "/algorithms", json!([]), "spec.algorithms", "is empty"),
        (Issuer, "/algorithms/0", json!("HS256"), "spec.algorithms[0]", "`HS256` is unknown"),
        (Issuer, "/audiences", json!([]), "spec.audiences", "is empty"),
        (Issuer, "/max_lifetime", json!("0s"), "spec.max_lifetime", "1s to 365d"),
        (Issuer, "/max_lifetime", json!("366d"), "spec.max_lifetime", "1s to 365d"),
        (Issuer, "/keys", json!({ "url": "http://x" }), "spec.keys.url", "is not `https`"),
        (Issuer, "/keys", json!({ "discovery": false }), "spec.keys.discovery", "expected `true`"),
        (Issuer, "/keys", json!({ "file": "x.json" }), "spec.keys.file", "portreeve apply"),
        (Issuer, "/keys", json!({}), "spec.keys", "expected one of `inline`"),
        (Issuer, "/keys/inline", json!({ "keys": [] }), "spec.keys.inline", "no usable key"),
        (Issuer, "/keys/inline/keys/0/kty", json!("oct"), "spec.keys.inline", "no usable key"),
        (Issuer, "/keys/inline", json!("x"), "spec.keys.inline", "JSON Web Key Set"),
        (Issuer, "/status_lists", json!({}), "spec.status_lists", "missing field `uris`"),
        (Issuer, "/status_lists", json!({ "uris": [] }), "spec.status_lists.uris", "1 to 16"),
        (Issuer, "/status_lists", lists(&["https://a.test/1"; 17]), "spec.status_lists.uris", "1 to 16"),
        (Issuer, "/status_lists", lists(&["http://a.test/1"]), "spec.status_lists.uris[0]", "is not `https`"),
        (Issuer, "/status_lists", lists(&["https://a.test"]), "spec.status_lists.uris[0]", "has no path"),
        (Issuer, "/status_lists", lists(&["https://a@a.test/"]), "spec.status_lists.uris[0]", "has a user"),
        (
            Issuer,
            "/status_lists",
            lists(&["https://a.test/?a=/"]),
            "spec.status_lists.uris[0]",
            "has a query",
        ),
        (
            Issuer,
            "/status_lists",
            lists(&["https://a.test/1", "https://a.test/1"]),
            "spec.status_lists.uris[1]",
            "is there twice",
        ),
        (
            Issuer,
            "/status_lists",
            json!({ "uris": ["https://a.test/1"], "max_age": "59s" }),
            "spec.status_lists.max_age",
            "1m to 7d",
        ),
        (
            Issuer,
            "/status_lists",
            json!({ "uris": ["https://a.test/1"], "max_age": "8d" }),
            "spec.status_lists.max_age",
            "1m to 7d",
        ),
        (Resource, "/routes/1/path", json!("orders"), "spec.routes[1].path", "expected such as `/orders"),
        (Resource, "/routes/1/path", json!("/a/**/b"), "spec.routes[1].path", "`**` stands before the end"),
        (Resource, "/routes/0/methods/1", json!("get"), "spec.routes[0].methods[1]", "upper-case method"),
        (Resource, "/routes/0/requires", json!(""), "spec.routes[0].requires", "is empty"),
        (Resource, "/environment", json!(7), "spec.environment", "expected a string"),
        (PolicySet, "/mode", json!("audit"), "spec.mode", "expected `enforce` or `shadow`"),
        (PolicySet, "/hygiene/ownerless", json!("maybe"), "spec.hygiene.ownerless", "expected `off`"),
        (PolicySet, "/hygiene/dormant", json!("warn"), "spec.hygiene.dormant", "unknown field"),
        (PolicySet, "/cedar", json!("x".repeat(262_145)), "spec.cedar", "at most 262144"),
        (Exception, "/identities", json!([]), "spec.identities", "is empty"),
        (Exception, "/identities", json!(["a", "a"]), "spec.identities[1]", "twice"),
        (Exception, "/lifts", json!([]), "spec.lifts", "is empty"),
        (Exception, "/lifts/0", json!("identity.revoked"), "spec.lifts[0]", "cannot be lifted"),
        (Exception, "/lifts/0", json!("state.stale"), "spec.lifts[0]", "cannot be lifted"),
        (Exception, "/reason", json!(" "), "spec.reason", "is empty"),
        (Exception, "/owner", json!({}), "spec.owner", "names nobody"),
        (Exception, "/approver", json!({ "contact": "x" }), "spec.approver", "names nobody"),
        (
            Credential,
            "/kind",
            json!("password"),
            "spec.kind",
            "expected one of `signing-key`, `api-key`, `certificate`",
        ),
        (Credential, "/kind", json!("api-key"), "spec.key_id", "is missing"),
        (Credential, "/kind", json!("api-key"), "spec.digest", "is missing"),
        (Credential, "/kind", json!("api-key"), "spec.identity", "is one identity's"),
        (Credential, "/kind", json!("certificate"), "spec.identity", "is one identity's"),
        (Issuer, "/profile", json!("x509"), "spec.algorithms", "is not for `x509`"),
        (Issuer, "/profile", json!("x509"), "spec.audiences", "is not for `x509`"),
        (Issuer, "/profile", json!("x509"), "spec.keys", "is not for `x509`"),
        (Credential, "/kind", json!("api-key"), "spec.fingerprint", "is not for a `api-key`"),
        (Credential, "/key_id", json!("0123456789abcdef"), "spec.key_id", "is not for a `signing-key`"),
        (Credential, "/digest", json!("x"), "spec.digest", "is not for a `signing-key`"),
        (Credential, "/fingerprint", json!(null), "spec.fingerprint", "is missing"),
        (Credential, "/fingerprint", json!("AQEB"), "spec.fingerprint", "32 bytes in base64url"),
        (Credential, "/identity", json!("X"), "spec.identity", "malformed name"),
        (Credential, "/status", json!("asleep"), "spec.status", "expected `active` or `revoked`"),
        (Revocation, "/reason", json!("x"), "spec", "portreeve revoke"),
    ];
    for (kind, pointer, value, path, expected) in rows {
        let mut spec = base(*kind);
        set(&mut spec, pointer, value.clone());
        let faults = read_spec(*kind, &spec, "spec").expect_err(pointer);
        let fault = faults.list().iter().find(|fault| fault.path == *path);
        let fault = fault.unwrap_or_else(|| panic!("{pointer} = {value}: {faults}"));
        assert!(fault.message.contains(expected), "{pointer}: {}", fault.message);
    }
}

#[test]
fn what_a_profile_asks_of_its_issuer() {
    let mut svid = issuer_spec();
    set(&mut svid, "/profile", json!("jwt-svid"));
    set(&mut svid, "/iss", json!("spiffe://acme.example"));
    set(&mut svid, "/algorithms", json!(["ES256"]));
    set(&mut svid, "/keys/inline/keys/0/use", json!("jwt-svid"));
    let mut github = issuer_spec();
    set(&mut github, "/profile", json!("github"));
    set(&mut github, "/iss", json!("https://token.actions.githubusercontent.com"));
    let rows: &[(&Value, &str, Value, Option<&str>)] = &[
        (&svid, "/profile", json!("jwt-svid"), None),
        (&svid, "/algorithms", json!(["ES256", "EdDSA"]), Some("spec.algorithms")),
        (&svid, "/iss", json!("spiffe://acme.example/"), Some("spec.iss")),
        (&svid, "/iss", json!("spiffe://acme.example/a"), Some("spec.iss")),
        (&svid, "/keys/inline/keys/0/use", json!("x509-svid"), Some("spec.keys.inline")),
        (&github, "/audiences", json!(["orders"]), None),
        (&github, "/audiences", json!(["https://github.com/acme"]), Some("spec.audiences")),
    ];
    let x509 = json!({ "iss": "spiffe://acme.example", "profile": "x509", "max_lifetime": "1h" });
    let read = read_spec(RecordKind::Issuer, &x509, "spec").unwrap();
    assert_eq!(serde_json::to_value(Spec::of(&read.record)).unwrap(), x509);
    let mut path = x509.clone();
    set(&mut path, "/iss", json!("spiffe://acme.example/a"));
    assert!(read_spec(RecordKind::Issuer, &path, "spec").is_err());
    for (base, pointer, value, expected) in rows {
        let mut spec = (*base).clone();
        set(&mut spec, pointer, value.clone());
        let read = read_spec(RecordKind::Issuer, &spec, "spec");
        let found = read.as_ref().err().map(|faults| faults.list()[0].path.as_str());
        assert_eq!(found, *expected, "{pointer} = {value}: {read:?}");
    }
}

#[test]
fn what_must_be_there_is_missed_by_name() {
    let rows = [
        (RecordKind::Exception, "expires"),
        (RecordKind::Exception, "approver"),
        (RecordKind::Identity, "type"),
        (RecordKind::Issuer, "max_lifetime"),
        (RecordKind::PolicySet, "cedar"),
    ];
    for (kind, member) in rows {
        let mut spec = base(kind);
        spec.as_object_mut().unwrap().remove(member);
        let faults = read_spec(kind, &spec, "documents[3].spec").unwrap_err();
        assert_eq!(faults.to_string(), format!("documents[3].spec: missing field `{member}`"));
    }
}

#[test]
fn a_bad_key_among_good_ones_is_a_warning() {
    let mut spec = issuer_spec();
    let keys = spec.pointer_mut("/keys/inline/keys").unwrap().as_array_mut().unwrap();
    keys.push(json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "shared" }));
    let read = read_spec(RecordKind::Issuer, &spec, "spec").unwrap();
    let warnings: Vec<_> = read.warnings.iter().map(|w| (w.path.as_str(), w.message.as_str())).collect();
    assert!(matches!(warnings[..], [("spec.keys.inline", m)] if m.contains("key `shared`")), "{warnings:?}");
}

fn set(spec: &mut Value, pointer: &str, value: Value) {
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Object(object) => {
            object.insert(member.to_owned(), value);
        }
        Value::Array(list) => list[member.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer}: {other}"),
    }
}
