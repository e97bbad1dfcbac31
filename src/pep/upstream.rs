//! Connections to upstreams, kept per worker: no lock is ever contended, and a request
//! leaves by the core it came in on.

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use crate::core::evidence::Released;
use crate::core::policy::Reason;
use crate::pep::assertion::AssertionSettings;
use crate::pep::exchanges::Open;
use crate::pep::upload::Upload;
use crate::telemetry::metrics::{Metrics, UpstreamFailure, UpstreamMetrics};

mod credential;
mod health;
mod secure;

pub use credential::{CredentialForm, UpstreamCredential};
pub use health::{HealthChecks, HealthReport, HealthRule, HealthState, Pause, UpstreamHealth};
pub use secure::{UpstreamFileError, UpstreamFiles, UpstreamTls};

/// Where an upstream is.
#[derive(Clone, Debug)]
pub enum UpstreamAddress {
    /// Name or address, and port; in clear.
    Clear(Arc<str>, u16),
    /// The same, by TLS.
    Secure(Arc<str>, u16, Arc<UpstreamTls>),
    /// A socket of this machine.
    Socket(Arc<Path>),
}

/// Where allowed requests go.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Where it is.
    pub address: UpstreamAddress,
    /// Speaks HTTP/2 (gRPC), without TLS by prior knowledge; else HTTP/1.1.
    pub http2: bool,
    /// What it is shown in place of the caller's credential.
    pub credential: Option<Arc<UpstreamCredential>>,
    /// What is asserted to it of the caller.
    pub assertion: Option<AssertionSettings>,
    /// Longest time to reach it, name resolution included.
    pub connect_timeout: Duration,
    /// Longest silence between the request, or a piece of its body, and the answer's head.
    pub response_timeout: Duration,
    /// Idle connections kept, per worker.
    pub idle_max: usize,
    /// What checks have found; `None`: it is not checked.
    pub health: Option<Arc<UpstreamHealth>>,
}

impl UpstreamSettings {
    /// An HTTP/1.1 upstream with default times: 1 s to connect, 30 s to answer, 256 idle connections.
    pub const fn new(host: Arc<str>, port: u16) -> Self {
        Self {
            address: UpstreamAddress::Clear(host, port),
            http2: false,
            credential: None,
            assertion: None,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(30),
            idle_max: 256,
            health: None,
        }
    }

    /// Whether checks have found that it does not answer.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.is_unhealthy())
    }

    /// Whether it has files that can change.
    pub const fn has_files(&self) -> bool {
        matches!(self.address, UpstreamAddress::Secure(..)) || self.credential.is_some()
    }

    /// Takes over what has changed in its files. Blocks.
    pub fn look(&self) {
        if let UpstreamAddress::Secure(_, _, tls) = &self.address {
            tls.look();
        }
        if let Some(credential) = &self.credential {
            credential.look();
        }
    }
}

/// One worker's connections to all upstreams.
#[derive(Debug)]
pub(crate) struct Upstreams(HashMap<Arc<str>, Upstream>);

impl Upstreams {
    /// Begins without connections.
    pub(crate) fn new<'a>(
        settings: impl IntoIterator<Item = (&'a Arc<str>, &'a UpstreamSettings)>,
        metrics: &Metrics,
    ) -> Self {
        let upstream = |(name, settings): (&'a Arc<str>, &'a UpstreamSettings)| {
            let pool = Arc::new(Pool { idle: Mutex::new(Vec::new()), max: settings.idle_max });
            let metrics = metrics.upstream(name);
            let upstream = Upstream {
                name: Arc::clone(name),
                settings: settings.clone(),
                metrics,
                pool,
                shared: Mutex::new(None),
                troubled: AtomicBool::new(false),
            };
            (Arc::clone(name), upstream)
        };
        Self(settings.into_iter().map(upstream).collect())
    }

    /// The upstream a decision names.
    pub(crate) fn of(&self, released: &Released) -> Option<&Upstream> {
        self.0.get(released.upstream())
    }
}

