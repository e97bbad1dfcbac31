//! What is asked of the authority, and why it says no.

use std::sync::Arc;

use serde_json::Value;

use crate::core::id::Name;
use crate::core::identity::{Change, Record, RecordKind, RevocationTarget};
use crate::hub::guard::Excess;
use crate::hub::held::HeldError;
use crate::hub::model::check::Proposed;
use crate::hub::model::life::Refused;
use crate::hub::model::{Fault, Faults};
use crate::hub::store::StoreError;
use crate::wire::state::WireError;

/// One document.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) kind: RecordKind,
    pub(crate) tenant: Name,
    pub(crate) name: Name,
    pub(crate) spec: Value,
    /// Where its spec stands in the request.
    pub(crate) at: String,
}

impl Document {
    pub(super) fn propose(&self, record: Record) -> Proposed {
        Proposed { kind: self.kind, name: self.name.clone(), record: Some(record), at: self.at.clone() }
    }

    /// A warning about this document, with its path in the request.
    pub(super) fn relocate(&self, warning: &Fault) -> Fault {
        let below = warning.path.strip_prefix("spec").unwrap_or(&warning.path);
        Fault { path: format!("{}{below}", self.at), message: warning.message.clone() }
    }
}

/// What to take away, why, for whom.
#[derive(Clone, Debug)]
pub(crate) struct Revoke {
    pub(crate) target: RevocationTarget,
    pub(crate) reason: Arc<str>,
    pub(crate) requested_by: Arc<str>,
}

/// Why a request is refused. Nothing of it has been kept, except as `committed` tells.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// What was written is wrong.
    #[error("{0}")]
    Invalid(Faults),
    /// What was written does not go with what is held.
    #[error("{0}")]
    Conflict(Faults),
    /// What was named does not exist.
    #[error("{0}")]
    Unknown(String),
    /// The store refused or failed.
    #[error("{error}")]
    Store {
        error: StoreError,
        /// Tenants of the same request that were committed before.
        committed: Vec<Name>,
    },
    /// It denies more identities than may be denied at once: it is to be held.
    #[error("it comes to {} denied identities, at most {} are without a second approval", .0.denied, .0.limit)]
    Guarded(Excess),
    /// A held change cannot be kept, or answered so.
    #[error(transparent)]
    Held(HeldError),
    /// A stored record cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Unreadable(WireError),
}

impl Default for Refusal {
    /// None yet.
    fn default() -> Self {
        Self::Conflict(Faults::at(""))
    }
}

impl From<Faults> for Refusal {
    fn from(faults: Faults) -> Self {
        Self::Invalid(faults)
    }
}

impl From<HeldError> for Refusal {
    fn from(error: HeldError) -> Self {
        match error {
            HeldError::Store(error) => error.into(),
            other => Self::Held(other),
        }
    }
}

impl Refusal {
    pub(super) fn exists(held: &Change) -> Self {
        let (kind, name) = (held.kind.as_str(), &held.name);
        let message = match held.record {
            Some(_) => format!("{kind} `{name}` exists already: replace it, or choose another name"),
            None => format!("{kind} `{name}` was removed, and names are never reused: choose another name"),
        };
        Self::Conflict(Faults::one("name", message))
    }

    pub(super) fn removed(document: &Document, held: &Change) -> Self {
        let (kind, name) = (held.kind.as_str(), &held.name);
        let message = format!("{kind} `{name}` was removed, and names are never reused: choose another name");
        let at = document.at.strip_suffix("spec").unwrap_or(&document.at);
        Self::Conflict(Faults::one(&format!("{at}name"), message))
    }

    pub(super) fn changed(document: &Document, expected: u64, found: Option<u64>) -> Self {
        let (kind, name) = (document.kind.as_str(), &document.name);
        let message = match found {
            Some(found) => {
                format!("{kind} `{name}` was changed at revision {found}, not {expected}: read it again")
            }
            None => format!("{kind} `{name}` does not exist"),
        };
        Self::Conflict(Faults::one("expect_revision", message))
    }

    pub(super) fn unknown(kind: RecordKind, name: &Name) -> Self {
        Self::Unknown(format!("no {} is named `{name}`", kind.as_str()))
    }

    pub(super) fn unknown_tenant(tenant: &Name) -> Self {
        Self::Unknown(format!("no tenant is named `{tenant}`"))
    }

    pub(super) fn full(max: usize) -> Self {
        Self::Conflict(Faults::one("tenant", format_args!("the hub has {max} tenants, the most it takes")))
    }

    pub(super) fn step(at: &str, refused: Refused) -> Self {
        let path = match (at, refused.path) {
            (at, "") => at.to_owned(),
            ("", path) => path.to_owned(),
            (at, path) => format!("{at}.{path}"),
        };
        Self::Conflict(Faults::one(&path, refused.message))
    }

    /// Joins refusals of documents that were judged together; any other is passed on at once.
    pub(super) fn absorb(&mut self, other: Self) -> Result<(), Self> {
        match (&mut *self, other) {
            (Self::Conflict(held) | Self::Invalid(held), Self::Conflict(other)) => held.absorb(other),
            (Self::Invalid(held), Self::Invalid(other)) => held.absorb(other),
            (Self::Conflict(held), Self::Invalid(other)) => {
                let mut all = std::mem::take(held);
                all.absorb(other);
                *self = Self::Invalid(all);
            }
            (_, other) => return Err(other),
        }
        Ok(())
    }

    /// Passes on what has been gathered, if anything.
    pub(super) fn none(self) -> Result<(), Self> {
        match &self {
            Self::Conflict(faults) | Self::Invalid(faults) if faults.is_empty() => Ok(()),
            _ => Err(self),
        }
    }

    /// The same, after other tenants of the request were committed.
    pub(super) fn after(self, done: &[Name]) -> Self {
        match self {
            Self::Store { error, .. } => Self::Store { error, committed: done.to_vec() },
            other => other,
        }
    }
}
