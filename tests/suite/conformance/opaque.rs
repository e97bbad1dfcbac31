//! What an issuer says of opaque tokens: standards §10, RFC 7662 §2.2, threats T31.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use portreeve::core::credential::{
    Algorithm, AnswerLife, Introspect, Introspected, Presented, TokenQuestion,
};
use portreeve::core::identity::{
    Binding, Introspection, Issuer, Record, Revocation, RevocationTarget, SubjectMember, TokenProfile,
};
use portreeve::core::policy::{Exchange, Presentation, Reason, RouteRules};
use portreeve::core::time::{Clock as _, Timestamp};
use serde_json::{Value, json};

use super::dpop::{HOLDER, bare, hash, thumbprint};
use crate::support::clock::ManualClock;
use crate::support::issuer::TestIssuer;
use crate::support::world::{World, block_on, identity, name, rules};

pub(crate) const ISS: &str = "https://opaque.test";
pub(crate) const TOKEN: &str = "V5ry-opaque_token~1";

const LIFE: AnswerLife = AnswerLife { active: Duration::from_secs(30), refused: Duration::from_secs(5) };

/// An issuer of opaque tokens at `endpoint`, whose subjects are clients.
pub(crate) fn issuer(endpoint: &str, prefix: &str) -> Record {
    record(endpoint, prefix, SubjectMember::ClientId)
}

fn record(endpoint: &str, prefix: &str, subject: SubjectMember) -> Record {
    let audiences = vec!["orders".into(), "stock".into()];
    let iss = format!("{ISS}{}", if prefix.is_empty() { String::new() } else { format!("/{prefix}") });
    let none = Arc::from(Vec::new());
    let issuer = Issuer::new(iss.into(), TokenProfile::Generic, Vec::new(), audiences, 3600, none);
    let asked = Introspection { endpoint: endpoint.into(), subject, token_prefix: prefix.into() };
    Record::Issuer(Arc::new(issuer.with_introspection(Some(Arc::new(asked)))))
}

/// `ledger` by its client id at the issuer `opaque`.
pub(crate) fn known(world: &World, endpoint: &str) {
    let mut ledger = identity("ledger");
    ledger.bindings.push(Binding { issuer: name("opaque"), subject: "ledger".into() });
    world.put(vec![("opaque", 1, issuer(endpoint, "")), ("ledger", 1, Record::Identity(Arc::new(ledger)))]);
}

/// What an issuer says of a good token at `now`.
pub(crate) fn active(now: Timestamp) -> Value {
    let now = now.as_seconds();
    json!({
        "active": true, "client_id": "ledger", "iss": ISS, "aud": "orders", "scope": "orders:read",
        "token_type": "Bearer", "iat": now, "exp": now + 300,
    })
}

/// Says one thing, whoever asks.
struct Says(String, Arc<ManualClock>);

impl Introspect for Says {
    fn remembered(&self, _: &TokenQuestion<'_>) -> Option<Introspected> {
        None
    }

    fn last(&self, _: &TokenQuestion<'_>) -> Option<Introspected> {
        None
    }

    fn ask(&self, question: &TokenQuestion<'_>) -> Pin<Box<dyn Future<Output = Introspected> + Send>> {
        let now = self.1.now();
        let answer = question.asking().read(self.0.as_bytes(), now, LIFE);
        let none = question.unanswered(Reason::IntrospectionFailed, now.boot);
        Box::pin(std::future::ready(answer.unwrap_or(none)))
    }
}

/// A world in which this is said of every token.
fn said(answer: &str) -> World {
    let world = World::new();
    let says = Arc::new(Says(answer.to_owned(), world.clock.clone()));
    let world = world.introspecting(says);
    known(&world, "https://opaque.test/introspect");
    world
}

fn presented(world: &World, presented: Presented) -> Exchange {
    let rules = Arc::new(RouteRules { public_origin: Some("https://api.example".into()), ..rules() });
    Exchange { presentation: Presentation::One(presented), rules, ..world.exchange(None, "GET", "/orders/1") }
}

fn decide(world: &World, token: &str) -> Option<Reason> {
    let mut exchange = presented(world, Presented::bearer(token.as_bytes()));
    block_on(world.pipeline.introspect(&mut exchange));
    world.decide(&exchange)
}