/// One upstream, as one worker sees it.
#[derive(Debug)]
pub(crate) struct Upstream {
    name: Arc<str>,
    settings: UpstreamSettings,
    metrics: UpstreamMetrics,
    pool: Arc<Pool>,
    shared: Mutex<Option<Shared>>,
    /// The last attempt to connect failed.
    troubled: AtomicBool,
}

/// A connection of many exchanges, and the edition of the files it was verified by.
#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<Upload>,
    edition: u64,
}

impl Upstream {
    /// Its settings.
    pub(crate) const fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// Its counters.
    pub(crate) const fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// A connection that is open already, the last used first. One that was verified by files of
    /// before a change is finished, and takes no further request.
    pub(crate) fn open(&self) -> Option<Connection> {
        let edition = self.edition();
        if self.settings.http2 {
            let shared = self.shared.lock();
            let usable = |shared: &&Shared| shared.edition == edition && !shared.sender.is_closed();
            return shared.as_ref().filter(usable).map(|shared| Connection::Http2(shared.sender.clone()));
        }
        self.pool.take(edition).map(Connection::Http1)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Whether it could not be reached, or is not whom it must be. The first failure of several is a warning.
    pub(crate) async fn connect(&self) -> Result<Connection, UpstreamFailure> {
        let connecting = tokio::time::timeout(self.settings.connect_timeout, self.handshake());
        let error = match connecting.await {
            Ok(Ok(connection)) => {
                if self.troubled.swap(false, Ordering::Relaxed) {
                    tracing::info!(upstream = &*self.name, "upstream is reached again");
                }
                return Ok(connection);
            }
            Ok(Err(error)) => error,
            Err(_) => ConnectError::Io(std::io::ErrorKind::TimedOut.into()),
        };
        let upstream = &*self.name;
        if self.troubled.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, upstream, "upstream cannot be reached");
        } else {
            tracing::warn!(%error, upstream, "upstream cannot be reached");
        }
        Err(error.kind())
    }

    /// Where `connection` goes when the answer's body has ended; `None` for a shared one.
    pub(crate) fn returning(&self, connection: Connection) -> Option<Returning> {
        match connection {
            Connection::Http1(own) => Some(Returning { pool: Arc::clone(&self.pool), own }),
            Connection::Http2(_) => None,
        }
    }

    fn edition(&self) -> u64 {
        match &self.settings.address {
            UpstreamAddress::Secure(_, _, tls) => tls.edition(),
            UpstreamAddress::Clear(..) | UpstreamAddress::Socket(_) => 0,
        }
    }

    async fn handshake(&self) -> Result<Connection, ConnectError> {
        match &self.settings.address {
            UpstreamAddress::Clear(host, port) => self.speak(reach(host, *port).await?, 0).await,
            UpstreamAddress::Secure(host, port, tls) => {
                let stream = reach(host, *port).await?;
                let (stream, edition) = tls.connect(stream).await.map_err(ConnectError::Tls)?;
                self.speak(stream, edition).await
            }
            UpstreamAddress::Socket(path) => self.speak(UnixStream::connect(path).await?, 0).await,
        }
    }

    async fn speak<S>(&self, stream: S, edition: u64) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        // The tasks that drive connections belong to the worker's runtime and end with it.
        if self.settings.http2 {
            let (sender, connection) = http2_client().handshake(io).await?;
            tokio::spawn(async move { log_end(connection.await) });
            *self.shared.lock() = Some(Shared { sender: sender.clone(), edition });
            return Ok(Connection::Http2(sender));
        }
        let (sender, connection) =
            http1::Builder::new().writev(false).max_buf_size(HEAD_BYTES_MAX).handshake(io).await?;
        let driven = tokio::spawn(async move { log_end(connection.with_upgrades().await) });
        Ok(Connection::Http1(Own { sender, task: driven.abort_handle(), edition }))
    }
}

async fn reach(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

fn http2_client() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .max_header_list_size(32 * 1024)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        // One caller's cancellations must not end a connection that others share.
        .max_local_error_reset_streams(10_000);
    builder
}

