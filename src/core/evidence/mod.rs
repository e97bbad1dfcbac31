//! Evidence: a slot before the decision, a record with it, a proof after it.
//!
//! [`Pending`] is reserved first; [`Pending::commit`] writes the record and gives a
//! [`Committed`]; awaiting that gives a [`Decision`]; an [`Allowed`] becomes a
//! [`Released`] by the last look, and only that can be forwarded. Each step takes the
//! one before by value, so no request leaves without all of them.

mod log;
mod proof;

pub use log::{
    Door, EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
pub use proof::{Allowed, Committed, Decision, Denied, Pending, Released};
