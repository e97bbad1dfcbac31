//! The local, durable log of decisions: written on the request's own thread, kept by one other.
mod error;
pub mod format;
mod io;

pub use error::SpoolError;
pub use io::{Io, SystemIo};
