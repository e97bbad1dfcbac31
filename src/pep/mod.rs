//! The enforcement point's front doors: they wait, and never decide.
//!
//! A request comes in by a [`Bound`] listener, is read by `extract`, judged by the
//! pipeline, and leaves by `forward` or is refused by `respond`. Settings come as plain
//! structs: where they are written is not this room's business.
//!
//! What is forwarded is listed among the open `exchanges` until it is over.
//!
//! Deliberately absent: upgrades other than to WebSocket, other addresses without a restart.

mod assertion;
mod body;
mod cache;
mod certificate;
mod exchanges;
mod ext_authz;
mod extract;
mod forward;
mod framing;
mod headers;
mod http;
mod introspection;
mod limits;
mod line;
mod listener;
mod load;
mod meter;
mod presentation;
mod replay;
mod respond;
mod routes;
mod secret;
mod serve;
#[cfg(test)]
mod testing;
mod tls;
mod trace;
mod tunnel;
mod upload;
mod upstream;
mod voucher;
mod watch;
mod websocket;

pub use assertion::{AssertionKey, AssertionSettings};
pub use body::BodyError;
pub use cache::{ANSWERS_MAX, ENTRIES_MAX, PolicyAnswers, VerifiedTokens};
pub use certificate::{CallerCertificates, ForwardedCertificates, ForwardedHeader};
pub use exchanges::Exchanges;
pub use ext_authz::{ExtAuthzDoor, ExtAuthzSettings, Serves};
pub use forward::ForwardSettings;
pub use http::{ProxyDoor, ProxySettings, UnknownUpstream};
pub use introspection::{
    Asks, IntrospectionClient, IntrospectionFileError, IntrospectionSettings, Introspector, PauseRule,
};
pub use limits::{Limits, RequestLimits};
pub use listener::{BindError, Bound, Drained, ListenerSettings, Running};
pub use load::{Load, Memory};
pub use presentation::Carriers;
pub use replay::{PROOFS_MAX, Proofs};
pub use routes::{Route, Routes};
pub use serve::{Front, Peer};
pub use tls::{
    CertificateFiles, ClientAuthorities, ClientCertificates, ListenerTls, TlsError, TlsSettings, TlsVersion,
};
pub use upstream::{
    CredentialForm, HealthChecks, HealthReport, HealthRule, HealthState, Pause, UpstreamAddress,
    UpstreamCredential, UpstreamFileError, UpstreamFiles, UpstreamHealth, UpstreamSettings, UpstreamTls,
};
