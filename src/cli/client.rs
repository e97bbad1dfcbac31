//! A small HTTP client: one request a connection, HTTP/1.1, bounded in time and size.
//!
//! Deliberately absent: TLS (the interface listens on loopback; anything else is reached
//! through a tunnel or a terminator), redirects, proxies, retries.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cli::failure::{Exit, Failure};
use crate::cli::print::plain;
use crate::cli::value;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for one exchange, beyond what the server was asked to wait.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most lines shown of an answer in plain text.
const PLAIN_LINES_MAX: usize = 8;
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why an exchange gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one this client can reach.
    #[error("malformed address `{url}`: expected http://HOST:PORT")]
    Address {
        /// As given.
        url: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {url}: {cause} ({remedy})")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        cause: String,
        /// What to look at.
        remedy: &'static str,
    },
    /// Somebody is there and does not answer.
    #[error("{url} did not answer within {}s", after.as_secs())]
    TimedOut {
        /// Where.
        url: String,
        /// For how long it was given.
        after: Duration,
    },
    /// The answer is not what the interface promises.
    #[error("{url} gave an answer that makes no sense: {why}")]
    Answer {
        /// Where.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No token, or one that is not taken.
    #[error("{url} refused {}", token_text(token_file.as_deref()))]
    Unauthorized {
        /// Where.
        url: String,
        /// Where the token came from.
        token_file: Option<PathBuf>,
    },
    /// The server keeps it until somebody else approves; nothing is done yet.
    #[error("held for a second approval, nothing is revoked yet: {what}")]
    Held {
        /// What is held, in words.
        what: String,
        /// What to do about each.
        remedies: Vec<String>,
    },
    /// The server says no, and why.
    #[error("{problem}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it says.
        problem: Problem,
    },
}

impl ClientError {
    /// Whether the same request may succeed a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            _ => false,
        }
    }

    /// Whether the record was changed by somebody else in between.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::CONFLICT, .. })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Address { .. } => Exit::Usage,
            ClientError::Refused { status, .. }
                if matches!(*status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) =>
            {
                Exit::Input
            }
            _ => Exit::Failure,
        };
        let message = error.to_string();
        let details = match error {
            ClientError::Refused { problem, .. } => problem.errors,
            ClientError::Held { remedies, .. } => remedies,
            _ => Vec::new(),
        };
        Self::new(exit, message).with_details(details)
    }
}

/// Problem details.
///
/// # Standard
/// RFC 9457; `errors` is our extension: a path and a message each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    text: String,
    errors: Vec<String>,
}

impl Problem {
    /// Reads an answer's body; what is no problem details gives the status, and its lines if it is plain text.
    pub fn read(status: StatusCode, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| value.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(plain);
        let text = match (field("title"), field("detail")) {
            (Some(title), Some(detail)) => format!("{title}: {detail}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => format!("the answer was {status}"),
        };
        let errors = if value.is_null() { plain_lines(body) } else { fault_lines(&value, "errors") };
        Self { text, errors }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an answer says is held: one change, or a list of them.
fn held(answer: &Value) -> ClientError {
    let all = match answer.get("held") {
        Some(Value::Array(all)) => all.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    let text = |held: &Value, name: &str| plain(held.get(name).and_then(Value::as_str).unwrap_or_default());
    let what = all.iter().map(|held| {
        let number = |name: &str| held.get(name).and_then(Value::as_u64).unwrap_or_default();
        let (id, what, tenant) = (text(held, "id"), text(held, "what"), text(held, "tenant"));
        let (denied, limit) = (number("denied"), number("limit"));
        format!("`{id}` ({what}, tenant {tenant}) comes to {denied} denied identities, at most {limit} are let through")
    });
    let what = what.collect::<Vec<_>>().join("; ");
    let approvals = all.iter().map(|held| {
        format!("as another principal: portreeve revocation approve {} --reason …", text(held, "id"))
    });
    let alone = "or alone, on record: the same command again with --break-glass";
    let remedies = approvals.chain(std::iter::once(alone.to_owned())).collect();
    ClientError::Held { what, remedies }
}

/// What an answer of success warns of, a line each.
pub fn warnings(answer: &Value) -> Vec<String> {
    fault_lines(answer, "warnings")
}

fn fault_lines(value: &Value, field: &str) -> Vec<String> {
    let faults = value.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    faults.iter().map(error_line).collect()
}

/// The first lines of a plain text; none of a page.
fn plain_lines(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    if text.trim_start().starts_with('<') {
        return Vec::new();
    }
    text.lines().filter(|line| !line.is_empty()).take(PLAIN_LINES_MAX).map(plain).collect()
}

fn error_line(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(plain);
    match (text("path").filter(|path| !path.is_empty()), text("message")) {
        (Some(path), Some(message)) => format!("{path}: {message}"),
        (None, Some(message)) => message,
        _ => plain(&error.to_string()),
    }
}

fn token_text(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("the token in `{}`", file.display()),
        None => "a request without a token (name its file: --token-file, PORTREEVE_TOKEN_FILE)".to_owned(),
    }
}

/// An answer with a status of success.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body, whole.
    pub body: Bytes,
}

/// Talks to one server.
pub struct Client {
    base: Base,
    remedy: &'static str,
    bearer: Option<HeaderValue>,
    token_file: Option<PathBuf>,
}

struct Base {
    url: String,
    authority: String,
    address: String,
    prefix: String,
}

impl Client {
    /// A client for the server at `url`; `remedy` is what to look at when nobody answers.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `url` is not `http://HOST[:PORT][/PREFIX]`.
    pub fn new(url: &str, remedy: &'static str) -> Result<Self, ClientError> {
        let base = Base::parse(url).ok_or_else(|| {
            // What stands before an `@` may be a password.
            let shown = url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, rest)| format!("…@{rest}"));
            ClientError::Address { url: shown }
        })?;
        Ok(Self { base, remedy, bearer: None, token_file: None })
    }

