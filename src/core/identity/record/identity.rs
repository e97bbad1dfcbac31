//! Machine identities.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::id::Name;
use crate::core::time::Timestamp;

/// Who answers for a record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// A team.
    pub team: Option<Arc<str>>,
    /// A person.
    pub person: Option<Arc<str>>,
    /// How to reach them.
    pub contact: Option<Arc<str>>,
}

impl Owner {
    /// The team, or else the person, or else `None`: an owner without either is none.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.team.as_ref().or(self.person.as_ref())
    }
}

/// What kind of machine an identity is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityType {
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

impl IdentityType {
    /// Every type.
    pub const ALL: [Self; 5] =
        [Self::Workload, Self::ServiceAccount, Self::CiJob, Self::ApiClient, Self::Agent];

    /// The type's name in files, policies and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::ServiceAccount => "service-account",
            Self::CiJob => "ci-job",
            Self::ApiClient => "api-client",
            Self::Agent => "agent",
        }
    }

    /// The type with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Where an identity is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityStatus {
    /// Known, not yet allowed to act.
    Pending,
    /// May act.
    Active,
    /// Stopped, may return.
    Suspended,
    /// Ended for good.
    Retired,
}

impl IdentityStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Active, Self::Suspended, Self::Retired];

    /// The status's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
        }
    }

    /// The status with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// How much harm an identity could do, as its owner rates it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RiskLevel {
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
}

impl RiskLevel {
    /// Every level.
    pub const ALL: [Self; 3] = [Self::Low, Self::Medium, Self::High];

    /// The level's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// The level with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }
}

/// A grant attached to an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entitlement {
    /// What is granted, such as `orders:read`.
    pub name: Arc<str>,
    /// Why or whence: a ticket, a platform.
    pub source: Option<Arc<str>>,
    /// Since when.
    pub granted: Option<Timestamp>,
    /// The first instant at which it no longer holds.
    pub expires: Option<Timestamp>,
}

/// Which subject of which issuer an identity is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The issuer record's name.
    pub issuer: Name,
    /// The subject, byte for byte as the issuer asserts it.
    pub subject: Arc<str>,
}

/// A machine identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// What kind of machine.
    pub kind: IdentityType,
    /// Where it runs, such as `prod`.
    pub environment: Arc<str>,
    /// Where it is in its life.
    pub status: IdentityStatus,
    /// Who answers for it.
    pub owner: Owner,
    /// The ticket or sponsor it was made for.
    pub ticket: Option<Arc<str>>,
    /// The first instant at which it may no longer act.
    pub end: Option<Timestamp>,
    /// When its rights are to be reviewed.
    pub review_due: Option<Timestamp>,
    /// Whether someone outside the organisation runs it.
    pub third_party: bool,
    /// How much harm it could do.
    pub risk: Option<RiskLevel>,
    /// Free marks.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// What it may do.
    pub entitlements: Vec<Entitlement>,
    /// Who asserts it, and under which name.
    pub bindings: Vec<Binding>,
    /// Credentials issued before this are refused.
    pub not_before: Option<Timestamp>,
}
