//! A signed assertion to an upstream: who calls, by which decision, for a minute at most.
//!
//! An upstream that others reach too can tell by it what came through here.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderValue};
use serde_json::json;

use crate::core::id::DecisionId;
use crate::core::policy::Verdict;
use crate::core::time::Timestamp;
use crate::pep::headers;

/// The key of one enforcement point, for all its upstreams.
pub struct AssertionKey {
    pair: Ed25519KeyPair,
    /// The header of every assertion, encoded.
    header: String,
    jwks: Arc<str>,
}

impl std::fmt::Debug for AssertionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AssertionKey").field("jwks", &self.jwks).finish_non_exhaustive()
    }
}

impl AssertionKey {
    /// By an Ed25519 seed; `None`: the provider refuses it, which it never should.
    ///
    /// # Standard
    /// RFC 8037 for the key; RFC 7638 for its `kid`.
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let print = digest(&SHA256, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
        let kid = URL_SAFE_NO_PAD.encode(print);
        let header = json!({ "alg": "EdDSA", "kid": kid, "typ": "JWT" }).to_string();
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig" });
        let jwks = Arc::from(json!({ "keys": [key] }).to_string());
        Some(Self { pair, header: URL_SAFE_NO_PAD.encode(header), jwks })
    }

    /// Its public half, as a JWK set.
    pub const fn jwks(&self) -> &Arc<str> {
        &self.jwks
    }

    fn sign(&self, claims: &serde_json::Value) -> String {
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

/// What is asserted to one upstream.
#[derive(Clone, Debug)]
pub struct AssertionSettings {
    /// What signs.
    pub key: Arc<AssertionKey>,
    /// `iss`.
    pub issuer: Arc<str>,
    /// `aud`.
    pub audience: Arc<str>,
    /// From `iat` to `exp`; 1 s to 60 s.
    pub lifetime: Duration,
}

impl AssertionSettings {
    /// Sets the header; none where nobody was identified.
    pub(crate) fn put(&self, headers: &mut HeaderMap, verdict: &Verdict, id: DecisionId, now: Timestamp) {
        let basis = verdict.basis();
        let (Some(principal), Some(tenant)) = (&basis.principal, &basis.tenant) else { return };
        let token = self.key.sign(&json!({
            "iss": &*self.issuer,
            "aud": &*self.audience,
            "sub": principal.name().to_string(),
            "tenant": tenant.as_str(),
            "iat": now.as_seconds(),
            "exp": now.after(self.lifetime).as_seconds(),
            "jti": id.to_string(),
        }));
        // Base64url and dots: always a header's value.
        let Ok(mut value) = HeaderValue::try_from(token) else { return };
        value.set_sensitive(true);
        headers.insert(headers::ASSERTION, value);
    }
}
