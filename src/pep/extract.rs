//! From a request's head to the question put to the pipeline. Parsed once; what can be
//! read in two ways is refused, and the upstream receives the form that was judged.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Method, Version};

use crate::core::credential::ClientCertificate;
use crate::core::evidence::{Door, ExchangeFacts};
use crate::core::policy::{CanonicalPath, Exchange, PathError, Reason};
use crate::pep::certificate::CallerCertificates;
use crate::pep::framing::Doubtful;
use crate::pep::headers;
use crate::pep::limits::RequestLimits;
use crate::pep::presentation::{Carriers, Comma};
use crate::pep::routes::Routes;
use crate::pep::trace::Trace;

/// A request that can be judged, and what is needed to forward it as judged.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// The question.
    pub(crate) exchange: Exchange,
    /// The target in the form that was judged.
    pub(crate) target: PathAndQuery,
    /// The host as sent.
    pub(crate) host: HeaderValue,
}

/// What a front door knows of a request, whatever becomes of it.
pub(crate) fn facts(
    listener: &Arc<str>,
    door: Door,
    method: Arc<str>,
    peer: Option<IpAddr>,
    trace: &Trace,
) -> ExchangeFacts {
    let (trace_id, span_id) = trace.ids();
    ExchangeFacts { listener: Arc::clone(listener), door, method, peer, trace_id, span_id }
}

/// How requests of a listener are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmitRules<'a> {
    /// Its routes.
    pub(crate) routes: &'a Routes,
    /// Where credentials are looked for.
    pub(crate) carriers: &'a Carriers,
    /// Which certificate is the caller's.
    pub(crate) certificates: &'a CallerCertificates,
    /// Bounds of a request.
    pub(crate) limits: &'a RequestLimits,
}

/// Reads a request to the proxy on a connection that showed a certificate, or none, taking from its headers what a caller may not say.
///
/// # Errors
/// `request.ambiguous`, `request.limit` (a head over its bound), `request.target_too_long`,
/// `request.body_too_large` (by its length) or `request.credentials`; `policy.denied` when no route matches.
pub(crate) fn admit(
    parts: &mut Parts,
    facts: &ExchangeFacts,
    shown: Option<&Arc<ClientCertificate>>,
    rules: &AdmitRules<'_>,
) -> Result<Admitted, Reason> {
    if parts.method == Method::CONNECT {
        return Err(Reason::RequestAmbiguous);
    }
    sizes(parts, rules.limits)?;
    framing(parts)?;
    let declared =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.zip(rules.limits.body_bytes_max).is_some_and(|(length, most): (u64, u64)| length > most) {
        return Err(Reason::RequestBody);
    }
    let certificate = rules.certificates.of_request(facts.peer, shown, &parts.headers)?;
    headers::screen_request(&mut parts.headers, rules.carriers.api_key())?;
    let host = authority(parts)?;
    let name = host_name(host.as_bytes())?.into_owned();
    let raw = parts.uri.path_and_query().ok_or(Reason::RequestAmbiguous)?;
    let (path, query) = split_target(raw.as_str())?;
    let target = judged_target(raw, &path, query)?;
    let presentation = rules.carriers.find(&parts.headers, Comma::Malformed)?;
    let route = rules.routes.find(&name, &facts.method, &path).ok_or(Reason::PolicyDenied)?;
    let exchange = Exchange {
        listener: Arc::clone(&facts.listener),
        door: facts.door,
        method: Arc::clone(&facts.method),
        path,
        service: route.service.clone(),
        rules: Arc::clone(&route.rules),
        presentation,
        certificate,
        peer: facts.peer,
        trace_id: facts.trace_id,
    };
    Ok(Admitted { exchange, target, host })
}

fn sizes(parts: &Parts, limits: &RequestLimits) -> Result<(), Reason> {
    if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.target_bytes_max) {
        return Err(Reason::RequestTarget);
    }
    if parts.headers.len() > limits.headers_max || head_bytes(parts) > limits.head_bytes_max {
        return Err(Reason::RequestLimit);
    }
    Ok(())
}

/// Bytes of a head: target, names and values. The server's buffer bounds what is read at once,
/// which is not the same.
fn head_bytes(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + target
}

