//! A WebSocket under way: bytes both ways, as fast as the slower side takes them, until one side
//! ends or the exchange is allowed no more.
//!
//! Nothing is held for a tunnel at rest: what is read waits on the stack until it is written, and
//! only what a side does not take is kept, one piece at most in each direction.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::pep::exchanges::Open;
use crate::pep::line::Line;
use crate::pep::websocket::{Frames, GOING_AWAY, close};

/// Most bytes read at once.
const PIECE: usize = 16 * 1024;

/// A tunnel whose two sides are about to switch.
#[derive(Debug)]
pub(crate) struct Tunnel {
    open: Arc<Open>,
    caller: OnUpgrade,
    upstream: OnUpgrade,
}

impl Tunnel {
    /// Joins an exchange and its two sides.
    pub(crate) const fn new(open: Arc<Open>, caller: OnUpgrade, upstream: OnUpgrade) -> Self {
        Self { open, caller, upstream }
    }

    /// Relays until it is over, or until `stop`; an end is given `patience` to be taken, and then the line is
    /// killed.
    pub(crate) async fn run(self, patience: Duration, stop: &CancellationToken, line: &Line) {
        let Self { open, caller, upstream } = self;
        let switched = tokio::time::timeout(SWITCH, async { tokio::try_join!(caller, upstream) });
        let (caller, upstream) = tokio::select! {
            biased;
            _ = open.severed() => return line.kill(),
            switched = switched => match switched {
                Ok(Ok(both)) => both,
                _ => return line.kill(),
            },
        };
        let mut relay = Relay {
            caller: TokioIo::new(caller),
            upstream: TokioIo::new(upstream),
            up: Half::default(),
            down: Half::default(),
            frames: Frames::default(),
        };
        let close = tokio::select! {
            biased;
            reason = open.severed() => Some(close(reason)),
            () = stop.cancelled() => {
                tokio::select! {
                    biased;
                    reason = open.severed() => Some(close(reason)),
                    // What has begun goes to its end, if that comes soon.
                    _ = tokio::time::timeout(patience, relay.run_to_end_of_frame()) => Some(GOING_AWAY),
                }
            }
            _ = relay.run() => None,
        };
        let ending = async {
            match close {
                Some(close) => relay.close(close).await,
                None => relay.part().await,
            }
        };
        if !matches!(tokio::time::timeout(patience, ending).await, Ok(Ok(()))) {
            // Before the sockets are dropped.
            line.kill();
        }
    }
}

/// Longest time between an upstream's switch and ours.
const SWITCH: Duration = Duration::from_secs(10);

struct Relay {
    caller: TokioIo<Upgraded>,
    upstream: TokioIo<Upgraded>,
    up: Half,
    down: Half,
    /// Of what has been sent to the caller.
    frames: Frames,
}

impl Relay {
    /// Relays until either side ends.
    async fn run(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            let Self { caller, upstream, up, down, frames } = self;
            let downward = down.poll(context, upstream, caller, |sent| frames.advance(sent))?;
            let upward = up.poll(context, caller, upstream, |_| ())?;
            if downward.is_ready() || upward.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Relays until what has been sent to the caller ends with a frame.
    async fn run_to_end_of_frame(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            let Self { caller, upstream, up, down, frames } = self;
            if frames.is_between() && down.kept().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let downward = down.poll(context, upstream, caller, |sent| frames.advance(sent))?;
            let upward = up.poll(context, caller, upstream, |_| ())?;
            let over = downward.is_ready() || upward.is_ready() || frames.is_between();
            if over { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Tells both sides that there is no more.
    async fn part(&mut self) -> io::Result<()> {
        let Self { caller, upstream, .. } = self;
        let (one, other) = tokio::join!(caller.shutdown(), upstream.shutdown());
        one.and(other)
    }

    /// Says a close to the caller, behind the frame that has begun.
    ///
    /// # Errors
    /// When the caller cannot take it, or the rest of that frame is not here.
    async fn close(&mut self, close: [u8; 4]) -> io::Result<()> {
        let kept = self.down.kept();
        let rest = self.frames.rest_of_frame(kept).ok_or(io::ErrorKind::UnexpectedEof)?;
        let (rest, _) = kept.split_at(rest);
        self.frames.advance(rest);
        self.caller.write_all(rest).await?;
        if !self.frames.is_closed() {
            self.caller.write_all(&close).await?;
        }
        self.caller.flush().await?;
        self.caller.shutdown().await
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    kept: Vec<u8>,
    sent: usize,
    unflushed: bool,
}

impl Half {
    /// What was read and not sent.
    fn kept(&self) -> &[u8] {
        self.kept.get(self.sent..).unwrap_or_default()
    }

    /// Moves what can be moved; ready at the end of `from`, with everything sent.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TokioIo<Upgraded>,
        to: &mut TokioIo<Upgraded>,
        mut sent: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.kept().is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, self.kept()))?;
                sent(self.kept().split_at(written).0);
                self.sent += written;
                none_written(written)?;
            }
            (self.kept, self.sent) = (Vec::new(), 0);
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut space);
            if Pin::new(&mut *from).poll_read(context, &mut piece)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(context))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let mut rest = piece.filled();
            if rest.is_empty() {
                return Pin::new(&mut *to).poll_flush(context);
            }
            self.unflushed = true;
            while !rest.is_empty() {
                let Poll::Ready(written) = Pin::new(&mut *to).poll_write(context, rest)? else {
                    self.kept = rest.to_vec();
                    return Poll::Pending;
                };
                none_written(written)?;
                let (done, left) = rest.split_at(written);
                sent(done);
                rest = left;
            }
        }
    }
}

fn none_written(count: usize) -> io::Result<()> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}
