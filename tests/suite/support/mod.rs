//! Fakes and makers shared by the suite.

pub(crate) mod caller;
pub(crate) mod clock;
pub(crate) mod dev;
pub(crate) mod evidence;
pub(crate) mod frames;
pub(crate) mod front;
pub(crate) mod http;
pub(crate) mod idp;
pub(crate) mod issuer;
pub(crate) mod node;
pub(crate) mod postgres;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod world;
