//! The authority: one record of each identity, the log of every change, and the streams
//! that bring it to every enforcement point.
//!
//! | Module | Holds |
//! |---|---|
//! | [`store`] | the records and the change log, durably |
//! | [`model`] | what a record may say, as people write it and as decisions read it |
//!
//! Deliberately absent: decisions on requests, and any way to read state in-process; an
//! enforcement point in the same process speaks gRPC like any other.

pub mod model;
pub mod store;
