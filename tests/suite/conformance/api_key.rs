//! API keys: standards §10, threats T29, T32 and T33.

use std::sync::Arc;

use portreeve::core::credential::{MintedKey, Presented, api_key_fingerprint};
use portreeve::core::evidence::EvidenceMode;
use portreeve::core::identity::{
    Credential, CredentialKind, CredentialStatus, IdentityStatus, Record, Revocation, RevocationTarget,
};
use portreeve::core::policy::{Exchange, Presentation, Reason};
use portreeve::core::time::{Clock as _, Timestamp};
use portreeve::pep::Carriers;
use portreeve::wire::evidence;
use zeroize::Zeroizing;

use crate::support::clock::ManualClock;
use crate::support::front::{Gate, ext_authz_with};
use crate::support::upstream::Upstream;
use crate::support::world::{World, facts, identity, name};

const START: Timestamp = ManualClock::START;

fn key(id: u8, secret: u8) -> MintedKey {
    let mut random = [secret; 40];
    random[..8].fill(id);
    MintedKey::new(&Zeroizing::new(random))
}

/// The record of `key` as it begins: of `ledger`, just made, without an end.
fn record(key: &MintedKey) -> Credential {
    Credential {
        kind: CredentialKind::ApiKey,
        identity: Some(name("ledger")),
        fingerprint: api_key_fingerprint(&key.id).unwrap(),
        digest: Some(key.digest),
        issued: Some(START),
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Active,
        source: None,
    }
}

fn put(world: &World, named: &str, credential: Credential) {
    world.put(vec![(named, 1, Record::Credential(Arc::new(credential)))]);
}

fn ask(world: &World, key: &str) -> Exchange {
    let exchange = world.exchange(None, "GET", "/orders/1");
    Exchange { presentation: Presentation::One(Presented::key(key.as_bytes())), ..exchange }
}

fn decide(world: &World, key: &MintedKey) -> Option<Reason> {
    world.decide(&ask(world, &key.text))
}

fn later(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp::from_micros(START.as_micros() + seconds * 1_000_000))
}

#[test]
fn only_the_very_key_is_taken() {
    let world = World::new();
    let good = key(1, 1);
    put(&world, "key-1", record(&good));
    assert_eq!(decide(&world, &good), None);
    let verdict = world.log.last_verdict();
    let verified = verdict.basis().verified.as_ref().unwrap();
    assert_eq!((verified.kind().as_str(), &**verified.key_id()), ("api-key", good.id.as_str()));
    assert_eq!(verdict.basis().principal.as_ref().unwrap().name(), &name("ledger"));
    let unverified = Some(Reason::CredentialUnverified);
    assert_eq!(decide(&world, &key(1, 2)), unverified, "§10 another secret");
    assert_eq!(decide(&world, &key(2, 1)), unverified, "T32 unknown id");
    let malformed = Some(Reason::CredentialMalformed);
    let text = good.text.as_str();
    for wrong in ["", "x", &text[1..], &text[..text.len() - 1], &text.to_uppercase(), &format!("{text} ")] {
        assert_eq!(world.decide(&ask(&world, wrong)), malformed, "§10 {wrong}");
    }
    let mistyped = text.replace("0101_", "0102_");
    assert_eq!(world.decide(&ask(&world, &mistyped)), malformed, "§10 checksum");
    assert_eq!(world.decide(&world.exchange(Some(text), "GET", "/orders/1")), malformed, "as a token");
    let token = world.token(&world.claims("ledger"));
    assert_eq!(world.decide(&ask(&world, &token)), malformed, "a token as a key");
}

#[test]
fn its_record_says_whether_it_is_good() {
    let good = key(1, 1);
    let base = record(&good);
    let rows: Vec<(&str, Credential, Option<Reason>)> = vec![
        ("end ahead", Credential { expires: later(1), ..base.clone() }, None),
        ("§10 at its end", Credential { expires: later(0), ..base.clone() }, Some(Reason::CredentialExpired)),
        (
            "revoked",
            Credential { status: CredentialStatus::Revoked, ..base.clone() },
            Some(Reason::CredentialRevoked),
        ),
        ("made ahead, within the skew", Credential { issued: later(30), ..base.clone() }, None),
        (
            "made further ahead",
            Credential { issued: later(31), ..base.clone() },
            Some(Reason::CredentialExpired),
        ),
        ("nobody's", Credential { identity: None, ..base.clone() }, Some(Reason::IdentityUnknown)),
        (
            "unknown",
            Credential { identity: Some(name("gone")), ..base.clone() },
            Some(Reason::IdentityUnknown),
        ),
        ("no digest", Credential { digest: None, ..base.clone() }, Some(Reason::CredentialUnverified)),
        (
            "of a signing key",
            Credential { kind: CredentialKind::SigningKey, ..base.clone() },
            Some(Reason::CredentialUnverified),
        ),
    ];
    for (what, record, expected) in rows {
        let world = World::new();
        put(&world, "key-1", record);
        assert_eq!(decide(&world, &good), expected, "{what}");
    }
}

