//! The types that carry proof from reservation to effect.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::core::evidence::log::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Slot, Withdrawal,
};
use crate::core::id::DecisionId;
use crate::core::policy::{Effect, Reason, Verdict};

/// A request whose evidence has a place kept. Dropped without a commit it is recorded as abandoned.
///
/// ```compile_fail,E0451
/// use portreeve::core::evidence::Pending;
/// let forged = Pending { log: todo!(), slot: None, mode: Default::default(), facts: todo!(), open: true };
/// ```
///
/// It cannot be committed twice:
///
/// ```compile_fail,E0382
/// fn twice(pending: portreeve::core::evidence::Pending, v: portreeve::core::policy::Verdict) {
///     let _first = pending.commit(v.clone(), "".into());
///     let _second = pending.commit(v, "".into());
/// }
/// ```
#[must_use]
pub struct Pending {
    log: Arc<dyn EvidenceLog>,
    slot: Option<Slot>,
    mode: EvidenceMode,
    facts: ExchangeFacts,
    open: bool,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("mode", &self.mode)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Pending {
    /// Reserves evidence for a request.
    ///
    /// # Errors
    /// [`Denied`] with [`Reason::EvidenceUnavailable`] when there is no room and the mode does not
    /// allow going on without. That refusal has no record: it is counted by the log as lost.
    pub fn reserve(
        log: &Arc<dyn EvidenceLog>,
        mode: EvidenceMode,
        facts: ExchangeFacts,
    ) -> Result<Self, Denied> {
        let slot = match log.reserve(mode) {
            Reserved::Held(slot) => Some(slot),
            Reserved::Lossy => None,
            Reserved::Exhausted => {
                let verdict = Verdict::refuse(Reason::EvidenceUnavailable, Default::default());
                let (id, _) = log.decided(None, mode, &facts, &verdict);
                return Err(Denied { id, reason: Reason::EvidenceUnavailable, verdict: Arc::new(verdict) });
            }
        };
        Ok(Self { log: Arc::clone(log), slot, mode, facts, open: true })
    }

    /// Records the verdict; its sequence number is fixed when this returns.
    ///
    /// `upstream` is where an allow may go.
    pub fn commit(mut self, verdict: Verdict, upstream: Arc<str>) -> Committed {
        self.open = false;
        let (id, settlement) = self.log.decided(self.slot.take(), self.mode, &self.facts, &verdict);
        Committed { id, verdict: Arc::new(verdict), upstream, settlement, log: Arc::clone(&self.log) }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.open {
            self.log.abandoned(self.slot.take(), &self.facts);
        }
    }
}

/// A recorded verdict, not yet as safe as its mode asks. Awaiting it is the only way on.
///
/// ```compile_fail,E0599
/// fn early(committed: portreeve::core::evidence::Committed) -> portreeve::core::evidence::Allowed {
///     committed.into_allowed()
/// }
/// ```
#[must_use]
pub struct Committed {
    id: DecisionId,
    verdict: Arc<Verdict>,
    upstream: Arc<str>,
    settlement: Settlement,
    log: Arc<dyn EvidenceLog>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committed")
            .field("id", &self.id)
            .field("settlement", &self.settlement)
            .finish_non_exhaustive()
    }
}

impl Committed {
    fn decision(&mut self, safe: bool) -> Decision {
        let verdict = Arc::clone(&self.verdict);
        match (verdict.effect(), verdict.reason()) {
            (Effect::Allow, None) if safe => Decision::Allow(Allowed {
                id: self.id,
                verdict,
                upstream: Arc::clone(&self.upstream),
                log: Arc::clone(&self.log),
            }),
            (Effect::Deny, Some(reason)) => Decision::Deny(Denied { id: self.id, reason, verdict }),
            _ => {
                let reason = Reason::EvidenceUnavailable;
                withdraw(&*self.log, self.id, &verdict, reason);
                Decision::Deny(Denied { id: self.id, reason, verdict })
            }
        }
    }
}

