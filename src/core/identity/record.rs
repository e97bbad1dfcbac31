//! The records of identity state, as decisions read them.
//!
//! Every record belongs to a tenant and has a [`Name`] unique in it for its kind, a
//! generation that only rises, and the revision of its last change. Times are wall
//! clock; an absent time means "no such limit" unless its field says otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::credential::{Algorithm, KeySet};
use crate::core::id::{Epoch, Name};
use crate::core::policy::{CanonicalPath, PathPattern};
use crate::core::time::Timestamp;

/// Which kind of record a change is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKind {
    /// [`Identity`].
    Identity,
    /// [`Credential`].
    Credential,
    /// [`Issuer`].
    Issuer,
    /// [`Revocation`].
    Revocation,
    /// [`PolicySet`].
    PolicySet,
    /// [`Exception`].
    Exception,
    /// [`Resource`].
    Resource,
}

impl RecordKind {
    /// Every kind, in the order in which a document set is applied.
    pub const ALL: [Self; 7] = [
        Self::Issuer,
        Self::Resource,
        Self::PolicySet,
        Self::Identity,
        Self::Credential,
        Self::Exception,
        Self::Revocation,
    ];

    /// The kind's name in files, addresses and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Credential => "credential",
            Self::Issuer => "issuer",
            Self::Revocation => "revocation",
            Self::PolicySet => "policy",
            Self::Exception => "exception",
            Self::Resource => "resource",
        }
    }

    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

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

/// What kind of credential a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialKind {
    /// An issuer's signing key; the fingerprint is its RFC 7638 thumbprint.
    SigningKey,
}

impl CredentialKind {
    /// Every kind.
    pub const ALL: [Self; 1] = [Self::SigningKey];

    /// The kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SigningKey => "signing-key",
        }
    }

    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Whether a credential may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialStatus {
    /// It may.
    Active,
    /// It may not, for good.
    Revoked,
}

impl CredentialStatus {
    /// The status's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

/// A credential as the hub knows it: never the secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// What kind.
    pub kind: CredentialKind,
    /// The one identity it belongs to, if it belongs to one.
    pub identity: Option<Name>,
    /// What it is recognised by.
    pub fingerprint: [u8; 32],
    /// When it was made.
    pub issued: Option<Timestamp>,
    /// When it is to be replaced.
    pub rotate_by: Option<Timestamp>,
    /// The first instant at which it no longer works.
    pub expires: Option<Timestamp>,
    /// Whether it may be used.
    pub status: CredentialStatus,
    /// The platform it came from.
    pub source: Option<Arc<str>>,
}

/// What tokens of an issuer look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenProfile {
    /// A JSON Web Token with `iss`, `sub`, `aud`, `exp`; `typ` absent, `JWT` or `at+jwt`.
    Generic,
}

impl TokenProfile {
    /// The profile's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
        }
    }

    /// The profile with this name.
    pub fn parse(text: &str) -> Option<Self> {
        (text == "generic").then_some(Self::Generic)
    }
}

/// A trust anchor for tokens.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The exact `iss`.
    pub iss: Arc<str>,
    /// What its tokens look like.
    pub profile: TokenProfile,
    /// The only algorithms taken from it, in order of preference.
    pub algorithms: Vec<Algorithm>,
    /// Audiences it may issue for; a token needs one that the route accepts as well.
    pub audiences: Vec<Arc<str>>,
    /// Longest time from issue to expiry, in seconds; at least 1.
    pub max_lifetime_s: u32,
    /// Its public keys as received.
    pub jwks: Arc<[u8]>,
    /// Its public keys, parsed; from `jwks` and `algorithms` alone.
    pub keys: Arc<KeySet>,
    /// Digest of all the above: what a verification depended on.
    pub digest: [u8; 32],
}

