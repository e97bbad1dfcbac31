//! The health of an upstream: looked at in intervals, each time by a connection of its own.
//!
//! A check is nobody's request: it carries no credential and no identity, and is not recorded. It goes by the
//! same TLS, certificate and socket as requests do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{ConnectError, HEAD_BYTES_MAX, UpstreamAddress, UpstreamSettings, http2_client, reach};
use crate::pep::extract::forwarded_uri;
use crate::pep::headers;

/// How an upstream is checked, and when that turns it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthRule {
    /// What is asked for, with GET; `None`: a connection is enough.
    pub path: Option<Arc<str>>,
    /// From the end of a check to the next.
    pub interval: Duration,
    /// Longest time that a check may take.
    pub timeout: Duration,
    /// Checks in a row that pass until it is healthy again; at least 1.
    pub healthy_after: u32,
    /// Checks in a row that fail until it is unhealthy; at least 1.
    pub unhealthy_after: u32,
    /// Statuses that pass; none: 200 to 299.
    pub expected_status: Arc<[u16]>,
}

/// What is known of an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HealthState {
    /// No check has ended yet; it counts as healthy.
    Unknown,
    /// It gets requests.
    Healthy,
    /// It gets none.
    Unhealthy,
}

impl HealthState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What the checks of an upstream have found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthReport {
    /// What it counts as.
    pub state: HealthState,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Why the last one failed; `None`: it passed, or there was none.
    pub fault: Option<String>,
}

/// The health of one upstream, for all workers.
#[derive(Debug)]
pub struct UpstreamHealth {
    rule: HealthRule,
    unhealthy: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Debug)]
struct Tally {
    report: HealthReport,
    /// Checks in a row that went against the state.
    against: u32,
}

impl UpstreamHealth {
    /// Begins without a check.
    pub const fn new(rule: HealthRule) -> Self {
        let report = HealthReport { state: HealthState::Unknown, passed: 0, failed: 0, fault: None };
        Self { rule, unhealthy: AtomicBool::new(false), tally: Mutex::new(Tally { report, against: 0 }) }
    }

    /// Whether requests are refused.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    /// What is known now.
    pub fn report(&self) -> HealthReport {
        self.tally.lock().report.clone()
    }

    /// Counts the end of a check; the new state, if that turned it.
    fn note(&self, ended: Result<(), String>) -> Option<HealthState> {
        let mut tally = self.tally.lock();
        let passed = ended.is_ok();
        let (count, needed, other) = if passed {
            (&mut tally.report.passed, self.rule.healthy_after, HealthState::Healthy)
        } else {
            (&mut tally.report.failed, self.rule.unhealthy_after, HealthState::Unhealthy)
        };
        *count += 1;
        tally.report.fault = ended.err();
        let unhealthy = tally.report.state == HealthState::Unhealthy;
        if passed != unhealthy {
            tally.against = 0;
            if passed {
                tally.report.state = HealthState::Healthy;
            }
            return None;
        }
        tally.against += 1;
        if tally.against < needed {
            return None;
        }
        tally.against = 0;
        tally.report.state = other;
        self.unhealthy.store(other == HealthState::Unhealthy, Ordering::Relaxed);
        Some(other)
    }
}

/// Waits for as long as it is told.
pub type Pause = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

/// Checks upstreams for as long as it runs.
pub struct HealthChecks {
    /// The upstreams; those without a check are left alone.
    pub upstreams: Vec<(Arc<str>, UpstreamSettings)>,
    /// What waits between checks.
    pub pause: Pause,
}

impl std::fmt::Debug for HealthChecks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HealthChecks").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl HealthChecks {
    /// Checks each at once, then in its interval, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let each = self.upstreams.iter().filter_map(|(name, settings)| {
            let health = settings.health.as_ref()?;
            Some(async {
                loop {
                    settings.check(name, health).await;
                    (self.pause)(health.rule.interval).await;
                }
            })
        });
        tokio::select! {
            () = stop.cancelled() => {}
            _ = join_all(each) => {}
        }
    }
}

impl UpstreamSettings {
    /// Makes one check.
    async fn check(&self, upstream: &str, health: &UpstreamHealth) {
        let timeout = health.rule.timeout;
        let ended = match tokio::time::timeout(timeout, self.probe(&health.rule)).await {
            Ok(ended) => ended.map_err(|fault| fault.to_string()),
            Err(_) => Err(format!("no end within {} ms", timeout.as_millis())),
        };
        let fault = ended.as_ref().err().cloned().unwrap_or_default();
        match health.note(ended) {
            Some(HealthState::Unhealthy) => {
                tracing::warn!(upstream, fault, "upstream is unhealthy: requests for it are refused");
            }
            Some(_) => tracing::info!(upstream, "upstream is healthy again"),
            None => tracing::debug!(upstream, fault, "upstream was checked"),
        }
    }

