//! Verification of JSON Web Tokens (RFC 7519, RFC 8725).
//!
//! A token verified before is found again by its hash. That spares parsing and the
//! signature, nothing else: the issuer must still be what it was, and times and
//! audience are judged each time.
//!
//! Deliberately absent: encrypted tokens, and fetching anything.

use std::sync::Arc;
use std::time::Duration;

use super::algorithm::Algorithm;
use super::claims::Claims;
use super::digest::sha256;
use super::dpop::verify_proof;
use super::json::{self, Object, Value};
use super::jws::Jws;
use super::keys::{KeySet, VerifyKey};
use super::possession::{Possession, Proof};
use super::presented::{Presented, TOKEN_BYTES_MAX};
use super::profile::{self, Profiled};
use super::spiffe::SpiffeId;
use super::verified::{FingerprintKey, Kind, Verified};
use crate::core::id::Name;
use crate::core::identity::{Issuer, TokenProfile};
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// A bounded memory of verified tokens. It may forget anything at any time.
///
/// INVARIANT: what `lookup` returns for a key is what was stored under that key.
pub trait TokenCache: Send + Sync {
    /// The credential stored under `key`, if it is remembered.
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Verified>>;

    /// Remembers a credential under `key`.
    fn store(&self, key: [u8; 32], verified: Arc<Verified>);
}

/// What a credential must be, for one route.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The tenant whose issuers count.
    pub tenant: &'a Name,
    /// The audiences accepted; a token must name one. Empty: none is.
    pub audiences: &'a [Arc<str>],
    /// How far the issuer's clock and ours may differ.
    pub clock_skew: Duration,
    /// What the caller shows to hold.
    pub possession: Possession<'a>,
}

/// A verified credential, and how it came about.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The credential.
    pub verified: Arc<Verified>,
    /// Whether signature and parsing were spared.
    pub cached: bool,
    /// A proof that must be taken once only.
    pub proof: Option<Proof>,
    /// From when on its issuer is asked again, if it was asked, while the exchange is open.
    pub asked_until: Option<Timestamp>,
    /// The first instant at which its issuer's keys count no more, if they have a bound.
    pub keys_until: Option<Timestamp>,
}

