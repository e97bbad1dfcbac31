//! Signed proofs of possession: what they must name, and that each is taken once.

use std::sync::Arc;

use crate::core::credential::{Proof, ProofNonces, ProvenRequest, ReplayMemory, Seen};
use crate::core::policy::{Exchange, Reason};
use crate::core::time::Timestamp;

/// What becomes of a proof of possession.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proofs {
    /// It is used up.
    AreTaken,
    /// It is not to be used up.
    AreLookedAt,
    /// It was used up by this same request then: whether it was timely was settled.
    WereTaken(Timestamp),
}

/// What proofs are judged by; nothing of it: none is taken.
#[derive(Default)]
pub(super) struct Proving {
    pub(super) replay: Option<Arc<dyn ReplayMemory>>,
    pub(super) nonces: Option<Arc<ProofNonces>>,
}

impl Proving {
    /// The request that a proof must name; `None`: no proof is taken for it.
    pub(super) fn request<'a>(
        &'a self,
        exchange: &'a Exchange,
        proofs: Proofs,
        now: Timestamp,
    ) -> Option<ProvenRequest<'a>> {
        let rules = &exchange.rules;
        let nonces = match (rules.proof_nonces, self.nonces.as_deref()) {
            (false, _) => None,
            (true, Some(nonces)) => Some(nonces),
            // Nothing could be judged by what is asked for.
            (true, None) => return None,
        };
        let at = match proofs {
            Proofs::WereTaken(at) => at,
            Proofs::AreTaken | Proofs::AreLookedAt => now,
        };
        let origin = rules.public_origin.as_deref()?;
        Some(ProvenRequest { method: &exchange.method, origin, path: &exchange.path, at, nonces })
    }

    /// Refuses a proof that was taken before.
    pub(super) fn take_once(&self, proofs: Proofs, proof: Option<&Proof>) -> Result<(), Reason> {
        let Some(proof) = proof else { return Ok(()) };
        let memory = self.replay.as_ref().ok_or(Reason::CredentialUnbound)?;
        if proofs != Proofs::AreTaken {
            return Ok(());
        }
        match memory.first(proof) {
            Seen::First => Ok(()),
            Seen::Again => Err(Reason::CredentialUnbound),
            Seen::Full => Err(Reason::Overloaded),
        }
    }
}
