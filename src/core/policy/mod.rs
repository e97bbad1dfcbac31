//! The PDP: what is asked, what is answered, and why.
//!
//! Cedar is imported by `cedar.rs` alone. A [`Verdict`] can be made only here.

mod cedar;
mod hygiene;
mod memory;
mod path;
mod reason;
mod request;
mod verdict;

pub(crate) use cedar::Question;
pub use cedar::{Answer, DEFAULT_POLICY, PolicyError, SCHEMA, ShadowOutcome, TenantPolicy};
pub use hygiene::{Broken, broken_rules, rules_change_at};
pub use memory::{PolicyMemory, Remembered};
pub use path::{CanonicalPath, PathError, PathPattern, PatternError};
pub use reason::{Reason, ReasonClass};
pub use request::{Exchange, Presentation, RouteRules, ServiceRef, Staleness};
pub(crate) use verdict::Judgement;
pub use verdict::{Basis, Effect, Verdict};