impl Future for Committed {
    type Output = Decision;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let this = self.get_mut();
        let safe = match &mut this.settlement {
            Settlement::Settled => true,
            Settlement::Failed => false,
            Settlement::Waiting(wait) => match wait.as_mut().poll(context) {
                Poll::Ready(safe) => safe,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(this.decision(safe))
    }
}

fn withdraw(log: &dyn EvidenceLog, id: DecisionId, verdict: &Verdict, reason: Reason) {
    let basis = verdict.basis();
    log.withdrawn(&Withdrawal { decision: id, reason, revision: basis.position.revision, now: basis.now });
}

/// A decision with its evidence as safe as its mode asks.
#[derive(Debug)]
pub enum Decision {
    /// It may go on to the last look.
    Allow(Allowed),
    /// It is refused.
    Deny(Denied),
}

/// Proof that a request was allowed and that this is on record.
///
/// It cannot be made, nor copied, outside this room:
///
/// ```compile_fail,E0451
/// use portreeve::core::evidence::Allowed;
/// let forged = Allowed { id: todo!(), verdict: todo!(), upstream: "".into(), log: todo!() };
/// ```
///
/// ```compile_fail,E0599
/// fn twice(allowed: portreeve::core::evidence::Allowed) {
///     let copy = allowed.clone();
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Allowed {
    id: DecisionId,
    verdict: Arc<Verdict>,
    upstream: Arc<str>,
    log: Arc<dyn EvidenceLog>,
}

impl std::fmt::Debug for dyn EvidenceLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EvidenceLog")
    }
}

impl Allowed {
    /// The decision's id.
    pub const fn id(&self) -> DecisionId {
        self.id
    }

    /// The verdict.
    pub const fn verdict(&self) -> &Arc<Verdict> {
        &self.verdict
    }

    /// Refuses what has been ended meanwhile: that is on record already.
    pub fn severed(self, reason: Reason) -> Denied {
        Denied { id: self.id, reason, verdict: self.verdict }
    }

    /// The last look: `standing` is `None` when the allow still holds now.
    ///
    /// # Errors
    /// [`Denied`] when it does not; the withdrawal is on record.
    pub fn release(self, standing: Option<(Reason, Withdrawal)>) -> Result<Released, Denied> {
        match standing {
            None => {
                Ok(Released { id: self.id, verdict: self.verdict, upstream: self.upstream, log: self.log })
            }
            Some((reason, withdrawal)) => {
                self.log.withdrawn(&withdrawal);
                Err(Denied { id: self.id, reason, verdict: self.verdict })
            }
        }
    }
}

/// Proof that an allow still held just before its effect. Forwarding takes this, and its target from it.
///
/// ```compile_fail,E0451
/// use portreeve::core::evidence::Released;
/// let forged = Released { id: todo!(), verdict: todo!(), upstream: "".into(), log: todo!() };
/// ```
#[derive(Debug)]
#[must_use]
pub struct Released {
    id: DecisionId,
    verdict: Arc<Verdict>,
    upstream: Arc<str>,
    log: Arc<dyn EvidenceLog>,
}

impl Released {
    /// The decision's id.
    pub const fn id(&self) -> DecisionId {
        self.id
    }

    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Where it may go.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Goes back to before the last look, when nothing has been sent: the next try looks again.
    pub fn unsent(self) -> Allowed {
        Allowed { id: self.id, verdict: self.verdict, upstream: self.upstream, log: self.log }
    }
}

/// Proof that a request was refused and that this is on record or counted.
///
/// ```compile_fail,E0451
/// use portreeve::core::evidence::Denied;
/// let forged = Denied { id: todo!(), reason: todo!(), verdict: todo!() };
/// ```
#[derive(Debug)]
#[must_use]
pub struct Denied {
    id: DecisionId,
    reason: Reason,
    verdict: Arc<Verdict>,
}

impl Denied {
    /// The decision's id.
    pub const fn id(&self) -> DecisionId {
        self.id
    }

    /// Why.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The verdict; an allow when it was withdrawn.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}
