//! One request, in order. Every front door calls this and nothing else decides.
//!
//! [`Pipeline::check`] is synchronous: it loads one lease, one state and one clock
//! reading, and everything below uses only these. A failure in any step is a verdict
//! with a reason, recorded like any other.

mod proofs;
mod status;
mod verify;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use crate::core::credential::{
    FingerprintKey, Introspect, Kind, MissingKeys, ProofNonces, ReplayMemory, TokenCache, Verified,
};
use crate::core::evidence::{
    Allowed, Committed, Denied, EvidenceLog, EvidenceMode, ExchangeFacts, Pending, Released, Severance,
    Withdrawal,
};
use crate::core::id::{DecisionId, Name, Position};
use crate::core::identity::{
    Exception, Held, HygieneMode, Lease, LocalKeys, LocalTrust, Principal, Resource, Snapshot, SnapshotCell,
    Standing,
};
use crate::core::policy::{
    Basis, Exchange, Judgement, PolicyMemory, Question, Reason, ServiceRef, Staleness, Verdict, broken_rules,
    rules_change_at,
};
use crate::core::time::{Clock, Now, Timestamp};
use proofs::{Proofs, Proving};
pub use witness::{NoWitness, Step, Witness};
use witness::{said_age, said_credential, seen};

/// What the last look finds.
#[derive(Debug)]
pub enum Look {
    /// The state is the same, and fresh.
    Holds,
    /// The state has moved; by the new one it is allowed, too.
    Again(Box<Verdict>),
    /// It is allowed no more. This is not on record yet.
    Turned(Withdrawal),
}

/// The decision path with what it needs.
pub struct Pipeline {
    state: Arc<SnapshotCell>,
    clock: Arc<dyn Clock>,
    evidence: Arc<dyn EvidenceLog>,
    cache: Arc<dyn TokenCache>,
    memory: Arc<dyn PolicyMemory>,
    fingerprint: FingerprintKey,
    proving: Proving,
    trust: Arc<LocalTrust>,
    missing: Option<Arc<dyn MissingKeys>>,
    introspect: Option<Arc<dyn Introspect>>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Joins the parts.
    pub fn new(
        state: Arc<SnapshotCell>,
        clock: Arc<dyn Clock>,
        evidence: Arc<dyn EvidenceLog>,
        cache: Arc<dyn TokenCache>,
        memory: Arc<dyn PolicyMemory>,
        fingerprint: FingerprintKey,
    ) -> Self {
        let (proving, trust) = (Proving::default(), Arc::default());
        let (missing, introspect) = (None, None);
        Self { state, clock, evidence, cache, memory, fingerprint, proving, trust, missing, introspect }
    }

    /// Takes signed proofs of possession, each once. Without a memory of them, none is taken.
    #[must_use]
    pub fn with_replay_memory(self, replay: Arc<dyn ReplayMemory>) -> Self {
        Self { proving: Proving { replay: Some(replay), ..self.proving }, ..self }
    }

    /// Knows the nonces that proofs must carry where a route asks for them. Without, no such proof is taken.
    #[must_use]
    pub fn with_proof_nonces(self, nonces: Arc<ProofNonces>) -> Self {
        Self { proving: Proving { nonces: Some(nonces), ..self.proving }, ..self }
    }

    /// Verifies by keys that are had from elsewhere than the hub, too.
    #[must_use]
    pub fn trusting(self, trust: Arc<LocalTrust>) -> Self {
        Self { trust, ..self }
    }

    /// Tells `missing` of keys that refused tokens name and the state lacks.
    #[must_use]
    pub fn telling(self, missing: Arc<dyn MissingKeys>) -> Self {
        Self { missing: Some(missing), ..self }
    }

    /// Has issuers asked about opaque tokens. Without, none is taken.
    #[must_use]
    pub fn introspecting(self, introspect: Arc<dyn Introspect>) -> Self {
        Self { introspect: Some(introspect), ..self }
    }

    /// Reserves evidence for a request, before anything is decided about it.
    ///
    /// # Errors
    /// [`Denied`] when there is no room and `mode` does not allow going on without.
    pub fn reserve(&self, mode: EvidenceMode, facts: ExchangeFacts) -> Result<Pending, Denied> {
        Pending::reserve(&self.evidence, mode, facts)
    }

    /// Refuses a request that cannot be judged, on record.
    pub fn refuse(&self, pending: Pending, reason: Reason) -> Committed {
        let basis = Basis { now: self.clock.now(), ..Basis::default() };
        pending.commit(Verdict::refuse(reason, basis), Arc::from(""))
    }

