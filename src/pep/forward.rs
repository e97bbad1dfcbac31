//! Forwarding: from an allow to an upstream's answer.
//!
//! What goes out is rebuilt from the judged parts. The target comes from the proof and
//! from nowhere else; each try is preceded by a last look.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::core::evidence::{Allowed, Denied, Released};
use crate::core::id::DecisionId;
use crate::core::policy::Verdict;
use crate::pep::body::{Body, Relay, Upload};
use crate::pep::extract::{Admitted, forwarded_uri};
use crate::pep::headers;
use crate::pep::presentation::Carriers;
use crate::pep::upstream::{Connection, Unanswered, Upstream, Upstreams};
use crate::telemetry::metrics::UpstreamFailure;

/// What an upstream is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardSettings {
    /// Sends `x-portreeve-identity`, `-tenant`, `-decision` and `-warning`.
    pub identity_headers: bool,
    /// Leaves the credential in.
    pub pass_credential: bool,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self { identity_headers: true, pass_credential: false }
    }
}

/// A request as it came in, after its head was judged.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// The head, screened.
    pub(crate) parts: Parts,
    /// The body.
    pub(crate) body: Incoming,
    /// The judged parts.
    pub(crate) admitted: &'a Admitted,
}

/// Why an allowed request has no answer from an upstream.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The last look turned it.
    Denied(Denied),
    /// The upstream failed.
    Failed(DecisionId, UpstreamFailure),
}

/// Forwards an allowed request. `look` is the last look before its effect.
///
/// A connection that proves dead before anything was sent costs one retry, on a fresh one.
pub(crate) async fn forward(
    allowed: Allowed,
    look: impl Fn(Allowed) -> Result<Released, Denied>,
    upstreams: &Upstreams,
    settings: ForwardSettings,
    carriers: &Carriers,
    outgoing: Outgoing<'_>,
) -> Result<Response<Body>, Stopped> {
    let mut released = look(allowed).map_err(Stopped::Denied)?;
    let id = released.id();
    let Some(upstream) = upstreams.of(&released) else {
        // Routes and upstreams are compared at start: there is none to count this for.
        return Err(Stopped::Failed(id, UpstreamFailure::Connect));
    };
    let fail = |kind| {
        upstream.metrics().failed(kind);
        Stopped::Failed(id, kind)
    };
    let prepared = prepare(outgoing, carriers, released.verdict(), id, settings, upstream.settings().http2);
    let mut request = prepared.ok_or_else(|| fail(UpstreamFailure::Invalid))?;
    let silence = upstream.settings().response_timeout;
    if let Some(mut connection) = upstream.open() {
        match connection.send(released, request, silence).await {
            Ok(response) => return relay(response, upstream, connection, id).map_err(fail),
            Err(Unanswered::Failed(kind)) => return Err(fail(kind)),
            Err(Unanswered::Unsent(given_back)) => (released, request) = *given_back,
        }
    }
    let connected = upstream.connect().await;
    let mut connection = connected.ok_or_else(|| fail(UpstreamFailure::Connect))?;
    let released = look(released.unsent()).map_err(Stopped::Denied)?;
    match connection.send(released, request, silence).await {
        Ok(response) => relay(response, upstream, connection, id).map_err(fail),
        Err(Unanswered::Failed(kind)) => Err(fail(kind)),
        Err(Unanswered::Unsent(_)) => Err(fail(UpstreamFailure::Reset)),
    }
}

/// Builds the request an upstream receives; `None` when the host is none that HTTP/2 can carry.
fn prepare(
    outgoing: Outgoing<'_>,
    carriers: &Carriers,
    verdict: &Verdict,
    id: DecisionId,
    settings: ForwardSettings,
    http2: bool,
) -> Option<Request<Upload>> {
    let Outgoing { mut parts, body, admitted } = outgoing;
    let headers = &mut parts.headers;
    let trailers_wanted = headers.get_all(header::TE).iter().any(wants_trailers);
    headers::strip_hop_by_hop(headers);
    for name in [header::TE, header::TRAILER, header::EXPECT] {
        headers.remove(name);
    }
    if !settings.pass_credential {
        carriers.names().for_each(|name| drop(headers.remove(name)));
    }
    if http2 {
        headers.remove(header::HOST);
        if trailers_wanted {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        parts.version = Version::HTTP_2;
    } else {
        headers.insert(header::HOST, admitted.host.clone());
        join_cookies(headers);
        parts.version = Version::HTTP_11;
    }
    if settings.identity_headers {
        introduce(headers, verdict, id);
    }
    parts.uri = forwarded_uri(&admitted.target, http2.then_some(&admitted.host))?;
    parts.extensions = http::Extensions::new();
    Some(Request::from_parts(parts, Upload::new(body)))
}

fn wants_trailers(value: &HeaderValue) -> bool {
    let options = value.as_bytes().split(|b| *b == b',');
    options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"trailers"))
}

/// HTTP/2 may split `cookie` into several lines; HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&lines.join(&b"; "[..]));
    headers.remove(header::COOKIE);
    if let Ok(joined) = joined {
        headers.insert(header::COOKIE, joined);
    }
}

/// Tells the upstream who calls, by whose tenant, by which decision, and what is not in order.
fn introduce(headers: &mut HeaderMap, verdict: &Verdict, id: DecisionId) {
    for (name, text) in introduction(verdict, id) {
        headers.insert(name, headers::value(text));
    }
}

/// The headers that introduce a caller; parts a decision did not reach are left out.
pub(crate) fn introduction(
    verdict: &Verdict,
    id: DecisionId,
) -> impl Iterator<Item = (header::HeaderName, String)> {
    let basis = verdict.basis();
    let identity = basis.principal.as_ref().map(|principal| principal.name().to_string());
    let tenant = basis.tenant.as_ref().map(ToString::to_string);
    let codes: Vec<&str> = verdict.warnings().iter().map(|rule| rule.code()).collect();
    let warning = (!codes.is_empty()).then(|| codes.join(","));
    let all = [
        (headers::IDENTITY, identity),
        (headers::TENANT, tenant),
        (headers::DECISION, Some(id.to_string())),
        (headers::WARNING, warning),
    ];
    all.into_iter().filter_map(|(name, text)| Some((name, text?)))
}

/// Turns an upstream's answer into ours.
fn relay(
    response: Response<Incoming>,
    upstream: &Upstream,
    connection: Connection,
    id: DecisionId,
) -> Result<Response<Body>, UpstreamFailure> {
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS || !is_framed_once(&parts.headers) {
        return Err(UpstreamFailure::Invalid);
    }
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_own(&mut parts.headers);
    parts.headers.insert(headers::DECISION, headers::value(id.to_string()));
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    let relay = Relay::new(incoming, upstream.returning(connection));
    Ok(Response::from_parts(parts, Body::relay(relay)))
}

/// Whether an answer says in at most one way how long it is.
fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let sound = match (codings.next(), lengths.next()) {
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
        (None, _) => true,
    };
    sound && codings.next().is_none() && lengths.next().is_none()
}