/// How long the body is must be said in one way.
///
/// # Standard
/// RFC 9112 §6.1 and §6.3, stricter: `chunked` is the only transfer coding, and nothing is repaired.
fn framing(parts: &Parts) -> Result<(), Reason> {
    if parts.extensions.get::<Doubtful>().is_some() {
        return Err(Reason::RequestAmbiguous);
    }
    let headers = &parts.headers;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let sound = match (codings.next(), lengths.next()) {
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (None, Some(length)) => length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty(),
        (None, None) => true,
        (Some(_), Some(_)) => false,
    };
    let single = codings.next().is_none() && lengths.next().is_none();
    if sound && single { Ok(()) } else { Err(Reason::RequestAmbiguous) }
}

/// The one host a request names, as sent.
///
/// # Standard
/// RFC 9112 §3.2 and RFC 9113 §8.3.1, stricter: an authority in the target must equal `Host`.
fn authority(parts: &Parts) -> Result<HeaderValue, Reason> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    let lone = hosts.next().is_none();
    let scheme = parts.uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    let agreed = match (host, parts.uri.authority()) {
        (Some(host), Some(target)) if same(host, target) => Some(host.clone()),
        (Some(host), None) => Some(host.clone()),
        (None, Some(target)) if parts.version == Version::HTTP_2 => {
            HeaderValue::from_str(target.as_str()).ok()
        }
        _ => None,
    };
    agreed.filter(|_| lone && scheme).ok_or(Reason::RequestAmbiguous)
}

fn same(host: &HeaderValue, target: &Authority) -> bool {
    host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes())
}

/// The host's name in lower case, its port left out.
///
/// # Errors
/// [`Reason::RequestAmbiguous`] for anything but a name or address, and a port of digits.
pub(crate) fn host_name(host: &[u8]) -> Result<Cow<'_, str>, Reason> {
    let host = std::str::from_utf8(host).map_err(|_| Reason::RequestAmbiguous)?;
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|at| at + 2),
        None => Some(host.find(':').unwrap_or(host.len())),
    };
    let (name, port) = end.and_then(|end| host.split_at_checked(end)).ok_or(Reason::RequestAmbiguous)?;
    let literal = name.starts_with('[');
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let known = if literal {
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    } else {
        !name.is_empty() && name.bytes().all(named)
    };
    let digits = port.strip_prefix(':').map_or(port.is_empty(), |port| {
        (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit())
    });
    if !known || !digits {
        return Err(Reason::RequestAmbiguous);
    }
    let upper = name.bytes().any(|b| b.is_ascii_uppercase());
    Ok(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// Splits a target at its first `?` into the judged path and the query as sent.
///
/// # Errors
/// [`Reason::RequestTarget`] for a path over its limit, [`Reason::RequestAmbiguous`] for all else.
pub(crate) fn split_target(raw: &str) -> Result<(CanonicalPath, Option<&str>), Reason> {
    let (path, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    if query.is_some_and(|query| !query.bytes().all(plain)) {
        return Err(Reason::RequestAmbiguous);
    }
    match CanonicalPath::parse(path) {
        Ok(path) => Ok((path, query)),
        Err(PathError::Long) => Err(Reason::RequestTarget),
        Err(_) => Err(Reason::RequestAmbiguous),
    }
}

/// The target to forward: the judged path, the query byte for byte.
fn judged_target(
    raw: &PathAndQuery,
    path: &CanonicalPath,
    query: Option<&str>,
) -> Result<PathAndQuery, Reason> {
    if raw.path() == path.as_str() {
        return Ok(raw.clone());
    }
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_string(),
    };
    PathAndQuery::try_from(text).map_err(|_| Reason::RequestAmbiguous)
}

/// Methods as shared text, so that the usual ones cost no allocation.
#[derive(Debug)]
pub(crate) struct MethodNames([Arc<str>; 8]);

impl Default for MethodNames {
    fn default() -> Self {
        Self(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"].map(Arc::from))
    }
}

impl MethodNames {
    /// The method as text.
    pub(crate) fn of(&self, method: &str) -> Arc<str> {
        let known = self.0.iter().find(|name| ***name == *method);
        known.map_or_else(|| Arc::from(method), Arc::clone)
    }
}

/// The address of a forwarded request: origin form, or absolute for HTTP/2.
pub(crate) fn forwarded_uri(target: &PathAndQuery, host: Option<&HeaderValue>) -> Option<Uri> {
    let Some(host) = host else { return Some(Uri::from(target.clone())) };
    let authority = Authority::try_from(host.as_bytes()).ok()?;
    Uri::builder().scheme("http").authority(authority).path_and_query(target.clone()).build().ok()
}

#[cfg(test)]
mod tests;
