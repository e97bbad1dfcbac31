//! One question, one answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE,
    HOST, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::{Refused, judge};
use super::roots::Roots;
use super::target::Target;

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutboundSettings {
    /// Hosts that may be at loopback or private addresses: names in lower case, or addresses.
    pub internal_hosts: BTreeSet<String>,
    /// PEM file of the only authorities trusted; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Bounds of one question.
    pub bounds: Bounds,
}

/// Bounds of one question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// From looking up the name to the answer's last byte.
    pub whole: Duration,
    /// Largest answer, in bytes.
    pub body_bytes_max: usize,
}

impl Default for Bounds {
    /// 5 s and 1 MiB.
    fn default() -> Self {
        Self { whole: Duration::from_secs(5), body_bytes_max: 1 << 20 }
    }
}

/// Asks over HTTPS.
#[derive(Debug)]
pub struct Client {
    internal_hosts: BTreeSet<String>,
    bounds: Bounds,
    roots: Arc<Roots>,
}

/// An answer of status 200 and the content type asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its body.
    pub body: Bytes,
    /// For how long it says it is good; zero: it is not to be kept; `None`: it does not say.
    pub max_age: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OutboundError {
    /// The host is where nothing is asked.
    #[error("`{host}` is at {address}, {refused}; list the host as one inside if it may be asked")]
    Address {
        /// The host.
        host: String,
        /// Where it is.
        address: IpAddr,
        /// Why that is refused.
        refused: Refused,
    },
    /// The name cannot be resolved.
    #[error("`{host}` cannot be found: {what}")]
    Resolve {
        /// The host.
        host: String,
        /// What went wrong.
        what: String,
    },
    /// No connection, or none that can be trusted.
    #[error("`{host}` cannot be reached: {what}")]
    Connect {
        /// The host.
        host: String,
        /// What went wrong.
        what: String,
    },
    /// Nobody can be trusted.
    #[error("certificate authorities: {0}")]
    Roots(String),
    /// The exchange broke off.
    #[error("the answer broke off: {0}")]
    Exchange(String),
    /// It answered another status than 200.
    #[error("it answered {0}{hint}", hint = redirect_hint(*.0))]
    Status(StatusCode),
    /// It is of another content type.
    #[error("the answer is not of the type asked for but `{0}`")]
    ContentType(String),
    /// It is encoded, which nobody asked for.
    #[error("the answer is encoded as `{0}`")]
    Encoded(String),
    /// It is too large.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// It took too long.
    #[error("no whole answer came within {0:?}")]
    Slow(Duration),
}

impl OutboundError {
    /// Whether the server has said that there is no such document.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Status(status) if *status == StatusCode::NOT_FOUND)
    }
}

fn redirect_hint(status: StatusCode) -> &'static str {
    if status.is_redirection() { "; redirects are not followed" } else { "" }
}

impl Client {
    /// Over these settings.
    pub fn new(settings: &OutboundSettings) -> Self {
        Self {
            internal_hosts: settings.internal_hosts.clone(),
            bounds: settings.bounds,
            roots: Arc::new(Roots::new(settings.ca_file.clone())),
        }
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// [`OutboundError`] says why there is none.
    pub async fn get_json(&self, target: &Target) -> Result<Answer, OutboundError> {
        let accepted = "application/json, application/jwk-set+json";
        let request = request(target, Method::GET, accepted).body(Full::default());
        self.ask(target, request, is_json).await
    }

    /// Gets a status list token (Token Status List §8.1).
    ///
    /// # Errors
    /// [`OutboundError`] says why there is none.
    pub async fn get_status_list(&self, target: &Target) -> Result<Answer, OutboundError> {
        let request = request(target, Method::GET, STATUS_LIST).body(Full::default());
        self.ask(target, request, is_status_list).await
    }

    /// Sends a form, as whoever `authorization` names; the answer is JSON and nothing like it.
    ///
    /// # Errors
    /// [`OutboundError`] says why there is none.
    pub async fn post_form(
        &self,
        target: &Target,
        authorization: HeaderValue,
        form: Bytes,
    ) -> Result<Answer, OutboundError> {
        let request = request(target, Method::POST, JSON)
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(form));
        self.ask(target, request, |content_type| essence(content_type) == JSON).await
    }

    async fn ask(
        &self,
        target: &Target,
        request: http::Result<Request<Full<Bytes>>>,
        takes: fn(&str) -> bool,
    ) -> Result<Answer, OutboundError> {
        let request = request.map_err(|e| OutboundError::Exchange(e.to_string()))?;
        let asking = async {
            let stream = self.connect(target).await?;
            self.exchange(request, takes, stream).await
        };
        let whole = self.bounds.whole;
        Box::pin(tokio::time::timeout(whole, asking)).await.map_err(|_| OutboundError::Slow(whole))?
    }

