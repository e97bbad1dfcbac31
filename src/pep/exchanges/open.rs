//! One open exchange: what it was judged by, what flows, and how it is ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::core::evidence::{Allowed, Denied, Released};
use crate::core::id::DecisionId;
use crate::core::policy::{Exchange, Reason, Verdict};
use crate::core::time::Timestamp;
use crate::pep::body::BodyError;
use crate::pep::exchanges::shard::Place;
use crate::pep::line::Turn;
use crate::pep::tunnel::Tunnel;
use crate::pipeline::{Look, Pipeline};

/// What an exchange has come to: this decides how it is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Stage {
    /// No answer yet: it can still be refused.
    Asking,
    /// An answer flows: the line is cut.
    Answering,
    /// It has become a tunnel, or is about to: the tunnel ends itself, if it comes about soon.
    Tunnelling,
    /// An answer flows that can end with a status (gRPC): it does, if the caller takes it soon.
    Calling,
}

/// An exchange that was allowed and is not over. It leaves the register when it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    place: Option<Place>,
    exchange: Exchange,
    decision: DecisionId,
    opened: Timestamp,
    judged: Mutex<Arc<Verdict>>,
    turn: Turn,
    /// 0: open. Else the reason's place in [`Reason::ALL`], plus one.
    ended: AtomicU8,
    stage: AtomicU8,
    /// Whether it waits to be judged again.
    marked: AtomicBool,
    upload: Flow,
    answer: Flow,
    upstream: Mutex<Option<AbortHandle>>,
}

/// A body that flows in one direction. Who ends the exchange takes it away, wherever it stands.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    body: Mutex<Option<Incoming>>,
    waker: AtomicWaker,
}

impl Flow {
    /// The next piece.
    ///
    /// # Errors
    /// [`BodyError::Severed`] when the body was taken away.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Before looking: whoever takes the body away wakes what is registered.
        self.waker.register(context.waker());
        let mut body = self.body.lock();
        let Some(incoming) = body.as_mut() else { return Poll::Ready(Some(Err(BodyError::Severed))) };
        Pin::new(incoming).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(BodyError::Peer)))
    }

    /// Whether there is a body, and it has ended.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.lock().as_ref().is_some_and(Incoming::is_end_stream)
    }

    /// How much is to come, as far as is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.lock().as_ref().map(Incoming::size_hint).unwrap_or_default()
    }

    /// Begins to flow.
    pub(crate) fn begin(&self, incoming: Incoming) {
        *self.body.lock() = Some(incoming);
    }

    /// Takes the body away.
    pub(crate) fn end(&self) {
        let taken = self.body.lock().take();
        drop(taken);
        self.waker.wake();
    }
}

impl Open {
    pub(super) fn new(place: Option<Place>, exchange: Exchange, allowed: &Allowed, turn: Turn) -> Self {
        Self {
            place,
            exchange,
            decision: allowed.id(),
            opened: allowed.verdict().basis().now.wall,
            judged: Mutex::new(Arc::clone(allowed.verdict())),
            turn,
            ended: AtomicU8::new(0),
            stage: AtomicU8::new(Stage::Asking as u8),
            marked: AtomicBool::new(false),
            upload: Flow::default(),
            answer: Flow::default(),
            upstream: Mutex::new(None),
        }
    }

    /// The question that was judged.
    pub(crate) const fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// The decision that allowed it.
    pub(crate) const fn decision(&self) -> DecisionId {
        self.decision
    }

    /// When it was first judged.
    pub(super) const fn opened(&self) -> Timestamp {
        self.opened
    }

    /// What it was last judged by.
    pub(super) fn judged(&self) -> Arc<Verdict> {
        Arc::clone(&self.judged.lock())
    }

    /// What flows to the upstream.
    pub(crate) const fn upload(&self) -> &Flow {
        &self.upload
    }

    /// What flows to the caller.
    pub(crate) const fn answer(&self) -> &Flow {
        &self.answer
    }

