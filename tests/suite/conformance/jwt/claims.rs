//! Claims: who, for whom, when (T14 to T19).

use portreeve::core::credential::Algorithm;
use portreeve::core::policy::Reason::*;
use portreeve::core::time::Timestamp;
use serde_json::{Value, json};

use super::rows::{claim_row, es256, row, run, with_claims};
use super::{HERE, LIFETIME, NOW, SKEW, STAND, claims, with, without};
use crate::support::issuer::TestIssuer;

#[test]
fn subjects_ids_and_actors() {
    let malformed = Err(CredentialMalformed);
    let chain =
        |depth: usize| (1..depth).fold(json!({ "sub": "a" }), |act, _| json!({ "sub": "a", "act": act }));
    let mut rows = vec![row("T19 sub absent", with_claims(&without(claims(), "sub")), malformed)];
    let subs =
        [json!(""), json!(["a"]), Value::Null, json!(1), json!("a\0"), json!("a\r\nb: c"), json!("a\u{85}")];
    rows.extend(subs.map(|sub| claim_row("T19", "sub", sub, malformed)));
    rows.extend(
        [json!("a "), json!("а"), json!("x".repeat(2048))].map(|sub| claim_row("T19", "sub", sub, Ok(()))),
    );
    rows.push(claim_row("T19 2049 bytes", "sub", json!("x".repeat(2049)), malformed));
    rows.push(row("§3 jti absent", with_claims(&without(claims(), "jti")), Ok(())));
    rows.push(claim_row("§3 jti 256", "jti", json!("x".repeat(256)), Ok(())));
    let ids = [json!("x".repeat(257)), json!(1), Value::Null, json!(["a"]), json!("a\n")];
    rows.extend(ids.map(|id| claim_row("§3", "jti", id, malformed)));
    let proofs = [json!({ "jkt": "x" }), json!({ "x5t#S256": "x" }), json!({}), Value::Null, json!("x")];
    rows.extend(proofs.map(|cnf| claim_row("§6", "cnf", cnf, Err(CredentialUnbound))));
    rows.push(claim_row("RFC 8693 4.1", "act", chain(8), Ok(())));
    rows.push(claim_row("RFC 8693 4.1", "act", chain(9), malformed));
    let acts = [
        json!("a"),
        Value::Null,
        json!([]),
        json!({}),
        json!({ "sub": "" }),
        json!({ "sub": 1 }),
        json!({ "sub": "a", "iss": 1 }),
        json!({ "sub": "a", "act": null }),
        json!({ "sub": "a", "act": {} }),
    ];
    rows.extend(acts.map(|act| claim_row("RFC 8693 4.1", "act", act, malformed)));
    run(rows);
}

#[test]
fn audiences() {
    let (wrong, malformed) = (Err(CredentialAudience), Err(CredentialMalformed));
    let mut rows = vec![row("T17 absent", with_claims(&without(claims(), "aud")), wrong)];
    let good = [json!("orders"), json!("billing"), json!(["orders"]), json!(["x", "billing"])];
    rows.extend(good.map(|aud| claim_row("§3.8", "aud", aud, Ok(()))));
    let strange = ["order", "orders/", "Orders", "orders ", "ordersx", "https://orders", "orders,billing"];
    rows.extend(strange.map(|aud| claim_row("T17", "aud", json!(aud), wrong)));
    rows.push(claim_row("T17", "aud", json!(["x", "y"]), wrong));
    rows.push(claim_row("§3.8 32 of them", "aud", json!(vec!["orders"; 32]), Ok(())));
    rows.push(claim_row("§3.8 33 of them", "aud", json!(vec!["orders"; 33]), malformed));
    let bad = [
        json!([]),
        json!(""),
        json!([""]),
        json!(["orders", 1]),
        json!([["orders"]]),
        json!(["orders", null]),
        json!({ "orders": true }),
        json!(1),
        Value::Null,
        json!(true),
    ];
    rows.extend(bad.map(|aud| claim_row("T17", "aud", aud, malformed)));
    run(rows);
}