/// Verifies a bearer JWT against the issuers of a tenant.
///
/// `issuers` finds the current issuer record of the tenant by exact `iss`; `cache`
/// belongs to one `fingerprint` key.
///
/// # Errors
/// - `credential.malformed`: no strict compact JWS of a JSON object, or a claim of the wrong type
/// - `issuer.unknown`: no issuer of the tenant has this `iss`
/// - `credential.unverified`: kind, algorithm, key or signature; keys that could not be fetched for too long
/// - `credential.expired`: outside its times, or a longer life than its issuer may grant
/// - `credential.audience`: no audience that both the route and the issuer accept
/// - `credential.unbound`: it is bound to what the caller does not show to hold, or to what is not known
/// - `credential.proof`, `credential.nonce`: the proof that came with it does not count
/// - `credential.status_unlisted`: its status is asked for where its issuer's record does not allow
///
/// What its status is, the state says: see [`crate::core::identity::Snapshot::token_status`].
///
/// # Standard
/// RFC 7519 §7.2 and RFC 8725 §3. Stricter: `exp`, `sub` and `aud` are required.
pub fn verify<'s>(
    presented: &Presented,
    expected: &Expected<'_>,
    issuers: &dyn Fn(&str) -> Option<(Name, &'s Issuer)>,
    now: Timestamp,
    cache: &dyn TokenCache,
    fingerprint: &FingerprintKey,
) -> Result<Verification, Reason> {
    let short = presented.token().filter(|token| token.len() <= TOKEN_BYTES_MAX);
    let token = short.ok_or(Reason::CredentialMalformed)?;
    let key = sha256(&[expected.tenant.as_str().as_bytes(), &[0], token]);
    if let Some(verified) = cache.lookup(&key)
        && let Some((name, issuer)) = issuers(&verified.iss)
        && holds(&verified, expected.tenant, &name, issuer)
        && issuer.keys_count(now)
    {
        judge(&verified, expected, issuer, now)?;
        let proof = possesses(&verified, presented, token, expected, now)?;
        return Ok(Verification {
            verified,
            cached: true,
            proof,
            asked_until: None,
            keys_until: issuer.keys_until,
        });
    }
    let jws = Jws::parse(token).map_err(|_| Reason::CredentialMalformed)?;
    let payload = json::parse_object(jws.payload()).map_err(|_| Reason::CredentialMalformed)?;
    let (name, issuer) = voucher(&payload, issuers)?;
    if !issuer.keys_count(now) {
        return Err(Reason::CredentialUnverified);
    }
    let signer = authenticate(&jws, issuer)?;
    let mut claims = Claims::read(&payload, &issuer.iss)?;
    let profiled = profile::read(issuer, &payload, &claims)?;
    claims.expires_at = profiled.ends.map_or(claims.expires_at, |ends| ends.min(claims.expires_at));
    let fingerprint = fingerprint.fingerprint(token);
    let status = claims.status.take().map(|claim| claim.listed(&name, issuer)).transpose();
    let mut verified = assemble(claims, profiled, expected.tenant, name, issuer, signer, &jws, fingerprint);
    judge(&verified, expected, issuer, now)?;
    let proof = possesses(&verified, presented, token, expected, now)?;
    verified.status = status?;
    let verified = Arc::new(verified);
    cache.store(key, Arc::clone(&verified));
    Ok(Verification { verified, cached: false, proof, asked_until: None, keys_until: issuer.keys_until })
}

/// Whether an earlier verification would come out the same now, times and audience aside.
fn holds(verified: &Verified, tenant: &Name, name: &Name, issuer: &Issuer) -> bool {
    verified.tenant == *tenant
        && verified.issuer.as_ref() == Some(name)
        && verified.depends_on == issuer.digest
}

/// The issuer whose keys count: the one of exactly this `iss`. Where there is none, the trust domain of
/// a SPIFFE ID in `sub`, which is how JWT-SVIDs name theirs.
pub(super) fn voucher<'s>(
    payload: &Object<'_>,
    issuers: &dyn Fn(&str) -> Option<(Name, &'s Issuer)>,
) -> Result<(Name, &'s Issuer), Reason> {
    let iss = payload.get("iss").map(|iss| iss.as_text().ok_or(Reason::CredentialMalformed)).transpose()?;
    let exact = |iss: &str| issuers(iss).filter(|(_, issuer)| *issuer.iss == *iss);
    if let Some(found) = iss.and_then(exact) {
        return Ok(found);
    }
    let id = payload.get("sub").and_then(Value::as_text).and_then(SpiffeId::parse);
    let unknown = if iss.is_some() { Reason::IssuerUnknown } else { Reason::CredentialMalformed };
    id.and_then(|id| exact(id.domain()))
        .filter(|(_, issuer)| issuer.profile == TokenProfile::JwtSvid)
        .ok_or(unknown)
}

/// Kind, algorithm, key, signature: who signed it.
fn authenticate<'s>(jws: &Jws<'_>, issuer: &'s Issuer) -> Result<&'s VerifyKey, Reason> {
    let kind = |key: &&VerifyKey| profile::takes_header(issuer.profile, jws, key.algorithm());
    signer(jws, &issuer.keys, &issuer.algorithms).filter(kind).ok_or(Reason::CredentialUnverified)
}

/// The key of `keys` that signed `jws` with an algorithm of `allowed`.
///
/// # Standard
/// RFC 7515 §5.2, RFC 8725 §3.1: the header's `alg` is compared and never obeyed.
pub fn signer<'k>(jws: &Jws<'_>, keys: &'k KeySet, allowed: &[Algorithm]) -> Option<&'k VerifyKey> {
    let algorithm = Algorithm::parse(jws.algorithm()).filter(|algorithm| allowed.contains(algorithm))?;
    let key = keys.find(jws.key_id(), algorithm)?;
    key.verify(jws.signing_input(), jws.signature()).then_some(key)
}

