//! What runs: a raw file, judged section by section.
//!
//! A function here returns what it understood, or `None` after it has told the
//! [`Check`] why not; it goes on, so that one run finds everything.

pub(super) mod callers;
pub(super) mod carriers;
pub(super) mod check;
pub(super) mod database;
pub(super) mod evidence;
pub(super) mod health;
pub(super) mod hub;
pub(super) mod hub_client;
pub(super) mod introspection;
pub(super) mod key_sources;
pub(super) mod listener;
pub(super) mod proxy;
pub(super) mod route;
pub(super) mod shared;
pub(super) mod traces;
pub(super) mod upstream;
pub(super) mod workload;
