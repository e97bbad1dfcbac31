//! How an exchange is ended: visibly, on both sides, whatever caller and upstream do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::core::credential::KeySet;
use portreeve::core::identity::{CredentialKind, Record, RevocationTarget};
use serde_json::json;

use super::{open, revocation, streaming, whole};
use crate::conformance::dpop::{self, HOLDER};
use crate::support::clock::ManualClock;
use crate::support::front::{Gate, routes_of};
use crate::support::issuer::jwks;
use crate::support::upstream::{Reply, Upstream};
use crate::support::world::name;

/// What the design allows from in force to the end.
const LIMIT: Duration = Duration::from_secs(1);

#[test]
fn an_http1_answer_is_visibly_cut() {
    let upstream = streaming();
    let gate = Gate::new(upstream.address());
    let mut caller = open(&gate, "ledger");
    gate.change(vec![("r1", 1, whole("ledger"))]);
    let rest = caller.rest();
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "no last chunk: {rest:?}");
    upstream.wait_closed();
    gate.wait_open(0);
}

/// HTTP/1.0 has no chunks: an end in order would make a part look whole.
#[test]
fn an_answer_without_a_length_ends_in_a_reset() {
    let upstream = streaming();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    let text = gate.order_text("GET", "").replace("HTTP/1.1", "HTTP/1.0");
    caller.write(text.as_bytes());
    caller.skip_to("hello");
    gate.change(vec![("r1", 1, whole("ledger"))]);
    assert!(caller.is_reset());
}

#[test]
fn a_caller_that_does_not_read_is_cut_all_the_same() {
    let piece = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let upstream = Upstream::new(move |_| {
        Reply::Flood(
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(), piece.clone()].concat(),
        )
    });
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    caller.write(gate.order_text("GET", "").as_bytes());
    upstream.next();
    upstream.wait_stalled();
    let begun = Instant::now();
    gate.change(vec![("r1", 1, whole("ledger"))]);
    upstream.wait_closed();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(caller.ends());
}

#[test]
fn an_exchange_without_an_answer_is_refused() {
    let upstream = Upstream::new(|_| Reply::Open(Vec::new()));
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    caller.write(gate.order_text("GET", "").as_bytes());
    upstream.next();
    assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
    assert_eq!(caller.read(false).status, 401);
    upstream.wait_closed();
}

#[test]
fn an_upload_is_cut_too() {
    let upstream = Upstream::new(|_| Reply::Silence);
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    caller.write(gate.order_text("GET", "Transfer-Encoding: chunked\r\n").as_bytes());
    caller.write(b"5\r\nhello\r\n");
    gate.wait_open(1);
    assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
    assert_eq!(caller.read(false).status, 401);
    assert!(caller.ends());
    gate.wait_open(0);
}

/// The next request on a connection is not cut for one that is over.
#[test]
fn what_is_over_is_not_ended() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    assert_eq!(gate.order(&mut caller, "").status, 200);
    gate.wait_open(0);
    assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 0);
    let answer = caller.ask("GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
}

/// Nothing rests on state where nobody is asked who they are.
#[test]
fn an_anonymous_stream_goes_on() {
    let upstream = streaming();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    caller.write(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n");
    caller.skip_to("hello\r\n");
    gate.world.state.set_lease(Default::default());
    (0..3).for_each(|_| gate.exchanges.look());
    assert_eq!(gate.exchanges.open(), 0);
    assert!(caller.is_open());
}

/// What a token is bound to is read like the key that signed it.
#[test]
fn a_token_whose_bound_key_is_revoked_ends_its_streams() {
    let origin = "https://api.example";
    let upstream = streaming();
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.routes = routes_of(|rules| rules.public_origin = Some(origin.into()));
    });
    let set = KeySet::parse(&jwks(&[HOLDER.jwk()]), &[HOLDER.algorithm()]);
    let held = dpop::record_of(CredentialKind::SigningKey, *set.keys()[0].thumbprint());
    gate.change(vec![("holder", 1, Record::Credential(Arc::new(held)))]);
    let mut claims = gate.world.claims("ledger");
    claims["cnf"] = json!({ "jkt": dpop::thumbprint(&HOLDER) });
    let token = gate.world.token(&claims);
    let header = json!({ "typ": "dpop+jwt", "alg": HOLDER.algorithm().as_str(), "jwk": dpop::bare(&HOLDER) });
    let proof = json!({
        "jti": "p-1", "htm": "GET", "htu": format!("{origin}/orders/1"), "ath": dpop::hash(&token),
        "iat": ManualClock::START.as_seconds(),
    });
    let proof = HOLDER.sign(&header, &proof);
    let mut bound = gate.caller();
    let text = format!(
        "GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: DPoP {token}\r\nDPoP: {proof}\r\n\r\n"
    );
    bound.write(text.as_bytes());
    bound.skip_to("hello\r\n");
    let mut other = open(&gate, "ledger");
    (0..3).for_each(|_| gate.exchanges.look());
    let target = RevocationTarget::Credential(name("holder"));
    gate.change(vec![("r1", 1, revocation(target))]);
    gate.exchanges.look();
    assert!(bound.ends());
    assert!(other.is_open(), "a token of the same identity");
}