#[test]
fn revocations_reach_it() {
    let good = key(1, 1);
    let targets = [
        (RevocationTarget::Credential(name("key-1")), Reason::CredentialRevoked),
        (
            RevocationTarget::TokenDigest { digest: good.digest, expires: later(60).unwrap() },
            Reason::CredentialRevoked,
        ),
        (RevocationTarget::Identity { identity: name("ledger"), generation: 1 }, Reason::IdentityRevoked),
        (
            RevocationTarget::IssuedBefore { identity: name("ledger"), not_before: later(1).unwrap() },
            Reason::CredentialRevoked,
        ),
    ];
    for (target, expected) in targets {
        let world = World::new();
        put(&world, "key-1", record(&good));
        assert_eq!(decide(&world, &good), None);
        let revocation =
            Revocation { target: target.clone(), reason: "test".into(), requested_by: "t".into(), at: START };
        world.put(vec![("r1", 1, Record::Revocation(Arc::new(revocation)))]);
        assert_eq!(decide(&world, &good), Some(expected), "{target:?}");
    }
    let world = World::new();
    put(&world, "key-1", Credential { issued: None, ..record(&good) });
    assert_eq!(decide(&world, &good), None);
    let mut cut = identity("ledger");
    cut.not_before = Some(Timestamp::from_seconds(1));
    world.put_identity("ledger", 1, cut);
    assert_eq!(decide(&world, &good), Some(Reason::CredentialRevoked), "of unknown age");
}

#[test]
fn keys_overlap_and_the_old_one_ends() {
    let world = World::new();
    let (old, new) = (key(1, 1), key(2, 2));
    put(&world, "key-1", Credential { expires: later(60), rotate_by: later(0), ..record(&old) });
    put(&world, "key-2", Credential { rotate_by: later(3600), ..record(&new) });
    assert_eq!(decide(&world, &old), None, "§10 overlap");
    assert_eq!(world.log.last_verdict().warnings(), [Reason::HygieneRotationOverdue]);
    assert_eq!(decide(&world, &new), None, "§10 overlap");
    assert_eq!(world.log.last_verdict().warnings(), []);
    world.clock.advance(std::time::Duration::from_secs(60));
    world.refresh();
    assert_eq!(decide(&world, &old), Some(Reason::CredentialExpired), "§10 after the overlap");
    assert_eq!(decide(&world, &new), None);
}

#[test]
fn one_identity_stands_behind_all_kinds() {
    let world = World::new();
    let good = key(1, 1);
    put(&world, "key-1", record(&good));
    let mut stopped = identity("ledger");
    stopped.status = IdentityStatus::Suspended;
    assert_eq!((decide(&world, &good), world.read_orders("ledger")), (None, None));
    world.put_identity("ledger", 1, stopped);
    let suspended = Some(Reason::IdentitySuspended);
    assert_eq!((decide(&world, &good), world.read_orders("ledger")), (suspended, suspended));
}

#[test]
fn the_secret_is_nowhere() {
    let world = World::new();
    let good = key(0xab, 0xcd);
    put(&world, "key-1", record(&good));
    let exchange = ask(&world, &good.text);
    let (verdict, steps) = world.pipeline.explain(&exchange);
    assert_eq!(world.decide(&exchange), None);
    let mut written = Vec::new();
    evidence::decision(
        &mut written,
        world.clock.now(),
        EvidenceMode::Require,
        &facts(&exchange),
        &world.log.last_verdict(),
    );
    let decoded = evidence::decode(&written).unwrap();
    let all = [
        format!("{exchange:?} {verdict:?} {steps:?} {good:?} {decoded:?}"),
        String::from_utf8_lossy(&written).into_owned(),
    ];
    let body = match decoded.body {
        Some(portreeve::wire::evidence_proto::record::Body::Decision(body)) => body,
        other => panic!("{other:?}"),
    };
    assert_eq!((body.credential_kind.as_str(), body.key_id.as_str()), ("api-key", good.id.as_str()));
    assert_eq!((body.credential_expires_us, body.credential_fingerprint.len()), (0, 16));
    let secret = &good.text["ptrv_".len() + 17..][..64];
    for text in &all {
        assert!(!text.contains(&secret[..16]), "T33 {text}");
        assert!(!text.contains(&good.digest_text()), "T33 {text}");
    }
    assert!(steps.iter().any(|step| step.finding.contains(&good.id)), "{steps:?}");
}