    async fn probe(&self, rule: &HealthRule) -> Result<(), ProbeFault> {
        let connect = |error: std::io::Error| ProbeFault::Connect(error.into());
        match &self.address {
            UpstreamAddress::Clear(host, port) => {
                self.ask(rule, reach(host, *port).await.map_err(connect)?).await
            }
            UpstreamAddress::Secure(host, port, tls) => {
                let stream = reach(host, *port).await.map_err(connect)?;
                let (stream, _) = tls.connect(stream).await.map_err(ConnectError::Tls)?;
                self.ask(rule, stream).await
            }
            UpstreamAddress::Socket(path) => {
                self.ask(rule, UnixStream::connect(path).await.map_err(connect)?).await
            }
        }
    }

    async fn ask<S>(&self, rule: &HealthRule, stream: S) -> Result<(), ProbeFault>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(path) = &rule.path else { return Ok(()) };
        let io = TokioIo::new(stream);
        let request = self.question(path).ok_or(ProbeFault::Unnamed)?;
        let answered = if self.http2 {
            let (mut sender, connection) = http2_client().handshake(io).await.map_err(ConnectError::Http)?;
            answered(sender.send_request(request), connection).await
        } else {
            let mut builder = http1::Builder::new();
            let (mut sender, connection) =
                builder.max_buf_size(HEAD_BYTES_MAX).handshake(io).await.map_err(ConnectError::Http)?;
            answered(sender.send_request(request), connection).await
        };
        let status = answered.map_err(ConnectError::Http)?.status().as_u16();
        let passes = match &*rule.expected_status {
            [] => (200..300).contains(&status),
            some => some.contains(&status),
        };
        if passes { Ok(()) } else { Err(ProbeFault::Status(status)) }
    }

    /// What is asked; `None` where path or host are none that a request can name.
    fn question(&self, path: &str) -> Option<Request<Empty<Bytes>>> {
        let path = PathAndQuery::try_from(path).ok()?;
        let host = match &self.address {
            UpstreamAddress::Clear(host, port) | UpstreamAddress::Secure(host, port, _) => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                headers::value(format!("{open}{host}{close}:{port}"))
            }
            UpstreamAddress::Socket(_) => HeaderValue::from_static("localhost"),
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = forwarded_uri(&path, self.http2.then_some(&host))?;
        if self.http2 {
            *request.version_mut() = Version::HTTP_2;
        } else {
            request.headers_mut().insert(header::HOST, host);
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        Some(request)
    }
}

/// Drives the connection until there is an answer. It may end with it.
async fn answered(
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> hyper::Result<Response<Incoming>> {
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => return answered,
        // If that was its fault, the answer says so.
        _ = connection => {}
    }
    answer.await
}

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("portreeve/", env!("CARGO_PKG_VERSION"), " (health)"));

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum ProbeFault {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("status {0}")]
    Status(u16),
    #[error("no request can name its path at its host")]
    Unnamed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each letter is a check, `p` passed or `f` failed; below it the state after it.
    #[test]
    fn thresholds_hold_on_both_sides() {
        let rows = [
            // (healthy_after, unhealthy_after, checks, states)
            (2, 3, "pfff", "hhhu"),
            (2, 3, "ffpfff", "??hhhu"),
            (2, 3, "fffpp", "??uuh"),
            (2, 3, "fffpfpp", "??uuuuh"),
            (2, 3, "fffppffpfff", "??uuhhhhhhu"),
            (1, 1, "fpfp", "uhuh"),
            (3, 1, "pfpppf", "huuuhu"),
        ];
        for (healthy_after, unhealthy_after, checks, states) in rows {
            let health = UpstreamHealth::new(HealthRule {
                path: None,
                interval: Duration::ZERO,
                timeout: Duration::ZERO,
                healthy_after,
                unhealthy_after,
                expected_status: Arc::default(),
            });
            let mut before = HealthState::Unknown;
            for (at, (check, state)) in checks.chars().zip(states.chars()).enumerate() {
                let row = format!("{checks} at {at}");
                let ended = if check == 'p' { Ok(()) } else { Err("status 500".to_owned()) };
                let turned = health.note(ended);
                let expected = match state {
                    'h' => HealthState::Healthy,
                    'u' => HealthState::Unhealthy,
                    _ => HealthState::Unknown,
                };
                let report = health.report();
                assert_eq!(report.state, expected, "{row}");
                assert_eq!(health.is_unhealthy(), expected == HealthState::Unhealthy, "{row}");
                assert_eq!(report.fault.is_some(), check == 'f', "{row}");
                // The first to pass is no turn: it counted as healthy before.
                let turn = before != expected && before != HealthState::Unknown
                    || expected == HealthState::Unhealthy && before == HealthState::Unknown;
                assert_eq!(turned, turn.then_some(expected), "{row}");
                before = expected;
            }
            let report = health.report();
            assert_eq!(report.passed + report.failed, checks.len() as u64, "{checks}");
        }
    }
}
