//! What is answered: effect, reason and everything needed to repeat the decision.

use std::sync::Arc;
use std::time::Duration;

use crate::core::credential::Verified;
use crate::core::id::{Name, Position};
use crate::core::identity::PrincipalFacts;
use crate::core::policy::cedar::{Answer, ShadowOutcome};
use crate::core::policy::reason::Reason;
use crate::core::time::{Now, Timestamp};

/// Allow or deny.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The request may have its effect.
    Allow,
    /// It may not.
    Deny,
}

impl Effect {
    /// The effect's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What a verdict rests on. Parts a decision did not reach stay empty.
#[derive(Clone, Debug, Default)]
pub struct Basis {
    /// When it was judged.
    pub now: Now,
    /// The state it was judged by: the tenant's, where there is one.
    pub position: Position,
    /// A number of what it was judged by: the state, and what is trusted locally.
    pub root: u64,
    /// How old that state was; `None`: no hub has confirmed it in this boot.
    pub state_age: Option<Duration>,
    /// Hub time in the answer that this age is counted from, microseconds; 0: none.
    pub lease_hub_us: u64,
    /// Whether the state was older than the route's `warn_after`.
    pub state_warn: bool,
    /// The resource's tenant.
    pub tenant: Option<Name>,
    /// The resource.
    pub resource: Option<Name>,
    /// The resource's route that matched, as its path template.
    pub route: Option<Arc<str>>,
    /// The verified credential.
    pub verified: Option<Arc<Verified>>,
    /// The record of an API key, or of a client certificate, if there is one.
    pub credential: Option<Name>,
    /// Whether verification was remembered rather than done.
    pub verification_cached: bool,
    /// Whether the caller's proof needs a nonce that it lacks, or will need another soon.
    pub offer_nonce: bool,
    /// The resolved caller.
    pub principal: Option<PrincipalFacts>,
    /// What the policies said.
    pub answer: Option<Arc<Answer>>,
    /// Digest of the tenant's policies and hygiene rules.
    pub policy_digest: Option<[u8; 32]>,
    /// The exceptions that lifted something.
    pub exceptions: Vec<Name>,
    /// What it lifted.
    pub lifted: Vec<Reason>,
    /// What shadow policies would have said.
    pub shadow: Vec<ShadowOutcome>,
    /// The first instant at which the same state may be judged otherwise; `None`: never.
    pub until: Option<Timestamp>,
}

/// The answer of the PDP. Made only in this room, by a judgement that ends.
///
/// ```compile_fail,E0451
/// use portreeve::core::policy::{Basis, Effect, Verdict};
/// let _ = Verdict { effect: Effect::Allow, reason: None, warnings: vec![], basis: Basis::default() };
/// ```
#[derive(Clone, Debug)]
pub struct Verdict {
    effect: Effect,
    reason: Option<Reason>,
    warnings: Vec<Reason>,
    basis: Basis,
}

impl Verdict {
    /// A refusal. Anyone may refuse.
    pub fn refuse(reason: Reason, basis: Basis) -> Self {
        Self { effect: Effect::Deny, reason: Some(reason), warnings: Vec::new(), basis }
    }

    /// Allow or deny.
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// Why it is refused; `None` for an allow.
    pub const fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The reason's code, or `allowed`.
    pub fn reason_code(&self) -> &'static str {
        self.reason.map_or("allowed", Reason::code)
    }

    /// Hygiene rules that are broken but only warn.
    pub fn warnings(&self) -> &[Reason] {
        &self.warnings
    }

    /// What it rests on.
    pub const fn basis(&self) -> &Basis {
        &self.basis
    }
}

/// A decision under way: collects what it rests on and ends in exactly one verdict.
///
/// The first refusal stays; later ones cannot soften it. An allow needs a finding
/// that something permits: either a policy's answer or an anonymous route.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) basis: Basis,
    pub(crate) warnings: Vec<Reason>,
}

impl Judgement {
    /// Begins at a time and a state.
    pub(crate) fn new(basis: Basis) -> Self {
        Self { basis, warnings: Vec::new() }
    }

    /// Notes an instant at which something that this rests on ends.
    pub(crate) fn holds_until(&mut self, end: Option<Timestamp>) {
        self.basis.until = [self.basis.until, end].into_iter().flatten().min();
    }

    /// Ends in a refusal.
    pub(crate) fn refuse(self, reason: Reason) -> Verdict {
        Verdict { effect: Effect::Deny, reason: Some(reason), warnings: self.warnings, basis: self.basis }
    }

    /// Ends as the policies answered, or as an exception lifted their denial.
    ///
    /// Denies unless the answer permits; a caller's route without policies has no answer and is denied.
    pub(crate) fn conclude(self) -> Verdict {
        let lifted = self.basis.lifted.contains(&Reason::PolicyDenied);
        let reason = match &self.basis.answer {
            _ if self.basis.principal.is_none() => Some(Reason::IdentityUnknown),
            Some(answer) if !answer.errors.is_empty() => Some(Reason::PolicyError),
            Some(answer) if answer.permits || lifted => None,
            _ => Some(Reason::PolicyDenied),
        };
        let effect = if reason.is_none() { Effect::Allow } else { Effect::Deny };
        Verdict { effect, reason, warnings: self.warnings, basis: self.basis }
    }

    /// Ends in an allow of a route that the configuration states to be anonymous.
    pub(crate) fn allow_anonymous(self) -> Verdict {
        Verdict { effect: Effect::Allow, reason: None, warnings: self.warnings, basis: self.basis }
    }
}
