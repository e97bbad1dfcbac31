//! Bodies of answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::core::policy::Reason;
use crate::pep::exchanges::{Open, Stage};
use crate::pep::upstream::Returning;
use crate::pep::{headers, respond};

/// Why a body does not end in order.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Who sends it failed.
    #[error(transparent)]
    Peer(hyper::Error),
    /// The exchange was ended.
    #[error("the exchange is allowed no more")]
    Severed,
}

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
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
            Kind::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Relay(relay) => relay.open.answer().size_hint(),
        }
    }
}

/// An upstream's body. Its connection returns to the pool when the body has ended, and closes
/// when it is dropped before.
#[derive(Debug)]
pub(crate) struct Relay {
    open: Arc<Open>,
    connection: Option<Returning>,
    /// Whether a status can still be said in trailers (gRPC).
    calling: bool,
    /// Whether the caller knows the end by that of the connection (HTTP/1.0): one that is not the answer's must be a reset.
    unframed: bool,
    /// The last byte of a call's piece. The library takes a piece whole once there is window for its first byte, and
    /// then asks for what follows: trailers would wait behind it for as long as the caller likes, with nobody left to
    /// reset the stream. A piece of one byte it takes only when all before has window.
    last: Option<Bytes>,
    over: bool,
}

impl Relay {
    /// Streams `incoming`, which arrives by `connection`, for `open`.
    ///
    /// # Errors
    /// The reason when the exchange was ended before.
    pub(crate) fn begin(
        incoming: Incoming,
        connection: Option<Returning>,
        open: &Arc<Open>,
        stage: Stage,
        unframed: bool,
    ) -> Result<Self, Reason> {
        open.begin_answer(incoming, stage)?;
        let calling = stage == Stage::Calling;
        let mut relay =
            Self { open: Arc::clone(open), connection, calling, unframed, last: None, over: false };
        relay.give_back_at_end();
        Ok(relay)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let frame = ready!(self.open.answer().poll(context));
        Poll::Ready(match frame {
            None => {
                self.over = true;
                self.give_back();
                None
            }
            Some(Err(error)) => {
                self.over = true;
                self.connection = None;
                if self.unframed {
                    self.open.cut();
                }
                match (self.open.ended(), error) {
                    (Some(reason), _) if self.calling => {
                        Some(Ok(Frame::trailers(respond::grpc_status(reason))))
                    }
                    (Some(_), _) => Some(Err(BodyError::Severed)),
                    (None, error) => Some(Err(error)),
                }
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::screen_trailers(trailers);
                }
                self.give_back_at_end();
                Some(Ok(if self.calling { self.but_its_last(frame) } else { frame }))
            }
        })
    }

    /// The frame, but for the last byte of its data.
    fn but_its_last(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(mut data) if data.len() > 1 => {
                self.last = Some(data.split_off(data.len() - 1));
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(trailers) => trailers,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.last.is_none() && self.open.answer().is_end_stream()
    }

    fn give_back_at_end(&mut self) {
        if self.open.answer().is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        // A connection that was closed with its exchange goes to nobody.
        if let Some(connection) = self.connection.take().filter(|_| self.open.give_back()) {
            connection.give_back();
        }
    }
}
