//! What carries one exchange to its caller, and can be cut whatever the caller does.
//!
//! Over HTTP/1 it is the connection, over HTTP/2 the task of one stream. A body that is not read
//! is not asked for its next piece, so an end that only the body knew of could wait for ever:
//! the line is driven from outside, and dropped.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::pep::load::InFlight;
use crate::pep::tunnel::Tunnel;
use crate::pep::watch::Busy;

tokio::task_local! {
    /// The line that the running task serves.
    static LINE: Arc<Line>;
}

/// A connection over HTTP/1, or a stream over HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// The number of the exchange it carries, times four, plus how far its end has come.
    state: AtomicU64,
    waker: AtomicWaker,
    /// What goes over it when its work is done.
    tunnel: Mutex<Option<Tunnel>>,
    /// Over HTTP/2: the task that sends what a tunnel writes.
    sender: Mutex<Option<AbortHandle>>,
}

/// It is to end as soon as the caller takes the end, and soon in any case.
const ASKED: u64 = 1;
/// It is over.
const CUT: u64 = 2;
const END: u64 = 3;
const NEXT: u64 = END + 1;

impl Line {
    /// Drives `work`, and then the tunnel that it has made, until it is done or the line is cut (`None`).
    /// An end that was asked for is waited for no longer than `patience`; at `stop` a tunnel says farewell.
    pub(crate) async fn drive<W: Future>(
        self: Arc<Self>,
        patience: Duration,
        stop: &CancellationToken,
        work: W,
    ) -> Option<W::Output> {
        let _emptied = Emptied(Arc::clone(&self));
        let done = self.work(patience, work).await?;
        let tunnel = self.tunnel.lock().take();
        if let Some(tunnel) = tunnel {
            tunnel.run(patience, stop, &self).await;
        }
        Some(done)
    }

    async fn work<W: Future>(self: &Arc<Self>, patience: Duration, work: W) -> Option<W::Output> {
        let work = LINE.scope(Arc::clone(self), work);
        tokio::pin!(work);
        tokio::select! {
            biased;
            () = self.over(patience) => None,
            done = work => Some(done),
        }
    }

    async fn over(&self, patience: Duration) {
        if self.reached(ASKED).await < CUT {
            // Out of time, or cut: over either way.
            tokio::time::timeout(patience, self.reached(CUT)).await.unwrap_or(CUT);
            self.kill();
        }
    }

    /// Whatever is dropped from here on ends in a reset.
    pub(crate) fn kill(&self) {
        self.state.fetch_or(CUT, Ordering::SeqCst);
        if let Some(sender) = self.sender.lock().take() {
            sender.abort();
        }
    }

    async fn reached(&self, end: u64) -> u64 {
        poll_fn(|context| {
            self.waker.register(context.waker());
            let now = self.state.load(Ordering::SeqCst) & END;
            if now >= end { Poll::Ready(now) } else { Poll::Pending }
        })
        .await
    }

    fn is_cut(&self) -> bool {
        self.state.load(Ordering::SeqCst) & END >= CUT
    }
}

/// Kills the line that the running task serves, if it serves one.
pub(crate) fn kill_current() {
    // A connection over HTTP/2 has lines of its streams only.
    LINE.try_with(|line| line.kill()).unwrap_or_default();
}

/// Breaks the circle of line, tunnel and exchange where a tunnel is never run.
struct Emptied(Arc<Line>);

impl Drop for Emptied {
    fn drop(&mut self) {
        let tunnel = self.0.tunnel.lock().take();
        drop(tunnel);
    }
}

/// One exchange's use of a line. Over HTTP/1 the next exchange has the next turn: it is not cut for this one.
#[derive(Debug)]
pub(crate) struct Turn {
    line: Arc<Line>,
    turn: u64,
    _place: InFlight,
}

impl Turn {
    /// The next turn of the line that the running task serves, for a request that has its place.
    pub(crate) fn next(place: InFlight) -> Self {
        let line = LINE.try_with(Arc::clone).unwrap_or_default();
        let turn = line.state.fetch_add(NEXT, Ordering::SeqCst) / NEXT + 1;
        Self { line, turn, _place: place }
    }

    /// Has the line end soon: what the body says last may still go.
    pub(crate) fn ask(&self) {
        self.advance(ASKED);
    }

    /// Has `tunnel` go over the line once what is under way is done.
    pub(crate) fn tunnel(&self, tunnel: Tunnel) {
        *self.line.tunnel.lock() = Some(tunnel);
    }

    /// Cuts the line.
    pub(crate) fn cut(&self) {
        self.advance(CUT);
    }

    fn advance(&self, end: u64) {
        let advanced = self.line.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
            (state / NEXT == self.turn && state & END < end).then_some(self.turn * NEXT + end)
        });
        if advanced.is_ok() {
            self.line.waker.wake();
        }
    }
}

/// Runs the streams of HTTP/2 connections, each on a line of its own.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    patience: Duration,
    stop: CancellationToken,
}

impl Streams {
    /// An end that was asked for is waited for no longer than `patience`.
    pub(crate) const fn new(patience: Duration, stop: CancellationToken) -> Self {
        Self { patience, stop }
    }
}

impl<W> hyper::rt::Executor<W> for Streams
where
    W: Future<Output = ()> + Send + 'static,
{
    /// A stream whose task is dropped is reset (`CANCEL`), and what it had queued is discarded.
    fn execute(&self, work: W) {
        if let Ok(line) = LINE.try_with(Arc::clone) {
            // A stream that has become a tunnel: this sends what the tunnel writes.
            let sender = tokio::spawn(work).abort_handle();
            *line.sender.lock() = Some(sender);
            return;
        }
        let (patience, stop) = (self.patience, self.stop.clone());
        let busy = Busy::here();
        tokio::spawn(async move {
            let _until_the_stream_is_over = busy;
            Arc::<Line>::default().drive(patience, &stop, work).await.unwrap_or_default();
        });
    }
}

/// A socket whose connection can end in a reset.
pub(crate) trait Resettable {
    /// Closing it sends a reset, and discards what the system has queued.
    fn reset_on_close(&self);
}

impl Resettable for TcpStream {
    fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a cut connection ends in order");
        }
    }
}

impl Resettable for TlsStream<TcpStream> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

/// The socket of an HTTP/1 connection. Cut, it ends in a reset: an answer without a length must not look whole.
#[derive(Debug)]
pub(crate) struct Wire<I: Resettable> {
    io: I,
    line: Arc<Line>,
}

impl<I: Resettable> Wire<I> {
    /// The socket that `line` goes over.
    pub(crate) const fn new(io: I, line: Arc<Line>) -> Self {
        Self { io, line }
    }
}

impl<I: Resettable> Drop for Wire<I> {
    fn drop(&mut self) {
        if self.line.is_cut() {
            self.io.reset_on_close();
        }
    }
}

impl<I: Resettable + AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: Resettable + AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
