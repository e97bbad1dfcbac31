//! Listeners: an address, its workers, their sockets and their end.
//!
//! Each worker is a thread with a runtime and a socket of its own (`SO_REUSEPORT`): a
//! connection stays on the core that accepted it. All sockets are bound before any
//! worker starts, so that a port in use is an error at start.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pep::limits::Limits;
use crate::pep::load::Load;
use crate::pep::serve::{self, Front, Serving};
use crate::pep::tls::ListenerTls;
use crate::telemetry::metrics::ListenerMetrics;

/// A listener as configured.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Its name in evidence, metrics and messages.
    pub name: Arc<str>,
    /// Where it listens; port 0 takes any free port.
    pub address: SocketAddr,
    /// How many workers serve it; at least 1.
    pub workers: usize,
    /// TLS, or clear text.
    pub tls: Option<Arc<ListenerTls>>,
    /// Bounds.
    pub limits: Limits,
    /// What it takes on at once.
    pub load: Arc<Load>,
}

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be taken.
    #[error("listener `{listener}` cannot listen on {address}: {source}; {remedy}")]
    Address {
        /// The listener.
        listener: Arc<str>,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
}

/// A listener's sockets, bound, not yet served.
#[derive(Debug)]
pub struct Bound {
    settings: ListenerSettings,
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Bound {
    /// Binds a socket for each worker.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken.
    pub fn bind(settings: ListenerSettings) -> Result<Self, BindError> {
        let (address, sockets) = sockets(&settings).map_err(|source| BindError::Address {
            listener: Arc::clone(&settings.name),
            address: settings.address,
            remedy: remedy(&source),
            source,
        })?;
        Ok(Self { settings, address, sockets })
    }

    /// Where it listens, with the port that was taken.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts its workers.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue; workers started before stop again.
    pub fn start<F: Front>(self, front: &F) -> io::Result<Running> {
        let shared = Arc::new(Shared {
            name: Arc::clone(&self.settings.name),
            open: AtomicUsize::new(0),
            limits: self.settings.limits,
            load: self.settings.load,
            metrics: Arc::clone(front.metrics()),
            tls: self.settings.tls,
        });
        let stop = CancellationToken::new();
        let mut running = Running { address: self.address, stop: stop.clone(), workers: Vec::new() };
        for (index, socket) in self.sockets.into_iter().enumerate() {
            let serving =
                Serving::<F>::new(front.worker(), &shared.limits, Arc::clone(&shared.metrics), &stop);
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            let (done, unfinished) = oneshot::channel();
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(format!("{}-{index}", shared.name));
            // The event loop is made on its thread: one that finds no thread could not be dropped here.
            let thread = thread.spawn(move || {
                let runtime = match event_loop() {
                    Ok(runtime) => runtime,
                    // Whoever starts it waits for this.
                    Err(error) => return tell.send(Err(error)).unwrap_or_default(),
                };
                tell.send(Ok(())).unwrap_or_default();
                let left = runtime.block_on(work(socket, &shared, &serving, &stop));
                runtime.shutdown_background();
                if done.send(left).is_err() {
                    tracing::debug!("nobody waits for this worker's end");
                }
            })?;
            told.recv().unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))?;
            running.workers.push(Worker { thread, unfinished });
        }
        Ok(running)
    }
}

fn event_loop() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()
}

/// Polls of tasks between looks at the event queue: 6 % less CPU a request than the default, measured.
const EVENT_INTERVAL: u32 = 256;

/// What the workers of a listener share.
struct Shared {
    name: Arc<str>,
    open: AtomicUsize,
    limits: Limits,
    load: Arc<Load>,
    metrics: Arc<ListenerMetrics>,
    tls: Option<Arc<ListenerTls>>,
}

/// A listener at work. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    unfinished: oneshot::Receiver<usize>,
}

/// How a listener ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drained {
    /// Connections that were cut because their exchanges outlasted the drain timeout.
    pub cut: usize,
    /// Workers that had ended before they were told to.
    pub lost: usize,
}

