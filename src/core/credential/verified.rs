//! A credential after verification.

use std::fmt;
use std::sync::Arc;

use zeroize::ZeroizeOnDrop;

use super::possession::Confirmation;
use super::status::StatusRef;
use crate::core::id::Name;
use crate::core::time::Timestamp;

/// A kind of credential, as it is presented.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A JSON Web Token.
    Jwt,
    /// A token that only its issuer can look into.
    Opaque,
    /// An API key.
    ApiKey,
    /// A client certificate.
    Certificate,
}

impl Kind {
    /// The kind's name in evidence and policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Opaque => "opaque",
            Self::ApiKey => "api-key",
            Self::Certificate => "certificate",
        }
    }
}

/// What a verified credential says. Made only in this module's room.
///
/// ```compile_fail,E0451
/// use portreeve::core::credential::Verified;
/// fn forge(honest: Verified) -> Verified {
///     Verified { subject: "root".into(), ..honest }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub(super) kind: Kind,
    pub(super) issuer: Option<Name>,
    pub(super) identity: Option<Name>,
    pub(super) tenant: Name,
    pub(super) iss: Arc<str>,
    pub(super) subject: Arc<str>,
    pub(super) actors: Vec<Actor>,
    pub(super) audiences: Vec<Arc<str>>,
    pub(super) token_id: Option<Arc<str>>,
    pub(super) instance: Option<Arc<str>>,
    pub(super) confirmation: Option<Confirmation>,
    pub(super) key_id: Arc<str>,
    pub(super) key_thumbprint: [u8; 32],
    pub(super) issued_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires_at: Timestamp,
    pub(super) signing_input_digest: [u8; 32],
    pub(super) fingerprint: [u8; 16],
    pub(super) depends_on: [u8; 32],
    pub(super) status: Option<StatusRef>,
}

/// One party of a delegation chain (RFC 8693 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its issuer's exact `iss`; the token's own when the claim names none.
    pub iss: Arc<str>,
    /// Its subject there.
    pub subject: Arc<str>,
}

impl Verified {
    /// One that says nothing yet.
    pub(super) fn bare(kind: Kind, tenant: &Name) -> Self {
        let (none, never) = (Arc::<str>::default(), Timestamp::from_micros(i64::MAX));
        Self {
            kind,
            issuer: None,
            identity: None,
            tenant: tenant.clone(),
            iss: Arc::clone(&none),
            subject: Arc::clone(&none),
            actors: Vec::new(),
            audiences: Vec::new(),
            token_id: None,
            instance: None,
            confirmation: None,
            key_id: none,
            key_thumbprint: [0; 32],
            issued_at: None,
            not_before: None,
            expires_at: never,
            signing_input_digest: [0; 32],
            fingerprint: [0; 16],
            depends_on: [0; 32],
            status: None,
        }
    }

    /// What kind of credential it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether there may be a record of the credential itself.
    pub const fn has_record(&self) -> bool {
        matches!(self.kind, Kind::ApiKey | Kind::Certificate)
    }

    /// The issuer record's name; `None`: the hub itself knows the credential.
    pub const fn issuer(&self) -> Option<&Name> {
        self.issuer.as_ref()
    }

    /// The identity that the credential's own record names, where no issuer asserts a subject.
    pub const fn identity(&self) -> Option<&Name> {
        self.identity.as_ref()
    }

    /// The exact `iss`; empty without an issuer.
    pub const fn iss(&self) -> &Arc<str> {
        &self.iss
    }

    /// The subject: `sub` byte for byte, or what the issuer's profile makes of other claims.
    pub const fn subject(&self) -> &Arc<str> {
        &self.subject
    }

    /// Who acts for the subject, outermost first.
    pub fn actors(&self) -> &[Actor] {
        &self.actors
    }

    /// The tenant whose issuer vouches for it.
    pub const fn tenant(&self) -> &Name {
        &self.tenant
    }

    /// Whom a token is meant for; at least one.
    pub fn audiences(&self) -> &[Arc<str>] {
        &self.audiences
    }

    /// The token's `jti`.
    pub const fn token_id(&self) -> Option<&Arc<str>> {
        self.token_id.as_ref()
    }

    /// What it ends with, by its issuer's name for it: a Kubernetes pod's UID. Revoked like a `jti`.
    pub const fn instance(&self) -> Option<&Arc<str>> {
        self.instance.as_ref()
    }

    /// What it is bound to; `None`: whoever has it may use it.
    pub const fn confirmation(&self) -> Option<&Confirmation> {
        self.confirmation.as_ref()
    }

    /// The key's id; empty when the issuer's only key has none.
    pub const fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// RFC 7638 thumbprint (SHA-256) of the key that verified it, or the fingerprint of its own record; an
    /// opaque token has neither, and its digest stands here.
    pub const fn key_thumbprint(&self) -> &[u8; 32] {
        &self.key_thumbprint
    }

    /// When it was issued, if it says.
    pub const fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// The first instant at which it no longer holds, leeway aside; `None`: there is none.
    pub fn expires_at(&self) -> Option<Timestamp> {
        Some(self.expires_at).filter(|end| end.as_micros() < i64::MAX)
    }

    /// SHA-256 of what was signed, or of the whole API key or opaque token: the token's name for revocation, whatever was done to its signature.
    pub const fn signing_input_digest(&self) -> &[u8; 32] {
        &self.signing_input_digest
    }

    /// Where its issuer says whether it still counts; `None`: nowhere.
    pub const fn status(&self) -> Option<&StatusRef> {
        self.status.as_ref()
    }

    /// Keyed fingerprint for evidence.
    pub const fn fingerprint(&self) -> &[u8; 16] {
        &self.fingerprint
    }

    /// Digest of the issuer configuration and keys that verification depended on.
    pub const fn depends_on(&self) -> &[u8; 32] {
        &self.depends_on
    }
}

/// The key under which credentials are fingerprinted: equal credentials compare equal, nothing more is told.
#[derive(Clone, ZeroizeOnDrop)]
pub struct FingerprintKey([u8; 32]);

impl FingerprintKey {
    /// Takes 32 random bytes.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The first 16 bytes of keyed BLAKE3 over `credential`.
    pub fn fingerprint(&self, credential: &[u8]) -> [u8; 16] {
        let mut first = [0; 16];
        let hash = blake3::keyed_hash(&self.0, credential);
        first.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        first
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(redacted)")
    }
}
