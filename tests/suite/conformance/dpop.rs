//! Proof of possession by a signed proof (DPoP): standards §6, RFC 9449 §4.3.

mod nonce;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use portreeve::core::credential::{Algorithm, KeySet, Presented, Proof, ReplayMemory as _, Seen};
use portreeve::core::identity::{Credential, CredentialKind, CredentialStatus, IdentityStatus, Record};
use portreeve::core::policy::{Exchange, Presentation, Reason, RouteRules};
use portreeve::core::time::{Clock as _, Timestamp};
use portreeve::pep::Proofs;
use serde_json::{Value, json};

use crate::support::clock::ManualClock;
use crate::support::front::Gate;
use crate::support::issuer::{TestIssuer, base64url, jwks};
use crate::support::upstream::Upstream;
use crate::support::world::{World, identity, name, rules};

const ORIGIN: &str = "https://api.example";

pub(crate) static HOLDER: LazyLock<TestIssuer> = LazyLock::new(|| TestIssuer::new("", "h", Algorithm::Es256));

pub(crate) fn hash(text: &str) -> String {
    base64url(digest(&SHA256, text.as_bytes()).as_ref())
}

/// The public key alone.
pub(crate) fn bare(key: &TestIssuer) -> Value {
    let mut jwk = key.jwk();
    let members = jwk.as_object_mut().unwrap();
    members.retain(|member, _| !["kid", "alg", "use"].contains(&member.as_str()));
    jwk
}

pub(crate) fn thumbprint(key: &TestIssuer) -> String {
    let set = KeySet::parse(&jwks(&[key.jwk()]), &[key.algorithm()]);
    base64url(set.keys()[0].thumbprint())
}

/// A world, a token bound to a key, and how its proof is made.
struct Case {
    world: World,
    token: String,
}

impl Case {
    fn new() -> Self {
        Self::bound_to(&HOLDER)
    }

    fn bound_to(key: &TestIssuer) -> Self {
        let world = World::new();
        // Proofs of a minute ago are none of before the memory began.
        world.clock.advance(Duration::from_secs(61));
        let mut claims = world.claims("ledger");
        claims["cnf"] = json!({ "jkt": thumbprint(key) });
        let token = world.token(&claims);
        Self { world, token }
    }

    fn now(&self) -> i64 {
        self.world.clock.now().wall.as_seconds()
    }

    fn header(key: &TestIssuer) -> Value {
        json!({ "typ": "dpop+jwt", "alg": key.algorithm().as_str(), "jwk": bare(key) })
    }

    fn claims(&self) -> Value {
        json!({
            "jti": "p-1", "htm": "GET", "htu": "https://api.example/orders/1", "iat": self.now(),
            "ath": hash(&self.token),
        })
    }

    fn ask(&self, proof: Option<&str>) -> Exchange {
        let presented = Presented::dpop(self.token.as_bytes(), proof.map(str::as_bytes));
        self.with(presented, Some(ORIGIN))
    }

    fn with(&self, presented: Presented, origin: Option<&str>) -> Exchange {
        let exchange = self.world.exchange(None, "GET", "/orders/1");
        let rules = Arc::new(RouteRules { public_origin: origin.map(Arc::from), ..rules() });
        Exchange { presentation: Presentation::One(presented), rules, ..exchange }
    }

    fn decide(&self, header: &Value, claims: &Value) -> Option<Reason> {
        self.world.decide(&self.ask(Some(&HOLDER.sign(header, claims))))
    }
}

#[test]
fn the_hash_of_a_token_is_that_of_the_standard() {
    assert_eq!(hash("16_mAd0GiwaZokU26_0902100"), "CL4wjfpRmNf-bdYIbYLnV9d5rMARGwKYE10wUwzC0jI");
}

#[test]
fn keys_of_every_algorithm_prove() {
    for algorithm in Algorithm::ALL {
        let key = TestIssuer::new("", "h", algorithm);
        let case = Case::bound_to(&key);
        let proof = key.sign(&Case::header(&key), &case.claims());
        assert_eq!(case.world.decide(&case.ask(Some(&proof))), None, "{algorithm}");
    }
}

