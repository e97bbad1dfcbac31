//! Nonces of proofs (RFC 9449 §8 and §9), at both doors.

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::credential::{Presented, ProofNonces};
use portreeve::core::policy::{Exchange, Presentation, Reason, RouteRules};
use serde_json::{Value, json};

use super::{Case, HOLDER, ORIGIN, hash, thumbprint};
use crate::ext_authz;
use crate::support::front::{Gate, ext_authz_with, routes_of};
use crate::support::upstream::Upstream;
use crate::support::world::{World, rules};

const WANTED: Option<Reason> = Some(Reason::CredentialNonce);

fn nonces() -> ProofNonces {
    ProofNonces::new(&World::NONCE_SECRET)
}

impl Case {
    /// A request whose proof has this id and nonce, on a route that asks for one.
    fn with_nonce(&self, id: &str, nonce: Option<Value>) -> Exchange {
        let mut claims = self.claims();
        claims["jti"] = json!(id);
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce;
        }
        self.asking(&claims)
    }

    fn asking(&self, claims: &Value) -> Exchange {
        let proof = HOLDER.sign(&Self::header(&HOLDER), claims);
        let presented = Presented::dpop(self.token.as_bytes(), Some(proof.as_bytes()));
        let mut exchange = self.with(presented, Some(ORIGIN));
        exchange.rules = Arc::new(RouteRules { proof_nonces: true, ..(*exchange.rules).clone() });
        exchange
    }

    /// What is decided, and whether a nonce is offered with it.
    fn offered(&self, exchange: &Exchange) -> (Option<Reason>, bool) {
        let (verdict, _) = self.world.pipeline.explain(exchange);
        let offered = self.world.pipeline.offered_nonce(verdict.basis());
        let now = nonces().at(self.world.pipeline.now().wall);
        assert!(offered.as_ref().is_none_or(|offered| *offered == now), "the newest is offered");
        (verdict.reason(), offered.is_some())
    }
}

#[test]
fn rows() {
    let case = Case::new();
    let now = case.world.pipeline.now().wall;
    let given = nonces().at(now);
    let rows: Vec<(&str, Option<Value>, Option<Reason>)> = vec![
        ("the current one", Some(json!(given)), None),
        ("none", None, WANTED),
        ("no text", Some(json!(1)), WANTED),
        ("empty", Some(json!("")), WANTED),
        ("made up", Some(json!("AAAAAAAAAAAAAAAAAAAAAA")), WANTED),
        ("padded", Some(json!(format!("{given}=="))), WANTED),
        ("another secret's", Some(json!(ProofNonces::new(&[1; 32]).at(now))), WANTED),
        ("of long ago", Some(json!(nonces().at(now.before(Duration::from_secs(120))))), WANTED),
    ];
    for (what, nonce, expected) in rows {
        let exchange = case.with_nonce(what, nonce);
        assert_eq!(case.offered(&exchange), (expected, expected.is_some()), "§9 {what}");
        assert_eq!(case.world.decide(&exchange), expected, "§9 {what}");
    }
}

#[test]
fn a_nonce_counts_until_its_next_span_is_over_and_another_is_offered_before() {
    // (seconds after the nonce was given out, verdict, whether another is offered)
    let rows =
        [(0, None, false), (58, None, false), (59, None, true), (118, None, true), (119, WANTED, true)];
    for (later, expected, offered) in rows {
        let case = Case::new();
        // A span has begun a second ago.
        let given = nonces().at(case.world.pipeline.now().wall);
        case.world.clock.advance(Duration::from_secs(later));
        let exchange = case.with_nonce("a", Some(json!(given)));
        assert_eq!(case.offered(&exchange), (expected, offered), "{later} s later");
        assert_eq!(case.world.decide(&exchange), expected, "{later} s later");
    }
}

#[test]
fn what_else_a_proof_lacks_is_said_first_and_no_nonce_is_told_with_it() {
    let case = Case::new();
    for (name, value) in [
        ("htm", json!("POST")),
        ("ath", json!(hash("x"))),
        ("iat", json!(case.now() - 61)),
        ("jti", json!(1)),
    ] {
        let mut claims = case.claims();
        claims[name] = value;
        assert_eq!(case.offered(&case.asking(&claims)), (Some(Reason::CredentialProof), false), "{name}");
    }
}

