//! Generated protobuf, and its conversion to and from the core.
//!
//! A conversion checks everything: what it returns upholds the core's invariants, and
//! what it cannot read is an error that names the record and the field.

pub mod evidence;
pub mod ext_authz;
pub mod signed;
pub mod state;
pub mod workload;

/// Generated from `proto/portreeve/state/v1`.
#[expect(
    missing_docs,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, where it is documented"
)]
pub mod state_proto {
    tonic::include_proto!("portreeve.state.v1");
}

/// Generated from `proto/portreeve/evidence/v1`.
#[expect(missing_docs, clippy::large_enum_variant, reason = "generated from proto/, where it is documented")]
pub mod evidence_proto {
    tonic::include_proto!("portreeve.evidence.v1");
}
