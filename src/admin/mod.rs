//! What operators and probes ask: health, metrics, state, log level, explanations.
//!
//! Two servers: `health` may be reached from elsewhere and tells nothing secret;
//! `control` listens on loopback only. Deliberately absent: anything that changes a decision.

mod control;
mod health;
mod serve;

pub use control::{Control, Decisions, ExplainRequest, ExplainStep, Explanation, SetLevel};
pub use health::{Health, Readiness};
pub use serve::{BindError, Server};
