//! A caller's body on its way to an upstream: how large it may be, how slowly it may come.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::core::policy::Reason;
use crate::pep::body::BodyError;
use crate::pep::exchanges::{Exchanges, Open};
use crate::pep::limits::RequestLimits;

/// Bounds of bodies, and who is told when one is passed.
#[derive(Debug)]
pub(crate) struct UploadRules {
    /// The bounds.
    pub(crate) limits: RequestLimits,
    /// Puts an end on record.
    pub(crate) exchanges: Arc<Exchanges>,
}

/// A caller's body on its way to an upstream. Trailers end here: nobody has judged them.
#[derive(Debug)]
pub(crate) struct Upload(Option<Uploading>);

#[derive(Debug)]
struct Uploading {
    open: Arc<Open>,
    progress: Progress,
    rules: Arc<UploadRules>,
    taken: u64,
    pace: Option<Pace>,
}

/// How far an upload has come, so that a long one is not taken for a silent upstream, nor a caller that has
/// gone for an upstream that failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

/// The caller's body broke off.
const BROKEN: u64 = 1 << 63;

impl Progress {
    /// Frames so far.
    pub(crate) fn frames(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & !BROKEN
    }

    /// Whether the caller's body broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) & BROKEN != 0
    }
}

impl Upload {
    /// Streams `incoming` for `open`. `paced`: it may not come too slowly.
    pub(crate) fn new(incoming: Incoming, open: &Arc<Open>, rules: &Arc<UploadRules>, paced: bool) -> Self {
        if incoming.is_end_stream() {
            return Self(None);
        }
        open.upload().begin(incoming);
        Self(Some(Uploading {
            open: Arc::clone(open),
            progress: Progress::default(),
            rules: Arc::clone(rules),
            taken: 0,
            pace: paced.then(|| Pace::new(&rules.limits)),
        }))
    }

    /// How far it has come; `None` when there is nothing to send.
    pub(crate) fn progress(&self) -> Option<&Progress> {
        self.0.as_ref().map(|uploading| &uploading.progress)
    }
}

impl Uploading {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.open.upload().poll(context) {
            Poll::Pending if self.pace.as_mut().is_some_and(|pace| pace.is_over(context)) => {
                self.end(Reason::RequestSlow)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.progress.0.fetch_add(1, Ordering::Relaxed);
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.taken += bytes;
                if self.rules.limits.body_bytes_max.is_some_and(|most| self.taken > most) {
                    return self.end(Reason::RequestBody);
                }
                if let Some(pace) = &mut self.pace {
                    pace.moved(bytes);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(BodyError::Peer(error)))) => {
                if is_malformed(&error) {
                    return self.end(Reason::RequestAmbiguous);
                }
                self.progress.0.fetch_or(BROKEN, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::Peer(error))))
            }
            other => other,
        }
    }

    fn end(&self, reason: Reason) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.rules.exchanges.end(&self.open, reason);
        Poll::Ready(Some(Err(BodyError::Severed)))
    }
}

/// Whether a body came that is none, rather than its end before its time.
fn is_malformed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    cause
        .is_some_and(|cause| matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput))
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(uploading) = &mut self.0 else { return Poll::Ready(None) };
        uploading.poll(context).map(|frame| match frame {
            Some(Ok(frame)) if !frame.is_trailers() => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(error)),
            _ => {
                self.0 = None;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|uploading| uploading.open.upload().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |uploading| uploading.open.upload().size_hint())
    }
}

/// How much longer a body is waited for. Bytes win time back, never more than a silence may last;
/// time that the upstream takes costs nothing.
#[derive(Debug)]
struct Pace {
    timeout: Duration,
    rate_min: u64,
    left: Duration,
    since: Option<Instant>,
    end: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    const fn new(limits: &RequestLimits) -> Self {
        let timeout = limits.body_timeout;
        Self { timeout, rate_min: limits.body_rate_min, left: timeout, since: None, end: None }
    }

    /// Nothing has come: whether that is the end of it.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            match &mut self.end {
                Some(end) => end.as_mut().reset(now + self.left),
                None => self.end = Some(Box::pin(sleep_until(now + self.left))),
            }
        }
        self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready())
    }

    fn moved(&mut self, bytes: u64) {
        let waited = self.since.take().map(|since| since.elapsed()).unwrap_or_default();
        let won = bytes.saturating_mul(1_000_000_000).checked_div(self.rate_min).map(Duration::from_nanos);
        let left = self.left.saturating_sub(waited);
        self.left = won.map_or(self.timeout, |won| (left + won).min(self.timeout));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(rate_min: u64) -> Pace {
        Pace::new(&RequestLimits {
            body_timeout: 15 * SECOND,
            body_rate_min: rate_min,
            ..RequestLimits::default()
        })
    }

    /// Waits `seconds`; whether it was over then.
    async fn over_after(pace: &mut Pace, seconds: u32) -> bool {
        let begun = poll_fn(|context| Poll::Ready(pace.is_over(context))).await;
        assert!(!begun);
        tokio::time::advance(seconds * SECOND).await;
        poll_fn(|context| Poll::Ready(pace.is_over(context))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_has_its_end() {
        assert!(!over_after(&mut pace(240), 14).await);
        assert!(over_after(&mut pace(240), 15).await);
        let mut bursty = pace(240);
        // A large piece wins no more than one silence.
        bursty.moved(1 << 30);
        assert!(over_after(&mut bursty, 15).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_held_over_time() {
        // (`min_body_rate`, a piece, pieces a second); pieces of a MiB a second win less than a millisecond each.
        for (rate, piece, pieces, holds) in [
            (240, 240, 1, true),
            (240, 239, 1, false),
            (1 << 20, 512, 2048, true),
            (1 << 20, 512, 2040, false),
        ] {
            let mut pace = pace(rate);
            let ended = {
                let mut ended = false;
                for _ in 0..10_000 {
                    ended = over_after(&mut pace, 1).await;
                    if ended {
                        break;
                    }
                    (0..pieces).for_each(|_| pace.moved(piece));
                }
                ended
            };
            assert_eq!(ended, !holds, "{rate}: {pieces} of {piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_any_byte_will_do() {
        let mut pace = pace(0);
        for _ in 0..100 {
            assert!(!over_after(&mut pace, 14).await);
            pace.moved(1);
        }
        assert!(over_after(&mut pace, 15).await);
    }
}
