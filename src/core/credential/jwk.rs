//! One JSON Web Key (RFC 7517) becomes one key for one algorithm, or is refused.

use std::sync::Arc;

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::{Algorithm, Family};
use super::digest::sha256;
use super::json::{self, Object, Value};
use super::jws::KEY_ID_BYTES_MAX;
use super::keys::{KeyUse, VerifyKey};

/// Why a key is refused: a fixed text for operators.
pub(super) type Why = &'static str;

/// Reads the `kid`, if it is fit to be shown and looked up.
pub(super) fn key_id(jwk: &Value<'_>) -> Option<Arc<str>> {
    let Value::Object(members) = jwk else { return None };
    let kid = members.get("kid")?.as_text()?;
    (!kid.is_empty() && json::is_plain(kid, KEY_ID_BYTES_MAX)).then(|| Arc::from(kid))
}

/// Builds the key, pinned to its own `alg` or else to the first of `allowed` that fits.
pub(super) fn verify_key(jwk: &Value<'_>, allowed: &[Algorithm], key_use: KeyUse) -> Result<VerifyKey, Why> {
    let Value::Object(members) = jwk else { return Err("not an object") };
    let key_id = key_id(jwk);
    if key_id.is_none() && members.contains_key("kid") {
        return Err("`kid` is no string of 1 to 256 plain bytes");
    }
    refuse_private(members)?;
    refuse_other_uses(members, key_use)?;
    let family = family(members)?;
    let algorithm = pin(members, family, allowed)?;
    match family {
        Family::Rsa => rsa(members, algorithm, key_id),
        Family::P256 | Family::P384 | Family::P521 => ecdsa(members, family, algorithm, key_id),
        Family::Ed25519 => ed25519(members, algorithm, key_id),
    }
}

/// Whether a key of a SPIFFE bundle says that it is for something else than `key_use`.
pub(super) fn is_for_others(jwk: &Value<'_>, key_use: KeyUse) -> bool {
    let Value::Object(members) = jwk else { return false };
    let said = members.get("use").and_then(Value::as_text);
    key_use == KeyUse::JwtSvid && matches!(said, Some("x509-svid" | "wit-svid"))
}

/// What is read of a key here, without what others may read of it.
pub(super) fn public_members(jwk: &Value<'_>) -> Result<serde_json::Map<String, serde_json::Value>, Why> {
    let Value::Object(members) = jwk else { return Err("not an object") };
    refuse_private(members)?;
    let mut public = serde_json::Map::new();
    // By its id first: that is what sets are sorted by.
    for name in ["kid", "kty", "crv", "x", "y", "n", "e", "use", "key_ops", "alg"] {
        let Some(value) = members.get(name) else { continue };
        let kept = match value {
            Value::Text(text) => serde_json::Value::from(&**text),
            // One that is no text makes the whole unusable, and must after this, too.
            Value::Array(texts) if texts.iter().all(|text| text.as_text().is_some()) => {
                texts.iter().filter_map(Value::as_text).collect()
            }
            _ => serde_json::Value::Null,
        };
        public.insert(name.to_owned(), kept);
    }
    Ok(public)
}

fn refuse_private(members: &Object<'_>) -> Result<(), Why> {
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    if private.iter().any(|name| members.contains_key(*name)) {
        return Err("secret or private members in a public key set");
    }
    Ok(())
}

fn refuse_other_uses(members: &Object<'_>, key_use: KeyUse) -> Result<(), Why> {
    let said = members.get("use");
    match key_use {
        KeyUse::Signature if said.is_some_and(|value| value.as_text() != Some("sig")) => {
            return Err("`use` is not `sig`");
        }
        KeyUse::JwtSvid if said.and_then(Value::as_text) != Some("jwt-svid") => {
            return Err("`use` is not `jwt-svid`");
        }
        KeyUse::Signature | KeyUse::JwtSvid => {}
    }
    match members.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops))
            if ops.iter().all(|op| op.as_text().is_some())
                && ops.iter().any(|op| op.as_text() == Some("verify")) =>
        {
            Ok(())
        }
        Some(_) => Err("`key_ops` does not hold `verify`"),
    }
}

fn family(members: &Object<'_>) -> Result<Family, Why> {
    let curve = members.get("crv").map(Value::as_text);
    match (members.get("kty").and_then(Value::as_text), curve) {
        (Some("RSA"), None) => Ok(Family::Rsa),
        (Some("EC"), Some(Some("P-256"))) => Ok(Family::P256),
        (Some("EC"), Some(Some("P-384"))) => Ok(Family::P384),
        (Some("EC"), Some(Some("P-521"))) => Ok(Family::P521),
        (Some("OKP"), Some(Some("Ed25519"))) => Ok(Family::Ed25519),
        (Some("oct"), _) => Err("symmetric key in a public key set"),
        _ => Err("`kty` and `crv` are not a known pair"),
    }
}

fn pin(members: &Object<'_>, family: Family, allowed: &[Algorithm]) -> Result<Algorithm, Why> {
    let Some(named) = members.get("alg") else {
        let fits = |algorithm: &Algorithm| algorithm.family() == family;
        return allowed.iter().copied().find(fits).ok_or("no allowed algorithm fits the key");
    };
    let algorithm =
        named.as_text().and_then(Algorithm::parse).ok_or("`alg` is not a known signature algorithm")?;
    if algorithm.family() != family {
        return Err("`alg` does not fit `kty` and `crv`");
    }
    if !allowed.contains(&algorithm) {
        return Err("`alg` is not allowed for the issuer");
    }
    Ok(algorithm)
}