#[test]
fn rows() {
    let refused = Some(Reason::CredentialProof);
    let stranger = TestIssuer::new("", "h", Algorithm::Es256);
    let now = Case::new().now();
    let claims: Vec<(&str, Value, Option<Reason>)> = vec![
        ("as it is", json!({}), None),
        ("query and fragment", json!({ "htu": "https://api.example/orders/1?a=b#c" }), None),
        ("host in upper case", json!({ "htu": "HTTPS://API.example/orders/1" }), None),
        ("default port", json!({ "htu": "https://api.example:443/orders/1" }), None),
        ("escaped", json!({ "htu": "https://api.example/%6frders/1" }), None),
        ("other port", json!({ "htu": "https://api.example:8443/orders/1" }), refused),
        ("port of another scheme", json!({ "htu": "https://api.example:80/orders/1" }), refused),
        ("other scheme", json!({ "htu": "http://api.example/orders/1" }), refused),
        ("other host", json!({ "htu": "https://orders.test/orders/1" }), refused),
        ("other path", json!({ "htu": "https://api.example/orders/2" }), refused),
        ("path in other case", json!({ "htu": "https://api.example/Orders/1" }), refused),
        ("dots", json!({ "htu": "https://api.example/x/../orders/1" }), refused),
        ("no authority", json!({ "htu": "/orders/1" }), refused),
        ("no URI", json!({ "htu": 1 }), refused),
        ("other method", json!({ "htm": "POST" }), refused),
        ("method in other case", json!({ "htm": "get" }), refused),
        ("a minute old", json!({ "iat": now - 60 }), None),
        ("older", json!({ "iat": now - 61 }), refused),
        ("a minute ahead", json!({ "iat": now + 60 }), None),
        ("further ahead", json!({ "iat": now + 61 }), refused),
        ("time no number", json!({ "iat": "1" }), refused),
        ("of another token", json!({ "ath": hash("x") }), refused),
        ("padded hash", json!({ "ath": format!("{}=", hash("x")) }), refused),
        ("id empty", json!({ "jti": "" }), refused),
        ("id of 256 bytes", json!({ "jti": "x".repeat(256) }), None),
        ("id of 257 bytes", json!({ "jti": "x".repeat(257) }), refused),
        ("id no text", json!({ "jti": 1 }), refused),
        ("no id", json!({ "jti": null }), refused),
    ];
    for (what, changes, expected) in claims {
        let case = Case::new();
        let mut claims = case.claims();
        changes.as_object().unwrap().iter().for_each(|(name, value)| claims[name] = value.clone());
        assert_eq!(case.decide(&Case::header(&HOLDER), &claims), expected, "§6 {what}");
    }
    for missing in ["jti", "htm", "htu", "iat", "ath"] {
        let case = Case::new();
        let mut claims = case.claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(case.decide(&Case::header(&HOLDER), &claims), refused, "§6 without `{missing}`");
    }
    let mut private = bare(&HOLDER);
    private["d"] = json!("AAAA");
    let headers: Vec<(&str, Value, Option<Reason>)> = vec![
        ("long kind", json!({ "typ": "application/dpop+jwt" }), None),
        ("kind of tokens", json!({ "typ": "JWT" }), refused),
        ("no kind", json!({ "typ": null }), refused),
        ("private key", json!({ "jwk": private }), refused),
        ("another's key", json!({ "jwk": bare(&stranger) }), refused),
        ("no key", json!({ "jwk": null }), refused),
        ("none", json!({ "alg": "none" }), refused),
        ("symmetric", json!({ "alg": "HS256" }), refused),
        ("another algorithm", json!({ "alg": "ES384" }), refused),
        ("extension", json!({ "crit": ["x"] }), refused),
    ];
    for (what, changes, expected) in headers {
        let case = Case::new();
        let mut header = Case::header(&HOLDER);
        changes.as_object().unwrap().iter().for_each(|(name, value)| header[name] = value.clone());
        assert_eq!(case.decide(&header, &case.claims()), expected, "§6 {what}");
    }
    let case = Case::new();
    let own = stranger.sign(&Case::header(&stranger), &case.claims());
    assert_eq!(case.world.decide(&case.ask(Some(&own))), refused, "§6 another's proof");
    for proof in [None, Some(""), Some("a.b.c")] {
        assert_eq!(case.world.decide(&case.ask(proof)), refused, "§6 proof {proof:?}");
    }
}

#[test]
fn a_bound_token_is_never_a_bearer_token() {
    let case = Case::new();
    let unbound = Some(Reason::CredentialUnbound);
    let bearer = |token: &str| case.with(Presented::bearer(token.as_bytes()), Some(ORIGIN));
    assert_eq!(case.world.decide(&bearer(&case.token)), unbound, "§6 bound token as Bearer");
    let proof = HOLDER.sign(&Case::header(&HOLDER), &case.claims());
    let proven = Presented::dpop(case.token.as_bytes(), Some(proof.as_bytes()));
    assert_eq!(case.world.decide(&case.with(proven, None)), unbound, "no public URL is configured");
    assert_eq!(case.world.decide(&case.ask(Some(&proof))), None);
    assert_eq!(case.world.decide(&bearer(&case.token)), unbound, "remembered, and still bound");
    let free = case.world.token(&case.world.claims("ledger"));
    let mut claims = case.claims();
    claims["ath"] = json!(hash(&free));
    let proof = HOLDER.sign(&Case::header(&HOLDER), &claims);
    let proven = Presented::dpop(free.as_bytes(), Some(proof.as_bytes()));
    assert_eq!(
        case.world.decide(&case.with(proven, Some(ORIGIN))),
        unbound,
        "a token that is bound to nothing"
    );
}