    /// Decides a request and records the verdict.
    pub fn check(&self, pending: Pending, exchange: &Exchange) -> Committed {
        // The guard lives until the evidence number is assigned: an acknowledgement that
        // waits for the old state's last reader therefore waits for this decision.
        let lease = self.state.lease();
        let snapshot = self.state.load();
        let verdict = self.decide(&snapshot, lease, exchange, Proofs::AreTaken, &mut NoWitness);
        pending.commit(verdict, Arc::clone(&exchange.rules.upstream))
    }

    /// Decides without recording, telling each step.
    pub fn explain(&self, exchange: &Exchange) -> (Verdict, Vec<Step>) {
        let mut steps = Vec::new();
        let lease = self.state.lease();
        let snapshot = self.state.load();
        let verdict = self.decide(&snapshot, lease, exchange, Proofs::AreLookedAt, &mut steps);
        (verdict, steps)
    }

    /// The last look, just before an allow has its effect.
    ///
    /// If the state has moved since, the request is judged again by the new one; if not,
    /// the lease is looked at once more.
    ///
    /// # Errors
    /// [`Denied`] when the allow no longer holds; the withdrawal is on record.
    pub fn release(&self, allowed: Allowed, exchange: &Exchange) -> Result<Released, Denied> {
        let root = allowed.verdict().basis().root;
        match self.look(&allowed, exchange, root) {
            Look::Turned(withdrawal) => allowed.release(Some((withdrawal.reason, withdrawal))),
            Look::Holds | Look::Again(_) => allowed.release(None),
        }
    }

    /// The same without taking the allow: `root` is the state that it was last judged by.
    pub fn look(&self, allowed: &Allowed, exchange: &Exchange, root: u64) -> Look {
        if exchange.rules.anonymous {
            return Look::Holds;
        }
        let lease = self.state.lease();
        let snapshot = self.state.load();
        let now = self.clock.now();
        let reason = if self.root_of(&snapshot) == root {
            lease.freshness(now, &exchange.rules.staleness).stale.then_some(Reason::StateStale)
        } else {
            let proofs = Proofs::WereTaken(allowed.verdict().basis().now.wall);
            let verdict = self.decide(&snapshot, lease, exchange, proofs, &mut NoWitness);
            let Some(reason) = verdict.reason() else { return Look::Again(Box::new(verdict)) };
            Some(reason)
        };
        let Some(reason) = reason else { return Look::Holds };
        let revision = position(&snapshot, exchange).revision;
        Look::Turned(Withdrawal { decision: allowed.id(), reason, revision, now })
    }

    /// Judges an open exchange again, by the state of now; its proof of possession, if there is one, as
    /// of `opened`. Nothing is recorded.
    pub fn review(&self, exchange: &Exchange, opened: Timestamp) -> Verdict {
        let lease = self.state.lease();
        let snapshot = self.state.load();
        let now = self.clock.now();
        // Many lapse at one instant, and must be ended within a second of it.
        if !exchange.rules.anonymous && lease.freshness(now, &exchange.rules.staleness).stale {
            let position = position(&snapshot, exchange);
            let root = self.root_of(&snapshot);
            let basis = Basis { now, position, root, ..Basis::default() };
            return Verdict::refuse(Reason::StateStale, basis);
        }
        self.decide(&snapshot, lease, exchange, Proofs::WereTaken(opened), &mut NoWitness)
    }

    /// Records that an open exchange was ended; `judged` is what had allowed it.
    pub fn sever(&self, decision: DecisionId, judged: &Basis, reason: Reason, revision: u64) {
        let now = self.clock.now();
        let open_for = now.boot.since(judged.now.boot).unwrap_or_default();
        self.evidence.severed(&Severance { decision, reason, revision, open_for, now });
    }

    /// The nonce to offer with the answer to what was decided so; `None`: none is due.
    pub fn offered_nonce(&self, basis: &Basis) -> Option<String> {
        let nonces = self.proving.nonces.as_ref().filter(|_| basis.offer_nonce)?;
        Some(nonces.at(self.clock.now().wall))
    }

    /// What a decision is made by: another number whenever the state, or what is trusted locally, has changed.
    pub fn root(&self) -> u64 {
        self.root_of(&self.state.load())
    }

