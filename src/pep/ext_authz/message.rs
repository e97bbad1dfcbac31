//! The message of a call, which must be there in time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

/// A call's message as it comes. One that is there at once costs no timer.
#[derive(Debug)]
pub(super) struct Message {
    body: Incoming,
    timeout: Duration,
    end: Option<Pin<Box<Sleep>>>,
}

impl Message {
    /// It is waited for no longer than `timeout`, from its first pause on.
    pub(super) const fn new(body: Incoming, timeout: Duration) -> Self {
        Self { body, timeout, end: None }
    }
}

impl Body for Message {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let Self { body, timeout, end } = &mut *self;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| tonic::Status::from_error(error.into()))),
            );
        }
        ready!(end.get_or_insert_with(|| Box::pin(sleep(*timeout))).as_mut().poll(context));
        Poll::Ready(Some(Err(tonic::Status::deadline_exceeded("the message did not come in time"))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