#[test]
fn unknown_ways_of_binding_refuse() {
    let world = World::new();
    let (key, zeros) = (thumbprint(&HOLDER), base64url(&[0; 32]));
    let rows = [
        json!({ "kid": "x" }),
        json!({ "jwk": bare(&HOLDER) }),
        json!({ "jkt": key, "x": 1 }),
        json!({ "jkt": [key] }),
        json!({ "jkt": format!("{key}=") }),
        json!({ "jkt": &key[1..] }),
        json!({ "x5t": zeros }),
        json!({ "x5t#S256": 1 }),
        json!({}),
        Value::Null,
    ];
    for cnf in rows {
        let mut claims = world.claims("ledger");
        claims["cnf"] = cnf.clone();
        let token = world.token(&claims);
        let found = world.decide(&world.exchange(Some(&token), "GET", "/orders/1"));
        assert_eq!(found, Some(Reason::CredentialUnbound), "§6 {cnf}");
    }
}

#[test]
fn a_proof_is_taken_once() {
    let case = Case::new();
    let proof = |id: &str| {
        let mut claims = case.claims();
        claims["jti"] = json!(id);
        HOLDER.sign(&Case::header(&HOLDER), &claims)
    };
    let first = case.ask(Some(&proof("a")));
    let (verdict, _) = case.world.pipeline.explain(&first);
    assert_eq!(verdict.reason(), None, "an explanation uses nothing up");
    assert_eq!(case.world.decide(&first), None);
    assert_eq!(case.world.decide(&first), Some(Reason::CredentialUnbound), "§6 replayed");
    assert_eq!(
        case.world.decide(&case.ask(Some(&proof("a")))),
        Some(Reason::CredentialUnbound),
        "signed anew"
    );
    assert_eq!(case.world.decide(&case.ask(Some(&proof("b")))), None);
    let moved = case.ask(Some(&proof("c")));
    let turned = case.world.decide_with(&moved, || {
        case.world.put_identity("other", 1, crate::support::world::identity("other"))
    });
    assert_eq!(turned, None, "judged again by a newer state, it is the same request");
}

/// The record of what a token is bound to, of `ledger`.
pub(crate) fn record_of(kind: CredentialKind, fingerprint: [u8; 32]) -> Credential {
    Credential {
        kind,
        identity: Some(name("ledger")),
        fingerprint,
        digest: None,
        issued: None,
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Active,
        source: None,
    }
}

/// Records of what a token is bound to, and what becomes of the token.
pub(crate) fn bound_rows(
    kind: CredentialKind,
    fingerprint: [u8; 32],
    now: Timestamp,
) -> [(Credential, Option<Reason>); 5] {
    let held = record_of(kind, fingerprint);
    let ends =
        |seconds| Credential { expires: Some(now.after(Duration::from_secs(seconds))), ..held.clone() };
    let revoked = Credential { status: CredentialStatus::Revoked, ..held.clone() };
    [
        (ends(1), None),
        (ends(0), Some(Reason::CredentialExpired)),
        (Credential { identity: Some(name("other")), ..held.clone() }, Some(Reason::CredentialUnverified)),
        (revoked, Some(Reason::CredentialRevoked)),
        (held, None),
    ]
}

#[test]
fn a_key_whose_record_does_not_stand_proves_nothing() {
    let set = KeySet::parse(&jwks(&[HOLDER.jwk()]), &[HOLDER.algorithm()]);
    let now = Case::new().world.clock.now().wall;
    for (record, expected) in bound_rows(CredentialKind::SigningKey, *set.keys()[0].thumbprint(), now) {
        let case = Case::new();
        case.world.put(vec![("holder", 1, Record::Credential(Arc::new(record.clone())))]);
        assert_eq!(case.decide(&Case::header(&HOLDER), &case.claims()), expected, "{record:?}");
    }
}

