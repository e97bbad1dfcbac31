//! Whoever issues the tokens: one key for every world, so that runs do not differ by it.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::truth::Token;

pub(crate) const ISS: &str = "https://issuer.test";
pub(crate) const AUDIENCE: &str = "orders";
const LIFETIME_S: i64 = 3000;

fn key() -> &'static Ed25519KeyPair {
    static KEY: OnceLock<Ed25519KeyPair> = OnceLock::new();
    KEY.get_or_init(|| Ed25519KeyPair::from_seed_unchecked(&[42; 32]).unwrap())
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The issuer's record, as people write it.
pub(crate) fn spec() -> Value {
    json!({
        "iss": ISS, "profile": "generic", "algorithms": ["EdDSA"],
        "audiences": [AUDIENCE], "max_lifetime": "1h",
        "keys": { "inline": { "keys": [{
            "kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "use": "sig",
            "x": base64url(key().public_key().as_ref()),
        }] } },
    })
}

/// A token as it is presented.
pub(crate) fn sign(token: &Token) -> Arc<str> {
    let header = json!({ "alg": "EdDSA", "kid": "k1", "typ": "JWT" });
    let issued = token.issued_us.div_euclid(1_000_000);
    let claims = json!({
        "iss": ISS, "sub": token.identity.as_str(), "aud": AUDIENCE,
        "iat": issued, "exp": issued + LIFETIME_S, "jti": token.jti,
    });
    let input =
        format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let signature = key().sign(input.as_bytes());
    format!("{input}.{}", base64url(signature.as_ref())).into()
}
