//! The product's main job through both doors, as processes of their own: the README's promise.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::dev::{Dev, Envoy};
use crate::support::http::{Answer, call};

/// Tokens that a row can name.
struct Tokens {
    good: BTreeMap<&'static str, String>,
    bad: Vec<(&'static str, String, &'static str)>,
}

impl Tokens {
    fn make(dev: &Dev) -> Self {
        let mint = |name: &'static str| {
            let token = dev.must(&["token", "mint", "--identity", name]).trim().to_owned();
            (name, token)
        };
        let good: BTreeMap<_, _> = ["ledger", "reports", "batch", "legacy-ftp"].map(mint).into();
        let bad = bad_tokens(dev, &good["ledger"]);
        Self { good, bad }
    }
}

/// A token that is wrong in one way each, and the reason on record.
fn bad_tokens(dev: &Dev, good: &str) -> Vec<(&'static str, String, &'static str)> {
    let file = std::fs::read(dev.folder().join("dev-issuer.json")).unwrap();
    let issuer: Value = serde_json::from_slice(&file).unwrap();
    let text = |name: &str| issuer[name].as_str().unwrap().to_owned();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(text("private_key_pem").as_bytes()).unwrap();
    let header = jsonwebtoken::Header {
        kid: Some(text("kid")),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let now = i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap();
    let claims = json!({
        "iss": text("iss"), "sub": "ledger", "aud": "orders", "iat": now, "exp": now + 300, "jti": "x",
    });
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let mut flipped = good.as_bytes().to_vec();
    let middle = good.rfind('.').unwrap() + 10;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let unsigned = {
        use base64::Engine as _;
        let encode =
            |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.AA", encode(&json!({"alg": "none", "typ": "JWT"})), encode(&claims))
    };
    let mut expired = claims.clone();
    (expired["iat"], expired["exp"]) = (json!(now - 600), json!(now - 300));
    vec![
        ("one flipped bit", String::from_utf8(flipped).unwrap(), "credential.unverified"),
        ("alg none", unsigned, "credential.unverified"),
        ("expired", jsonwebtoken::encode(&header, &expired, &key).unwrap(), "credential.expired"),
        ("wrong audience", with("aud", json!("invoices")), "credential.audience"),
        ("unknown issuer", with("iss", json!("https://issuer.example")), "issuer.unknown"),
    ]
}

fn with_token(door: SocketAddr, method: &str, path: &str, token: &str) -> Answer {
    call(door, method, path, &[("authorization", &format!("Bearer {token}"))])
}

/// What every 401 looks like, whatever its reason: status, headers and body, the decision id aside.
fn look(answer: &Answer) -> (u16, String, String) {
    let id = answer.header("x-portreeve-decision").to_owned();
    assert!(!id.is_empty(), "every refusal names its decision");
    assert_eq!(answer.header("x-portreeve-reason"), "", "a 401 gives no reason");
    let body = String::from_utf8(answer.body.to_vec()).unwrap().replace(&id, "ID");
    (answer.status.as_u16(), answer.header("www-authenticate").to_owned(), body)
}

/// The table of the design, through one door. Returns each decision's id with the reason expected on record.
fn table(door: SocketAddr, tokens: &Tokens) -> Vec<(String, &'static str)> {
    let mut expected = Vec::new();
    let mut note = |answer: &Answer, reason: &'static str| {
        expected.push((answer.header("x-portreeve-decision").to_owned(), reason));
    };

    let none = call(door, "GET", "/orders/1", &[]);
    assert_eq!(none.status, 401);
    assert!(none.header("www-authenticate").starts_with("Bearer"));
    assert!(!none.header("www-authenticate").contains("error="));
    note(&none, "credential.missing");

    let ledger = with_token(door, "GET", "/orders/1", &tokens.good["ledger"]);
    assert_eq!(ledger.status, 200);
    let seen = &ledger.json()["headers"];
    assert_eq!(seen["x-portreeve-identity"], "ledger");
    assert!(seen["x-portreeve-decision"].is_string());
    assert_eq!(seen["authorization"], Value::Null, "the caller's credential stays here");
    assert_eq!(seen["x-portreeve-warning"], Value::Null);
    expected.push((seen["x-portreeve-decision"].as_str().unwrap().to_owned(), "allowed"));

    let mut note = |answer: &Answer, reason: &'static str| {
        expected.push((answer.header("x-portreeve-decision").to_owned(), reason));
    };
    for (name, method, path) in [("ledger", "POST", "/orders"), ("reports", "GET", "/orders/1")] {
        let answer = with_token(door, method, path, &tokens.good[name]);
        assert_eq!(answer.status, 403, "{name} {method}");
        assert_eq!(answer.header("x-portreeve-reason"), "policy.denied");
        note(&answer, "policy.denied");
    }

    let suspended = with_token(door, "GET", "/orders/1", &tokens.good["legacy-ftp"]);
    let one_look = look(&suspended);
    assert_eq!(one_look.0, 401);
    assert!(one_look.1.contains("error=\"invalid_token\""));
    note(&suspended, "identity.suspended");
    for (what, token, reason) in &tokens.bad {
        let answer = with_token(door, "GET", "/orders/1", token);
        assert_eq!(look(&answer), one_look, "{what}");
        note(&answer, reason);
    }

    let batch = with_token(door, "GET", "/orders/1", &tokens.good["batch"]);
    assert_eq!(batch.status, 200);
    assert_eq!(batch.json()["headers"]["x-portreeve-warning"], "hygiene.ownerless");

    let bearer = format!("Bearer {}", tokens.good["ledger"]);
    let spoofed =
        call(door, "GET", "/orders/1", &[("authorization", &bearer), ("x-portreeve-identity", "root")]);
    assert_eq!(spoofed.status, 200);
    assert_eq!(spoofed.json()["headers"]["x-portreeve-identity"], "ledger");
    expected
}