#[test]
fn a_proof_that_lacks_only_the_nonce_is_not_used_up() {
    let case = Case::new();
    let given = json!(nonces().at(case.world.pipeline.now().wall));
    assert_eq!(case.world.decide(&case.with_nonce("a", None)), WANTED);
    assert_eq!(case.world.decide(&case.with_nonce("a", Some(given.clone()))), None);
    let again = case.with_nonce("a", Some(given));
    assert_eq!(case.world.decide(&again), Some(Reason::CredentialUnbound), "and then it is");
}

#[test]
fn where_none_is_asked_for_none_counts_and_without_a_secret_no_proof_does() {
    let case = Case::new();
    let mut claims = case.claims();
    claims["nonce"] = json!("whatever");
    let proof = HOLDER.sign(&Case::header(&HOLDER), &claims);
    assert_eq!(case.offered(&case.ask(Some(&proof))), (None, false));
    let bearer = case.world.token(&case.world.claims("ledger"));
    let plain = case.world.exchange(Some(&bearer), "GET", "/orders/1");
    let rules = Arc::new(RouteRules { proof_nonces: true, public_origin: Some(ORIGIN.into()), ..rules() });
    let plain = Exchange { rules: Arc::clone(&rules), ..plain };
    assert_eq!(case.offered(&plain), (None, false), "a bearer token needs none");
    let nothing = Exchange { presentation: Presentation::Nothing, ..plain };
    assert_eq!(case.offered(&nothing), (Some(Reason::CredentialMissing), false));
    let without = World::without_nonces();
    without.clock.advance(Duration::from_secs(61));
    let exchange = case.with_nonce("b", Some(json!(nonces().at(case.world.pipeline.now().wall))));
    let issuer = portreeve::core::identity::Record::Issuer(Arc::new(case.world.issuer.record()));
    without.put(vec![("main", 1, issuer)]);
    assert_eq!(without.decide(&exchange), Some(Reason::CredentialUnbound));
}

/// A stream outlasts its nonce as it outlasts its proof.
#[test]
fn an_open_exchange_keeps_the_nonce_it_came_with() {
    let case = Case::new();
    let opened = case.world.pipeline.now().wall;
    let exchange = case.with_nonce("a", Some(json!(nonces().at(opened))));
    assert_eq!(case.world.decide(&exchange), None);
    case.world.clock.advance(Duration::from_secs(200));
    assert_eq!(case.world.pipeline.review(&exchange, opened).reason(), None);
    let later = opened.after(Duration::from_secs(200));
    assert_eq!(case.world.pipeline.review(&exchange, later).reason(), Some(Reason::CredentialProof));
}

/// A caller with a bound token, for a door of its own world.
struct Holder {
    token: String,
    count: std::cell::Cell<u32>,
}

impl Holder {
    fn of(world: &World) -> Self {
        let mut claims = world.claims("ledger");
        claims["cnf"] = json!({ "jkt": thumbprint(&HOLDER) });
        Self { token: world.token(&claims), count: Default::default() }
    }

