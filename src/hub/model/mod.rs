//! What a record may say: as people write it, and as decisions read it.
//!
//! A [`Spec`] is a document's `spec`, key for key; [`read_spec`] makes a core record of it
//! and names each fault by its path. What needs the tenant's other records to be judged is
//! in [`check`] (references, uniqueness, policies as a whole) and [`life`] (which steps of a life an
//! edit may take); both look at a [`TenantImage`].

pub mod check;
mod credential;
mod exception;
mod fault;
mod identity;
mod introspection;
mod issuer;
pub mod life;
mod locate;
mod policy;
mod resource;
mod revocation;
mod status_list;
mod tenant;
mod text;
mod time;

pub use credential::{CredentialKindSpec, CredentialSpec, CredentialStatusSpec};
pub use exception::{EXCEPTION_SPAN_MAX, ExceptionSpec};
pub use fault::{Fault, Faults};
pub use identity::{
    BindingSpec, EntitlementSpec, IdentitySpec, IdentityStatusSpec, IdentityTypeSpec, RiskSpec,
};
pub use introspection::IntrospectionSpec;
pub use issuer::{IssuerSpec, KeysSpec};
pub use locate::from_value;
pub use policy::{DatedRuleSpec, HygieneModeSpec, HygieneRuleSpec, HygieneSpec, PolicyModeSpec, PolicySpec};
pub use resource::{ResourceSpec, RouteSpec};
pub use revocation::{RevocationSpec, TargetSpec, read_reason};
pub use status_list::{StatusListSpec, StatusListsSpec};
pub use tenant::TenantImage;
pub use text::OwnerSpec;
pub use time::Time;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::core::identity::{Record, RecordKind};

/// A document's `spec`, of any kind.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Spec {
    /// An identity's.
    Identity(IdentitySpec),
    /// A credential's.
    Credential(CredentialSpec),
    /// An issuer's.
    Issuer(IssuerSpec),
    /// A revocation's; shown, never written.
    Revocation(RevocationSpec),
    /// A policy set's.
    Policy(PolicySpec),
    /// An exception's.
    Exception(ExceptionSpec),
    /// A resource's.
    Resource(ResourceSpec),
    /// A status list's; shown, never written.
    StatusList(StatusListSpec),
}

impl Spec {
    /// A record as people write it.
    pub fn of(record: &Record) -> Self {
        match record {
            Record::Identity(v) => Self::Identity(v.as_ref().into()),
            Record::Credential(v) => Self::Credential(v.as_ref().into()),
            Record::Issuer(v) => Self::Issuer(v.as_ref().into()),
            Record::Revocation(v) => Self::Revocation(v.as_ref().into()),
            Record::PolicySet(v) => Self::Policy(v.as_ref().into()),
            Record::Exception(v) => Self::Exception(v.as_ref().into()),
            Record::Resource(v) => Self::Resource(v.as_ref().into()),
            Record::StatusList(v) => Self::StatusList(v.as_ref().into()),
        }
    }
}

/// A document read: the record, and what its writer should know.
#[derive(Clone, PartialEq, Debug)]
pub struct Read {
    /// The record.
    pub record: Record,
    /// Whether the document names the identity's status; if not, it keeps the one it has.
    pub names_status: bool,
    /// What was left out of the record, and why.
    pub warnings: Vec<Fault>,
}

impl Read {
    fn plain(record: Record) -> Self {
        Self { record, names_status: true, warnings: Vec::new() }
    }
}

/// Reads a `spec` of `kind`. `at` is the path of the spec in the request.
///
/// # Errors
/// Every fault found, each with its path.
pub fn read_spec(kind: RecordKind, spec: &Value, at: &str) -> Result<Read, Faults> {
    let mut faults = Faults::at(at);
    let read = match kind {
        RecordKind::Identity => from_value::<IdentitySpec>(spec, at)?.read(&mut faults),
        RecordKind::Credential => from_value::<CredentialSpec>(spec, at)?.read(&mut faults),
        RecordKind::Issuer => from_value::<IssuerSpec>(spec, at)?.read(&mut faults),
        RecordKind::PolicySet => from_value::<PolicySpec>(spec, at)?.read(&mut faults),
        RecordKind::Exception => from_value::<ExceptionSpec>(spec, at)?.read(&mut faults),
        RecordKind::Resource => from_value::<ResourceSpec>(spec, at)?.read(&mut faults),
        RecordKind::Revocation => {
            return Err(Faults::one(at, "a revocation is no document: use `portreeve revoke`"));
        }
        RecordKind::StatusList => {
            return Err(Faults::one(at, "a status list is no document: the hub fetches it"));
        }
    };
    match read {
        Some(read) if faults.is_empty() => Ok(read),
        _ => Err(faults),
    }
}