    /// The same client, sending the token that `file` holds.
    ///
    /// # Errors
    /// A [`Failure`] when the file does not hold one token.
    pub fn with_token_file(mut self, file: &Path) -> Result<Self, Failure> {
        let token = value::read_secret(file)?;
        let text = zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()));
        // INVARIANT: a secret is printable ASCII, which every header value may hold.
        let mut bearer = HeaderValue::from_str(&text).expect("printable ASCII");
        bearer.set_sensitive(true);
        self.bearer = Some(bearer);
        self.token_file = Some(file.to_owned());
        Ok(self)
    }

    /// Whether the server is this machine.
    pub fn is_local(&self) -> bool {
        let host = self.base.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Gets a JSON value.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None, Duration::ZERO).await
    }

    /// Gets a JSON value from an address that may take `wait` to answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None, wait).await
    }

    /// Posts a JSON value and gets one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(Method::POST, path, Some(body), Duration::ZERO).await
    }

    /// Puts a JSON value and gets one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(Method::PUT, path, Some(body), Duration::ZERO).await
    }

    /// Deletes; gets a JSON value, null when the answer is empty.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::DELETE, path, None, Duration::ZERO).await
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Value, ClientError> {
        let may_be_empty = method == Method::DELETE;
        let answer = self.exchange(method, path, body, wait).await?;
        if answer.body.is_empty() && may_be_empty {
            return Ok(Value::Null);
        }
        let value: Value =
            serde_json::from_slice(&answer.body).map_err(|error| self.nonsense(path, error))?;
        match (answer.status, value.get("held")) {
            (StatusCode::ACCEPTED, Some(_)) => Err(held(&value)),
            (StatusCode::ACCEPTED, None) => {
                Err(self.nonsense(path, "it holds something, and does not say what"))
            }
            // Whoever answers with less is no hub.
            _ if !(value.is_object() || value.is_array()) => Err(self.nonsense(path, "it is no object")),
            _ => Ok(value),
        }
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// Any [`ClientError`]; a status other than success is one.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Answer, ClientError> {
        let request = self.request(method, path, body)?;
        let stream = self.connect().await?;
        let after = EXCHANGE_TIMEOUT.saturating_add(wait);
        let (status, body) = tokio::time::timeout(after, send(stream, request))
            .await
            .map_err(|_| ClientError::TimedOut { url: self.url(path), after })?
            .map_err(|error| self.nonsense(path, error))?;
        match status {
            StatusCode::UNAUTHORIZED => {
                Err(ClientError::Unauthorized { url: self.url(path), token_file: self.token_file.clone() })
            }
            _ if status.is_success() => Ok(Answer { status, body }),
            _ => Err(ClientError::Refused { status, problem: Problem::read(status, &body) }),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.prefix))
            .header(HOST, &self.base.authority);
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        request.body(Full::new(bytes)).map_err(|_| ClientError::Address { url: self.url(path) })
    }

    async fn connect(&self) -> Result<TcpStream, ClientError> {
        let fault = |cause: String| ClientError::Unreachable {
            url: self.base.url.clone(),
            cause,
            remedy: self.remedy,
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.base.address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(fault(error.to_string())),
            Err(_) => Err(fault(format!("no connection within {}s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base.url)
    }

    /// What an answer at `path` is that lacks what was promised.
    pub(super) fn nonsense(&self, path: &str, error: impl std::fmt::Display) -> ClientError {
        ClientError::Answer { url: self.url(path), why: error.to_string() }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.base.url).finish_non_exhaustive()
    }
}

impl Base {
    fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let authority = uri.authority()?;
        let plain = uri.scheme_str() == Some("http") && !authority.as_str().contains('@');
        if !plain || uri.query().is_some() {
            return None;
        }
        let port = match (authority.port_u16(), authority.as_str() == authority.host()) {
            (Some(port), _) if port > 0 => port,
            (None, true) => 80,
            // Never another server than the one that was named.
            _ => return None,
        };
        let address = format!("{}:{port}", authority.host());
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let url = url.trim_end_matches('/').to_owned();
        Some(Self { url, authority: authority.to_string(), address, prefix })
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn send(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), AnyError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok((status, body))
    };
    // The connection only moves bytes: how it ended is seen by the exchange.
    let carry = async move {
        connection.await.unwrap_or_default();
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = carry => match never {},
    }
}

/// Encodes a value for a query.
pub fn query_value(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, address, prefix) in [
            ("http://127.0.0.1:7411", "127.0.0.1:7411", ""),
            ("http://127.0.0.1:7411/", "127.0.0.1:7411", ""),
            ("http://hub.example/portreeve/", "hub.example:80", "/portreeve"),
            ("http://[::1]:7411", "[::1]:7411", ""),
        ] {
            let base = Base::parse(url).expect("an address");
            assert_eq!((base.address.as_str(), base.prefix.as_str()), (address, prefix), "{url}");
        }
        let hosts =
            ["", "127.0.0.1:7411", "https://hub.example", "http://", "http://a:b@hub", "/v1", "http://h/?q"];
        let ports =
            ["http://h:", "http://h:0", "http://h:65536", "http://h:74110", "http://h:x", "http://[::1]:"];
        for bad in hosts.into_iter().chain(ports) {
            assert!(Base::parse(bad).is_none(), "{bad:?}");
        }
        assert!(Base::parse("http://h:65535").is_some());
        let shown = Client::new("http://me:secret@hub:1", "").unwrap_err().to_string();
        assert!(shown.contains("…@hub:1") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn only_this_machine_is_local() {
        for (url, local) in [
            ("http://127.0.0.1:7411", true),
            ("http://[::1]:7411", true),
            ("http://localhost", true),
            ("http://10.0.0.1:7411", false),
            ("http://127.0.0.1.example", false),
        ] {
            assert_eq!(Client::new(url, "").expect("an address").is_local(), local, "{url}");
        }
    }

    #[test]
    fn problems() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        for (body, text, errors) in [
            (r#"{"title":"invalid record","detail":"2 faults"}"#, "invalid record: 2 faults", vec![]),
            (
                r#"{"title":"no","errors":[{"path":"/spec/iss","message":"missing"}]}"#,
                "no",
                vec!["/spec/iss: missing"],
            ),
            ("<html>", "the answer was 422 Unprocessable Entity", vec![]),
            (
                "not ready\n\na\u{1b}b\n",
                "the answer was 422 Unprocessable Entity",
                vec!["not ready", "a\\u{1b}b"],
            ),
            (r#"{"detail":"a\u001b[0m"}"#, "a\\u{1b}[0m", vec![]),
        ] {
            let problem = Problem::read(status, body.as_bytes());
            assert_eq!(problem.to_string(), text);
            assert_eq!(problem.errors, errors);
        }
        assert_eq!(query_value("a b/ü"), "a%20b%2F%C3%BC");
    }
}