#[test]
fn through_the_proxy() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.carriers = Carriers::new(true, Some("x-api-key")).unwrap();
    });
    let good = key(1, 1);
    put(&gate.world, "key-1", record(&good));
    let ask = |lines: &str, query: &str| {
        let text = format!("GET /orders/1{query} HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n");
        gate.caller().ask(&text)
    };
    let line = format!("X-Api-Key: {}\r\n", *good.text);
    assert_eq!(ask(&line, "").status, 200);
    let arrived = upstream.next();
    assert_eq!((arrived.one("x-api-key"), arrived.one("x-portreeve-identity")), (None, Some("ledger")));
    let token = format!("Authorization: Bearer {}\r\n", gate.token());
    let query = format!("?x-api-key={0}&api_key={0}", *good.text);
    let rows = [
        ("T29 key and token", format!("{line}{token}"), "", 400),
        ("T29 two keys", format!("{line}{line}"), "", 400),
        ("H16 alias", line.replace("X-Api-Key", "X_Api_Key"), "", 400),
        ("H15 nominated", format!("{line}Connection: x-api-key\r\n"), "", 400),
        ("§10 in the query", String::new(), query.as_str(), 401),
        ("as a bearer", line.replace("X-Api-Key:", "Authorization: Bearer"), "", 401),
        ("as basic", line.replace("X-Api-Key:", "Authorization: Basic"), "", 401),
        ("empty", "X-Api-Key:\r\n".to_owned(), "", 401),
    ];
    for (what, lines, query, expected) in rows {
        let answer = ask(&lines, query);
        assert_eq!(answer.status, expected, "{what}");
        assert_eq!(answer.one("x-portreeve-reason").is_some(), expected != 401, "{what}");
    }
    assert_eq!(ask(&token, "").status, 200);
}

#[test]
fn where_keys_are_not_looked_for_they_are_nothing() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let good = key(1, 1);
    put(&gate.world, "key-1", record(&good));
    let line = format!("X-Api-Key: {}\r\n", *good.text);
    let ask = |lines: &str| {
        gate.caller().ask(&format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n"))
    };
    assert_eq!(ask(&line).status, 401);
    let only_keys = Gate::with(upstream.address(), |settings, _| {
        settings.carriers = Carriers::new(false, Some("x-api-key")).unwrap();
    });
    put(&only_keys.world, "key-1", record(&good));
    let bearer = format!("Authorization: Bearer {}\r\n", only_keys.token());
    let ask = |lines: &str| {
        only_keys.caller().ask(&format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n"))
    };
    assert_eq!(ask(&bearer).status, 401);
    assert_eq!(ask(&format!("{bearer}{line}")).status, 200);
    assert_eq!(upstream.next().one("authorization"), None, "what is not judged does not pass");
}

#[test]
fn carriers_of_an_envoy_are_the_same() {
    let world = World::new();
    let good = key(1, 1);
    put(&world, "key-1", record(&good));
    let carriers = Carriers::new(true, Some("x-api-key")).unwrap();
    let (running, _door) = ext_authz_with(&world, |settings| settings.carriers = carriers);
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    let text = good.text.as_str();
    let rows: [(&[(&str, &str)], bool); 4] = [
        (&[("x-api-key", text)], true),
        (&[("authorization", &bearer)], true),
        (&[("x-api-key", text), ("authorization", &bearer)], false),
        (&[("x-api-key", &format!("{text},{text}"))], false),
    ];
    for (headers, allowed) in rows {
        let (code, removed) = crate::ext_authz::ask(running.address(), headers);
        assert_eq!(code == 0, allowed, "{code}");
        assert_eq!(removed.iter().any(|name| name == "x-api-key"), allowed);
    }
}
