//! Identities.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::{self, OwnerSpec};
use super::time::Time;
use super::{Faults, Read};
use crate::core::identity::{
    Binding, Entitlement, Identity, IdentityStatus, IdentityType, Record, RiskLevel,
};

/// A machine identity.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an identity's spec")]
pub struct IdentitySpec {
    /// What kind of machine.
    #[serde(rename = "type")]
    pub kind: IdentityTypeSpec,
    /// Where it runs, such as `prod`.
    pub environment: String,
    /// Where it is in its life. Absent: `active` for a new one, else unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<IdentityStatusSpec>,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerSpec>,
    /// The ticket it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The first instant at which it may no longer act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// When its rights are to be reviewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_due: Option<Time>,
    /// Whether someone outside the organisation runs it.
    #[serde(default)]
    pub third_party: bool,
    /// How much harm it could do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskSpec>,
    /// Free marks, at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who asserts it, and under which name; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<BindingSpec>,
    /// What it may do; at most 1024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entitlements: Vec<EntitlementSpec>,
    /// Credentials issued before this are refused. Only rises; absent: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
}

/// What kind of machine an identity is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityTypeSpec {
    /// Running software.
    Workload,
    /// A platform's service account.
    ServiceAccount,
    /// A job of a build or delivery pipeline.
    CiJob,
    /// A client of an interface, outside our platforms.
    ApiClient,
    /// Software acting for someone with some freedom of choice.
    Agent,
}

/// Where an identity is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityStatusSpec {
    /// Known, not yet allowed to act.
    Pending,
    /// May act.
    Active,
    /// Stopped, may return.
    Suspended,
    /// Ended for good.
    Retired,
}

impl From<IdentityStatusSpec> for IdentityStatus {
    fn from(status: IdentityStatusSpec) -> Self {
        match status {
            IdentityStatusSpec::Pending => Self::Pending,
            IdentityStatusSpec::Active => Self::Active,
            IdentityStatusSpec::Suspended => Self::Suspended,
            IdentityStatusSpec::Retired => Self::Retired,
        }
    }
}

/// How much harm an identity could do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RiskSpec {
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
}

/// Which subject of which issuer an identity is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `issuer` and `subject`")]
pub struct BindingSpec {
    /// The issuer record's name.
    pub issuer: String,
    /// The subject, byte for byte as the issuer asserts it.
    pub subject: String,
}

/// A grant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `name`, `source`, `granted`, `expires`")]
pub struct EntitlementSpec {
    /// What is granted, such as `orders:read`.
    pub name: String,
    /// Why or whence: a ticket, a platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Time>,
    /// The first instant at which it no longer holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

impl IdentitySpec {
    pub(super) fn read(self, faults: &mut Faults) -> Option<Read> {
        text::bounded(self.bindings.len(), BINDINGS_MAX, "bindings", faults);
        text::bounded(self.entitlements.len(), ENTITLEMENTS_MAX, "entitlements", faults);
        let bindings = self.bindings.iter().enumerate().filter_map(|(i, b)| b.read(i, faults)).collect();
        let entitlements = self.entitlements.iter().enumerate().map(|(i, e)| e.read(i, faults)).collect();
        let status = self.status.unwrap_or(IdentityStatusSpec::Active);
        let identity = Identity {
            kind: match self.kind {
                IdentityTypeSpec::Workload => IdentityType::Workload,
                IdentityTypeSpec::ServiceAccount => IdentityType::ServiceAccount,
                IdentityTypeSpec::CiJob => IdentityType::CiJob,
                IdentityTypeSpec::ApiClient => IdentityType::ApiClient,
                IdentityTypeSpec::Agent => IdentityType::Agent,
            },
            environment: text::needed(&self.environment, "environment", faults),
            status: status.into(),
            owner: self.owner.map(|owner| owner.read("owner", faults)).unwrap_or_default(),
            ticket: text::optional(self.ticket.as_ref(), "ticket", faults),
            end: self.end.map(|time| time.0),
            review_due: self.review_due.map(|time| time.0),
            third_party: self.third_party,
            risk: self.risk.map(|risk| match risk {
                RiskSpec::Low => RiskLevel::Low,
                RiskSpec::Medium => RiskLevel::Medium,
                RiskSpec::High => RiskLevel::High,
            }),
            labels: text::labels(&self.labels, faults),
            entitlements,
            bindings,
            not_before: self.not_before.map(|time| time.0),
        };
        let names_status = self.status.is_some();
        Some(Read { names_status, ..Read::plain(Record::Identity(Arc::new(identity))) })
    }
}

impl BindingSpec {
    fn read(&self, place: usize, faults: &mut Faults) -> Option<Binding> {
        let at = format!("bindings[{place}].subject");
        let subject = text::needed_within(&self.subject, SUBJECT_BYTES_MAX, &at, faults);
        let issuer = text::name(&self.issuer, &format!("bindings[{place}].issuer"), faults)?;
        Some(Binding { issuer, subject })
    }
}

impl EntitlementSpec {
    fn read(&self, place: usize, faults: &mut Faults) -> Entitlement {
        let at = format!("entitlements[{place}]");
        Entitlement {
            name: text::needed(&self.name, &format!("{at}.name"), faults),
            source: text::optional(self.source.as_ref(), &format!("{at}.source"), faults),
            granted: self.granted.map(|time| time.0),
            expires: self.expires.map(|time| time.0),
        }
    }
}

impl From<&Identity> for IdentitySpec {
    fn from(v: &Identity) -> Self {
        Self {
            kind: match v.kind {
                IdentityType::Workload => IdentityTypeSpec::Workload,
                IdentityType::ServiceAccount => IdentityTypeSpec::ServiceAccount,
                IdentityType::CiJob => IdentityTypeSpec::CiJob,
                IdentityType::ApiClient => IdentityTypeSpec::ApiClient,
                IdentityType::Agent => IdentityTypeSpec::Agent,
            },
            environment: v.environment.to_string(),
            status: Some(match v.status {
                IdentityStatus::Pending => IdentityStatusSpec::Pending,
                IdentityStatus::Active => IdentityStatusSpec::Active,
                IdentityStatus::Suspended => IdentityStatusSpec::Suspended,
                IdentityStatus::Retired => IdentityStatusSpec::Retired,
            }),
            owner: OwnerSpec::of(&v.owner),
            ticket: text::shown(v.ticket.as_ref()),
            end: v.end.map(Time),
            review_due: v.review_due.map(Time),
            third_party: v.third_party,
            risk: v.risk.map(|risk| match risk {
                RiskLevel::Low => RiskSpec::Low,
                RiskLevel::Medium => RiskSpec::Medium,
                RiskLevel::High => RiskSpec::High,
            }),
            labels: v.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            bindings: v
                .bindings
                .iter()
                .map(|b| BindingSpec { issuer: b.issuer.to_string(), subject: b.subject.to_string() })
                .collect(),
            entitlements: v.entitlements.iter().map(EntitlementSpec::from).collect(),
            not_before: v.not_before.map(Time),
        }
    }
}

impl From<&Entitlement> for EntitlementSpec {
    fn from(v: &Entitlement) -> Self {
        Self {
            name: v.name.to_string(),
            source: text::shown(v.source.as_ref()),
            granted: v.granted.map(Time),
            expires: v.expires.map(Time),
        }
    }
}

const BINDINGS_MAX: usize = 64;
const ENTITLEMENTS_MAX: usize = 1024;

/// That of a SPIFFE ID.
const SUBJECT_BYTES_MAX: usize = 2048;
