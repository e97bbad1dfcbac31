//! Proof of possession: what a token is bound to, and what its caller shows to hold (RFC 7800).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::certificate::ClientCertificate;
use super::json::{Object, Value};
use super::nonce::ProofNonces;
use crate::core::policy::{CanonicalPath, Reason};
use crate::core::time::Timestamp;

/// What a token is bound to. It takes all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Confirmation {
    /// A client certificate's thumbprint (RFC 8705 §3.1).
    pub certificate: Option<[u8; 32]>,
    /// A key's thumbprint, whose holder signs a proof (RFC 9449 §6.1).
    pub key: Option<[u8; 32]>,
}

impl Confirmation {
    /// Reads `cnf`.
    ///
    /// # Errors
    /// `credential.unbound` for any member that is not understood, and for none: such a token is
    /// never taken for a bearer token.
    pub(super) fn read(payload: &Object<'_>) -> Result<Option<Self>, Reason> {
        let Some(claim) = payload.get("cnf") else { return Ok(None) };
        let Value::Object(members) = claim else { return Err(Reason::CredentialUnbound) };
        let mut found = Self::default();
        for (name, value) in members {
            let place = match &**name {
                "x5t#S256" => &mut found.certificate,
                "jkt" => &mut found.key,
                _ => return Err(Reason::CredentialUnbound),
            };
            *place = Some(value.as_text().and_then(thumbprint).ok_or(Reason::CredentialUnbound)?);
        }
        if members.is_empty() { Err(Reason::CredentialUnbound) } else { Ok(Some(found)) }
    }

    /// The thumbprints of all that it is bound to.
    pub fn thumbprints(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.certificate.iter().chain(&self.key)
    }
}

fn thumbprint(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// What the request is that a token comes with, as far as proofs of possession say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Possession<'a> {
    /// The caller's certificate.
    pub certificate: Option<&'a ClientCertificate>,
    /// The request that a signed proof must name; `None`: none is taken.
    pub request: Option<ProvenRequest<'a>>,
}

/// The request that a signed proof must name.
#[derive(Clone, Copy, Debug)]
pub struct ProvenRequest<'a> {
    /// Its method.
    pub method: &'a str,
    /// Scheme and authority as callers see them, from the configuration: in lower case, no default port.
    pub origin: &'a str,
    /// Its path.
    pub path: &'a CanonicalPath,
    /// When it came.
    pub at: Timestamp,
    /// By what the nonce is known that a proof must carry; `None`: none is asked for.
    pub nonces: Option<&'a ProofNonces>,
}

/// A proof that was verified: to be taken once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// Digest of the key and the proof's own id.
    pub id: [u8; 32],
    /// When it says that it was made.
    pub made: Timestamp,
    /// Whether its nonce will soon count no more.
    pub nonce_ends: bool,
}

/// A bounded memory of proofs.
///
/// INVARIANT: of one proof, `first` says [`Seen::First`] at most once within [`super::PROOF_SPAN`].
pub trait ReplayMemory: Send + Sync {
    /// Remembers a proof, and says whether it was seen before.
    fn first(&self, proof: &Proof) -> Seen;
}

/// What a memory of proofs says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Not seen before.
    First,
    /// Seen before, or made before the memory began: one that is forgotten may have seen it.
    Again,
    /// There is no room to remember it.
    Full,
}
