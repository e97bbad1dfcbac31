//! Keeping a snapshot current: the hub's client, its one writer, the last-known-good on disk.
//!
//! The writer is the only one that publishes. It acknowledges a change only once no
//! decision can still read older state and the change is in the last-known-good.
//! Deliberately absent: deciding anything, and any queue that requests wait on.

mod applier;
mod client;
mod dial;
mod drift;
mod enrolment;
mod freshness;
mod lkg;
mod missing;
mod session;
mod status;
mod urgent;

pub use applier::{AppliedBatch, Applier, Observer};
pub use client::{ClientSettings, Dial, Dialled, Kept, Pins, PlainDial, Validity, run, tuned};
pub use dial::{FilesDial, HubFiles};
pub use enrolment::{EnrolledDial, EnrolmentError, EnrolmentSettings};
pub use lkg::{LastKnownGood, LkgError, Loaded};
pub use missing::{KeyReports, ReportQueue};
pub use status::StateStatus;