#[test]
fn times() {
    let (expired, malformed) = (Err(CredentialExpired), Err(CredentialMalformed));
    let young = |exp: Value| with(with(claims(), "iat", json!(NOW - 100)), "exp", exp);
    let timeless = |exp: i64| with(without(claims(), "iat"), "exp", json!(exp));
    let mut rows = vec![
        row("T16 exp absent", with_claims(&without(claims(), "exp")), malformed),
        row("§3.7 exp + skew = now", with_claims(&young(json!(NOW - SKEW))), expired),
        row("§3.7 exp + skew = now + 1", with_claims(&young(json!(NOW - SKEW + 1))), Ok(())),
        row("§3.7 exp + skew = now + 0.5", with_claims(&young(json!(NOW as f64 - 29.5))), Ok(())),
        row("§3.7 exp + skew = now - 0.5", with_claims(&young(json!(NOW as f64 - 30.5))), expired),
        claim_row("§3.7 nbf = now + skew", "nbf", json!(NOW + SKEW), Ok(())),
        claim_row("§3.7 nbf = now + skew + 1", "nbf", json!(NOW + SKEW + 1), expired),
        claim_row("§3.7 nbf = now + skew + 0.5", "nbf", json!(NOW as f64 + 30.5), expired),
        claim_row("§3.7 iat = now + skew", "iat", json!(NOW + SKEW), Ok(())),
        claim_row("T16 iat = now + skew + 1", "iat", json!(NOW + SKEW + 1), expired),
        claim_row("T16 iat tomorrow", "iat", json!(NOW + 86_400), expired),
        claim_row("§3.7 life = cap", "exp", json!(NOW - 10 + LIFETIME), Ok(())),
        claim_row("§3.7 life = cap + 1", "exp", json!(NOW - 9 + LIFETIME), expired),
        claim_row("T16 fifty years", "exp", json!(NOW + 50 * 31_556_952), expired),
        row("§3.7 no iat, end = cap + skew", with_claims(&timeless(NOW + LIFETIME + SKEW)), Ok(())),
        row("§3.7 no iat, end = cap + skew + 1", with_claims(&timeless(NOW + LIFETIME + SKEW + 1)), expired),
        claim_row("T15 end of 9999", "exp", json!(253_402_300_799_i64), expired),
        claim_row("T15 after 9999", "exp", json!(253_402_300_800_i64), malformed),
        claim_row("T15 after 9999 by less", "exp", json!(253_402_300_799.5), malformed),
        claim_row("T15 2^64", "exp", json!(18_446_744_073_709_551_616.0), malformed),
        claim_row("T15 zero", "exp", json!(0), expired),
        claim_row("T15 zero", "nbf", json!(0), Ok(())),
    ];
    let bad = [json!("1800000300"), Value::Null, json!(true), json!([1]), json!({}), json!(-1), json!(-0.5)];
    for claim in ["exp", "nbf", "iat"] {
        rows.extend(bad.iter().map(|value| claim_row("T15", claim, value.clone(), malformed)));
        let huge = without(with(claims(), claim, json!(1)), claim).to_string();
        let huge = format!("{},\"{claim}\":1e400}}", huge.trim_end_matches('}'));
        let token = es256().sign_bytes(es256().header().to_string().as_bytes(), huge.as_bytes());
        rows.push(row(format!("T15 {claim} = 1e400"), token, malformed));
    }
    run(rows);
}

#[test]
fn times_to_the_microsecond() {
    let token = with_claims(&claims());
    let end = Timestamp::from_seconds(NOW + 300 + SKEW);
    let before = Timestamp::from_micros(end.as_micros() - 1);
    assert_eq!(STAND.verify_at(token.as_bytes(), end).map(drop), Err(CredentialExpired));
    assert_eq!(STAND.verify_at(token.as_bytes(), before).map(drop), Ok(()));
}

#[test]
fn the_signature_is_judged_before_the_claims() {
    let stranger = TestIssuer::new(HERE, "ES256", Algorithm::Es256);
    for member in ["sub", "aud", "exp", "nbf", "cnf", "act"] {
        let token = stranger.sign(&stranger.header(), &with(claims(), member, Value::Null));
        run(vec![row(format!("§3.6 {member}"), token, Err(CredentialUnverified))]);
    }
}

#[test]
fn what_a_verified_token_says() {
    let act = json!({ "sub": "b", "act": { "sub": "c", "iss": "https://third.test" } });
    let token = with_claims(&with(with(claims(), "act", act), "aud", json!(["x", "orders"])));
    let verified = STAND.verify(token.as_bytes(), NOW).unwrap().verified;
    let actors: Vec<_> = verified.actors().iter().map(|actor| (&*actor.iss, &*actor.subject)).collect();
    assert_eq!(actors, [(HERE, "b"), ("https://third.test", "c")]);
    assert_eq!(verified.audiences().iter().map(|aud| &**aud).collect::<Vec<_>>(), ["x", "orders"]);
    assert_eq!(&**verified.subject(), "spiffe://acme/ci");
    assert_eq!(verified.token_id().map(|id| &**id), Some("t-1"));
    assert_eq!(&**verified.key_id(), "ES256");
    assert_eq!(verified.issued_at(), Some(Timestamp::from_seconds(NOW - 10)));
    assert_eq!(verified.expires_at(), Some(Timestamp::from_seconds(NOW + 300)));
    assert_eq!(verified.tenant().as_str(), "acme");
}
