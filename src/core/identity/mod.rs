//! Identity state: records, the immutable snapshot a decision reads, and how changes make the next one.
//!
//! Deliberately absent: where records come from, and any way to change a snapshot
//! in place. [`Snapshot::apply`] builds the next one beside the old.

mod cell;
mod digest;
mod links;
mod local;
mod packed;
mod record;
mod rows;
mod snapshot;
mod standing;
mod table;
mod tree;

pub use cell::{Freshness, Lease, SnapshotCell};
pub use digest::{BUCKETS, StateDigest, bucket_of};
pub use local::{LocalKeys, LocalTrust, SourceKeys};
pub use packed::{BindingView, CredentialView, EntitlementView, IdentityView, List, OwnerView, Row};
pub use record::{
    Batch, Binding, Change, Credential, CredentialKind, CredentialStatus, Entitlement, Exception, Hygiene,
    HygieneMode, HygieneRule, Identity, IdentityStatus, IdentityType, InflateError, Introspection, Issuer,
    KeySource, KillBatch, Owner, PACKED_BYTES_MAX, PolicyMode, PolicySet, Record, RecordKind, Repair,
    Resource, ResourceRoute, Revocation, RevocationTarget, RiskLevel, StatusBits, StatusList, StatusLists,
    SubjectMember, TokenProfile, VALUES_BYTES_MAX,
};
pub use snapshot::{ApplyError, CellState, Held, Keyer, Rebuild, Snapshot, SnapshotStats};
pub use standing::{Principal, PrincipalFacts, Standing};
pub use table::Table;
