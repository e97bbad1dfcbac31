//! Client certificates (X.509) as credentials: whose they are, once their chain has been verified.
//!
//! A certificate comes here from a TLS handshake that verified its chain, or from a peer that is
//! configured to say what it verified. It names its caller in one of two ways: the hub has a record of
//! this very certificate, by its thumbprint; or the listener says which issuer's certificates its
//! authority signs, and an identity is bound to the name in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::spiffe::SpiffeId;
use super::verified::{FingerprintKey, Kind, Verified};
use crate::core::id::Name;
use crate::core::identity::{CredentialView, Issuer, TokenProfile};
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// What is read of a certificate whose chain was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// SHA-256 of the whole, in DER (RFC 8705 §3.1).
    pub thumbprint: [u8; 32],
    /// Its serial number, in hex.
    pub serial: Arc<str>,
    /// Its URI names.
    pub uris: Vec<Arc<str>>,
    /// Its host names, in lower case.
    pub hosts: Vec<Arc<str>>,
    /// Its mail names.
    pub mails: Vec<Arc<str>>,
    /// Whether it may sign certificates or lists of revoked ones.
    pub is_authority: bool,
    /// Whether it says, critically, that its key makes signatures.
    pub signs: bool,
    /// From when on it counts; whole seconds.
    pub not_before: Timestamp,
    /// Until when it counts, inclusive; whole seconds.
    pub not_after: Timestamp,
    /// The `iss` of the issuer whose certificates the listener takes, if it says so.
    pub issuer: Option<Arc<str>>,
    /// Who says whether its chain still holds; `None`: it was verified by authorities that do not change.
    pub voucher: Option<Vouched>,
}

/// Says of a certificate whether the authorities that vouched for it still do. Asked by each decision: it
/// verifies again only what has changed, and waits for nothing.
pub trait Voucher: Send + Sync + fmt::Debug {
    /// Whether they do.
    fn vouches(&self) -> bool;
}

/// A [`Voucher`], compared by which it is.
#[derive(Clone, Debug)]
pub struct Vouched(Arc<dyn Voucher>);

impl Vouched {
    /// By `voucher`.
    pub const fn by(voucher: Arc<dyn Voucher>) -> Self {
        Self(voucher)
    }
}

impl PartialEq for Vouched {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Vouched {}

impl ClientCertificate {
    /// Whether its chain holds now.
    pub(super) fn is_vouched_for(&self) -> bool {
        self.voucher.as_ref().is_none_or(|voucher| voucher.0.vouches())
    }

    /// The first instant at which it no longer counts.
    pub fn ends(&self) -> Timestamp {
        self.not_after.after(SECOND)
    }

    /// Whether `now` is within its times. Its end has no leeway.
    pub(super) fn is_timely(&self, clock_skew: Duration, now: Timestamp) -> bool {
        self.not_before <= now.after(clock_skew) && now < self.ends()
    }
}

/// What is known of certificates where they are verified.
#[derive(Clone, Copy)]
pub struct KnownCertificates<'a, 's> {
    /// The tenant.
    pub tenant: &'a Name,
    /// Finds its record of a certificate by thumbprint.
    pub records: &'a dyn Fn(&[u8; 32]) -> Option<CredentialView<'s>>,
    /// Finds its issuer by exact `iss`.
    pub issuers: &'a dyn Fn(&str) -> Option<(Name, &'s Issuer)>,
}

impl std::fmt::Debug for KnownCertificates<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownCertificates").field("tenant", self.tenant).finish_non_exhaustive()
    }
}

/// Verifies what a certificate says, its chain being verified already.
///
/// # Errors
/// - `credential.unverified`: an authority's certificate, or one that names nobody, or too many; or its
///   authorities are not trusted any more
/// - `credential.expired`: outside its times, or a longer life than its issuer may grant
/// - `issuer.unknown`: the listener's issuer is none of the tenant's, or one of tokens
///
/// # Standard
/// X.509-SVID §2, §4 and §5; RFC 8705 §2.1. No name is ever read from the subject.
pub fn verify_certificate(
    certificate: &ClientCertificate,
    known: &KnownCertificates<'_, '_>,
    clock_skew: Duration,
    now: Timestamp,
    fingerprint: &FingerprintKey,
) -> Result<Verified, Reason> {
    if certificate.is_authority || !certificate.is_vouched_for() {
        return Err(Reason::CredentialUnverified);
    }
    let ends = certificate.ends();
    if !certificate.is_timely(clock_skew, now) {
        return Err(Reason::CredentialExpired);
    }
    let found = Verified {
        key_id: Arc::clone(&certificate.serial),
        key_thumbprint: certificate.thumbprint,
        issued_at: Some(certificate.not_before),
        not_before: Some(certificate.not_before),
        expires_at: ends,
        signing_input_digest: certificate.thumbprint,
        fingerprint: fingerprint.fingerprint(&certificate.thumbprint),
        ..Verified::bare(Kind::Certificate, known.tenant)
    };
    if let Some(held) = (known.records)(&certificate.thumbprint) {
        let identity = held.identity.map(Name::parse).transpose().map_err(|_| Reason::Internal)?;
        return Ok(Verified { identity, ..found });
    }
    let iss = certificate.issuer.as_deref().ok_or(Reason::CredentialUnverified)?;
    let takes = |profile| matches!(profile, TokenProfile::X509 | TokenProfile::JwtSvid);
    let (name, issuer) = (known.issuers)(iss)
        .filter(|(_, issuer)| *issuer.iss == *iss && takes(issuer.profile))
        .ok_or(Reason::IssuerUnknown)?;
    if ends > certificate.not_before.after(Duration::from_secs(u64::from(issuer.max_lifetime_s) + 1)) {
        return Err(Reason::CredentialExpired);
    }
    let subject = match SpiffeId::parse(iss) {
        Some(domain) => workload(certificate, domain),
        None => other_name(certificate),
    };
    Ok(Verified {
        issuer: Some(name),
        iss: Arc::clone(&issuer.iss),
        subject: subject.ok_or(Reason::CredentialUnverified)?,
        depends_on: issuer.digest,
        ..found
    })
}

/// The SPIFFE ID of a workload in `domain`: the only URI name there is, on a certificate that signs.
fn workload(certificate: &ClientCertificate, domain: SpiffeId<'_>) -> Option<Arc<str>> {
    let [uri] = certificate.uris.as_slice() else { return None };
    let id = SpiffeId::parse(uri).filter(|id| id.has_path() && id.domain() == domain.as_str());
    id.filter(|_| certificate.signs).map(|_| Arc::clone(uri))
}

/// The only host name; without any, the only URI; without any, the only mail name; each with its kind.
fn other_name(certificate: &ClientCertificate) -> Option<Arc<str>> {
    let kinds = [("dns", &certificate.hosts), ("uri", &certificate.uris), ("email", &certificate.mails)];
    let (kind, names) = kinds.into_iter().find(|(_, names)| !names.is_empty())?;
    match names.as_slice() {
        [name] => Some(Arc::from(format!("{kind}:{name}"))),
        _ => None,
    }
}

const SECOND: Duration = Duration::from_secs(1);