#[test]
fn a_row_for_each_clause() {
    use Reason::{
        CredentialAudience, CredentialExpired, CredentialInactive, CredentialMalformed, CredentialUnbound,
        CredentialUnverified, IdentityUnknown,
    };
    let now = ManualClock::START.as_seconds();
    let jkt = thumbprint(&HOLDER);
    // Members that differ from a good answer's (`null`: it is absent), and what comes of it.
    let rows: Vec<(&str, Value, Option<Reason>)> = vec![
        ("as it is", json!({}), None),
        ("not active", json!({ "active": false }), Some(CredentialInactive)),
        ("no issuer: the one that was asked", json!({ "iss": null }), None),
        ("another issuer", json!({ "iss": "https://other.test" }), Some(CredentialUnverified)),
        ("its issuer with a slash", json!({ "iss": format!("{ISS}/") }), Some(CredentialUnverified)),
        ("an issuer that is no text", json!({ "iss": 7 }), Some(CredentialMalformed)),
        ("one of several audiences", json!({ "aud": ["else", "orders"] }), None),
        ("another audience", json!({ "aud": "billing" }), Some(CredentialAudience)),
        ("an audience of the issuer's, not the route's", json!({ "aud": "stock" }), Some(CredentialAudience)),
        ("an audience that ours begins with", json!({ "aud": "order" }), Some(CredentialAudience)),
        ("no audience", json!({ "aud": null }), Some(CredentialAudience)),
        ("no audiences", json!({ "aud": [] }), Some(CredentialMalformed)),
        ("no end", json!({ "exp": null }), Some(CredentialMalformed)),
        ("an end as text", json!({ "exp": format!("{}", now + 300) }), Some(CredentialMalformed)),
        ("an end a moment ahead", json!({ "exp": now + 1 }), None),
        ("an end now, without leeway", json!({ "exp": now }), Some(CredentialExpired)),
        ("issued within the leeway", json!({ "iat": now + 30 }), None),
        ("issued beyond it", json!({ "iat": now + 31 }), Some(CredentialExpired)),
        ("good from within the leeway", json!({ "nbf": now + 30 }), None),
        ("good from later on", json!({ "nbf": now + 31 }), Some(CredentialExpired)),
        ("as long a life as may be", json!({ "exp": now + 3600 }), None),
        ("a longer one", json!({ "exp": now + 3601 }), Some(CredentialExpired)),
        (
            "a longer one, its beginning unsaid",
            json!({ "iat": null, "exp": now + 3631 }),
            Some(CredentialExpired),
        ),
        ("any case of the type", json!({ "token_type": "bearer" }), None),
        ("no type: a refresh token's answer", json!({ "token_type": null }), Some(CredentialUnverified)),
        ("another type", json!({ "token_type": "mac" }), Some(CredentialUnverified)),
        ("used as a refresh token", json!({ "token_use": "refresh_token" }), Some(CredentialUnverified)),
        ("used as an access token", json!({ "token_use": "access_token" }), None),
        (
            "a status list, which is not looked at",
            json!({ "status": { "status_list": { "idx": 7, "uri": "https://opaque.test/list" } } }),
            Some(Reason::StatusUnlisted),
        ),
        ("the client as subject, too", json!({ "sub": "ledger" }), None),
        ("a client that acts for somebody", json!({ "sub": "alice" }), Some(CredentialUnverified)),
        ("no client", json!({ "client_id": null }), Some(CredentialMalformed)),
        ("an empty client", json!({ "client_id": "" }), Some(CredentialMalformed)),
        ("a client that nobody is", json!({ "client_id": "stranger" }), Some(IdentityUnknown)),
        ("a client in another case", json!({ "client_id": "Ledger" }), Some(IdentityUnknown)),
        ("bound to what is unknown", json!({ "cnf": { "kid": "k" } }), Some(CredentialUnbound)),
        ("bound to nothing", json!({ "cnf": {} }), Some(CredentialUnbound)),
        (
            "bound to more than is known",
            json!({ "cnf": { "jkt": jkt, "kid": "k" } }),
            Some(CredentialUnbound),
        ),
        ("bound to a key, sent as a bearer's", json!({ "cnf": { "jkt": jkt } }), Some(CredentialUnbound)),
        (
            "the same, said to be DPoP",
            json!({ "token_type": "DPoP", "cnf": { "jkt": jkt } }),
            Some(CredentialUnbound),
        ),
        ("DPoP without a key", json!({ "token_type": "DPoP" }), Some(CredentialUnbound)),
        ("a certificate that is not shown", json!({ "cnf": { "x5t#S256": jkt } }), Some(CredentialUnbound)),
        ("members that say nothing here", json!({ "username": "x", "ext": { "a": [null, true] } }), None),
    ];
    for (what, change, expected) in rows {
        let mut answer = active(ManualClock::START);
        for (member, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(answer.as_object_mut().unwrap().remove(member)),
                value => answer[member] = value.clone(),
            }
        }
        assert_eq!(decide(&said(&answer.to_string()), TOKEN), expected, "{what}: {answer}");
    }
}

