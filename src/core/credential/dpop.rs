//! Proofs that the caller holds the key a token is bound to (DPoP, RFC 9449).
//!
//! A proof counts within a minute of its making, and once at each enforcement point; where nonces are asked
//! for, also no longer than its nonce.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use super::claims::numeric_date;
use super::digest::sha256;
use super::json::{self, Object, Value};
use super::jwk;
use super::jws::Jws;
use super::keys::{KeyUse, VerifyKey};
use super::nonce::NonceAge;
use super::possession::{Proof, ProvenRequest};
use super::profile::is_one_of;
use crate::core::policy::{CanonicalPath, Reason};
use crate::core::time::Timestamp;

/// How long a proof must be remembered: it counts from a minute before its time to a minute after.
pub const PROOF_SPAN: Duration = Duration::from_secs(121);

/// Verifies a proof for `token`, by the key of thumbprint `bound`.
///
/// # Errors
/// - `credential.proof`: no strict compact JWS of a JSON object, by another key, for another request or token,
///   or not of now
/// - `credential.nonce`: all that holds, but it carries no nonce that counts
///
/// # Standard
/// RFC 9449 §4.3, checks 2 to 12. A key with private members is refused.
pub(super) fn verify_proof(
    proof: &[u8],
    token: &[u8],
    bound: &[u8; 32],
    request: &ProvenRequest<'_>,
) -> Result<Proof, Reason> {
    let jws = Jws::parse(proof).map_err(|_| Reason::CredentialProof)?;
    if !jws.kind().is_some_and(|kind| is_one_of(kind, &["dpop+jwt"])) {
        return Err(Reason::CredentialProof);
    }
    if !is_signed_by(bound, proof, &jws) {
        return Err(Reason::CredentialProof);
    }
    let claims = json::parse_object(jws.payload()).map_err(|_| Reason::CredentialProof)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_text);
    let id = text("jti").filter(|id| !id.is_empty() && json::is_plain(id, PROOF_ID_BYTES_MAX));
    let made = claims.get("iat").map(numeric_date).transpose().map_err(|_| Reason::CredentialProof)?;
    let timely = |made: &Timestamp| *made <= request.at.after(WINDOW) && request.at <= made.after(WINDOW);
    let made = made.filter(timely).ok_or(Reason::CredentialProof)?;
    let hash = URL_SAFE_NO_PAD.encode(sha256(&[token]));
    let holds = text("htm") == Some(request.method)
        && text("htu").is_some_and(|uri| is_of(uri, request))
        && text("ath") == Some(hash.as_str());
    let id = id.filter(|_| holds).ok_or(Reason::CredentialProof)?;
    let nonce_ends = match request.nonces {
        None => false,
        Some(nonces) => {
            let age = text("nonce").and_then(|nonce| nonces.age(nonce, request.at));
            age.ok_or(Reason::CredentialNonce)? == NonceAge::Ending
        }
    };
    Ok(Proof { id: sha256(&[bound, id.as_bytes()]), made, nonce_ends })
}

/// Whether the header's own key is the one of thumbprint `bound`, and signed the proof: the one place where
/// a key comes from a header. What it is worth, the token says that is bound to it.
fn is_signed_by(bound: &[u8; 32], proof: &[u8], jws: &Jws<'_>) -> bool {
    let key = own_key(proof, jws).filter(|key| key.thumbprint() == bound);
    key.is_some_and(|key| key.verify(jws.signing_input(), jws.signature()))
}

fn own_key(proof: &[u8], jws: &Jws<'_>) -> Option<VerifyKey> {
    let header = URL_SAFE_NO_PAD.decode(proof.split(|byte| *byte == b'.').next()?).ok()?;
    let header: Object<'_> = json::parse_object(&header).ok()?;
    let algorithm = Algorithm::parse(jws.algorithm())?;
    jwk::verify_key(header.get("jwk")?, &[algorithm], KeyUse::Signature).ok()
}

/// Whether `uri` is the request's, query and fragment aside (RFC 9449 §4.3, check 9).
fn is_of(uri: &str, request: &ProvenRequest<'_>) -> bool {
    let end = uri.find(['?', '#']).unwrap_or(uri.len());
    let Some((origin, path)) = uri.get(..end).and_then(split_origin) else { return false };
    let origin = origin.to_ascii_lowercase();
    let origin = match origin.split_once("://") {
        Some(("https", _)) => origin.strip_suffix(":443").unwrap_or(&origin),
        _ => origin.strip_suffix(":80").unwrap_or(&origin),
    };
    let path = if path.is_empty() { "/" } else { path };
    origin == request.origin && CanonicalPath::parse(path).is_ok_and(|path| path == *request.path)
}

/// Splits scheme and authority from the path.
fn split_origin(uri: &str) -> Option<(&str, &str)> {
    let authority = uri.find("://")? + 3;
    let path = uri.get(authority..)?.find('/').map_or(uri.len(), |at| authority + at);
    uri.split_at_checked(path)
}

const WINDOW: Duration = Duration::from_secs(60);
const PROOF_ID_BYTES_MAX: usize = 256;
