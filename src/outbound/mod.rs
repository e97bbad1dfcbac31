//! Asking servers that others run: HTTPS to checked addresses, within bounds, and nothing else.
//!
//! Who names a URL must not thereby reach what only this process can reach: the name is resolved,
//! every address is judged, and exactly a judged address is connected to. No redirect is followed,
//! no proxy is used, nothing is retried. Deliberately absent: what an answer means.

mod address;
mod client;
mod roots;
mod target;

pub use address::{Refused, judge};
pub use client::{Answer, Bounds, Client, OutboundError, OutboundSettings};
pub use target::{Target, TargetError};