impl Running {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it stop accepting, without waiting for exchanges under way.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops accepting, lets exchanges under way finish up to the drain timeout, and ends.
    pub async fn stop(mut self) -> Drained {
        self.stop.cancel();
        let mut drained = Drained::default();
        for worker in std::mem::take(&mut self.workers) {
            match worker.unfinished.await {
                Ok(cut) => drained.cut += cut,
                Err(_) => drained.lost += 1,
            }
            // The worker has said its last word: its thread is about to end.
            if worker.thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        drained
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Accepts until told to stop, then drains; gives the number of connections cut.
async fn work<F: Front>(
    socket: TcpListener,
    shared: &Arc<Shared>,
    serving: &Serving<F>,
    stop: &CancellationToken,
) -> usize {
    let connections = TaskTracker::new();
    match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => accept(&socket, shared, serving, stop, &connections).await,
        Err(error) => {
            tracing::error!(%error, listener = %shared.name, "listener cannot watch its socket");
        }
    }
    connections.close();
    if tokio::time::timeout(shared.limits.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(listener = %shared.name, cut = connections.len(), "drain timeout is over");
    }
    connections.len()
}

async fn accept<F: Front>(
    socket: &tokio::net::TcpListener,
    shared: &Arc<Shared>,
    serving: &Serving<F>,
    stop: &CancellationToken,
    connections: &TaskTracker,
) {
    let mut troubled = false;
    let take = |stream, peer| {
        let Some(place) = Place::take(shared) else { return };
        let serving = serving.clone();
        let stop = stop.clone();
        connections.spawn(async move { connection(stream, peer, place, serving, stop).await });
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => {
                // Whoever is connected already must not be reset with the socket. Each turn counts against
                // the runtime's patience with a task, which would make a long queue look empty.
                for _ in 0..BACKLOG {
                    match tokio::task::unconstrained(socket.accept()).now_or_never() {
                        Some(Ok((stream, peer))) => take(stream, peer),
                        Some(Err(error)) if is_the_connections(&error) => {}
                        Some(Err(_)) | None => break,
                    }
                }
                return;
            }
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if std::mem::take(&mut troubled) {
                    tracing::info!(listener = %shared.name, "connections are accepted again");
                }
                take(stream, peer);
            }
            Err(error) if is_the_connections(&error) => {}
            Err(error) => {
                shared.metrics.accept_failed();
                if !std::mem::replace(&mut troubled, true) {
                    tracing::error!(%error, listener = %shared.name, "no connection can be accepted; tried again until one can");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(BACK_OFF) => {}
                }
            }
        }
    }
}

/// Pause after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Whether a failed accept concerns the one connection only.
fn is_the_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection<F: Front>(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    serving: Serving<F>,
    stop: CancellationToken,
) {
    let outcome = match &place.0.tls {
        None => serve::clear(stream, peer, &serving, &stop).await,
        Some(tls) => {
            let (acceptor, trust) = tls.acceptor();
            // Apart, so that a connection in clear does not have the room for a handshake.
            Box::pin(serve::encrypted(stream, peer, (&acceptor, trust.as_ref()), &serving, &stop)).await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, listener = %place.0.name, "connection ended");
    }
}

/// A connection's place among those a listener may have.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.open.fetch_add(1, Ordering::Relaxed);
        if before >= shared.limits.connections_max || !shared.load.takes_connections() {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.connection_refused();
            return None;
        }
        shared.metrics.connections().inc();
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections().dec();
    }
}

fn sockets(settings: &ListenerSettings) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // Sockets with SO_REUSEPORT would share the port with another process of ours without a
    // word; one without it does not.
    if settings.address.port() != 0 {
        drop(socket(settings.address, false)?);
    }
    let first = socket(settings.address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..settings.workers {
        sockets.push(socket(address, true)?);
    }
    Ok((address, sockets))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections the system keeps waiting, per worker.
const BACKLOG: i32 = 4096;

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the process that has the port, or choose another `address`",
        io::ErrorKind::AddrNotAvailable => "choose an `address` that this host has",
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
        _ => "check `address`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pep::http::ProxyDoor;

    /// One for each connection, whatever it does: ten thousand that say nothing must cost little.
    #[test]
    fn a_connections_task_is_small() {
        fn size<A, B, C, D, E, T>(_: impl Fn(A, B, C, D, E) -> T) -> usize {
            size_of::<T>()
        }
        let size = size(connection::<ProxyDoor>);
        assert!(size <= 3072, "{size} bytes");
    }
}