fn rsa(members: &Object<'_>, algorithm: Algorithm, key_id: Option<Arc<str>>) -> Result<VerifyKey, Why> {
    let (modulus, n) = bytes(members, "n")?;
    let (exponent, e) = bytes(members, "e")?;
    let (Some(top), Some(last)) = (modulus.first(), modulus.last()) else {
        return Err("RSA modulus is empty");
    };
    if *top == 0 || exponent.first() == Some(&0) {
        return Err("RSA modulus or exponent has leading zeros");
    }
    let bits = (modulus.len() as u64).saturating_mul(8).saturating_sub(u64::from(top.leading_zeros()));
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err("RSA modulus is not of 2048 to 8192 bits");
    }
    if last % 2 == 0 {
        return Err("RSA modulus is even");
    }
    let value =
        exponent.iter().fold(0u64, |sum, byte| sum.saturating_mul(256).saturating_add(u64::from(*byte)));
    if value < 3 || value.is_multiple_of(2) || exponent.len() > RSA_EXPONENT_BYTES_MAX {
        return Err("RSA exponent is not odd and of 3 to 4294967295");
    }
    if bears_roca_mark(&modulus) {
        return Err("RSA modulus is of the factorable kind of CVE-2017-15361");
    }
    let parsed = RsaPublicKeyComponents { n: &modulus, e: &exponent }
        .to_parsed_public_key(rsa_parameters(algorithm).ok_or("`alg` does not fit `kty` and `crv`")?)
        .map_err(|_| "RSA key is rejected")?;
    let thumbprint = sha256(&[br#"{"e":""#, e.as_bytes(), br#"","kty":"RSA","n":""#, n.as_bytes(), br#""}"#]);
    Ok(VerifyKey { key_id, algorithm, thumbprint, signature_bytes: modulus.len(), parsed })
}

fn ecdsa(
    members: &Object<'_>,
    family: Family,
    algorithm: Algorithm,
    key_id: Option<Arc<str>>,
) -> Result<VerifyKey, Why> {
    let (field_bytes, curve, verifier): (usize, &str, &'static EcdsaVerificationAlgorithm) = match family {
        Family::P256 => (32, "P-256", &signature::ECDSA_P256_SHA256_FIXED),
        Family::P384 => (48, "P-384", &signature::ECDSA_P384_SHA384_FIXED),
        Family::P521 => (66, "P-521", &signature::ECDSA_P521_SHA512_FIXED),
        Family::Rsa | Family::Ed25519 => return Err("`alg` does not fit `kty` and `crv`"),
    };
    let (across, x) = bytes(members, "x")?;
    let (up, y) = bytes(members, "y")?;
    if across.len() != field_bytes || up.len() != field_bytes {
        return Err("EC coordinate is not as long as the field");
    }
    let point: Vec<u8> = [UNCOMPRESSED].into_iter().chain(across).chain(up).collect();
    let parsed = ParsedPublicKey::new(verifier, &point).map_err(|_| "EC point is not on its curve")?;
    let thumbprint = sha256(&[
        br#"{"crv":""#,
        curve.as_bytes(),
        br#"","kty":"EC","x":""#,
        x.as_bytes(),
        br#"","y":""#,
        y.as_bytes(),
        br#""}"#,
    ]);
    Ok(VerifyKey { key_id, algorithm, thumbprint, signature_bytes: 2 * field_bytes, parsed })
}

fn ed25519(members: &Object<'_>, algorithm: Algorithm, key_id: Option<Arc<str>>) -> Result<VerifyKey, Why> {
    let (point, x) = bytes(members, "x")?;
    if point.len() != 32 {
        return Err("Ed25519 key is not of 32 bytes");
    }
    let parsed = ParsedPublicKey::new(&signature::ED25519, &point).map_err(|_| "Ed25519 key is rejected")?;
    let thumbprint = sha256(&[br#"{"crv":"Ed25519","kty":"OKP","x":""#, x.as_bytes(), br#""}"#]);
    Ok(VerifyKey { key_id, algorithm, thumbprint, signature_bytes: 64, parsed })
}

/// A base64url member: its bytes, and its text, which strict decoding makes the only one for them.
fn bytes<'a>(members: &'a Object<'_>, name: &str) -> Result<(Vec<u8>, &'a str), Why> {
    let text = members.get(name).and_then(Value::as_text).ok_or("a key member is missing or no string")?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "a key member is not canonical base64url")?;
    Ok((bytes, text))
}

const fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}

/// Whether the modulus is a power of 65537 modulo every small prime, as only the
/// generator of CVE-2017-15361 (ROCA) makes them; chance does so once in some 2^27.
fn bears_roca_mark(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        for _ in 0..*prime {
            if power == rest {
                return true;
            }
            power = power * (65_537 % prime) % prime;
        }
        false
    })
}

const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const RSA_BITS_MIN: u64 = 2048;
const RSA_BITS_MAX: u64 = 8192;
const RSA_EXPONENT_BYTES_MAX: usize = 4;
const UNCOMPRESSED: u8 = 4;
