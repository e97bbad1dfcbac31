//! What operators see: metrics, logs and traces.
//!
//! Decision records are neither: they have their own log and their own path.

pub mod hub;
pub mod introspection;
pub mod logging;
pub mod metrics;
pub mod traces;
