//! Fakes and makers shared by the suite.

pub(crate) mod issuer;