    fn root_of(&self, snapshot: &Snapshot) -> u64 {
        snapshot.root().wrapping_add(self.trust.edition() << 40)
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Whether the state is too old now for routes with these limits.
    pub fn is_stale(&self, limits: &Staleness) -> bool {
        // The clock is read last: time must not run between it and the lease.
        let lease = self.state.lease();
        lease.freshness(self.clock.now(), limits).stale
    }

    fn decide(
        &self,
        snapshot: &Snapshot,
        lease: Lease,
        exchange: &Exchange,
        proofs: Proofs,
        witness: &mut impl Witness,
    ) -> Verdict {
        let now = self.clock.now();
        let position = position(snapshot, exchange);
        let freshness = lease.freshness(now, &exchange.rules.staleness);
        let mut judgement = Judgement::new(Basis {
            now,
            position,
            root: self.root_of(snapshot),
            state_age: freshness.age,
            state_warn: freshness.warn,
            lease_hub_us: lease.hub_time_us,
            ..Basis::default()
        });
        witness.step("state", || format!("revision {} of epoch {}", position.revision, position.epoch));
        let Some(service) = &exchange.service else {
            let anonymous = exchange.rules.anonymous;
            witness.step("route", || {
                (if anonymous { "anonymous by configuration" } else { "no route matches" }).to_owned()
            });
            return if anonymous {
                judgement.allow_anonymous()
            } else {
                judgement.refuse(Reason::PolicyDenied)
            };
        };
        judgement.basis.tenant = Some(service.tenant.clone());
        judgement.basis.resource = Some(service.resource.clone());
        if snapshot.cell(&service.tenant).is_none_or(|held| !held.confirmed) {
            witness
                .step("state", || format!("no hub has confirmed the state of tenant `{}`", service.tenant));
            return judgement.refuse(Reason::StateAbsent);
        }
        let keys = self.trust.keys();
        let case = Case { snapshot, keys: &keys, service, exchange, now, proofs };
        match self.judge(&case, &mut judgement, witness) {
            Err(reason) => judgement.refuse(reason),
            Ok(()) if freshness.stale => {
                witness.step("freshness", || format!("{}: over the route's limit", said_age(freshness.age)));
                judgement.refuse(Reason::StateStale)
            }
            Ok(()) => {
                witness.step("freshness", || said_age(freshness.age));
                judgement.conclude()
            }
        }
    }

    /// Steps 5 to 9 of the design's order. `Ok`: nothing refused before the policies' own answer.
    fn judge(
        &self,
        case: &Case<'_>,
        judgement: &mut Judgement,
        witness: &mut impl Witness,
    ) -> Result<(), Reason> {
        let tenant = &case.service.tenant;
        let leeway = case.exchange.rules.clock_skew;

        let verification = self.verify(case);
        judgement.basis.offer_nonce = match &verification {
            Err(reason) => *reason == Reason::CredentialNonce,
            Ok(verification) => verification.proof.is_some_and(|proof| proof.nonce_ends),
        };
        let verification = seen(witness, "credential", verification)?;
        let verified = Arc::clone(&verification.verified);
        judgement.basis.verification_cached = verification.cached;
        judgement.basis.verified = Some(Arc::clone(&verified));
        // Only a JWT's end has leeway.
        let leeway_at_end = if verified.kind() == Kind::Jwt { leeway } else { Duration::ZERO };
        judgement.holds_until(verified.expires_at().map(|end| end.after(leeway_at_end)));
        judgement.holds_until(verification.asked_until);
        judgement.holds_until(verification.keys_until);
        let bound = verified.confirmation().and_then(|bound| bound.certificate);
        let shown = case.exchange.certificate.as_ref().filter(|_| bound.is_some());
        judgement.holds_until(shown.map(|certificate| certificate.ends()));
        witness.step("credential", || said_credential(&verified));

        let principal = seen(witness, "identity", case.snapshot.resolve(tenant, &verified))?;
        judgement.basis.principal = Some(principal.facts());
        judgement.holds_until(principal.end());
        witness.step("identity", || format!("`{}`, generation {}", principal.name(), principal.generation()));

        let standing = case.snapshot.standing(tenant, &principal, &verified, leeway, case.now.wall);
        let standing = seen(witness, "standing", standing)?;
        let by_record = standing.credential.as_ref().filter(|_| verified.has_record());
        judgement.basis.credential = by_record.and_then(|held| Name::parse(held.name).ok());
        judgement.holds_until(standing.end);
        witness.step("standing", || "stands".to_owned());
        let listed = seen(witness, "status", self.token_status(case, &verified))?;
        judgement.holds_until(listed);
        if listed.is_some() {
            witness.step("status", || "valid by its issuer's list".to_owned());
        }
        // Not before: who may not act at all does not fill the memory.
        seen(witness, "proof", self.proving.take_once(case.proofs, verification.proof.as_ref()))?;

        let held = case.snapshot.resource(tenant, &case.service.resource);
        let Some((held, resource)) = held.and_then(|held| Some((held, held.value.as_deref()?))) else {
            witness.step("resource", || format!("`{}` is unknown", case.service.resource));
            return Err(Reason::PolicyDenied);
        };
        case.hygiene(&principal, &standing, resource, judgement, witness)?;
        case.policy(&principal, &verified, held, &*self.memory, judgement, witness)
    }
}

/// What one decision is about: one state, one request, one time.
struct Case<'a> {
    snapshot: &'a Snapshot,
    keys: &'a LocalKeys,
    service: &'a ServiceRef,
    exchange: &'a Exchange,
    now: Now,
    proofs: Proofs,
}

