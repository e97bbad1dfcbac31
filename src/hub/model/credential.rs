//! Credentials, as fingerprints.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time::Time;
use super::{Faults, Read, text};
use crate::core::credential::{api_key_fingerprint, api_key_id};
use crate::core::identity::{Credential, CredentialKind, CredentialStatus, Record};

/// A credential as the hub knows it: never the secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a credential's spec")]
pub struct CredentialSpec {
    /// What kind: `signing-key` with its `fingerprint`, `certificate` with that and `identity`, or `api-key`
    /// with `key_id`, `digest` and `identity`.
    pub kind: CredentialKindSpec,
    /// The one identity it belongs to, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// A signing key's RFC 7638 thumbprint, or the SHA-256 of a certificate in DER: 32 bytes in base64url
    /// without padding. Fixed once written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// An API key's id, 16 hex digits. Fixed once written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// SHA-256 of the whole API key, base64url without padding. Fixed once written; the key itself stays away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Time>,
    /// When it is to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_by: Option<Time>,
    /// The first instant at which it no longer works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// Whether it may be used; `active` unless told.
    #[serde(default)]
    pub status: CredentialStatusSpec,
    /// The platform it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What kind of credential a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialKindSpec {
    /// An issuer's signing key.
    SigningKey,
    /// An API key.
    ApiKey,
    /// A client certificate.
    Certificate,
}

/// Whether a credential may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialStatusSpec {
    /// It may.
    #[default]
    Active,
    /// It may not, for good.
    Revoked,
}

impl CredentialSpec {
    pub(super) fn read(self, faults: &mut Faults) -> Option<Read> {
        let identity = match &self.identity {
            Some(name) => Some(text::name(name, "identity", faults)?),
            None => None,
        };
        let kind = match self.kind {
            CredentialKindSpec::SigningKey => CredentialKind::SigningKey,
            CredentialKindSpec::ApiKey => CredentialKind::ApiKey,
            CredentialKindSpec::Certificate => CredentialKind::Certificate,
        };
        if kind != CredentialKind::SigningKey && identity.is_none() {
            faults.push("identity", format_args!("is missing: a `{}` is one identity's", kind.as_str()));
        }
        let (fingerprint, secret_digest) = self.known_by(kind, faults);
        let credential = Credential {
            kind,
            identity,
            fingerprint: fingerprint?,
            digest: secret_digest,
            issued: self.issued.map(|time| time.0),
            rotate_by: self.rotate_by.map(|time| time.0),
            expires: self.expires.map(|time| time.0),
            status: match self.status {
                CredentialStatusSpec::Active => CredentialStatus::Active,
                CredentialStatusSpec::Revoked => CredentialStatus::Revoked,
            },
            source: text::optional(self.source.as_ref(), "source", faults),
        };
        Some(Read::plain(Record::Credential(Arc::new(credential))))
    }

    /// The fingerprint, and the digest of a secret; each kind has its own members and no others.
    fn known_by(&self, kind: CredentialKind, faults: &mut Faults) -> (Option<[u8; 32]>, Option<[u8; 32]>) {
        let given = [
            ("fingerprint", self.fingerprint.as_ref()),
            ("key_id", self.key_id.as_ref()),
            ("digest", self.digest.as_ref()),
        ];
        let own: &[&str] = match kind {
            CredentialKind::SigningKey | CredentialKind::Certificate => &["fingerprint"],
            CredentialKind::ApiKey => &["key_id", "digest"],
        };
        let name = kind.as_str();
        for (member, value) in given {
            if own.contains(&member) && value.is_none() {
                faults.push(member, format_args!("is missing: a `{name}` has one"));
            } else if !own.contains(&member) && value.is_some() {
                faults.push(member, format_args!("is not for a `{name}`: expected {}", own.join(" and ")));
            }
        }
        match kind {
            CredentialKind::SigningKey | CredentialKind::Certificate => {
                (self.fingerprint.as_ref().and_then(|text| digest(text, "fingerprint", faults)), None)
            }
            CredentialKind::ApiKey => {
                let fingerprint = self.key_id.as_ref().and_then(|id| api_key_fingerprint(id));
                if fingerprint.is_none() && self.key_id.is_some() {
                    faults.push("key_id", "expected 16 hex digits in lower case");
                }
                (fingerprint, self.digest.as_ref().and_then(|text| digest(text, "digest", faults)))
            }
        }
    }
}

/// Reads 32 bytes in base64url.
pub(super) fn digest(text: &str, at: &str, faults: &mut Faults) -> Option<[u8; 32]> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    if bytes.is_none() {
        faults.push(at, "expected 32 bytes in base64url without padding, 43 characters");
    }
    bytes
}

/// Writes 32 bytes in base64url.
pub(super) fn show_digest(bytes: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl From<&Credential> for CredentialSpec {
    fn from(v: &Credential) -> Self {
        Self {
            kind: match v.kind {
                CredentialKind::SigningKey => CredentialKindSpec::SigningKey,
                CredentialKind::ApiKey => CredentialKindSpec::ApiKey,
                CredentialKind::Certificate => CredentialKindSpec::Certificate,
            },
            identity: v.identity.as_ref().map(ToString::to_string),
            fingerprint: (v.kind != CredentialKind::ApiKey).then(|| show_digest(&v.fingerprint)),
            key_id: if v.kind == CredentialKind::ApiKey { api_key_id(&v.fingerprint) } else { None },
            digest: v.digest.as_ref().map(show_digest),
            issued: v.issued.map(Time),
            rotate_by: v.rotate_by.map(Time),
            expires: v.expires.map(Time),
            status: match v.status {
                CredentialStatus::Active => CredentialStatusSpec::Active,
                CredentialStatus::Revoked => CredentialStatusSpec::Revoked,
            },
            source: text::shown(v.source.as_ref()),
        }
    }
}
