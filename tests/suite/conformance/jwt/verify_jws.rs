//! `portreeve debug verify-jws`: the same verifier, for vectors from outside.

use portreeve::cli::{self, failure::Exit};
use portreeve::core::credential::Algorithm;
use serde_json::{Value, json};

use super::{STAND, claims, with, without};
use crate::support::issuer::TestIssuer;

fn run(lines: &str) -> (Exit, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cases.jsonl");
    std::fs::write(&file, lines).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit =
        cli::run_with(["portreeve", "debug", "verify-jws", file.to_str().unwrap()], &mut out, &mut err);
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn a_verdict_a_line() {
    let good = |key: &TestIssuer| key.sign(&key.header(), &claims());
    let line = |jwk: &Value, jws: &str| json!({ "jwk": jwk, "jws": jws }).to_string();
    let mut rows: Vec<(String, &str)> = Algorithm::ALL
        .map(|algorithm| (line(&STAND.key(algorithm).jwk(), &good(STAND.key(algorithm))), "accept"))
        .into();
    let key = STAND.key(Algorithm::Es256);
    let (jwk, jws) = (key.jwk(), good(key));
    let twice = jwk.to_string().replace("{", r#"{"crv":"P-256","#);
    let raw = key.sign_bytes(key.header().to_string().as_bytes(), b"\x00 no JSON");
    let confused = with(key.header(), "alg", json!("HS256"));
    rows.extend([
        (line(&json!({ "keys": [STAND.other.jwk(), jwk] }), &jws), "reject"),
        (line(&json!({ "keys": [STAND.long_id.jwk(), jwk] }), &jws), "accept"),
        (line(&json!({ "keys": [] }), &jws), "reject"),
        (line(&STAND.other.jwk(), &jws), "reject"),
        (line(&without(jwk.clone(), "x"), &jws), "reject"),
        (line(&json!(null), &jws), "reject"),
        (format!(r#"{{"jwk":{twice},"jws":"{jws}"}}"#), "reject"),
        (line(&jwk, &format!("{jws}.")), "reject"),
        (line(&jwk, ""), "reject"),
        (line(&jwk, &key.sign(&confused, &claims())), "reject"),
        (line(&jwk, &raw), "accept"),
    ]);
    let lines: Vec<_> = rows.iter().map(|(line, _)| line.as_str()).collect();
    let (exit, out, err) = run(&lines.join("\n"));
    assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
    for ((line, expected), found) in rows.iter().zip(out.lines()) {
        assert_eq!(found, *expected, "{line}");
    }
    assert_eq!(out.lines().count(), rows.len());
}

#[test]
fn a_line_that_is_no_case_ends_it() {
    let good = json!({ "jwk": {}, "jws": "" }).to_string();
    for bad in ["x", "{}", r#"{"jwk":{}}"#, r#"{"jwk":{},"jws":1}"#, r#"{"jwk":{},"jws":"","more":1}"#] {
        let (exit, out, err) = run(&format!("{good}\n{bad}\n{good}\n"));
        assert_eq!((exit, out.as_str()), (Exit::Input, "reject\n"), "{bad}");
        assert!(err.contains("line 2"), "{err}");
    }
}