    /// The last look before an effect. If the state has moved since, what it read then counts from now on.
    ///
    /// # Errors
    /// [`Denied`] when it is allowed no more; this is on record.
    pub(crate) fn look(&self, pipeline: &Pipeline, allowed: Allowed) -> Result<Released, Denied> {
        loop {
            let root = self.judged.lock().basis().root;
            match pipeline.look(&allowed, &self.exchange, root) {
                Look::Again(verdict) => self.judged_again(*verdict),
                Look::Holds => {
                    return match self.ended() {
                        None => allowed.release(None),
                        Some(reason) => Err(allowed.severed(reason)),
                    };
                }
                Look::Turned(withdrawal) => {
                    let reason = withdrawal.reason;
                    return if self.end(reason) {
                        allowed.release(Some((reason, withdrawal)))
                    } else {
                        // Whoever was first has put it on record.
                        Err(allowed.severed(self.ended().unwrap_or(reason)))
                    };
                }
            }
        }
    }

    /// Notes what it is judged by from now on, in the register too.
    pub(super) fn judged_again(&self, verdict: Verdict) {
        let verdict = Arc::new(verdict);
        *self.judged.lock() = Arc::clone(&verdict);
        if let Some(place) = &self.place {
            place.relist(&verdict, self.exchange.rules.staleness);
        }
    }

    /// Marks it to be judged again. `false`: it is marked already.
    pub(super) fn mark(&self) -> bool {
        !self.marked.swap(true, Ordering::AcqRel)
    }

    /// It is about to be judged again.
    pub(super) fn unmark(&self) {
        self.marked.store(false, Ordering::Release);
    }

    /// Notes the connection that is the exchange's alone while it lasts.
    pub(crate) fn lend(&self, upstream: AbortHandle) {
        *self.upstream.lock() = Some(upstream);
    }

    /// The connection is the exchange's no more. `false`: it was closed with it.
    pub(crate) fn give_back(&self) -> bool {
        self.upstream.lock().take().is_some()
    }

    /// Cuts what carries it to its caller.
    pub(crate) fn cut(&self) {
        self.turn.cut();
    }

    /// Why it was ended, if it was.
    pub(crate) fn ended(&self) -> Option<Reason> {
        let ended = usize::from(self.ended.load(Ordering::SeqCst));
        ended.checked_sub(1).and_then(|at| Reason::ALL.get(at).copied())
    }

    /// Resolves when it is ended, with the reason. Only while no answer flows.
    pub(crate) async fn severed(&self) -> Reason {
        poll_fn(|context| {
            self.answer.waker.register(context.waker());
            self.ended().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// An answer begins to flow.
    ///
    /// # Errors
    /// The reason when the exchange was ended before.
    pub(crate) fn begin_answer(&self, incoming: Incoming, stage: Stage) -> Result<(), Reason> {
        self.answer.begin(incoming);
        self.stage.store(stage as u8, Ordering::SeqCst);
        // Stage first, then end; who ends it writes first and then reads: one of the two sees the other.
        match self.ended() {
            None => Ok(()),
            Some(reason) => {
                self.answer.end();
                Err(reason)
            }
        }
    }

    /// It becomes a tunnel between two sides that are about to switch.
    ///
    /// # Errors
    /// The reason when the exchange was ended before.
    pub(crate) fn begin_tunnel(
        self: &Arc<Self>,
        caller: OnUpgrade,
        upstream: OnUpgrade,
    ) -> Result<(), Reason> {
        self.stage.store(Stage::Tunnelling as u8, Ordering::SeqCst);
        self.ended().map_or(Ok(()), Err)?;
        self.turn.tunnel(Tunnel::new(Arc::clone(self), caller, upstream));
        Ok(())
    }

    /// Ends it, on both sides. `false`: it was ended before.
    pub(crate) fn end(&self, reason: Reason) -> bool {
        let code =
            Reason::ALL.iter().position(|known| *known == reason).and_then(|at| u8::try_from(at + 1).ok());
        let code = code.unwrap_or(1);
        if self.ended.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        // The line first: a body that fails must find it cut, or the connection would end in order.
        match self.stage.load(Ordering::SeqCst) {
            stage if stage == Stage::Answering as u8 => self.turn.cut(),
            stage if stage == Stage::Asking as u8 => {}
            _ => self.turn.ask(),
        }
        if let Some(connection) = self.upstream.lock().take() {
            connection.abort();
        }
        self.upload.end();
        self.answer.end();
        true
    }
}