impl Issuer {
    /// Joins the parts, parsing the keys and computing the digest.
    pub fn new(
        iss: Arc<str>,
        profile: TokenProfile,
        algorithms: Vec<Algorithm>,
        audiences: Vec<Arc<str>>,
        max_lifetime_s: u32,
        jwks: Arc<[u8]>,
    ) -> Self {
        let keys = Arc::new(KeySet::parse(&jwks, &algorithms));
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(iss.as_bytes());
        field(profile.as_str().as_bytes());
        field(&(algorithms.len() as u64).to_le_bytes());
        algorithms.iter().for_each(|a| field(a.as_str().as_bytes()));
        field(&(audiences.len() as u64).to_le_bytes());
        audiences.iter().for_each(|a| field(a.as_bytes()));
        field(&max_lifetime_s.to_le_bytes());
        field(&jwks);
        let digest = *hasher.finalize().as_bytes();
        Self { iss, profile, algorithms, audiences, max_lifetime_s, jwks, keys, digest }
    }
}

impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// What a revocation takes away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RevocationTarget {
    /// One token, by issuer and `jti`.
    TokenId {
        /// The issuer record's name.
        issuer: Name,
        /// The token's `jti`.
        jti: Arc<str>,
        /// When the token ends of itself.
        expires: Timestamp,
    },
    /// One token, by the SHA-256 of what was signed.
    TokenDigest {
        /// SHA-256 of the JWS signing input.
        digest: [u8; 32],
        /// When the token ends of itself.
        expires: Timestamp,
    },
    /// One credential or key.
    Credential(Name),
    /// Everything of an identity issued before a time.
    IssuedBefore {
        /// The identity.
        identity: Name,
        /// Issue times before this are refused, and tokens without one.
        not_before: Timestamp,
    },
    /// A whole identity: this generation and older ones, later tokens too.
    Identity {
        /// The identity.
        identity: Name,
        /// Its generation when it was revoked.
        generation: u32,
    },
}

/// One act of taking away; lifted only by a reinstatement that names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// What it takes away.
    pub target: RevocationTarget,
    /// Why.
    pub reason: Arc<str>,
    /// Who asked.
    pub requested_by: Arc<str>,
    /// When it was asked for.
    pub at: Timestamp,
}

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

/// A protected service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// Where it runs.
    pub environment: Arc<str>,
    /// Who answers for it.
    pub owner: Owner,
    /// What it offers, first match wins.
    pub routes: Vec<ResourceRoute>,
}

/// One route of a resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceRoute {
    /// Methods; empty: any.
    pub methods: Vec<Arc<str>>,
    /// Path template.
    pub path: PathPattern,
    /// The entitlement a caller needs; `None`: the default policy permits nobody.
    pub requires: Option<Arc<str>>,
}

impl ResourceRoute {
    /// Whether a request of this method and path is this route's.
    pub fn matches(&self, method: &str, path: &CanonicalPath) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|held| **held == *method))
            && self.path.matches(path)
    }
}

/// One record of any kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// An identity.
    Identity(Arc<Identity>),
    /// A credential.
    Credential(Arc<Credential>),
    /// An issuer.
    Issuer(Arc<Issuer>),
    /// A revocation.
    Revocation(Arc<Revocation>),
    /// A policy set.
    PolicySet(Arc<PolicySet>),
    /// An exception.
    Exception(Arc<Exception>),
    /// A resource.
    Resource(Arc<Resource>),
}

impl Record {
    /// Which kind it is.
    pub const fn kind(&self) -> RecordKind {
        match self {
            Self::Identity(_) => RecordKind::Identity,
            Self::Credential(_) => RecordKind::Credential,
            Self::Issuer(_) => RecordKind::Issuer,
            Self::Revocation(_) => RecordKind::Revocation,
            Self::PolicySet(_) => RecordKind::PolicySet,
            Self::Exception(_) => RecordKind::Exception,
            Self::Resource(_) => RecordKind::Resource,
        }
    }
}

/// The latest value of one record, or its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Which kind of record.
    pub kind: RecordKind,
    /// Its name.
    pub name: Name,
    /// Its generation.
    pub generation: u32,
    /// The revision that made this value.
    pub revision: u64,
    /// The value; `None`: a tombstone.
    pub record: Option<Record>,
}

/// Changes of one cell that become visible together.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// The cell: a tenant.
    pub cell: Name,
    /// The lineage.
    pub epoch: Epoch,
    /// The cell's revision that this builds on.
    pub from_revision: u64,
    /// The cell's revision afterwards.
    pub to_revision: u64,
    /// History hash afterwards.
    pub history_hash: [u8; 32],
    /// The changes, at most one a record.
    pub changes: Vec<Change>,
}
