//! Claims and proofs behind good signatures: what is accepted is within every bound, and a proof that nobody could
//! sign never is.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, KeySet, Possession, Presented, ProvenRequest, TokenCache, Verified,
    verify,
};
use portreeve::core::id::Name;
use portreeve::core::identity::{Issuer, TokenProfile};
use portreeve::core::policy::CanonicalPath;
use portreeve::core::time::Timestamp;

const NOW: i64 = 1_800_000_000;
const SKEW: i64 = 30;
const LIFETIME: u32 = 3600;
const ISS: &str = "https://issuer.test";

static PAIR: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed"));

struct Forgetful;

impl TokenCache for Forgetful {
    fn lookup(&self, _: &[u8; 32]) -> Option<Arc<Verified>> {
        None
    }

    fn store(&self, _: [u8; 32], _: Arc<Verified>) {}
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn jwks() -> Vec<u8> {
    let x = base64url(PAIR.public_key().as_ref());
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#).into_bytes()
}

/// A token of these claims, signed.
fn sign(header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", base64url(header), base64url(claims));
    format!("{input}.{}", base64url(PAIR.sign(input.as_bytes()).as_ref()))
}

/// What comes of a token that an issuer of this profile signed.
fn judged(profile: TokenProfile, token: &str, proof: Option<&[u8]>) -> Option<Arc<Verified>> {
    let issuer =
        Issuer::new(ISS.into(), profile, vec![Algorithm::EdDsa], Vec::new(), LIFETIME, Arc::from(jwks()));
    let (tenant, path) = (Name::parse("t").expect("a name"), CanonicalPath::parse("/a").expect("a path"));
    let issuers = |iss: &str| (iss == ISS).then(|| (tenant.clone(), &issuer));
    let (now, key) = (Timestamp::from_seconds(NOW), FingerprintKey::new([0; 32]));
    let request = ProvenRequest { method: "GET", origin: "https://a", path: &path, at: now, nonces: None };
    let possession = Possession { certificate: None, request: Some(request) };
    let audiences = [Arc::from("orders")];
    let skew = Duration::from_secs(SKEW.unsigned_abs());
    let expected = Expected { tenant: &tenant, audiences: &audiences, clock_skew: skew, possession };
    let presented = match proof {
        None => Presented::bearer(token.as_bytes()),
        Some(proof) => Presented::dpop(token.as_bytes(), Some(proof)),
    };
    let found = verify(&presented, &expected, &issuers, now, &Forgetful, &key);
    found.ok().map(|found| found.verified)
}

/// Claims as they come.
pub(crate) fn claims((profile, claims): (u8, &[u8])) {
    let profile = TokenProfile::ALL[usize::from(profile) % TokenProfile::ALL.len()];
    let typ = if profile == TokenProfile::AccessToken { "at+jwt" } else { "JWT" };
    let token = sign(format!(r#"{{"alg":"EdDSA","typ":"{typ}"}}"#).as_bytes(), claims);
    let Some(verified) = judged(profile, &token, None) else { return };
    let seconds = |at: Option<Timestamp>| at.map(Timestamp::as_seconds);
    let end = seconds(verified.expires_at()).expect("an end");
    assert!(end > NOW - SKEW - 1 && end <= NOW + SKEW + i64::from(LIFETIME) + SKEW);
    assert!(seconds(verified.issued_at()).is_none_or(|at| at <= NOW + SKEW));
    assert!(verified.audiences().iter().any(|audience| &**audience == "orders"));
    let subject = &**verified.subject();
    assert!(!subject.is_empty() && !subject.chars().any(char::is_control));
    assert!(verified.confirmation().is_none(), "a bound token came as a bearer's");
}

/// A token's header as it comes, its signature good.
pub(crate) fn header(header: &[u8]) {
    let claims = format!(r#"{{"iss":"{ISS}","sub":"a","aud":"orders","iat":{NOW},"exp":{}}}"#, NOW + 60);
    let token = sign(header, claims.as_bytes());
    if judged(TokenProfile::Generic, &token, None).is_some() {
        let text = std::str::from_utf8(header).expect("UTF-8");
        assert!(text.contains("alg") && header.len() < 16 * 1024);
    }
}

/// A proof as it comes, for a token that is bound to a key which nobody here has.
pub(crate) fn proof((header, claims, signature): (&[u8], &[u8], &[u8])) {
    let bound = *KeySet::parse(&jwks(), &[Algorithm::EdDsa]).keys()[0].thumbprint();
    let mut other = bound;
    other[0] ^= 1;
    let token = format!(
        r#"{{"iss":"{ISS}","sub":"a","aud":"orders","iat":{NOW},"exp":{},"cnf":{{"jkt":"{}"}}}}"#,
        NOW + 60,
        base64url(&other)
    );
    let token = sign(br#"{"alg":"EdDSA"}"#, token.as_bytes());
    let proof = format!("{}.{}.{}", base64url(header), base64url(claims), base64url(signature));
    assert!(judged(TokenProfile::Generic, &token, Some(proof.as_bytes())).is_none());
}
