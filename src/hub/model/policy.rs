//! Policy sets and hygiene rules.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time::Time;
use super::{Faults, Read};
use crate::core::identity::{Hygiene, HygieneMode, HygieneRule, PolicyMode, PolicySet, Record};

/// Cedar policies and hygiene settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a policy set's spec")]
pub struct PolicySpec {
    /// Cedar text, at most 256 KiB.
    pub cedar: String,
    /// Whether it decides or is only reported; `enforce` unless told.
    #[serde(default)]
    pub mode: PolicyModeSpec,
    /// Hygiene rules; the strictest of a tenant's enforced sets applies.
    #[serde(default)]
    pub hygiene: HygieneSpec,
}

/// Whether a policy set decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyModeSpec {
    /// It decides.
    #[default]
    Enforce,
    /// It is evaluated and reported.
    Shadow,
}

/// The hygiene rules. Unless told, `environment` denies and the others warn.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object of hygiene rules")]
pub struct HygieneSpec {
    /// The identity has no owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownerless: Option<HygieneRuleSpec>,
    /// The credential is past its `rotate_by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_overdue: Option<HygieneRuleSpec>,
    /// The identity is past its `review_due`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_lapsed: Option<HygieneRuleSpec>,
    /// The identity's environment is not the resource's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<HygieneRuleSpec>,
}

/// A rule: a mode, or a mode and the instant from which it denies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected `off`, `warn`, `deny`, or an object with `mode` and `deny_from`")]
pub enum HygieneRuleSpec {
    /// Only a mode.
    Mode(HygieneModeSpec),
    /// A mode with a date.
    Dated(DatedRuleSpec),
}

/// A mode, and the instant from which the rule denies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DatedRuleSpec {
    /// The mode until then.
    pub mode: HygieneModeSpec,
    /// From this instant on it denies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_from: Option<Time>,
}

/// What happens when a hygiene rule is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HygieneModeSpec {
    /// Nothing.
    Off,
    /// A warning.
    Warn,
    /// A refusal.
    Deny,
}

impl From<HygieneModeSpec> for HygieneMode {
    fn from(mode: HygieneModeSpec) -> Self {
        match mode {
            HygieneModeSpec::Off => Self::Off,
            HygieneModeSpec::Warn => Self::Warn,
            HygieneModeSpec::Deny => Self::Deny,
        }
    }
}

impl PolicySpec {
    pub(super) fn read(self, faults: &mut Faults) -> Option<Read> {
        if self.cedar.len() > CEDAR_BYTES_MAX {
            let given = self.cedar.len();
            faults.push("cedar", format_args!("is {given} bytes: expected at most {CEDAR_BYTES_MAX}"));
        }
        let mode = match self.mode {
            PolicyModeSpec::Enforce => PolicyMode::Enforce,
            PolicyModeSpec::Shadow => PolicyMode::Shadow,
        };
        let default = Hygiene::default();
        let rules = self.hygiene;
        let hygiene = Hygiene {
            ownerless: rule(rules.ownerless, default.ownerless),
            rotation_overdue: rule(rules.rotation_overdue, default.rotation_overdue),
            review_lapsed: rule(rules.review_lapsed, default.review_lapsed),
            environment: rule(rules.environment, default.environment),
        };
        let set = PolicySet { cedar: Arc::from(self.cedar), mode, hygiene };
        Some(Read::plain(Record::PolicySet(Arc::new(set))))
    }
}

fn rule(given: Option<HygieneRuleSpec>, default: HygieneRule) -> HygieneRule {
    match given {
        None => default,
        Some(HygieneRuleSpec::Mode(mode)) => HygieneRule::new(mode.into()),
        Some(HygieneRuleSpec::Dated(DatedRuleSpec { mode, deny_from })) => {
            HygieneRule { mode: mode.into(), deny_from: deny_from.map(|time| time.0) }
        }
    }
}

fn shown(rule: HygieneRule) -> Option<HygieneRuleSpec> {
    let mode = match rule.mode {
        HygieneMode::Off => HygieneModeSpec::Off,
        HygieneMode::Warn => HygieneModeSpec::Warn,
        HygieneMode::Deny => HygieneModeSpec::Deny,
    };
    Some(match rule.deny_from {
        None => HygieneRuleSpec::Mode(mode),
        Some(from) => HygieneRuleSpec::Dated(DatedRuleSpec { mode, deny_from: Some(Time(from)) }),
    })
}

impl From<&PolicySet> for PolicySpec {
    fn from(v: &PolicySet) -> Self {
        Self {
            cedar: v.cedar.to_string(),
            mode: match v.mode {
                PolicyMode::Enforce => PolicyModeSpec::Enforce,
                PolicyMode::Shadow => PolicyModeSpec::Shadow,
            },
            hygiene: HygieneSpec {
                ownerless: shown(v.hygiene.ownerless),
                rotation_overdue: shown(v.hygiene.rotation_overdue),
                review_lapsed: shown(v.hygiene.review_lapsed),
                environment: shown(v.hygiene.environment),
            },
        }
    }
}

const CEDAR_BYTES_MAX: usize = 256 * 1024;
