//! What is asked: one request as the front doors hand it over, already parsed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::core::credential::{ClientCertificate, Presented};
use crate::core::evidence::{Door, EvidenceMode};
use crate::core::id::Name;
use crate::core::policy::path::CanonicalPath;

/// Which protected service a request is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ServiceRef {
    /// The tenant it belongs to: the tenant every look-up of the decision uses.
    pub tenant: Name,
    /// The resource record's name.
    pub resource: Name,
}

/// How old the state may be for a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Staleness {
    /// Older than this is marked and counted.
    pub warn_after: Duration,
    /// Older than this denies; `None`: never, and the route is listed as waived.
    pub deny_after: Option<Duration>,
}

impl Default for Staleness {
    fn default() -> Self {
        Self { warn_after: Duration::from_secs(10), deny_after: Some(Duration::from_secs(300)) }
    }
}

/// What the configuration says of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRules {
    /// How old the state may be.
    pub staleness: Staleness,
    /// How safe the evidence must be before the effect.
    pub evidence: EvidenceMode,
    /// Audiences a token must name one of.
    pub audiences: Arc<[Arc<str>]>,
    /// Tolerated difference between an issuer's clock and ours; at most 60 s.
    pub clock_skew: Duration,
    /// No credential is asked for.
    pub anonymous: bool,
    /// Scheme and authority as callers see them, which signed proofs must name: in lower case, without a
    /// default port. `None`: no proof is taken.
    pub public_origin: Option<Arc<str>>,
    /// Signed proofs must carry a nonce that was given out a moment ago (RFC 9449 §9).
    pub proof_nonces: bool,
    /// Where an allowed request goes; empty behind a door whose effect is another's.
    pub upstream: Arc<str>,
}

/// What was found where the credential is looked for.
#[derive(Debug)]
pub enum Presentation {
    /// Nothing.
    Nothing,
    /// One credential.
    One(Presented),
    /// Something in the place of a credential that is none.
    Malformed,
}

/// One request to judge.
#[derive(Debug)]
pub struct Exchange {
    /// The listener it came in by.
    pub listener: Arc<str>,
    /// The kind of front door.
    pub door: Door,
    /// The method, as sent.
    pub method: Arc<str>,
    /// The path in the form that will be forwarded.
    pub path: CanonicalPath,
    /// What it is for; `None` on an anonymous route.
    pub service: Option<ServiceRef>,
    /// What the configuration says of the route.
    pub rules: Arc<RouteRules>,
    /// The credential, if any.
    pub presentation: Presentation,
    /// The certificate that the caller showed, its chain verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The address of the other side of the connection, or what a trusted peer said of it.
    pub peer: Option<IpAddr>,
    /// W3C trace id, all zero when there is none; never an input of the decision.
    pub trace_id: [u8; 16],
}
