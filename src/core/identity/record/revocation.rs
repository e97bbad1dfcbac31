//! Acts of taking away.

use std::sync::Arc;

use crate::core::id::Name;
use crate::core::time::Timestamp;

/// What a revocation takes away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RevocationTarget {
    /// One token, by issuer and `jti`.
    TokenId {
        /// The issuer record's name.
        issuer: Name,
        /// The token's `jti`.
        jti: Arc<str>,
        /// When the token ends of itself.
        expires: Timestamp,
    },
    /// One token, by the SHA-256 of what was signed.
    TokenDigest {
        /// SHA-256 of the JWS signing input.
        digest: [u8; 32],
        /// When the token ends of itself.
        expires: Timestamp,
    },
    /// One credential or key.
    Credential(Name),
    /// Everything of an identity issued before a time.
    IssuedBefore {
        /// The identity.
        identity: Name,
        /// Issue times before this are refused, and tokens without one.
        not_before: Timestamp,
    },
    /// A whole identity: this generation and older ones, later tokens too.
    Identity {
        /// The identity.
        identity: Name,
        /// Its generation when it was revoked.
        generation: u32,
    },
}

impl RevocationTarget {
    /// Whether everything that `other` takes away is taken away by this; both are of the same subject.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Identity { generation: held, .. }, Self::Identity { generation: asked, .. }) => {
                held >= asked
            }
            (Self::IssuedBefore { not_before: held, .. }, Self::IssuedBefore { not_before: asked, .. }) => {
                held >= asked
            }
            (Self::TokenId { expires: held, .. }, Self::TokenId { expires: asked, .. })
            | (Self::TokenDigest { expires: held, .. }, Self::TokenDigest { expires: asked, .. }) => {
                held >= asked
            }
            (Self::Credential(_), Self::Credential(_)) => true,
            _ => false,
        }
    }
}

/// One act of taking away; lifted only by a reinstatement that names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// What it takes away.
    pub target: RevocationTarget,
    /// Why.
    pub reason: Arc<str>,
    /// Who asked.
    pub requested_by: Arc<str>,
    /// When it was asked for.
    pub at: Timestamp,
}

impl Revocation {
    /// Whether an identity in this generation, and cut off so, was reinstated since it was revoked as a whole.
    ///
    /// A reinstatement begins a generation, and cuts off what was issued before it. A suspension and its end
    /// begin generations too, and lift nothing: a revocation that a restored store does not know is not
    /// carried along by them.
    pub fn is_lifted(&self, generation: u32, not_before: Option<Timestamp>) -> bool {
        match &self.target {
            RevocationTarget::Identity { generation: revoked, .. } => {
                generation > *revoked && not_before >= Some(self.at)
            }
            _ => false,
        }
    }
}
