//! Envoy's external authorization service, as far as it is used, generated from `proto/envoy`.
//!
//! The tree of modules is that of the packages, because generated code refers to its
//! neighbours by relative paths. Short names for use stand at the end.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, where it is documented"
)]

pub mod tree {
    pub mod envoy {
        pub mod service {
            pub mod auth {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.auth.v3");
                }
            }
        }
        pub mod config {
            pub mod core {
                pub mod v3 {
                    tonic::include_proto!("envoy.config.core.v3");
                }
            }
        }
        pub mod r#type {
            pub mod v3 {
                tonic::include_proto!("envoy.r#type.v3");
            }
        }
        pub mod subset {
            tonic::include_proto!("envoy.subset");
        }
    }
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
}

pub use tree::envoy::config::core::v3 as base;
pub use tree::envoy::service::auth::v3::*;
pub use tree::envoy::subset::{Struct, Value, value};
pub use tree::envoy::r#type::v3::HttpStatus;
pub use tree::google::rpc::Status;
