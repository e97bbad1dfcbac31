//! Which refused tokens are worth a look for a newer set of keys: threats T11 to T13.

use portreeve::core::credential::{Algorithm, Presented, missing_key};
use portreeve::core::identity::KeySource;
use serde_json::json;

use super::{HERE, STAND, THERE, claims, issuer, name, with, without};
use crate::support::issuer::{TestIssuer, jwks};

#[test]
fn only_an_unknown_key_of_an_issuer_that_is_fetched_is_missing() {
    let held = STAND.key(Algorithm::Es256);
    let refused = with(held.jwk(), "use", json!("enc"));
    let refused = with(refused, "kid", json!("refused"));
    let set = jwks(&[held.jwk(), refused]);
    let given = issuer(HERE, &[Algorithm::Es256, Algorithm::Rs256], &set);
    let url = KeySource::Url("https://issuer.test/jwks".into());
    let fetched = given.clone().with_source(url);
    let found = given.clone().with_source(KeySource::Discovery);
    let of = |token: &[u8], issuer| {
        let issuers = |iss: &str| (iss == HERE).then(|| (name("here"), issuer));
        missing_key(&Presented::bearer(token), &issuers).map(|(name, id)| (name.to_string(), id.to_string()))
    };
    let signed_as = |key_id: &str| {
        let key = TestIssuer::new(HERE, key_id, Algorithm::Es256);
        key.sign(&key.header(), &claims())
    };
    let new = signed_as("new");
    let missing = Some(("here".to_owned(), "new".to_owned()));
    assert_eq!(of(new.as_bytes(), &fetched), missing);
    assert_eq!(of(new.as_bytes(), &found), missing);
    assert_eq!(of(new.as_bytes(), &given), None, "given keys are not fetched");
    let longest = "k".repeat(256);
    assert_eq!(of(signed_as(&longest).as_bytes(), &fetched), Some(("here".to_owned(), longest)));

    let header = |name: &str, value| with(json!({ "alg": "ES256", "kid": "new", "typ": "JWT" }), name, value);
    for (what, header, claims) in [
        ("a key that is there", header("kid", json!("ES256")), claims()),
        ("a key that is refused", header("kid", json!("refused")), claims()),
        ("no key id", without(header("x", json!(1)), "kid"), claims()),
        ("an empty key id", header("kid", json!("")), claims()),
        ("a key id that is no text", header("kid", json!(7)), claims()),
        ("a key id with a line break", header("kid", json!("a\nb")), claims()),
        ("a key id that is too long", header("kid", json!("k".repeat(257))), claims()),
        ("an algorithm that is not allowed", header("alg", json!("EdDSA")), claims()),
        ("no algorithm at all", header("alg", json!("none")), claims()),
        ("another issuer", header("x", json!(1)), with(claims(), "iss", json!(THERE))),
        (
            "an issuer that is an address",
            header("x", json!(1)),
            with(claims(), "iss", json!("https://evil.test")),
        ),
        ("no issuer", header("x", json!(1)), without(claims(), "iss")),
    ] {
        let token = held.sign(&header, &claims);
        assert_eq!(of(token.as_bytes(), &fetched), None, "{what}");
    }
    for token in [&b""[..], b"a.b", b"a.b.c", new.replace('.', "..").as_bytes()] {
        assert_eq!(of(token, &fetched), None);
    }
}
