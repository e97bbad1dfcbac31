//! The signed assertion: what an upstream can rely on.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use portreeve::core::time::Clock as _;
use portreeve::pep::{AssertionKey, AssertionSettings};
use serde_json::{Value, json};

use crate::support::front::Gate;
use crate::support::upstream::Upstream;

/// The claims of a token that verifies by one of these keys, for this audience; its life is not looked at.
pub(crate) fn verified(token: &str, jwks: &str, audience: &str) -> Result<Value, String> {
    let keys: JwkSet = serde_json::from_str(jwks).unwrap();
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = keys.find(&kid).ok_or("no key of this `kid`")?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_audience(&[audience]);
    rules.validate_exp = false;
    let decoded = decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &rules);
    decoded.map(|decoded| decoded.claims).map_err(|error| error.to_string())
}

fn settings(seed: u8) -> AssertionSettings {
    AssertionSettings {
        key: Arc::new(AssertionKey::from_seed(&[seed; 32]).unwrap()),
        issuer: "https://portreeve.test".into(),
        audience: "app".into(),
        lifetime: Duration::from_secs(30),
    }
}

#[test]
fn an_assertion_verifies_by_the_published_key_and_names_caller_and_decision() {
    let upstream = Upstream::hello();
    let own = settings(1);
    let jwks = Arc::clone(own.key.jwks());
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.upstreams.get_mut("app").unwrap().assertion = Some(own);
    });
    let mut caller = gate.caller();
    let answer = gate.order(&mut caller, "X-Portreeve-Assertion: forged\r\n");
    assert_eq!(answer.status, 200);
    let arrived = upstream.next();
    let token = arrived.one("x-portreeve-assertion").unwrap();
    let now = gate.world.clock.now().wall.as_seconds();
    assert_eq!(
        verified(token, &jwks, "app").unwrap(),
        json!({
            "iss": "https://portreeve.test", "aud": "app", "sub": "ledger", "tenant": "demo",
            "iat": now, "exp": now + 30, "jti": answer.one("x-portreeve-decision").unwrap(),
        })
    );
    // Of another key, for another audience, or changed: nothing.
    assert!(verified(token, settings(2).key.jwks(), "app").is_err());
    assert!(verified(token, &jwks, "other").is_err());
    let (start, end) = token.rsplit_once('.').unwrap();
    let flipped = if end.starts_with('A') { 'B' } else { 'A' };
    assert!(verified(&format!("{start}.{flipped}{}", &end[1..]), &jwks, "app").is_err());

    // Nobody is asserted where nobody was identified; what a caller says of itself never arrives.
    let open = "GET /open/1 HTTP/1.1\r\nHost: a\r\nX-Portreeve-Assertion: forged\r\n\r\n";
    assert_eq!(caller.ask(open).status, 200);
    assert_eq!(upstream.next().one("x-portreeve-assertion"), None);
    for alias in ["X_Portreeve_Assertion", "X-Portreeve-Asser-Tion", "X.Portreeve.Assertion"] {
        assert_eq!(gate.order(&mut gate.caller(), &format!("{alias}: forged\r\n")).status, 400, "{alias}");
    }
    assert!(upstream.is_untouched());
}

#[test]
fn nothing_is_asserted_where_it_is_not_configured() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    assert_eq!(gate.order(&mut gate.caller(), "X-Portreeve-Assertion: forged\r\n").status, 200);
    assert_eq!(upstream.next().one("x-portreeve-assertion"), None);
}