impl Case<'_> {
    fn hygiene(
        &self,
        principal: &Principal<'_>,
        standing: &Standing<'_>,
        resource: &Resource,
        judgement: &mut Judgement,
        witness: &mut impl Witness,
    ) -> Result<(), Reason> {
        let Some(cell) = self.snapshot.cell(&self.service.tenant) else {
            return Err(Reason::StateAbsent);
        };
        let credential = standing.credential.as_ref().and_then(|held| held.value.as_ref());
        let (rules, identity, now) = (cell.policy.hygiene(), principal.identity(), self.now.wall);
        judgement.holds_until(rules_change_at(rules, identity, credential, now));
        let broken = broken_rules(rules, identity, credential, resource, now);
        for broken in broken {
            if broken.mode == HygieneMode::Warn {
                witness.step("hygiene", || format!("{} warns", broken.rule));
                judgement.warnings.push(broken.rule);
            } else if self.lift(broken.rule, principal, judgement, witness) {
                continue;
            } else {
                witness.step("hygiene", || format!("{} denies", broken.rule));
                return Err(broken.rule);
            }
        }
        Ok(())
    }

    fn policy(
        &self,
        principal: &Principal<'_>,
        verified: &Verified,
        resource: &Held<Resource>,
        memory: &dyn PolicyMemory,
        judgement: &mut Judgement,
        witness: &mut impl Witness,
    ) -> Result<(), Reason> {
        let Some(cell) = self.snapshot.cell(&self.service.tenant) else {
            return Err(Reason::StateAbsent);
        };
        judgement.basis.policy_digest = Some(*cell.policy.digest());
        let routes = resource.value.iter().flat_map(|resource| &resource.routes);
        let Some(route) =
            routes.clone().find(|route| route.matches(&self.exchange.method, &self.exchange.path))
        else {
            witness.step("route", || format!("no route of `{}` matches", resource.name));
            return Err(Reason::PolicyDenied);
        };
        judgement.basis.route = Some(Arc::clone(route.path.text()));
        witness.step("route", || {
            format!(
                "{}, requires {}",
                route.path.text(),
                route.requires.as_deref().unwrap_or("nothing named")
            )
        });
        let question =
            Question { principal, verified, resource, route, exchange: self.exchange, now: self.now };
        let remembered = cell.policy.answer(&question, cell.epoch, memory);
        let answer = Arc::clone(&remembered.answer);
        judgement.holds_until(remembered.until);
        witness.step("policy", || {
            let said = if answer.permits { "permits" } else { "denies" };
            let named = |what: &str, names: &[Arc<str>]| match names {
                [] => String::new(),
                names => format!("; {what}: {}", names.join(", ")),
            };
            format!(
                "{said}{}{}",
                named("determined by", &answer.determining),
                named("errors", &answer.errors)
            )
        });
        if !answer.permits && answer.errors.is_empty() {
            self.lift(Reason::PolicyDenied, principal, judgement, witness);
        }
        judgement.basis.answer = Some(answer);
        judgement.basis.shadow.clone_from(&remembered.shadow);
        Ok(())
    }

    /// Whether a live exception lifts `reason` here; notes which.
    fn lift(
        &self,
        reason: Reason,
        principal: &Principal<'_>,
        judgement: &mut Judgement,
        witness: &mut impl Witness,
    ) -> bool {
        let applies = |exception: &Exception| {
            reason.may_be_lifted()
                && self.now.wall < exception.expires
                && exception.lifts.iter().any(|code| **code == *reason.code())
                && exception.identities.contains(principal.name())
                && (exception.resources.is_empty() || exception.resources.contains(&self.service.resource))
        };
        let exceptions = self.snapshot.exceptions(&self.service.tenant).iter();
        let mut live = exceptions.filter(|held| held.value.as_deref().is_some_and(applies));
        let Some(exception) = live.next() else { return false };
        witness.step("exception", || format!("`{}` lifts {reason}", exception.name));
        judgement.holds_until(Some(exception.value.as_ref().map_or(self.now.wall, |held| held.expires)));
        judgement.basis.lifted.push(reason);
        if !judgement.basis.exceptions.contains(&exception.name) {
            judgement.basis.exceptions.push(exception.name.clone());
        }
        true
    }
}

/// How far the state goes that decides `exchange`.
fn position(snapshot: &Snapshot, exchange: &Exchange) -> Position {
    let of_tenant = exchange.service.as_ref().and_then(|service| snapshot.position_of(&service.tenant));
    of_tenant.unwrap_or_else(|| snapshot.position())
}