#[test]
fn what_is_no_answer_says_nothing_of_the_token() {
    let good = active(ManualClock::START).to_string();
    let twice = good.replacen("\"active\":true", "\"active\":false,\"active\":true", 1);
    assert_ne!(twice, good);
    let inner = good.replacen('{', "{\"x\":{\"a\":1,\"a\":2},", 1);
    let text = good.replacen("\"active\":true", "\"active\":\"true\"", 1);
    let one = good.replacen("\"active\":true", "\"active\":1", 1);
    let absent = good.replacen("\"active\":true,", "", 1);
    assert!(absent != good && text != good && one != good);
    let (list, cut, more) = (format!("[{good}]"), &good[..good.len() - 1], format!("{good}{{}}"));
    for answer in ["", "null", "true", &twice, &inner, &text, &one, &absent, &list, cut, &more] {
        assert_eq!(decide(&said(answer), TOKEN), Some(Reason::IntrospectionFailed), "{answer}");
    }
    assert_eq!(decide(&said(&good), TOKEN), None);
}

#[test]
fn only_opaque_tokens_are_asked_about() {
    let answer = active(ManualClock::START).to_string();
    let key = portreeve::core::credential::MintedKey::new(&zeroize::Zeroizing::new([7; 40]));
    let long = "a".repeat(16 * 1024);
    for (token, asked) in [
        ("a", true),
        ("a.b", true),
        ("a.b.c", false),
        ("..", false),
        ("a.b.c.d", true),
        ("a.b.c.d.e", false),
        ("a.b.c.d.e.f", true),
        (&*key.text, false),
        (&*long, true),
        (&*format!("{long}a"), false),
    ] {
        let expected = (!asked).then_some(Reason::CredentialMalformed);
        assert_eq!(decide(&said(&answer), token), expected, "{:.40}", token);
    }
    // Nobody is asked, and nobody may be asked.
    let world = World::new();
    assert_eq!(decide(&world, TOKEN), Some(Reason::CredentialMalformed));
    known(&world, "https://opaque.test/introspect");
    assert_eq!(decide(&world, TOKEN), Some(Reason::IntrospectionUnconfigured));
    // JWTs are verified beside it as ever.
    assert_eq!(said(&answer).read_orders("ledger"), None);
}

#[test]
fn the_issuer_whose_prefix_says_most_is_asked() {
    let issuers = |prefixes: &[&str]| {
        let world = said(&active(ManualClock::START).to_string());
        // Only the issuer without a prefix says who it is.
        let names = ["one", "two", "three"];
        let records = prefixes.iter().zip(names);
        let at = "https://opaque.test/introspect";
        world.put(records.map(|(prefix, name)| (name, 1, issuer(at, prefix))).collect());
        world
    };
    use Reason::{CredentialUnverified, IssuerUndecided};
    // A prefix's own issuer has another `iss`: asked, it is refused.
    for (prefixes, token, expected) in [
        (&[][..], "op_1", None),
        (&["op_"], "op_1", Some(CredentialUnverified)),
        (&["op_"], "xx_1", None),
        (&["op_"], "op", None),
        (&["op_", "op_"], "op_1", Some(IssuerUndecided)),
        (&["op_", "op_"], "xx_1", None),
        (&["o", "o", "op_"], "op_1", Some(CredentialUnverified)),
        (&["op_", "o", "o"], "op_1", Some(CredentialUnverified)),
        (&["o", "op_", "o"], "ox_1", Some(IssuerUndecided)),
        (&[""], "op_1", Some(IssuerUndecided)),
    ] {
        let world = issuers(prefixes);
        assert_eq!(decide(&world, token), expected, "{prefixes:?}: {token}");
    }
}

#[test]
fn sub_is_the_subject_where_the_record_says_so() {
    let answer = |change: &dyn Fn(&mut Value)| {
        let mut answer = active(ManualClock::START);
        change(&mut answer);
        let world = said(&answer.to_string());
        world.put(vec![("opaque", 1, record("https://opaque.test/introspect", "", SubjectMember::Sub))]);
        decide(&world, TOKEN)
    };
    assert_eq!(answer(&|_| {}), Some(Reason::CredentialMalformed), "no `sub`");
    assert_eq!(answer(&|answer| answer["sub"] = json!("ledger")), None);
    assert_eq!(answer(&|answer| answer["sub"] = json!("alice")), Some(Reason::IdentityUnknown));
    let other = |answer: &mut Value| {
        answer["sub"] = json!("ledger");
        answer["client_id"] = json!("other");
    };
    assert_eq!(answer(&other), None);
}

