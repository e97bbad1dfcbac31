//! Hygiene rules: what is wrong with an identity that may otherwise act.

use crate::core::identity::{CredentialView, Hygiene, HygieneMode, IdentityView, Resource};
use crate::core::policy::reason::Reason;
use crate::core::time::Timestamp;

/// A broken rule and what it does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The rule, as its reason code.
    pub rule: Reason,
    /// Warn or deny.
    pub mode: HygieneMode,
}

/// The rules that `identity`, using `credential` on `resource`, breaks at `now`; rules that are off are left out.
pub fn broken_rules(
    hygiene: &Hygiene,
    identity: &IdentityView<'_>,
    credential: Option<&CredentialView<'_>>,
    resource: &Resource,
    now: Timestamp,
) -> impl Iterator<Item = Broken> {
    let reached = |limit: Option<Timestamp>| limit.is_some_and(|limit| now >= limit);
    let findings = [
        (Reason::HygieneOwnerless, hygiene.ownerless, identity.owner.name().is_none()),
        (
            Reason::HygieneRotationOverdue,
            hygiene.rotation_overdue,
            reached(credential.and_then(|c| c.rotate_by)),
        ),
        (Reason::HygieneReviewLapsed, hygiene.review_lapsed, reached(identity.review_due)),
        (Reason::HygieneEnvironment, hygiene.environment, *identity.environment != *resource.environment),
    ];
    findings
        .into_iter()
        .filter(|(_, _, broken)| *broken)
        .map(move |(rule, setting, _)| Broken { rule, mode: setting.at(now) })
        .filter(|broken| broken.mode != HygieneMode::Off)
}

/// The first instant after `now` at which a rule may come to say something else.
pub fn rules_change_at(
    hygiene: &Hygiene,
    identity: &IdentityView<'_>,
    credential: Option<&CredentialView<'_>>,
    now: Timestamp,
) -> Option<Timestamp> {
    let Hygiene { ownerless, rotation_overdue, review_lapsed, environment } = hygiene;
    let rules = [ownerless, rotation_overdue, review_lapsed, environment].map(|rule| rule.deny_from);
    let dates = [credential.and_then(|credential| credential.rotate_by), identity.review_due];
    rules.into_iter().chain(dates).flatten().filter(|at| *at > now).min()
}