#[test]
fn who_may_not_act_uses_no_proof_up() {
    let case = Case::new();
    let exchange = case.ask(Some(&HOLDER.sign(&Case::header(&HOLDER), &case.claims())));
    let mut stopped = identity("ledger");
    stopped.status = IdentityStatus::Suspended;
    case.world.put_identity("ledger", 1, stopped);
    assert_eq!([(); 2].map(|()| case.world.decide(&exchange)), [Some(Reason::IdentitySuspended); 2]);
    case.world.put_identity("ledger", 1, identity("ledger"));
    assert_eq!(case.world.decide(&exchange), None);
    assert_eq!(case.world.decide(&exchange), Some(Reason::CredentialUnbound));
}

#[test]
fn the_memory_of_proofs_is_bounded_and_forgets_what_is_over() {
    let clock = Arc::new(ManualClock::new());
    let memory = Proofs::new(clock.clone(), 3);
    let start = ManualClock::START;
    let first = |n: u8| memory.first(&Proof { id: [n; 32], made: start, nonce_ends: false });
    let before = Timestamp::from_micros(start.as_micros() - 1);
    assert_eq!(
        memory.first(&Proof { id: [1; 32], made: before, nonce_ends: false }),
        Seen::Again,
        "made before it began"
    );
    assert_eq!([1, 2, 1, 3, 4].map(first), [Seen::First, Seen::First, Seen::Again, Seen::First, Seen::Full]);
    clock.advance(Duration::from_secs(120));
    assert_eq!([1, 4].map(first), [Seen::Again, Seen::Full], "it may still count");
    clock.advance(Duration::from_secs(1));
    assert_eq!([4, 1, 2, 3].map(first), [Seen::First, Seen::Again, Seen::Again, Seen::Again]);
    clock.advance(Duration::from_secs(121));
    assert_eq!([1, 4, 5, 6, 7].map(first), [Seen::First, Seen::Again, Seen::First, Seen::First, Seen::Full]);
    clock.advance(Duration::from_secs(1000));
    assert_eq!([1, 4, 5].map(first), [Seen::First; 3]);
}

#[test]
fn through_the_proxy() {
    let upstream = Upstream::hello();
    let case = Case::new();
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.routes = crate::support::front::routes_of(|rules| rules.public_origin = Some(ORIGIN.into()));
    });
    let mut claims = gate.world.claims("ledger");
    claims["cnf"] = json!({ "jkt": thumbprint(&HOLDER) });
    let token = gate.world.token(&claims);
    let mut proven = case.claims();
    proven["ath"] = json!(hash(&token));
    proven["iat"] = json!(ManualClock::START.as_seconds());
    let proof = HOLDER.sign(&Case::header(&HOLDER), &proven);
    let ask = |lines: &str| {
        gate.caller().ask(&format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n"))
    };
    let both = format!("Authorization: DPoP {token}\r\nDPoP: {proof}\r\n");
    assert_eq!(ask(&both).status, 200);
    let arrived = upstream.next();
    assert_eq!((arrived.one("authorization"), arrived.one("dpop")), (None, None));
    let refused = ask(&both);
    let algorithms = r#"algs="RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA""#;
    let challenge = format!(
        r#"Bearer realm="portreeve", error="invalid_token", DPoP error="invalid_token", {algorithms}"#
    );
    assert_eq!((refused.status, refused.one("www-authenticate")), (401, Some(challenge.as_str())));
    let missing = ask("");
    let challenge = format!(r#"Bearer realm="portreeve", DPoP {algorithms}"#);
    assert_eq!((missing.status, missing.one("www-authenticate")), (401, Some(challenge.as_str())));
    assert_eq!(ask(&format!("{both}DPoP: {proof}\r\n")).status, 400, "two proofs");
    assert_eq!(ask(&format!("{both}Connection: dpop\r\n")).status, 400);
}

/// A stream outlasts the minute in which its proof counts: that was settled when it was opened.
#[test]
fn an_open_exchange_is_judged_again_by_the_proof_it_came_with() {
    let case = Case::new();
    let world = &case.world;
    let exchange = case.ask(Some(&HOLDER.sign(&Case::header(&HOLDER), &case.claims())));
    let opened = world.clock.now().wall;
    assert_eq!(world.decide(&exchange), None);
    world.clock.advance(Duration::from_secs(200));
    assert_eq!(world.pipeline.review(&exchange, opened).reason(), None);
    let now = world.clock.now().wall;
    assert_eq!(world.pipeline.review(&exchange, now).reason(), Some(Reason::CredentialProof));
    world.clock.advance(Duration::from_secs(131));
    // A state that is too old would end it whatever else there is.
    world.refresh();
    let ended = world.pipeline.review(&exchange, opened).reason();
    assert_eq!(ended, Some(Reason::CredentialExpired), "the token's own end counts");
}
