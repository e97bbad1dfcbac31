//! Fakes and makers shared by the suite.

pub(crate) mod clock;
pub(crate) mod evidence;
pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod world;
