//! One connection: which HTTP it speaks, its limits, its end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::core::credential::ClientCertificate;
use crate::mtls::DomainTrust;
use crate::pep::certificate;
use crate::pep::framing::{Doubts, FramedIo, FramedService};
use crate::pep::limits::{HEADERS_MAX, Limits};
use crate::pep::line::{self, Line, Resettable, Streams, Wire};
use crate::pep::meter::{FrameLimits, Meter};
use crate::pep::voucher::vouched;
use crate::pep::watch::{Waits, Watch, WatchedIo, WatchedService};
use crate::telemetry::metrics::{ConnectionEnd, ListenerMetrics};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A kind of front door: what a listener serves. Implemented by the doors of this room.
pub trait Front: 'static {
    /// What one worker needs, connections to upstreams for example.
    type Worker: Clone + Send + Sync + 'static;
    /// Answers the requests of one connection.
    type Service: Service<
            Request<Incoming>,
            Response = Response<Self::Body>,
            Error = Infallible,
            Future: Send + Unpin + 'static,
        > + Send
        + 'static;
    /// Answers' bodies.
    type Body: Body<Data: Send, Error: Into<Failure>> + Send + Unpin + 'static;

    /// Whether HTTP/1 is served beside HTTP/2.
    const HTTP1: bool = true;

    /// Makes a worker's share.
    fn worker(&self) -> Self::Worker;

    /// Makes a connection's service.
    fn service(worker: &Self::Worker, peer: Peer) -> Self::Service;

    /// Its counters.
    fn metrics(&self) -> &Arc<ListenerMetrics>;
}

/// The other side of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate that it showed, its chain verified.
    pub certificate: Option<ClientCertificate>,
}

/// What every connection of a worker is served with.
pub(crate) struct Serving<F: Front> {
    worker: F::Worker,
    http1: Arc<Builder<Streams>>,
    http2: Arc<Builder<Streams>>,
    metrics: Arc<ListenerMetrics>,
    waits: Waits,
    frames: FrameLimits,
    end_timeout: Duration,
}

impl<F: Front> Clone for Serving<F> {
    fn clone(&self) -> Self {
        Self {
            worker: self.worker.clone(),
            http1: Arc::clone(&self.http1),
            http2: Arc::clone(&self.http2),
            metrics: Arc::clone(&self.metrics),
            waits: self.waits,
            frames: self.frames,
            end_timeout: self.end_timeout,
        }
    }
}

impl<F: Front> Serving<F> {
    /// Sets the limits of connections.
    pub(crate) fn new(
        worker: F::Worker,
        limits: &Limits,
        metrics: Arc<ListenerMetrics>,
        stop: &CancellationToken,
    ) -> Self {
        let streams = Streams::new(limits.end_timeout, stop.clone());
        let mut http1 = Builder::new(streams.clone());
        // How long a head may take, `Watch` knows: the server's own timer counts idle time as well.
        http1
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(limits.head_bytes_max)
            .writev(false);
        if limits.headers_max > HEADERS_MAX {
            http1.http1().max_headers(limits.headers_max);
        }
        let mut http2 = Builder::new(streams);
        http2
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(limits.header_list_bytes_max)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(20)
            .max_send_buf_size(SEND_BYTES_MAX)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        if F::HTTP1 {
            http2.http2().enable_connect_protocol();
        }
        Self {
            worker,
            http1: Arc::new(http1.http1_only()),
            http2: Arc::new(http2.http2_only()),
            metrics,
            waits: Waits { head: limits.head_timeout, idle: limits.idle_timeout, send: limits.send_timeout },
            frames: FrameLimits { resets: limits.resets_max, control: limits.control_frames_max },
            end_timeout: limits.end_timeout,
        }
    }

    /// Watches a connection that begins now.
    fn watch(&self) -> Arc<Watch> {
        Watch::new(Instant::now(), self.waits, &self.metrics)
    }

