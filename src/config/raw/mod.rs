//! What is written in a file: one serde type for each section, nothing judged yet.
//!
//! Doc comments here are the descriptions of the published schema. Texts that mean an
//! address, a name or a duration stay texts, so that everything wrong with them is
//! found in one run. No type of this room leaves `config`.

pub(super) mod health;
pub(super) mod hub;
pub(super) mod introspection;
pub(super) mod key_sources;
pub(super) mod listener;
pub(super) mod proxy;
pub(super) mod shared;