#[expect(clippy::too_many_arguments, reason = "the parts of a verified token")]
fn assemble(
    claims: Claims,
    profiled: Profiled,
    tenant: &Name,
    name: Name,
    issuer: &Issuer,
    signer: &VerifyKey,
    jws: &Jws<'_>,
    fingerprint: [u8; 16],
) -> Verified {
    Verified {
        issuer: Some(name),
        iss: Arc::clone(&issuer.iss),
        subject: profiled.subject.unwrap_or(claims.subject),
        actors: claims.actors,
        audiences: claims.audiences,
        token_id: claims.token_id,
        instance: profiled.instance,
        confirmation: claims.confirmation,
        key_id: signer.key_id().cloned().unwrap_or_default(),
        key_thumbprint: *signer.thumbprint(),
        issued_at: claims.issued_at,
        not_before: claims.not_before,
        expires_at: claims.expires_at,
        signing_input_digest: sha256(&[jws.signing_input()]),
        fingerprint,
        depends_on: issuer.digest,
        ..Verified::bare(Kind::Jwt, tenant)
    }
}

/// What depends on the moment and the route, and so is never remembered.
pub(super) fn judge(
    verified: &Verified,
    expected: &Expected<'_>,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<(), Reason> {
    if !is_timely(verified, issuer, expected.clock_skew, now) {
        return Err(Reason::CredentialExpired);
    }
    let accepted = |audience: &Arc<str>| {
        expected.audiences.contains(audience)
            && (issuer.audiences.is_empty() || issuer.audiences.contains(audience))
    };
    if verified.audiences.iter().any(accepted) { Ok(()) } else { Err(Reason::CredentialAudience) }
}

/// Whether the caller holds what the token is bound to. Judged each time, remembered or not.
///
/// # Standard
/// RFC 8705 §3, RFC 9449 §7: a token bound to a key comes under the scheme `DPoP` with one proof, and no
/// other token does.
pub(super) fn possesses(
    verified: &Verified,
    presented: &Presented,
    token: &[u8],
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Option<Proof>, Reason> {
    let bound = verified.confirmation.unwrap_or_default();
    if let Some(thumbprint) = bound.certificate {
        let certificate = expected.possession.certificate;
        let held = certificate.filter(|held| held.thumbprint == thumbprint && held.is_vouched_for());
        if !held.ok_or(Reason::CredentialUnbound)?.is_timely(expected.clock_skew, now) {
            return Err(Reason::CredentialExpired);
        }
    }
    match (bound.key, presented.proof()) {
        (None, None) => Ok(None),
        (Some(key), Some(proof)) => {
            let proof = proof.ok_or(Reason::CredentialProof)?;
            let request = expected.possession.request.as_ref().ok_or(Reason::CredentialUnbound)?;
            verify_proof(proof, token, &key, request).map(Some)
        }
        (Some(_), None) | (None, Some(_)) => Err(Reason::CredentialUnbound),
    }
}

fn is_timely(verified: &Verified, issuer: &Issuer, skew: Duration, now: Timestamp) -> bool {
    let latest_start = now.after(skew);
    let lifetime = Duration::from_secs(u64::from(issuer.max_lifetime_s));
    let latest_end = match verified.issued_at {
        Some(issued_at) => issued_at.after(lifetime),
        None => now.after(lifetime).after(skew),
    };
    now < verified.expires_at.after(skew)
        && verified.not_before.is_none_or(|not_before| not_before <= latest_start)
        && verified.issued_at.is_none_or(|issued_at| issued_at <= latest_start)
        && verified.expires_at <= latest_end
}
