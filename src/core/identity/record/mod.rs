//! The records of identity state, as decisions read them.
//!
//! Every record belongs to a tenant and has a [`Name`] unique in it for its kind, a
//! generation that only rises, and the revision of its last change. Times are wall
//! clock; an absent time means "no such limit" unless its field says otherwise.

mod credential;
mod fields;
mod identity;
mod issuer;
mod policy;
mod resource;
mod revocation;
mod status_list;

use std::sync::Arc;

use crate::core::id::{Epoch, Name};
use crate::core::identity::digest::StateDigest;

pub(super) use fields::{Fields, Written};

pub use credential::{Credential, CredentialKind, CredentialStatus};
pub use identity::{Binding, Entitlement, Identity, IdentityStatus, IdentityType, Owner, RiskLevel};
pub use issuer::{Introspection, Issuer, KeySource, StatusLists, SubjectMember, TokenProfile};
pub use policy::{Exception, Hygiene, HygieneMode, HygieneRule, PolicyMode, PolicySet};
pub use resource::{Resource, ResourceRoute};
pub use revocation::{Revocation, RevocationTarget};
pub use status_list::{InflateError, PACKED_BYTES_MAX, StatusBits, StatusList, VALUES_BYTES_MAX};

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
    /// [`StatusList`].
    StatusList,
}

impl RecordKind {
    /// Every kind, in the order in which a document set is applied.
    pub const ALL: [Self; 8] = [
        Self::Issuer,
        Self::Resource,
        Self::PolicySet,
        Self::Identity,
        Self::Credential,
        Self::Exception,
        Self::Revocation,
        Self::StatusList,
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
            Self::StatusList => "status-list",
        }
    }

    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
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
    /// A status list.
    StatusList(Arc<StatusList>),
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
            Self::StatusList(_) => RecordKind::StatusList,
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
    /// Whether not even a tombstone is left: nothing of it could come back any more. There is no value then.
    pub dropped: bool,
}

impl Change {
    /// Whether it takes away: a revocation, an identity that is not active, a credential that is
    /// revoked. Only such changes may overtake others.
    pub fn denies(&self) -> bool {
        match &self.record {
            Some(Record::Revocation(_)) => true,
            Some(Record::Identity(identity)) => identity.status != IdentityStatus::Active,
            Some(Record::Credential(credential)) => credential.status == CredentialStatus::Revoked,
            _ => false,
        }
    }
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
    /// The cell's digest afterwards; `None`: not compared.
    pub state_digest: Option<StateDigest>,
    /// The changes, at most one a record.
    pub changes: Vec<Change>,
}

/// Changes of one commit that deny, ahead of the order.
#[derive(Clone, PartialEq, Debug)]
pub struct KillBatch {
    /// The cell: a tenant.
    pub cell: Name,
    /// The lineage.
    pub epoch: Epoch,
    /// The revision of the cell's commit before that denied something; 0: there is none.
    pub previous: u64,
    /// The revision of this commit.
    pub revision: u64,
    /// Its changes that deny, and no others.
    pub changes: Vec<Change>,
}

/// What some buckets of a cell hold at a revision, in place of whatever they held.
#[derive(Clone, PartialEq, Debug)]
pub struct Repair {
    /// The cell: a tenant.
    pub cell: Name,
    /// The lineage.
    pub epoch: Epoch,
    /// The cell's revision afterwards.
    pub revision: u64,
    /// History hash there.
    pub history_hash: [u8; 32],
    /// The cell's digest afterwards; `None`: not compared.
    pub state_digest: Option<StateDigest>,
    /// The buckets, ascending; `None`: all of them.
    pub buckets: Option<Vec<u16>>,
    /// Every record of those buckets, at most one change a record.
    pub changes: Vec<Change>,
}
