//! Spans of requests: begun where a request comes in, handed over when it is answered, exported by OTLP.
//!
//! Nothing waits for an export: what finds no room is dropped, and counted. Deliberately absent: spans
//! of anything but requests, and what a caller wrote other than its trace's ids.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::core::evidence::ExchangeFacts;
use crate::core::id::DecisionId;
use crate::core::policy::Effect;
use crate::core::time::Timestamp;
use crate::telemetry::metrics::registered;

mod data;
mod export;

pub use export::ExportSettings;

/// Spans, by what became of them: `exported`, `dropped` for want of room, or `failed` with their export.
pub const SPANS: &str = "portreeve_trace_spans_total";

/// The caller's span, as its request names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParentSpan {
    /// The trace; not all zero.
    pub trace_id: [u8; 16],
    /// The span in it; not all zero.
    pub span_id: [u8; 8],
    /// Whether the caller records it.
    pub sampled: bool,
}

/// Our span of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace: the caller's, or one of its own.
    pub trace_id: [u8; 16],
    /// Our span in it.
    pub span_id: [u8; 8],
    /// The caller's span; `None`: the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// Whether it is exported.
    pub sampled: bool,
}

/// Which traces are exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampler {
    /// Those of the caller that it records, and no others of its.
    pub parent_based: bool,
    /// Of 2^63 other traces, how many.
    pub share: u64,
}

impl Sampler {
    /// By the low half of the trace id, as other implementations do: all agree on the same traces.
    fn samples(self, trace_id: [u8; 16], parent: Option<&ParentSpan>) -> bool {
        if let (true, Some(parent)) = (self.parent_based, parent) {
            return parent.sampled;
        }
        // The mask keeps 64 bits.
        let low = u64::try_from(u128::from_be_bytes(trace_id) & u128::from(u64::MAX)).unwrap_or(u64::MAX);
        low >> 1 < self.share
    }
}

/// A request that was answered.
#[derive(Debug)]
pub struct Span {
    /// Its place in the trace.
    pub context: TraceContext,
    /// What the door knows of the request.
    pub facts: ExchangeFacts,
    /// The HTTP version it came by, as `1.1`.
    pub version: &'static str,
    /// The status it was answered with; `None` where the answer is another's.
    pub status: Option<u16>,
    /// What was decided; `None`: nothing could be.
    pub decision: Option<SpanDecision>,
    /// When it was answered.
    pub ended: Timestamp,
    /// How long that took.
    pub took: Duration,
}

/// What a span says of its decision.
#[derive(Clone, Debug)]
pub struct SpanDecision {
    /// Its id, by which evidence is found.
    pub id: DecisionId,
    /// What had its effect.
    pub effect: Effect,
    /// The reason's code, or `allowed`.
    pub reason: &'static str,
    /// The path template that matched.
    pub route: Option<Arc<str>>,
}

/// Random bytes for a trace id and a span id; `None`: there are none.
pub type Random = Box<dyn Fn() -> Option<[u8; 24]> + Send + Sync>;

/// Begins spans, and hands them over.
pub struct Tracer {
    sampler: Sampler,
    random: Random,
    queue: Sender<Span>,
    dropped: IntCounter,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

/// The spans that wait for their export.
#[derive(Debug)]
pub struct Spans {
    queue: Receiver<Span>,
    exported: IntCounter,
    failed: IntCounter,
}

impl Tracer {
    /// With room for `queue_max` spans that wait.
    pub fn new(sampler: Sampler, random: Random, queue_max: usize, registry: &Registry) -> (Self, Spans) {
        let (queue, waiting) = channel(queue_max.max(1));
        let family = IntCounterVec::new(Opts::new(SPANS, "Spans of requests, by outcome."), &["outcome"]);
        let family = registered(registry, family);
        let counter = |outcome| family.with_label_values(&[outcome]);
        let spans = Spans { queue: waiting, exported: counter("exported"), failed: counter("failed") };
        (Self { sampler, random, queue, dropped: counter("dropped") }, spans)
    }

    /// Our span below the caller's, or in a trace of its own; `None`: there is no id for it.
    pub fn begin(&self, parent: Option<ParentSpan>) -> Option<TraceContext> {
        let (fresh, span_id) = split((self.random)()?);
        let trace_id = parent.map_or(fresh, |parent| parent.trace_id);
        let sampled = self.sampler.samples(trace_id, parent.as_ref());
        Some(TraceContext { trace_id, span_id, parent: parent.map(|parent| parent.span_id), sampled })
    }

    /// Hands over a span; without room it is dropped.
    pub fn end(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
        }
    }
}

/// A trace id and a span id; neither is all zero.
fn split(random: [u8; 24]) -> ([u8; 16], [u8; 8]) {
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&random[..16]);
    span.copy_from_slice(&random[16..]);
    for last in [&mut trace[15], &mut span[7]] {
        *last = (*last).max(1);
    }
    (trace, span)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: u64 = 1 << 63;

    #[test]
    fn samplers() {
        let id = |low: u64| u128::from(low).to_be_bytes();
        let parent = |sampled| Some(ParentSpan { trace_id: id(1), span_id: [1; 8], sampled });
        // (parent_based, share, low half of the id, the caller's flag, whether it is sampled)
        let rows = [
            (true, WHOLE, u64::MAX, None, true),
            (true, 0, 0, None, false),
            (true, WHOLE, 1, Some(false), false),
            (true, 0, 1, Some(true), true),
            (false, WHOLE, u64::MAX, Some(false), true),
            (false, 0, 0, Some(true), false),
            (true, WHOLE / 2, (WHOLE / 2) * 2 - 1, None, true),
            (true, WHOLE / 2, WHOLE, None, false),
            (false, WHOLE / 2, WHOLE - 1, Some(false), true),
            (false, WHOLE / 2, WHOLE, Some(true), false),
        ];
        for (parent_based, share, low, flag, sampled) in rows {
            let caller = flag.and_then(parent);
            let row = (parent_based, share, low, flag);
            assert_eq!(Sampler { parent_based, share }.samples(id(low), caller.as_ref()), sampled, "{row:?}");
        }
    }

    #[test]
    fn no_id_is_all_zero() {
        assert_eq!(split([0; 24]), (1u128.to_be_bytes(), 1u64.to_be_bytes()));
        assert_eq!(split([7; 24]), ([7; 16], [7; 8]));
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let registry = Registry::new();
        let sampler = Sampler { parent_based: true, share: WHOLE };
        let (tracer, mut spans) = Tracer::new(sampler, Box::new(|| Some([7; 24])), 2, &registry);
        let span = || Span {
            context: tracer.begin(None).unwrap(),
            facts: ExchangeFacts {
                listener: "inbound".into(),
                door: crate::core::evidence::Door::Proxy,
                method: "GET".into(),
                peer: None,
                trace_id: [7; 16],
                span_id: [7; 8],
            },
            version: "1.1",
            status: Some(200),
            decision: None,
            ended: Timestamp::from_seconds(1),
            took: Duration::ZERO,
        };
        let dropped = || tracer.dropped.get();
        tracer.end(span());
        tracer.end(span());
        assert_eq!(dropped(), 0);
        tracer.end(span());
        assert_eq!(dropped(), 1);
        assert!(spans.queue.try_recv().is_ok());
        tracer.end(span());
        assert_eq!(dropped(), 1);
        let none = Tracer::new(sampler, Box::new(|| None), 2, &Registry::new()).0;
        assert_eq!(none.begin(None), None);
    }
}
