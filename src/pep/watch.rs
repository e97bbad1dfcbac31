//! How long a connection is waited for: for a head, for its next request, for its taking of an answer.
//!
//! One timer a connection, which looks at marks: a request costs no timer of its own. Deliberately
//! absent: tunnels, which their exchange's ends and the peer's silence end.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::pep::line::Resettable;
use crate::pep::meter::Meter;
use crate::telemetry::metrics::{ConnectionEnd, ListenerMetrics};

tokio::task_local! {
    /// The watch over the connection that the running task serves.
    static WATCH: Arc<Watch>;
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// For a whole head: the first from the accepting on, others from their first byte.
    pub(crate) head: Duration,
    /// For the next request.
    pub(crate) idle: Duration,
    /// For the caller to take any piece of what is there for it.
    pub(crate) send: Duration,
}

/// What is known of one connection's progress.
#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    waits: Waits,
    metrics: Arc<ListenerMetrics>,
    head: Mark,
    /// Over HTTP/2, a head whose frames have not ended.
    continued: Mark,
    idle: Mark,
    moved: Mark,
    open: AtomicU32,
    /// Answers of which a piece is there that the caller has not taken.
    held: AtomicU32,
}

/// Milliseconds since the connection began, plus one; 0: nothing is waited for.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

impl Watch {
    /// Begins with the wait for the first head, at the time the connection was accepted.
    pub(crate) fn new(accepted: Instant, waits: Waits, metrics: &Arc<ListenerMetrics>) -> Arc<Self> {
        let metrics = Arc::clone(metrics);
        let unset = || Mark(AtomicU64::new(0));
        let watch = Self {
            begun: accepted,
            waits,
            metrics,
            head: Mark(AtomicU64::new(1)),
            continued: unset(),
            idle: unset(),
            moved: unset(),
            open: AtomicU32::new(0),
            held: AtomicU32::new(0),
        };
        Arc::new(watch)
    }

    /// Has `work`, and what it starts, known as this connection's.
    pub(crate) async fn over<W: Future>(self: Arc<Self>, work: W) -> W::Output {
        WATCH.scope(self, work).await
    }

    /// When to look next.
    ///
    /// # Errors
    /// What has been waited for long enough at `now`.
    pub(crate) fn look(&self, now: Instant) -> Result<Instant, ConnectionEnd> {
        let Waits { head, idle, send } = self.waits;
        let held = self.held.load(Ordering::Relaxed) > 0;
        let clocks = [
            (&self.head, head, ConnectionEnd::Head, true),
            (&self.continued, head, ConnectionEnd::Head, true),
            (&self.idle, idle, ConnectionEnd::Idle, true),
            (&self.moved, send, ConnectionEnd::Send, held),
        ];
        // Whatever begins to be waited for after this look is over after the next one.
        let mut next = now + head.min(idle).min(send);
        for (mark, wait, end, counts) in clocks {
            let Some(over) = mark.since(self.begun).filter(|_| counts).map(|since| since + wait) else {
                continue;
            };
            if over <= now {
                return Err(end);
            }
            next = next.min(over);
        }
        Ok(next)
    }

    /// Counts why the connection is ended.
    pub(crate) fn count(&self, end: ConnectionEnd) {
        self.metrics.connection_ended(end);
    }

    /// A request is under way until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.open.fetch_add(1, Ordering::Relaxed);
        for mark in [&self.head, &self.idle] {
            mark.clear();
        }
        Busy(Arc::clone(self))
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Bytes came by HTTP/1.
    fn received(&self) {
        if self.open.load(Ordering::Relaxed) == 0 && !self.head.is_set() {
            self.head.set(self.begun);
            self.idle.clear();
        }
    }

    /// A head over HTTP/2 goes on in further frames, or has ended.
    pub(crate) fn continues(&self, goes_on: bool) {
        match (goes_on, self.continued.is_set()) {
            (true, false) => self.continued.set(self.begun),
            (false, true) => self.continued.clear(),
            _ => {}
        }
    }

    fn hold(&self) {
        // What is held beside something that is not taken does not put the end of that off.
        if self.held.fetch_add(1, Ordering::Relaxed) == 0 {
            self.moved.set(self.begun);
        }
    }

    fn let_go(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.moved.set(self.begun);
    }
}

impl Mark {
    fn set(&self, begun: Instant) {
        let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.0.store(elapsed + 1, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    fn since(&self, begun: Instant) -> Option<Instant> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(|elapsed| begun + Duration::from_millis(elapsed))
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Watch>);

impl Busy {
    /// Of the connection that the running task serves.
    pub(crate) fn here() -> Option<Self> {
        WATCH.try_with(Watch::begin).ok()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.set(self.0.begun);
        }
    }
}

/// A connection's service, watched.
#[derive(Debug)]
pub(crate) struct WatchedService<S> {
    service: S,
    watch: Arc<Watch>,
}

impl<S> WatchedService<S> {
    /// Watches `service`.
    pub(crate) const fn new(service: S, watch: Arc<Watch>) -> Self {
        Self { service, watch }
    }
}

impl<S, B> Service<Request<Incoming>> for WatchedService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Unpin>,
{
    type Response = Response<WatchedBody<B>>;
    type Error = Infallible;
    type Future = WatchedAnswer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        WatchedAnswer { busy: Some(self.watch.begin()), answer: self.service.call(request) }
    }
}