/// The one key that a command printed.
fn printed(text: &str) -> String {
    let key = text.trim();
    assert!(key.starts_with("ptrv_") && key.len() == 95, "{} bytes", key.len());
    key.to_owned()
}

#[test]
fn an_api_key_is_made_rotated_and_revoked() {
    let dev = Dev::start();
    let made = ["credential", "create", "batch-key", "--kind", "api-key", "--identity", "batch"];
    let old = printed(&dev.must(&made));
    let ask = |key: &str| call(dev.address(7400), "GET", "/orders/1", &[("x-api-key", key)]);
    let until_known = |key: &str| {
        // The stream is asynchronous: a new key works as soon as it has arrived.
        for _ in 0..2_000 {
            let answer = ask(key);
            if answer.status == 200 {
                return answer;
            }
            std::thread::yield_now();
        }
        panic!("the key did not arrive")
    };
    let answer = until_known(&old);
    assert_eq!(answer.json()["headers"]["x-portreeve-identity"], "batch");
    assert_eq!(answer.json()["headers"]["x-api-key"], Value::Null, "the caller's credential stays here");
    let new = printed(&dev.must(&["credential", "rotate", "batch-key", "--overlap", "1h"]));
    until_known(&new);
    assert_eq!(ask(&old).status, 200, "both live for the overlap");
    let third = dev.run(&["credential", "rotate", "batch-key-2"]);
    assert!(!third.status.success(), "two may live, not three");
    assert!(third.stdout.is_empty(), "no key is shown that the hub refused");
    dev.must(&["credential", "revoke", "batch-key", "--reason", "test", "--wait"]);
    assert_eq!((ask(&old).status.as_u16(), ask(&new).status.as_u16()), (401, 200));
    let listed = dev.must(&["credential", "list", "--output", "json"]);
    let (_, records) = dev.stop();
    let all = records.iter().map(Value::to_string).collect::<String>() + &listed;
    for key in [&old, &new] {
        assert!(!all.contains(&key[22..54]), "a secret is kept");
    }
    let kinds: Vec<_> = records.iter().filter(|r| r["effect"] == "allow").collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|r| r["credential_kind"] == "api-key"));
}

#[test]
fn the_main_job_through_the_proxy_and_through_envoy() {
    let dev = Dev::start();
    let envoy = Envoy::start(&dev);
    let tokens = Tokens::make(&dev);
    let doors: Vec<_> =
        [Some(dev.address(7400)), envoy.as_ref().map(Envoy::address)].into_iter().flatten().collect();

    let mut expected = Vec::new();
    for door in &doors {
        expected.extend(table(*door, &tokens));
    }

    let receipt = dev.must(&["revoke", "identity", "ledger", "--reason", "test", "--wait"]);
    assert!(receipt.contains("in force everywhere since"), "{receipt}");
    let fresh = dev.must(&["token", "mint", "--identity", "ledger"]);
    for door in &doors {
        for token in [&tokens.good["ledger"], fresh.trim()] {
            let answer = with_token(*door, "GET", "/orders/1", token);
            assert_eq!(answer.status, 401);
            expected.push((answer.header("x-portreeve-decision").to_owned(), "identity.revoked"));
        }
        assert_eq!(with_token(*door, "GET", "/orders/1", &tokens.good["batch"]).status, 200, "others go on");
    }

    let metrics = call(dev.address(7404), "GET", "/metrics", &[]);
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let warnings = metrics
        .lines()
        .find(|line| line.starts_with("portreeve_warnings_total") && line.contains("hygiene.ownerless"));
    assert_eq!(
        warnings.and_then(|line| line.rsplit(' ').next()),
        Some((2 * doors.len()).to_string().as_str())
    );

    drop(envoy);
    let (status, records) = dev.stop();
    assert!(status.success(), "ended with {status}");
    let by_id: BTreeMap<_, _> = records.iter().map(|r| (r["id"].as_str().unwrap(), r)).collect();
    for (id, reason) in &expected {
        let record = by_id.get(id.as_str()).unwrap_or_else(|| panic!("no record of {id} ({reason})"));
        assert_eq!(record["reason"], *reason, "{id}");
    }
    let batch = records.iter().filter(|r| r["identity"] == "batch" && r["effect"] == "allow");
    for record in batch {
        assert_eq!(record["warnings"], json!(["hygiene.ownerless"]));
    }
    let all = records.iter().map(Value::to_string).collect::<String>();
    assert!(tokens.good.values().all(|token| !all.contains(token.as_str())), "no credential on record");
    assert!(records.iter().any(|r| r["kind"] == "log_close"), "the log was closed in order");
}
