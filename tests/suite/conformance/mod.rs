//! A row per clause: section, input, expected reason.

mod api_key;
mod api_key_timing;
pub(crate) mod certificate;
mod dpop;
mod jwt;
