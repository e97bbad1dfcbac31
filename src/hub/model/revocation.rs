//! Revocations: what is taken away, and how it is shown.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::credential::{digest, show_digest};
use super::time::Time;
use super::{Faults, text};
use crate::core::identity::{Revocation, RevocationTarget};
use crate::core::time::Timestamp;

/// What to revoke, by the members given:
/// `identity` — the whole identity; `identity` and `issued_before` — what it was issued before then;
/// `credential` — one credential or key; `issuer`, `jti`, `expires` — one token;
/// `token_digest`, `expires` — one token, by the SHA-256 of what was signed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a revocation's target")]
pub struct TargetSpec {
    /// An identity's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// With `identity`: what was issued before this, and tokens without an issue time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<Time>,
    /// A credential's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// An issuer's name, with `jti` and `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token's `jti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// SHA-256 of the token's signing input, base64url without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_digest: Option<String>,
    /// When the token ends of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// Shown for a whole identity: the generation up to which it is revoked. Not to be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

/// One act of taking away, as shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct RevocationSpec {
    /// What it takes away.
    pub target: TargetSpec,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub requested_by: String,
    /// When it was asked for.
    pub at: Time,
}

impl TargetSpec {
    /// Reads a target. A whole identity's generation is filled in when it is known.
    ///
    /// # Errors
    /// Faults below `target`.
    pub fn read(&self, now: Timestamp) -> Result<RevocationTarget, Faults> {
        let mut faults = Faults::at("target");
        if self.generation.is_some() {
            faults.push("generation", "is set by the hub");
        }
        let target = self.shape(now, &mut faults);
        match target {
            Some(target) if faults.is_empty() => Ok(target),
            _ => Err(faults),
        }
    }

    fn shape(&self, now: Timestamp, faults: &mut Faults) -> Option<RevocationTarget> {
        let of = (self.identity.as_deref(), self.issued_before, self.credential.as_deref());
        let token = (self.issuer.as_deref(), self.jti.as_deref(), self.token_digest.as_deref(), self.expires);
        match (of, token) {
            ((Some(identity), cut, None), (None, None, None, None)) => {
                let identity = text::name(identity, "identity", faults)?;
                Some(match cut {
                    Some(cut) => RevocationTarget::IssuedBefore { identity, not_before: cut.0 },
                    None => RevocationTarget::Identity { identity, generation: 0 },
                })
            }
            ((None, None, Some(credential)), (None, None, None, None)) => {
                text::name(credential, "credential", faults).map(RevocationTarget::Credential)
            }
            ((None, None, None), (Some(issuer), Some(jti), None, Some(expires))) => {
                let jti = text::needed(jti, "jti", faults);
                let expires = ahead(expires, now, faults);
                let issuer = text::name(issuer, "issuer", faults)?;
                Some(RevocationTarget::TokenId { issuer, jti, expires })
            }
            ((None, None, None), (None, None, Some(given), Some(expires))) => {
                let expires = ahead(expires, now, faults);
                let digest = digest(given, "token_digest", faults)?;
                Some(RevocationTarget::TokenDigest { digest, expires })
            }
            _ => {
                faults.push("", EXPECTED);
                None
            }
        }
    }
}

fn ahead(expires: Time, now: Timestamp, faults: &mut Faults) -> Timestamp {
    if expires.0 <= now {
        faults.push("expires", "is past: the token has ended of itself");
    }
    expires.0
}

impl From<&RevocationTarget> for TargetSpec {
    fn from(v: &RevocationTarget) -> Self {
        let none = Self::default();
        match v {
            RevocationTarget::TokenId { issuer, jti, expires } => Self {
                issuer: Some(issuer.to_string()),
                jti: Some(jti.to_string()),
                expires: Some(Time(*expires)),
                ..none
            },
            RevocationTarget::TokenDigest { digest, expires } => {
                Self { token_digest: Some(show_digest(digest)), expires: Some(Time(*expires)), ..none }
            }
            RevocationTarget::Credential(name) => Self { credential: Some(name.to_string()), ..none },
            RevocationTarget::IssuedBefore { identity, not_before } => {
                Self { identity: Some(identity.to_string()), issued_before: Some(Time(*not_before)), ..none }
            }
            RevocationTarget::Identity { identity, generation } => {
                Self { identity: Some(identity.to_string()), generation: Some(*generation), ..none }
            }
        }
    }
}

impl From<&Revocation> for RevocationSpec {
    fn from(v: &Revocation) -> Self {
        Self {
            target: (&v.target).into(),
            reason: v.reason.to_string(),
            requested_by: v.requested_by.to_string(),
            at: Time(v.at),
        }
    }
}

/// Reads a reason that someone must give.
///
/// # Errors
/// A fault at `reason`.
pub fn read_reason(reason: &str) -> Result<Arc<str>, Faults> {
    let mut faults = Faults::at("");
    let reason = text::needed(reason, "reason", &mut faults);
    if faults.is_empty() { Ok(reason) } else { Err(faults) }
}

const EXPECTED: &str = "expected one of {identity}, {identity, issued_before}, {credential}, \
                        {issuer, jti, expires}, {token_digest, expires}";