    async fn connect(&self, target: &Target) -> Result<TlsStream<TcpStream>, OutboundError> {
        let failed = |what: String| OutboundError::Connect { host: target.host().to_owned(), what };
        let addresses = self.judged(target).await?;
        let config = self.config().await?;
        let mut told = "it has no address".to_owned();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let connecting = TlsConnector::from(config).connect(target.name().clone(), stream);
                    return connecting.await.map_err(|e| failed(e.to_string()));
                }
                Err(error) => told = format!("{address}: {error}"),
            }
        }
        Err(failed(told))
    }

    /// Where the target is: only addresses that may be connected to, or none at all.
    async fn judged(&self, target: &Target) -> Result<Vec<SocketAddr>, OutboundError> {
        let host = target.host();
        let found: Vec<SocketAddr> = match target.address() {
            Some(address) => vec![SocketAddr::new(address, target.port())],
            None => tokio::net::lookup_host((host, target.port()))
                .await
                .map_err(|e| OutboundError::Resolve { host: host.to_owned(), what: e.to_string() })?
                .collect(),
        };
        let internal = self.internal_hosts.contains(host);
        for address in found.iter().map(SocketAddr::ip) {
            judge(address, internal).map_err(|refused| OutboundError::Address {
                host: host.to_owned(),
                address,
                refused,
            })?;
        }
        Ok(found)
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, OutboundError> {
        let roots = Arc::clone(&self.roots);
        match tokio::task::spawn_blocking(move || roots.config()).await {
            Ok(config) => config.map_err(OutboundError::Roots),
            Err(error) => Err(OutboundError::Roots(error.to_string())),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        takes: fn(&str) -> bool,
        stream: TlsStream<TcpStream>,
    ) -> Result<Answer, OutboundError> {
        let broke = |e: hyper::Error| OutboundError::Exchange(e.to_string());
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broke)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broke)?;
            self.read(response, takes).await
        };
        // Lives as long as the exchange, and no longer.
        let connection = async {
            connection.await.ok();
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            biased;
            answer = exchange => answer,
            never = connection => match never {},
        }
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        takes: fn(&str) -> bool,
    ) -> Result<Answer, OutboundError> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(OutboundError::Status(head.status));
        }
        let shown =
            |name| header(&head.headers, name).unwrap_or_default().chars().take(80).collect::<String>();
        if !takes(&shown(CONTENT_TYPE)) {
            return Err(OutboundError::ContentType(shown(CONTENT_TYPE)));
        }
        if head.headers.contains_key(CONTENT_ENCODING) && shown(CONTENT_ENCODING) != "identity" {
            return Err(OutboundError::Encoded(shown(CONTENT_ENCODING)));
        }
        let most = self.bounds.body_bytes_max;
        let body = Limited::new(body, most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                OutboundError::TooLarge(most)
            } else {
                OutboundError::Exchange(error.to_string())
            }
        })?;
        Ok(Answer { body: body.to_bytes(), max_age: max_age(&head.headers) })
    }
}

fn request(target: &Target, method: Method, accepted: &'static str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(target.path())
        .header(HOST, target.authority())
        .header(ACCEPT, accepted)
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("portreeve/", env!("CARGO_PKG_VERSION")))
}

/// A header that is there once, as text.
fn header(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let only = values.next()?;
    if values.next().is_some() { None } else { only.to_str().ok() }
}

/// `application/json`, or another type of which the suffix says that it is JSON (RFC 6839 §3.1).
fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == JSON || essence.strip_prefix("application/").is_some_and(|subtype| subtype.ends_with("+json"))
}

/// A content type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_status_list(content_type: &str) -> bool {
    essence(content_type) == STATUS_LIST
}

/// How long an answer is still good, by `Cache-Control` and `Age` (RFC 9111 §5.1, §5.2.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut said = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" || directive == "no-cache" {
                return Some(Duration::ZERO);
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                said = seconds.trim_matches('"').parse().ok().map(Duration::from_secs);
            }
        }
    }
    let age =
        header(headers, AGE).and_then(|age| age.parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
    said.map(|said: Duration| said.saturating_sub(age))
}

const JSON: &str = "application/json";
const STATUS_LIST: &str = "application/statuslist+jwt";
const ADDRESSES_MAX: usize = 4;
const HEAD_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderValue;

    #[test]
    fn how_long_an_answer_is_good() {
        let of = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("cache-control", "public, max-age=300")]), Some(300));
        assert_eq!(of(&[("cache-control", "Max-Age=\"300\"")]), Some(300));
        assert_eq!(of(&[("cache-control", "public"), ("cache-control", "max-age=7")]), Some(7));
        assert_eq!(of(&[("cache-control", "max-age=300"), ("age", "200")]), Some(100));
        assert_eq!(of(&[("cache-control", "max-age=300"), ("age", "301")]), Some(0));
        assert_eq!(of(&[("cache-control", "max-age=300, no-store")]), Some(0));
        assert_eq!(of(&[("cache-control", "no-cache")]), Some(0));
        assert_eq!(of(&[("cache-control", "max-age=soon")]), None);
        assert_eq!(of(&[("cache-control", "s-maxage=9")]), None);
    }

    #[test]
    fn only_json_is_taken() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/jwk-set+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["", "text/html", "text/json", "application/jsonp", "application/jose", "image/x+json"] {
            assert!(!is_json(bad), "{bad}");
        }
        for good in ["application/statuslist+jwt", "Application/StatusList+JWT; a=b"] {
            assert!(is_status_list(good) && !is_json(good), "{good}");
        }
        for bad in ["", "application/json", "application/jwt", "application/statuslist+cwt", "statuslist+jwt"]
        {
            assert!(!is_status_list(bad), "{bad}");
        }
    }
}