fn log_end(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "upstream connection ended");
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl ConnectError {
    const fn kind(&self) -> UpstreamFailure {
        match self {
            Self::Io(_) | Self::Http(_) => UpstreamFailure::Connect,
            Self::Tls(_) => UpstreamFailure::Tls,
        }
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub(crate) enum Connection {
    /// For one exchange at a time.
    Http1(Own),
    /// One of several handles of a shared connection.
    Http2(http2::SendRequest<Upload>),
}

/// A connection of one exchange at a time, and the task that drives it: without that it is closed.
#[derive(Debug)]
pub(crate) struct Own {
    sender: http1::SendRequest<Upload>,
    task: AbortHandle,
    edition: u64,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The connection was dead before anything was sent: proof and request are given back.
    Unsent(Box<(Released, Request<Upload>)>),
    /// Something may have been sent.
    Failed(UpstreamFailure),
    /// The caller's body broke off.
    Unasked,
    /// The exchange was ended while it waited.
    Severed(Reason),
}

impl Connection {
    /// Sends a request for `open`. This is the effect an allow stands for, and it takes the proof.
    pub(crate) async fn send(
        &mut self,
        released: Released,
        request: Request<Upload>,
        silence: Duration,
        open: &Open,
    ) -> Result<Response<Incoming>, Unanswered> {
        let progress = request.body().progress().cloned();
        if let Self::Http1(own) = self {
            open.lend(own.task.clone());
        }
        let answer = async {
            match self {
                Self::Http1(own) => own.sender.try_send_request(request).await,
                Self::Http2(sender) => sender.try_send_request(request).await,
            }
        };
        tokio::pin!(answer);
        let mut seen = 0;
        loop {
            let answered = tokio::select! {
                biased;
                reason = open.severed() => return Err(Unanswered::Severed(reason)),
                answered = tokio::time::timeout(silence, answer.as_mut()) => answered,
            };
            match answered {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => {
                    return Err(match error.take_message() {
                        Some(request) => Unanswered::Unsent(Box::new((released, request))),
                        None if progress.as_ref().is_some_and(|progress| progress.is_broken()) => {
                            Unanswered::Unasked
                        }
                        None => {
                            tracing::debug!(error = %error.error(), "upstream gave no answer");
                            Unanswered::Failed(UpstreamFailure::Reset)
                        }
                    });
                }
                Err(_) => match progress.as_ref().map(|progress| progress.frames()) {
                    Some(frames) if frames > seen => seen = frames,
                    _ => return Err(Unanswered::Failed(UpstreamFailure::Timeout)),
                },
            }
        }
    }
}

/// A connection that is in use until a body ends.
#[derive(Debug)]
pub(crate) struct Returning {
    pool: Arc<Pool>,
    own: Own,
}

impl Returning {
    /// Puts the connection back, at once if it can take a request, else when it can.
    pub(crate) fn give_back(self) {
        let Self { pool, mut own } = self;
        if own.sender.is_ready() {
            pool.put(own);
        } else if !own.sender.is_closed() {
            tokio::spawn(async move {
                let ready = poll_fn(|context| own.sender.poll_ready(context));
                if let Ok(Ok(())) = tokio::time::timeout(SETTLE, ready).await {
                    pool.put(own);
                }
            });
        }
    }
}

/// How long a connection may take to be ready for the next request.
const SETTLE: Duration = Duration::from_secs(1);

/// Longest time a connection stays idle.
const IDLE: Duration = Duration::from_secs(60);

/// Idle connections, last in, first out: the warmest is used, the coldest age and go.
#[derive(Debug)]
struct Pool {
    idle: Mutex<Vec<(Instant, Own)>>,
    max: usize,
}

impl Pool {
    fn take(&self, edition: u64) -> Option<Own> {
        let mut idle = self.idle.lock();
        while let Some((since, own)) = idle.pop() {
            if own.edition == edition && own.sender.is_ready() && since.elapsed() < IDLE {
                return Some(own);
            }
        }
        None
    }

    fn put(&self, own: Own) {
        let mut idle = self.idle.lock();
        let aged = idle.iter().take_while(|(since, own)| since.elapsed() >= IDLE || own.sender.is_closed());
        let aged = aged.count();
        idle.drain(..aged);
        if idle.len() < self.max {
            idle.push((Instant::now(), own));
        }
    }
}
