//! Policies, hygiene rules, exceptions.

use std::sync::Arc;

use super::identity::Owner;
use crate::core::id::Name;
use crate::core::time::Timestamp;

/// Whether a policy set decides or is only reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyMode {
    /// It decides.
    Enforce,
    /// It is evaluated and reported, never enforced.
    Shadow,
}

impl PolicyMode {
    /// The mode's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// What happens when a hygiene rule is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HygieneMode {
    /// Nothing.
    Off,
    /// A warning to the upstream, a metric, a mark in the evidence.
    Warn,
    /// A refusal.
    Deny,
}

impl HygieneMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Off, Self::Warn, Self::Deny];

    /// The mode's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Deny => "deny",
        }
    }

    /// The mode with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

/// One hygiene rule's setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HygieneRule {
    /// What happens when it is broken.
    pub mode: HygieneMode,
    /// From this instant on it denies, whatever the mode.
    pub deny_from: Option<Timestamp>,
}

impl HygieneRule {
    /// A rule with this mode and no date.
    pub const fn new(mode: HygieneMode) -> Self {
        Self { mode, deny_from: None }
    }

    /// The mode that applies at `now`.
    pub fn at(self, now: Timestamp) -> HygieneMode {
        match self.deny_from {
            Some(from) if now >= from => HygieneMode::Deny,
            _ => self.mode,
        }
    }
}

/// The hygiene rules of a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hygiene {
    /// The identity has no owner.
    pub ownerless: HygieneRule,
    /// The credential is past its `rotate_by`.
    pub rotation_overdue: HygieneRule,
    /// The identity is past its `review_due`.
    pub review_lapsed: HygieneRule,
    /// The identity's environment is not the resource's.
    pub environment: HygieneRule,
}

impl Default for Hygiene {
    /// Environment denies, the rest warn.
    fn default() -> Self {
        Self {
            ownerless: HygieneRule::new(HygieneMode::Warn),
            rotation_overdue: HygieneRule::new(HygieneMode::Warn),
            review_lapsed: HygieneRule::new(HygieneMode::Warn),
            environment: HygieneRule::new(HygieneMode::Deny),
        }
    }
}

/// Cedar policies and hygiene settings of a tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicySet {
    /// Cedar text.
    pub cedar: Arc<str>,
    /// Whether it decides.
    pub mode: PolicyMode,
    /// Hygiene rules; the strictest of a tenant's enforced sets applies, rule by rule.
    pub hygiene: Hygiene,
}

/// A bounded, visible lifting of named rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exception {
    /// For these identities only.
    pub identities: Vec<Name>,
    /// For these resources only; empty: any of the tenant.
    pub resources: Vec<Name>,
    /// Reason codes it lifts: `hygiene.*` or `policy.denied`.
    pub lifts: Vec<Arc<str>>,
    /// Why.
    pub reason: Arc<str>,
    /// Ticket.
    pub ticket: Option<Arc<str>>,
    /// Who answers for it.
    pub owner: Owner,
    /// Who approved it.
    pub approver: Owner,
    /// The first instant at which it no longer holds.
    pub expires: Timestamp,
}
