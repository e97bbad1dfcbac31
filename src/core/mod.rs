//! The pure room: what a decision is made of.
//!
//! Everything here is a function of its arguments. Time arrives as an argument,
//! state as an immutable [`identity::Snapshot`], randomness as keys made elsewhere.
//! Deliberately absent: input and output, `async`, clocks, threads, logging, panics.

pub mod credential;
pub mod evidence;
pub mod id;
pub mod identity;
pub mod policy;
pub mod time;
