//! The SPIFFE Workload API, generated from `proto/spiffe`.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, where it is documented"
)]

tonic::include_proto!("_");
