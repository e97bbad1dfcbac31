//! Portreeve: request-time authorization for machine identities.
//!
//! The map of the crate; ARCHITECTURE.md explains it, docs/life-of-a-request.md follows one request.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod core;
mod files;
pub mod hub;
pub mod jwks;
pub mod mtls;
pub mod outbound;
pub mod pep;
pub mod pipeline;
pub mod sink;
pub mod spool;
pub mod state;
pub mod telemetry;
pub mod wire;
pub mod workload;