    async fn run<I>(
        &self,
        io: I,
        peer: Peer,
        http2: bool,
        watch: Arc<Watch>,
        stop: &CancellationToken,
    ) -> Result<(), Failure>
    where
        I: Resettable + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let meter = http2.then(|| Meter::new(self.frames, Instant::now()));
        let io = WatchedIo::new(io, Arc::clone(&watch), meter);
        if http2 {
            // Each of its streams has a line of its own.
            let service = FramedService::new(F::service(&self.worker, peer), None);
            return self.serve(&self.http2, io, service, watch, stop).await;
        }
        if !F::HTTP1 {
            return Err("this listener speaks HTTP/2 only".into());
        }
        let line = Arc::<Line>::default();
        let doubts = Arc::<Doubts>::default();
        let io = FramedIo::new(Wire::new(io, Arc::clone(&line)), Arc::clone(&doubts));
        let service = FramedService::new(F::service(&self.worker, peer), Some(doubts));
        let served = self.serve(&self.http1, io, service, watch, stop);
        line.drive(self.end_timeout, stop, served).await.unwrap_or(Ok(()))
    }

    async fn serve<I>(
        &self,
        builder: &Builder<Streams>,
        io: I,
        service: FramedService<F::Service>,
        watch: Arc<Watch>,
        stop: &CancellationToken,
    ) -> Result<(), Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = WatchedService::new(service, Arc::clone(&watch));
        // Apart, and so what drives it: each layer around a future holds it twice, where it came from and where
        // it stays.
        let mut connection = Box::pin(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
        let (watched, http2) = (Arc::clone(&watch), std::ptr::eq(builder, &*self.http2));
        let served = Box::pin(async move {
            let looks = tokio::time::sleep_until(Instant::now());
            tokio::pin!(looks);
            let (mut stopping, mut leaving, mut idle) = (false, false, false);
            loop {
                tokio::select! {
                    biased;
                    outcome = connection.as_mut() => return outcome,
                    // HTTP/1: `Connection: close` on the answer under way. HTTP/2: GOAWAY.
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        leaving = !http2 && !watch.is_busy();
                        if leaving {
                            // A request may be on its way: it is answered, and told that it is the last.
                            looks.as_mut().reset(Instant::now() + LEAVE);
                        } else {
                            connection.as_mut().graceful_shutdown();
                        }
                    }
                    () = busy(&watch), if leaving => {
                        leaving = false;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = looks.as_mut() => match watch.look(Instant::now()) {
                        _ if std::mem::take(&mut leaving) => {
                            connection.as_mut().graceful_shutdown();
                            looks.as_mut().reset(Instant::now());
                        }
                        Ok(next) => looks.as_mut().reset(next),
                        Err(ConnectionEnd::Idle) if !idle => {
                            idle = true;
                            watch.count(ConnectionEnd::Idle);
                            connection.as_mut().graceful_shutdown();
                            looks.as_mut().reset(Instant::now() + self.end_timeout);
                        }
                        Err(end) => {
                            if end != ConnectionEnd::Idle {
                                watch.count(end);
                            }
                            // What of an answer has gone must not look whole.
                            line::kill_current();
                            return Ok(());
                        }
                    }
                }
            }
        });
        watched.over(served).await
    }
}

/// Serves a connection in clear text: HTTP/1, or HTTP/2 by prior knowledge.
pub(crate) async fn clear<F: Front>(
    stream: TcpStream,
    peer: SocketAddr,
    serving: &Serving<F>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let watch = serving.watch();
    let sniffed = tokio::select! {
        biased;
        sniffed = tokio::time::timeout(serving.waits.head, begins_with_preface(&stream)) => sniffed,
        () = left(stop) => return Ok(()),
    };
    let http2 = sniffed.inspect_err(|_| watch.count(ConnectionEnd::Head))??;
    serving.run(stream, Peer { address: peer, certificate: None }, http2, watch, stop).await
}

/// Serves a connection over TLS; ALPN chooses. `trust`: by whom its certificate was verified, if that changes.
pub(crate) async fn encrypted<F: Front>(
    stream: TcpStream,
    peer: SocketAddr,
    (tls, trust): (&TlsAcceptor, Option<&DomainTrust>),
    serving: &Serving<F>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let watch = serving.watch();
    let accepted = tokio::select! {
        biased;
        accepted = tokio::time::timeout(serving.waits.head, tls.accept(stream)) => accepted,
        () = left(stop) => return Ok(()),
    };
    let accepted = accepted.inspect_err(|_| watch.count(ConnectionEnd::Head))?;
    let stream = accepted.inspect_err(|_| serving.metrics.handshake_failed())?;
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let shown = session.peer_certificates().unwrap_or_default();
    let read =
        shown.first().map(|leaf| certificate::parse(leaf).ok_or("the certificate shown cannot be read"));
    let certificate = match (read.transpose()?, trust) {
        (Some(certificate), Some(trust)) => Some(vouched(certificate, shown, trust)),
        (certificate, _) => certificate,
    };
    serving.run(stream, Peer { address: peer, certificate }, http2, watch, stop).await
}

/// Some time after `stop`: whoever came just before may still ask.
async fn left(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LEAVE).await;
}

/// Ready once a request is under way, as seen when the connection has moved.
async fn busy(watch: &Watch) {
    std::future::poll_fn(|_| if watch.is_busy() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// How long a connection without a request is kept when the listener stops.
const LEAVE: Duration = Duration::from_millis(500);

/// Looks at the first bytes, which stay unread, for the preface of HTTP/2 (RFC 9113 §3.4).
async fn begins_with_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    let mut pause = SNIFF_PAUSE;
    loop {
        let seen = stream.peek(&mut first).await?;
        let (given, _) = first.split_at(seen);
        if seen == PREFACE.len() || seen == 0 || !PREFACE.starts_with(given) {
            return Ok(given == PREFACE);
        }
        // The bytes seen stay readable, so readiness says nothing about more of them.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SNIFF_PAUSE_MAX);
    }
}

/// Most bytes of an answer kept for one HTTP/2 stream that its caller does not take.
const SEND_BYTES_MAX: usize = 64 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// First and longest pause between looks at a preface that arrives in pieces.
const SNIFF_PAUSE: Duration = Duration::from_millis(5);
const SNIFF_PAUSE_MAX: Duration = Duration::from_millis(250);