    /// `authorization` and `dpop` of its next request, by a new proof.
    fn headers(&self, world: &World, method: &str, nonce: Option<&str>) -> [String; 2] {
        self.count.set(self.count.get() + 1);
        let mut claims = json!({
            "jti": self.count.get().to_string(), "htm": method, "htu": "https://api.example/orders/1",
            "iat": world.pipeline.now().wall.as_seconds(), "ath": hash(&self.token),
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        [format!("DPoP {}", self.token), HOLDER.sign(&Case::header(&HOLDER), &claims)]
    }
}

const ALGORITHMS: &str = r#"algs="RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA""#;

#[test]
fn through_the_proxy() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.routes = routes_of(|rules| {
            rules.public_origin = Some(ORIGIN.into());
            rules.proof_nonces = true;
        });
    });
    let holder = Holder::of(&gate.world);
    let ask = |method: &str, nonce: Option<&str>| {
        let [token, proof] = holder.headers(&gate.world, method, nonce);
        let lines = format!("Authorization: {token}\r\nDPoP: {proof}\r\nContent-Length: 0\r\n");
        gate.caller().ask(&format!("{method} /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n"))
    };
    let refused = ask("GET", None);
    let challenge = format!(r#"DPoP error="use_dpop_nonce", {ALGORITHMS}"#);
    assert_eq!((refused.status, refused.one("www-authenticate")), (401, Some(challenge.as_str())));
    assert_eq!((refused.one("cache-control"), refused.one("x-portreeve-reason")), (Some("no-store"), None));
    let nonce = refused.one("dpop-nonce").unwrap().to_owned();
    let answer = ask("GET", Some(&nonce));
    assert_eq!((answer.status, answer.one("dpop-nonce"), answer.one("cache-control")), (200, None, None));
    gate.world.clock.advance(Duration::from_secs(60));
    gate.world.refresh();
    let answer = ask("GET", Some(&nonce));
    let next = answer.one("dpop-nonce").unwrap().to_owned();
    assert_eq!((answer.status, answer.one("cache-control")), (200, Some("no-store")));
    assert_ne!(next, nonce);
    assert_eq!(ask("DELETE", Some(&next)).one("dpop-nonce"), None);
    let denied = ask("DELETE", Some(&nonce));
    assert_eq!(
        (denied.status, denied.one("dpop-nonce")),
        (403, Some(next.as_str())),
        "a refusal offers it too"
    );
    gate.world.clock.advance(Duration::from_secs(60));
    gate.world.refresh();
    let over = ask("GET", Some(&nonce));
    assert_eq!((over.status, over.one("www-authenticate")), (401, Some(challenge.as_str())));
    assert_eq!(ask("GET", Some(over.one("dpop-nonce").unwrap())).status, 200);
    let wrong = gate.caller().ask(&format!(
        "GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: DPoP {}\r\nDPoP: a.b.c\r\n\r\n",
        holder.token
    ));
    let challenge = format!(r#"DPoP error="invalid_dpop_proof", {ALGORITHMS}"#);
    assert_eq!((wrong.status, wrong.one("www-authenticate")), (401, Some(challenge.as_str())));
    assert_eq!(wrong.one("dpop-nonce"), None);
}

#[test]
fn through_envoy() {
    let world = World::new();
    let asked =
        RouteRules { public_origin: Some(ORIGIN.into()), proof_nonces: true, upstream: "".into(), ..rules() };
    let (running, _door) = ext_authz_with(&world, |settings| settings.rules = Arc::new(asked));
    let holder = Holder::of(&world);
    let ask = |nonce: Option<&str>| {
        let [token, proof] = holder.headers(&world, "GET", nonce);
        ext_authz::told(running.address(), &[("authorization", &token), ("dpop", &proof)])
    };
    let line = |lines: &[(String, String)], name: &str| {
        lines.iter().find(|(held, _)| held == name).map(|(_, value)| value.clone())
    };
    let (code, refused) = ask(None);
    let challenge = format!(r#"DPoP error="use_dpop_nonce", {ALGORITHMS}"#);
    assert_eq!((code, line(&refused, "www-authenticate")), (16, Some(challenge)));
    let nonce = line(&refused, "dpop-nonce").unwrap();
    let (code, answer) = ask(Some(&nonce));
    assert_eq!((code, line(&answer, "dpop-nonce"), line(&answer, "cache-control")), (0, None, None));
    world.clock.advance(Duration::from_secs(60));
    world.refresh();
    let (code, answer) = ask(Some(&nonce));
    let next = line(&answer, "dpop-nonce").unwrap();
    assert_eq!((code, line(&answer, "cache-control").as_deref()), (0, Some("no-store")));
    world.clock.advance(Duration::from_secs(60));
    world.refresh();
    assert_eq!((ask(Some(&nonce)).0, ask(Some(&next)).0), (16, 0));
}
