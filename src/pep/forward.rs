//! Forwarding: from an allow to an upstream's answer.
//!
//! What goes out is rebuilt from the judged parts. The target comes from the proof and
//! from nowhere else; each try is preceded by a last look.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::core::evidence::{Allowed, Denied};
use crate::core::id::DecisionId;
use crate::core::policy::{Reason, Verdict};
use crate::pep::body::{Body, Relay};
use crate::pep::exchanges::{Open, Stage};
use crate::pep::extract::forwarded_uri;
use crate::pep::headers;
use crate::pep::presentation::Carriers;
use crate::pep::trace::Onward;
use crate::pep::upload::{Upload, UploadRules};
use crate::pep::upstream::{Returning, Unanswered, UpstreamSettings, Upstreams};
use crate::pep::websocket::{Asked, Offer};
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::UpstreamFailure;

/// What an upstream is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardSettings {
    /// Sends `x-portreeve-identity`, `-tenant`, `-decision` and `-warning`.
    pub identity_headers: bool,
    /// Leaves the credential in, but for upstreams with one of their own.
    pub pass_credential: bool,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self { identity_headers: true, pass_credential: false }
    }
}

/// A request as it came in, after its head was judged.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The head, screened.
    pub(crate) parts: Parts,
    /// The body.
    pub(crate) body: Incoming,
    /// The target in the form that was judged.
    pub(crate) target: PathAndQuery,
    /// The host as sent.
    pub(crate) host: HeaderValue,
    /// A wish for a WebSocket.
    pub(crate) offer: Option<Offer>,
    /// Bounds of the body.
    pub(crate) rules: Arc<UploadRules>,
    /// What it is told of the trace.
    pub(crate) trace: Onward,
}

/// What forwarding needs beside the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarder<'a> {
    /// For the last look.
    pub(crate) pipeline: &'a Pipeline,
    /// Where requests go.
    pub(crate) upstreams: &'a Upstreams,
    /// What upstreams are told.
    pub(crate) settings: ForwardSettings,
    /// Where credentials are looked for.
    pub(crate) carriers: &'a Carriers,
}

/// Why an allowed request has no answer from an upstream.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The last look turned it.
    Denied(Denied),
    /// It was ended while it waited for the answer.
    Severed(DecisionId, Reason),
    /// The caller's body broke off.
    Unasked(DecisionId),
    /// The upstream failed.
    Failed(DecisionId, UpstreamFailure),
}

impl Forwarder<'_> {
    /// Forwards an allowed request.
    ///
    /// A connection that proves dead before anything was sent costs one retry, on a fresh one, after
    /// another last look.
    pub(crate) async fn forward(
        &self,
        allowed: Allowed,
        open: &Arc<Open>,
        outgoing: Outgoing,
    ) -> Result<Response<Body>, Stopped> {
        let mut released = open.look(self.pipeline, allowed).map_err(Stopped::Denied)?;
        let id = released.id();
        let Some(upstream) = self.upstreams.of(&released) else {
            // Routes and upstreams are compared at start: there is none to count this for.
            return Err(Stopped::Failed(id, UpstreamFailure::Connect));
        };
        let fail = |kind| {
            upstream.metrics().failed(kind);
            Stopped::Failed(id, kind)
        };
        let stage = stage(&outgoing.parts);
        let unframed = outgoing.parts.version < Version::HTTP_11;
        let settings = upstream.settings();
        if settings.is_unhealthy() {
            return Err(fail(UpstreamFailure::Unhealthy));
        }
        let prepared =
            prepare(outgoing, open, self.carriers, released.verdict(), id, self.settings, settings);
        let (mut request, wish) = prepared.ok_or_else(|| fail(UpstreamFailure::Invalid))?;
        if let Some(assertion) = &settings.assertion {
            assertion.put(request.headers_mut(), released.verdict(), id, self.pipeline.now().wall);
        }
        let silence = settings.response_timeout;
        let answered = |response, connection| {
            let connection = upstream.returning(connection);
            let answer = Answer { response, connection, open, stage, unframed };
            match wish {
                Some(wish) => answer.switch(wish),
                None => answer.relay(),
            }
            .map_err(|stopped| stopped.unwrap_or_else(|| fail(UpstreamFailure::Invalid)))
        };
        if let Some(mut connection) = upstream.open() {
            match connection.send(released, request, silence, open).await {
                Ok(response) => return answered(response, connection),
                Err(Unanswered::Failed(kind)) => return Err(fail(kind)),
                Err(Unanswered::Severed(reason)) => return Err(Stopped::Severed(id, reason)),
                Err(Unanswered::Unasked) => return Err(Stopped::Unasked(id)),
                Err(Unanswered::Unsent(given_back)) => (released, request) = *given_back,
            }
        }
        let mut connection = upstream.connect().await.map_err(fail)?;
        let released = open.look(self.pipeline, released.unsent()).map_err(Stopped::Denied)?;
        match connection.send(released, request, silence, open).await {
            Ok(response) => answered(response, connection),
            Err(Unanswered::Failed(kind)) => Err(fail(kind)),
            Err(Unanswered::Severed(reason)) => Err(Stopped::Severed(id, reason)),
            Err(Unanswered::Unasked) => Err(Stopped::Unasked(id)),
            Err(Unanswered::Unsent(_)) => Err(fail(UpstreamFailure::Reset)),
        }
    }
}