#[test]
fn a_revocation_in_the_state_wins_over_the_issuers_answer() {
    let mut answer = active(ManualClock::START);
    answer["jti"] = json!("t-1");
    let at = ManualClock::START;
    let revoked = |target: RevocationTarget| {
        let world = said(&answer.to_string());
        let (reason, requested_by) = ("test".into(), "test".into());
        let revocation = Revocation { target, reason, requested_by, at };
        world.put(vec![("r-1", 1, Record::Revocation(Arc::new(revocation)))]);
        decide(&world, TOKEN)
    };
    let expires = at.after(Duration::from_secs(3600));
    let digest = |token: &str| {
        let found = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        <[u8; 32]>::try_from(found.as_ref()).unwrap()
    };
    let (ledger, opaque, main) = (name("ledger"), name("opaque"), name("main"));
    let by_id = |issuer, jti: &str| RevocationTarget::TokenId { issuer, jti: jti.into(), expires };
    let before = |seconds| RevocationTarget::IssuedBefore {
        identity: ledger.clone(),
        not_before: at.after(Duration::from_secs(seconds)),
    };
    let whole = RevocationTarget::Identity { identity: ledger.clone(), generation: 1 };
    for (target, expected) in [
        (whole, Some(Reason::IdentityRevoked)),
        (by_id(opaque.clone(), "t-1"), Some(Reason::CredentialRevoked)),
        (by_id(opaque, "t-2"), None),
        (by_id(main, "t-1"), None),
        (RevocationTarget::TokenDigest { digest: digest(TOKEN), expires }, Some(Reason::CredentialRevoked)),
        (RevocationTarget::TokenDigest { digest: digest("other"), expires }, None),
        (before(1), Some(Reason::CredentialRevoked)),
    ] {
        assert_eq!(revoked(target.clone()), expected, "{target:?}");
    }
}

#[test]
fn an_answer_about_another_token_or_of_another_record_says_nothing() {
    let world = said(&active(ManualClock::START).to_string());
    let mut exchange = presented(&world, Presented::bearer(TOKEN.as_bytes()));
    block_on(world.pipeline.introspect(&mut exchange));
    assert_eq!(world.decide(&exchange), None);
    // The record changes between the question and the decision.
    world.put(vec![("opaque", 1, issuer("https://opaque.test/other", ""))]);
    assert_eq!(world.decide(&exchange), Some(Reason::IntrospectionFailed));
    block_on(world.pipeline.introspect(&mut exchange));
    assert_eq!(world.decide(&exchange), None);
    // It has no opaque tokens any more.
    world.put(vec![("opaque", 1, Record::Issuer(Arc::new(world.issuer.record().with_introspection(None))))]);
    assert_eq!(world.decide(&exchange), Some(Reason::CredentialMalformed));
}

#[test]
fn a_token_bound_to_a_key_is_taken_with_a_proof_by_that_key_and_once() {
    let proof = |key: &TestIssuer, jti: &str| {
        let header = json!({ "typ": "dpop+jwt", "alg": key.algorithm().as_str(), "jwk": bare(key) });
        let claims = json!({
            "jti": jti, "htm": "GET", "htu": "https://api.example/orders/1",
            "iat": ManualClock::START.as_seconds(), "ath": hash(TOKEN),
        });
        key.sign(&header, &claims)
    };
    let mut answer = active(ManualClock::START);
    answer["cnf"] = json!({ "jkt": thumbprint(&HOLDER) });
    let other = TestIssuer::new("", "o", Algorithm::Es256);
    for said_type in ["DPoP", "Bearer"] {
        answer["token_type"] = json!(said_type);
        let world = said(&answer.to_string());
        let with = |proof: Option<&str>| {
            let bound = Presented::dpop(TOKEN.as_bytes(), proof.map(str::as_bytes));
            let mut exchange = presented(&world, bound);
            block_on(world.pipeline.introspect(&mut exchange));
            world.decide(&exchange)
        };
        assert_eq!(with(Some(&proof(&HOLDER, "p-1"))), None, "{said_type}");
        assert_eq!(with(Some(&proof(&HOLDER, "p-1"))), Some(Reason::CredentialUnbound), "once");
        assert_eq!(with(Some(&proof(&other, "p-2"))), Some(Reason::CredentialProof), "another's");
        assert_eq!(with(None), Some(Reason::CredentialProof), "none");
    }
}
