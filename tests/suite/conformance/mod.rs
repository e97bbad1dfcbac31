//! A row per clause: section, input, expected reason. [`index`] says what is asked for and which test shows it.

mod api_key;
mod api_key_timing;
mod carriers;
pub(crate) mod certificate;
pub(crate) mod dpop;
mod index;
mod jwt;
pub(crate) mod opaque;
pub(crate) mod status;
mod subjects;
