//! Credentials as the hub knows them.

use std::sync::Arc;

use crate::core::id::Name;
use crate::core::time::Timestamp;

/// What kind of credential a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialKind {
    /// An issuer's signing key; the fingerprint is its RFC 7638 thumbprint.
    SigningKey,
    /// An API key; the fingerprint is its id, the digest is of the whole key.
    ApiKey,
    /// A client certificate; the fingerprint is its SHA-256 in DER.
    Certificate,
}

impl CredentialKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::SigningKey, Self::ApiKey, Self::Certificate];

    /// The kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SigningKey => "signing-key",
            Self::ApiKey => "api-key",
            Self::Certificate => "certificate",
        }
    }

    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Whether a credential may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialStatus {
    /// It may.
    Active,
    /// It may not, for good.
    Revoked,
}

impl CredentialStatus {
    /// Every status.
    pub const ALL: [Self; 2] = [Self::Active, Self::Revoked];

    /// The status's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

/// A credential as the hub knows it: never the secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// What kind.
    pub kind: CredentialKind,
    /// The one identity it belongs to, if it belongs to one.
    pub identity: Option<Name>,
    /// What it is recognised by.
    pub fingerprint: [u8; 32],
    /// SHA-256 of a secret that is presented whole.
    pub digest: Option<[u8; 32]>,
    /// When it was made.
    pub issued: Option<Timestamp>,
    /// When it is to be replaced.
    pub rotate_by: Option<Timestamp>,
    /// The first instant at which it no longer works.
    pub expires: Option<Timestamp>,
    /// Whether it may be used.
    pub status: CredentialStatus,
    /// The platform it came from.
    pub source: Option<Arc<str>>,
}
