//! What the authority answers, as the HTTP API shows it.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::core::id::Name;
use crate::core::identity::{Change, RecordKind};
use crate::hub::guard::Excess;
use crate::hub::held::Held;
use crate::hub::model::{Fault, Spec};

/// A record.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[schema(as = Record)]
pub(crate) struct RecordView {
    /// Which kind.
    #[serde(serialize_with = "kind")]
    #[schema(value_type = String, example = "identity")]
    pub(crate) kind: RecordKind,
    /// The tenant.
    #[serde(serialize_with = "name")]
    #[schema(value_type = String)]
    pub(crate) tenant: Name,
    /// Its name.
    #[serde(serialize_with = "name")]
    #[schema(value_type = String)]
    pub(crate) name: Name,
    /// Its generation; rises with each transition of its life.
    pub(crate) generation: u32,
    /// The revision of its last change.
    pub(crate) revision: u64,
    /// What it says; `null` once it was removed.
    pub(crate) spec: Option<Spec>,
    /// What the writer should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<Fault>,
}

impl RecordView {
    pub(crate) fn of(tenant: &Name, change: &Change) -> Self {
        Self {
            kind: change.kind,
            tenant: tenant.clone(),
            name: change.name.clone(),
            generation: change.generation,
            revision: change.revision,
            spec: change.record.as_ref().map(Spec::of),
            warnings: Vec::new(),
        }
    }
}

/// What became of a set of documents.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Applied {
    /// Each tenant's part.
    pub(crate) tenants: Vec<AppliedTenant>,
    /// What the writer should know.
    pub(crate) warnings: Vec<Fault>,
    /// Tenants' parts that wait for a second approval; nothing of them is committed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) held: Vec<Held>,
    /// Tenants' parts that the guard stopped.
    #[serde(skip)]
    pub(crate) guarded: Vec<(Name, Excess)>,
}

impl Applied {
    pub(super) fn take(&mut self, mut tenant: AppliedTenant) {
        self.warnings.append(&mut tenant.warnings);
        self.tenants.push(tenant);
    }
}

/// One tenant's part: one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct AppliedTenant {
    /// The tenant.
    #[serde(serialize_with = "name")]
    #[schema(value_type = String)]
    pub(crate) tenant: Name,
    /// Its revision afterwards; unchanged by a dry run or when nothing changed.
    pub(crate) revision: u64,
    /// What became of each document.
    pub(crate) changes: Vec<AppliedChange>,
    #[serde(skip)]
    pub(super) warnings: Vec<Fault>,
}

/// What became of one document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct AppliedChange {
    /// Its kind.
    #[serde(serialize_with = "kind")]
    #[schema(value_type = String)]
    pub(crate) kind: RecordKind,
    /// Its name.
    #[serde(serialize_with = "name")]
    #[schema(value_type = String)]
    pub(crate) name: Name,
    /// What was, or in a dry run would be, done.
    pub(crate) action: ChangeAction,
}

/// What was done with a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ChangeAction {
    /// There was none of that name.
    Create,
    /// It said something else.
    Update,
    /// It says the same.
    Unchanged,
}

/// A revocation that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Revoked {
    pub(crate) name: Name,
    pub(crate) revision: u64,
    /// Whether this request made it.
    pub(crate) is_new: bool,
}

pub(crate) fn kind<S: Serializer>(kind: &RecordKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

pub(crate) fn name<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}