/// An answer that is being made.
#[derive(Debug)]
pub(crate) struct WatchedAnswer<A> {
    answer: A,
    busy: Option<Busy>,
}

impl<A, B> Future for WatchedAnswer<A>
where
    A: Future<Output = Result<Response<B>, Infallible>> + Unpin,
{
    type Output = Result<Response<WatchedBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(answer) = ready!(Pin::new(&mut self.answer).poll(context));
        let busy = self.busy.take();
        Poll::Ready(Ok(answer.map(|body| WatchedBody { body, busy, held: false })))
    }
}

/// An answer's body, watched.
#[derive(Debug)]
pub(crate) struct WatchedBody<B> {
    body: B,
    busy: Option<Busy>,
    held: bool,
}

impl<B> WatchedBody<B> {
    fn let_go(&mut self) {
        if std::mem::take(&mut self.held)
            && let Some(busy) = &self.busy
        {
            busy.0.let_go();
        }
    }
}

impl<B: Body + Unpin> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        // Whoever asks for more has taken what was there.
        self.let_go();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (Some(Ok(_)), Some(busy)) = (&frame, &self.busy) {
            busy.0.hold();
            self.held = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for WatchedBody<B> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A connection's socket, watched; over HTTP/2 its frames are counted.
#[derive(Debug)]
pub(crate) struct WatchedIo<I> {
    io: I,
    watch: Arc<Watch>,
    meter: Option<Meter>,
}

impl<I> WatchedIo<I> {
    /// Watches `io`.
    pub(crate) const fn new(io: I, watch: Arc<Watch>, meter: Option<Meter>) -> Self {
        Self { io, watch, meter }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for WatchedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let (_, new) = buffer.filled().split_at(before);
        let Self { io, watch, meter } = &mut *self;
        let Some(meter) = meter else {
            if !new.is_empty() {
                watch.received();
            }
            return Poll::Ready(Ok(()));
        };
        let Err(end) = meter.received(new, watch) else { return Poll::Ready(Ok(())) };
        watch.count(end);
        if let Some(frame) = meter.goodbye() {
            // Who floods and does not read is not told.
            drop(Pin::new(&mut *io).poll_write(context, &frame));
            drop(Pin::new(&mut *io).poll_flush(context));
        }
        Poll::Ready(Err(io::Error::other("too many frames")))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for WatchedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        if let Some(meter) = &mut self.meter {
            meter.sent(bytes.split_at(written).0);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, pieces))?;
        if let Some(meter) = &mut self.meter {
            let mut left = written;
            for piece in pieces {
                let taken = left.min(piece.len());
                meter.sent(piece.split_at(taken).0);
                left -= taken;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl<I: Resettable> Resettable for WatchedIo<I> {
    fn reset_on_close(&self) {
        self.io.reset_on_close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::evidence::Door;
    use crate::telemetry::metrics::Metrics;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch() -> Arc<Watch> {
        let waits = Waits { head: 10 * SECOND, idle: 75 * SECOND, send: 30 * SECOND };
        Watch::new(Instant::now(), waits, &Metrics::new().listener("inbound", Door::Proxy))
    }

    /// Nothing just before its end, `expected` at it.
    fn ends(watch: &Watch, expected: ConnectionEnd, after: Duration) {
        let end = Instant::now() + after;
        assert!(watch.look(end - Duration::from_millis(1)).is_ok(), "{expected:?}");
        assert_eq!(watch.look(end), Err(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_end() {
        let watch = watch();
        ends(&watch, ConnectionEnd::Head, 10 * SECOND);
        tokio::time::advance(5 * SECOND).await;
        watch.received();
        // Bytes of a first head do not put its end off.
        ends(&watch, ConnectionEnd::Head, 5 * SECOND);
        let busy = watch.begin();
        assert!(watch.look(Instant::now() + 3600 * SECOND).is_ok(), "an exchange is under way");
        watch.received();
        assert!(watch.look(Instant::now() + 3600 * SECOND).is_ok(), "these are its body");
        tokio::time::advance(SECOND).await;
        drop(busy);
        ends(&watch, ConnectionEnd::Idle, 75 * SECOND);
        tokio::time::advance(60 * SECOND).await;
        watch.received();
        ends(&watch, ConnectionEnd::Head, 10 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_ends_the_connection() {
        let watch = watch();
        let _busy = watch.begin();
        watch.hold();
        ends(&watch, ConnectionEnd::Send, 30 * SECOND);
        tokio::time::advance(20 * SECOND).await;
        watch.let_go();
        assert!(watch.look(Instant::now() + 3600 * SECOND).is_ok(), "all was taken");
        watch.hold();
        ends(&watch, ConnectionEnd::Send, 30 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_in_many_frames_has_the_same_end() {
        let watch = watch();
        let _busy = watch.begin();
        watch.continues(true);
        tokio::time::advance(5 * SECOND).await;
        watch.continues(true);
        ends(&watch, ConnectionEnd::Head, 5 * SECOND);
        watch.continues(false);
        assert!(watch.look(Instant::now() + 3600 * SECOND).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_begins_after_a_look_ends_after_the_next() {
        let watch = watch();
        let next = watch.look(Instant::now()).unwrap();
        assert_eq!(next, Instant::now() + 10 * SECOND);
        let _busy = watch.begin();
        assert_eq!(watch.look(next), Ok(next + 10 * SECOND));
    }
}
