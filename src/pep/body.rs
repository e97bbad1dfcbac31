//! Bodies: what is streamed to an upstream and what is answered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::pep::headers;
use crate::pep::upstream::Returning;

/// The body of an answer.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Text(Bytes),
    Relay(Relay),
}

impl Body {
    /// Nothing.
    pub(crate) const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Text of our own.
    pub(crate) fn text(text: String) -> Self {
        Self(Kind::Text(text.into()))
    }

    /// An upstream's, as it comes.
    pub(crate) const fn relay(relay: Relay) -> Self {
        Self(Kind::Relay(relay))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Text(text) => {
                let text = std::mem::take(text);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Kind::Relay(relay) => relay.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Text(text) => text.is_empty(),
            Kind::Relay(relay) => relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Relay(relay) => relay.incoming.size_hint(),
        }
    }
}

/// An upstream's body. Its connection returns to the pool when the body has ended, and closes
/// when it is dropped before.
#[derive(Debug)]
pub(crate) struct Relay {
    incoming: Incoming,
    connection: Option<Returning>,
}

impl Relay {
    /// Streams `incoming`, which arrives by `connection`.
    pub(crate) fn new(incoming: Incoming, connection: Option<Returning>) -> Self {
        let mut relay = Self { incoming, connection };
        relay.give_back_at_end();
        relay
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        match frame {
            None => {
                self.give_back();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.connection = None;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_own(trailers);
                }
                self.give_back_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn give_back_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.give_back();
        }
    }
}

/// A caller's body on its way to an upstream. Trailers end here: nobody has judged them.
#[derive(Debug)]
pub(crate) struct Upload {
    incoming: Incoming,
    progress: Option<Progress>,
}

/// Counts the frames of an upload, so that a long one is not taken for a silent upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Frames so far.
    pub(crate) fn frames(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Upload {
    /// Streams `incoming`.
    pub(crate) fn new(incoming: Incoming) -> Self {
        let progress = (!incoming.is_end_stream()).then(Progress::default);
        Self { incoming, progress }
    }

    /// How far it has come; `None` when there is nothing to send.
    pub(crate) const fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        if let Some(Progress(frames)) = &self.progress {
            frames.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_trailers() => None,
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
