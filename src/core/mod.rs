//! The pure room: what a decision is made of.
//!
//! Everything here is a function of its arguments. Time arrives as an argument,
//! state as an immutable [`identity::Snapshot`], randomness as keys made elsewhere.
//! Deliberately absent: input and output, `async`, clocks, threads, logging, panics.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::todo,
        clippy::unreachable
    )
)]

pub mod credential;
pub mod evidence;
pub mod id;
pub mod identity;
pub mod policy;
pub mod time;