/// How the answer to a request can be ended.
fn stage(parts: &Parts) -> Stage {
    let kind = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let grpc = parts.version == Version::HTTP_2 && kind.starts_with(b"application/grpc");
    if grpc { Stage::Calling } else { Stage::Answering }
}

/// A wish for a WebSocket, and what the upstream was asked for it.
type Wish = (Offer, Asked);

/// Builds the request an upstream receives; `None` when the host is none that HTTP/2 can carry, and for a
/// WebSocket over HTTP/2, which is not asked for.
fn prepare(
    outgoing: Outgoing,
    open: &Arc<Open>,
    carriers: &Carriers,
    verdict: &Verdict,
    id: DecisionId,
    settings: ForwardSettings,
    upstream: &UpstreamSettings,
) -> Option<(Request<Upload>, Option<Wish>)> {
    let http2 = upstream.http2;
    // A call may be silent for as long as it likes.
    let paced = !(http2 && stage(&outgoing.parts) == Stage::Calling);
    let Outgoing { mut parts, body, target, host, offer, rules, trace } = outgoing;
    let headers = &mut parts.headers;
    let trailers_wanted = headers.get_all(header::TE).iter().any(wants_trailers);
    headers::strip_hop_by_hop(headers);
    trace.apply(headers);
    for name in [header::TE, header::TRAILER, header::EXPECT] {
        headers.remove(name);
    }
    if upstream.credential.is_some() || !settings.pass_credential {
        carriers.names().for_each(|name| drop(headers.remove(name)));
    }
    if http2 {
        headers.remove(header::HOST);
        if trailers_wanted {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        parts.version = Version::HTTP_2;
    } else {
        headers.insert(header::HOST, host.clone());
        join_cookies(headers);
        if offer.is_none() && !body.is_end_stream() && body.size_hint().exact().is_none() {
            // Said, since the library drops such a body where the method is one that seldom has any.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        parts.version = Version::HTTP_11;
    }
    if let Some(credential) = &upstream.credential {
        credential.put(headers);
    }
    if settings.identity_headers {
        introduce(headers, verdict, id);
    }
    let wish = match offer {
        Some(_) if http2 => return None,
        Some(offer) => {
            let asked = offer.ask(headers)?;
            Some((offer, asked))
        }
        None => None,
    };
    parts.uri = forwarded_uri(&target, http2.then_some(&host))?;
    parts.extensions = http::Extensions::new();
    Some((Request::from_parts(parts, Upload::new(body, open, &rules, paced)), wish))
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

/// An upstream's answer, to be turned into ours.
struct Answer<'a> {
    response: Response<Incoming>,
    connection: Option<Returning>,
    open: &'a Arc<Open>,
    stage: Stage,
    /// The caller speaks HTTP/1.0.
    unframed: bool,
}

impl Answer<'_> {
    /// Relays it.
    ///
    /// # Errors
    /// `None`: it can be read in two ways, or is no answer to what was asked.
    fn relay(self) -> Result<Response<Body>, Option<Stopped>> {
        let (mut parts, incoming) = self.response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS || !is_framed_once(&parts.headers) {
            return Err(None);
        }
        let id = self.open.decision();
        own(&mut parts, id);
        let relay = Relay::begin(incoming, self.connection, self.open, self.stage, self.unframed);
        let relay = relay.map_err(|reason| Stopped::Severed(id, reason))?;
        Ok(Response::from_parts(parts, Body::relay(relay)))
    }

    /// Switches, if it does; else as [`Self::relay`].
    fn switch(mut self, (offer, asked): Wish) -> Result<Response<Body>, Option<Stopped>> {
        let status = self.response.status();
        if offer.mistakes(status) {
            return Err(None);
        }
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return self.relay();
        }
        if !asked.is_answered(self.response.headers()) {
            return Err(None);
        }
        let upstream = hyper::upgrade::on(&mut self.response);
        let (mut parts, _) = self.response.into_parts();
        let id = self.open.decision();
        own(&mut parts, id);
        let (status, caller) = offer.answer(asked, &mut parts.headers);
        parts.status = status;
        self.open.begin_tunnel(caller, upstream).map_err(|reason| Stopped::Severed(id, reason))?;
        Ok(Response::from_parts(parts, Body::empty()))
    }
}

/// Makes a head ours: without what concerns the upstream's connection, or speaks for us.
fn own(parts: &mut http::response::Parts, id: DecisionId) {
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_own(&mut parts.headers);
    parts.headers.insert(headers::DECISION, headers::value(id.to_string()));
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
}

/// Whether an answer says in at most one way how long it is: the library takes `5, 5` for 5.
fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let sound = match (codings.next(), lengths.next()) {
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (None, Some(length)) => length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty(),
        (Some(_), Some(_)) => false,
        (None, None) => true,
    };
    sound && codings.next().is_none() && lengths.next().is_none()
}
