//! W3C Trace Context: which trace a request belongs to, and what its upstream is told of it.
//!
//! Nothing of this is ever an input of a decision.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};

use crate::core::evidence::ExchangeFacts;
use crate::core::id::DecisionId;
use crate::core::policy::{Effect, Reason, Verdict};
use crate::core::time::Timestamp;
use crate::telemetry::traces::{ParentSpan, Span, SpanDecision, TraceContext, Tracer};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request's place in a trace.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// The caller's span.
    parent: Option<ParentSpan>,
    /// Ours; `None`: nothing is traced here.
    own: Option<TraceContext>,
    decision: Option<SpanDecision>,
}

impl Trace {
    /// Reads what the caller says, and takes part if there is a tracer.
    pub(crate) fn begin(tracer: Option<&Tracer>, headers: &HeaderMap) -> Self {
        let parent = parent(headers);
        Self { parent, own: tracer.and_then(|tracer| tracer.begin(parent)), decision: None }
    }

    /// The trace, and our span in it; all zero: none.
    pub(crate) fn ids(&self) -> ([u8; 16], [u8; 8]) {
        match (&self.own, &self.parent) {
            (Some(own), _) => (own.trace_id, own.span_id),
            (None, Some(parent)) => (parent.trace_id, [0; 8]),
            (None, None) => ([0; 16], [0; 8]),
        }
    }

    /// What the upstream is told.
    pub(crate) const fn onward(&self) -> Onward {
        Onward { own: self.own, continued: self.parent.is_some() }
    }

    /// Our span, if it is to be exported.
    fn sampled(&self) -> Option<TraceContext> {
        self.own.filter(|own| own.sampled)
    }

    /// Notes what was decided; `refused`: what has its effect, be the verdict what it may.
    pub(crate) fn decided(&mut self, id: DecisionId, verdict: &Verdict, refused: Option<Reason>) {
        if self.sampled().is_none() {
            return;
        }
        let (effect, reason) =
            refused.map_or((Effect::Allow, "allowed"), |reason| (Effect::Deny, reason.code()));
        let route = verdict.basis().route.as_ref().map(Arc::clone);
        self.decision = Some(SpanDecision { id, effect, reason, route });
    }

    /// Notes that what had been allowed was ended before its answer.
    pub(crate) fn severed(&mut self, refused: Reason) {
        if let Some(decision) = &mut self.decision {
            (decision.effect, decision.reason) = (Effect::Deny, refused.code());
        }
    }

    /// Hands over our span, if it is to be exported. `ended` is asked for the time only then.
    pub(crate) fn end(
        self,
        tracer: &Tracer,
        facts: &ExchangeFacts,
        (version, status): (Version, Option<StatusCode>),
        ended: impl FnOnce() -> Timestamp,
        took: Duration,
    ) {
        let Some(context) = self.sampled() else { return };
        let version = if version == Version::HTTP_2 { "2" } else { "1.1" };
        let status = status.map(|status| status.as_u16());
        let (facts, ended) = (facts.clone(), ended());
        tracer.end(Span { context, facts, version, status, decision: self.decision, ended, took });
    }
}

/// What an upstream is told of the trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Onward {
    own: Option<TraceContext>,
    continued: bool,
}

impl Onward {
    /// Our span in place of the caller's; without one the caller's as it is. What is malformed does not go on,
    /// nor does a state without its trace.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        match self.own {
            Some(own) => drop(headers.insert(TRACEPARENT, traceparent(&own))),
            None if self.continued => {}
            None => drop(headers.remove(TRACEPARENT)),
        }
        if !self.continued || !is_state_sound(headers) {
            headers.remove(TRACESTATE);
        }
    }
}

/// # Standard
/// W3C Trace Context §3.2, version 00.
fn traceparent(own: &TraceContext) -> HeaderValue {
    let mut text = [b'-'; 55];
    hex(&mut text[0..2], &[0]);
    hex(&mut text[3..35], &own.trace_id);
    hex(&mut text[36..52], &own.span_id);
    hex(&mut text[53..55], &[u8::from(own.sampled)]);
    // Digits, letters and hyphens are a value.
    HeaderValue::from_bytes(&text).unwrap_or(const { HeaderValue::from_static("") })
}

fn hex(into: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in into.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[byte >> 4, byte & 15].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]));
    }
}

/// The caller's span; `None` when it names none, two, or a malformed one.
fn parent(headers: &HeaderMap) -> Option<ParentSpan> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse(line.as_bytes()),
        _ => None,
    }
}

/// # Standard
/// W3C Trace Context §3.2: a version other than 00 is read by its first four fields.
fn parse(line: &[u8]) -> Option<ParentSpan> {
    let (known, rest) = line.split_at_checked(55)?;
    let later = rest.is_empty() || rest.starts_with(b"-");
    let hyphens = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let [version] = bytes(&known[0..2])?;
    let sound = hyphens && version != 0xff && (rest.is_empty() || version != 0 && later);
    let (trace_id, span_id) = (bytes(&known[3..35])?, bytes(&known[36..52])?);
    let [flags] = bytes(&known[53..55])?;
    let named = trace_id != [0; 16] && span_id != [0; 8];
    (sound && named).then_some(ParentSpan { trace_id, span_id, sampled: flags & 1 == 1 })
}

/// Bytes of lower hex.
fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut found = [0; N];
    for (byte, pair) in found.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(found)
}

/// Whether a `tracestate` is a list of members, each once; an absent one is.
///
/// # Standard
/// W3C Trace Context §3.3: at most 32 members; the lines are one list.
fn is_state_sound(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TRACESTATE).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let mut keys: [&[u8]; 32] = [b""; 32];
    let members = members.map(trimmed).filter(|member| !member.is_empty());
    for (count, member) in members.enumerate() {
        let Some(at) = member.iter().position(|b| *b == b'=') else { return false };
        let (key, value) = (&member[..at], &member[at + 1..]);
        let Some(slot) = keys.get_mut(count) else { return false };
        *slot = key;
        if !is_key(key) || !is_value(value) || keys[..count].contains(&key) {
            return false;
        }
    }
    true
}

/// Without the spaces and tabs around it.
fn trimmed(member: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let begin = member.iter().position(|b| !blank(b)).unwrap_or(member.len());
    let end = member.iter().rposition(|b| !blank(b)).map_or(begin, |at| at + 1);
    &member[begin..end]
}

fn is_key(key: &[u8]) -> bool {
    let plain = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let first = key.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first && key.len() <= 256 && key.iter().all(plain) && key.iter().filter(|b| **b == b'@').count() <= 1
}

fn is_value(value: &[u8]) -> bool {
    let plain = |b: &u8| matches!(b, 0x20..=0x7e) && *b != b'=';
    (1..=256).contains(&value.len()) && value.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: [u8; 16] = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    const SPAN: [u8; 8] = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn callers_spans() {
        let rows = [
            (GOOD, Some(true)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", Some(false)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", Some(true)),
            // A version to come.
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true)),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", Some(true)),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", None),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e47366-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", None),
            ("0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01", None),
            ("", None),
        ];
        for (line, sampled) in rows {
            let found = parent(&headers(&[("traceparent", line)]));
            let expected = sampled.map(|sampled| ParentSpan { trace_id: TRACE, span_id: SPAN, sampled });
            assert_eq!(found, expected, "{line}");
        }
        assert_eq!(parent(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])), None, "two are none");
        assert_eq!(parent(&headers(&[])), None);
    }

    #[test]
    fn states_are_lists_of_members() {
        let many = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        let long = |bytes: usize| format!("k={}", "v".repeat(bytes));
        let key = |bytes: usize| format!("{}=v", "k".repeat(bytes));
        let rows: &[(&str, bool)] = &[
            ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", true),
            ("rojo=1 , \t congo=2,,", true),
            ("tenant@system=1", true),
            ("0a_-*/=a b!~", true),
            (&many(32), true),
            (&many(33), false),
            (&long(256), true),
            (&long(257), false),
            (&key(256), true),
            (&key(257), false),
            ("rojo=1,rojo=2", false),
            ("rojo", false),
            ("=1", false),
            ("rojo=", false),
            ("Rojo=1", false),
            ("_rojo=1", false),
            ("a@b@c=1", false),
            ("rojo=1=2", false),
            ("rojo=a\tb", false),
            ("", true),
        ];
        for (line, sound) in rows {
            assert_eq!(is_state_sound(&headers(&[("tracestate", line)])), *sound, "{line}");
        }
        let apart = |second| headers(&[("tracestate", "a=1"), ("tracestate", second)]);
        assert!(is_state_sound(&apart("b=1")) && !is_state_sound(&apart("a=2")));
    }

    #[test]
    fn the_upstream_is_told_of_our_span_or_of_what_is_sound() {
        let own = TraceContext { trace_id: TRACE, span_id: [0xa1; 8], parent: None, sampled: true };
        let quiet = TraceContext { sampled: false, ..own };
        let ours = "00-4bf92f3577b34da6a3ce929d0e0e4736-a1a1a1a1a1a1a1a1-01";
        let muted = "00-4bf92f3577b34da6a3ce929d0e0e4736-a1a1a1a1a1a1a1a1-00";
        let (sound, unsound) = ("rojo=1", "rojo");
        let rows = [
            (None, Some(GOOD), sound, Some(GOOD), true),
            (None, Some(GOOD), unsound, Some(GOOD), false),
            (None, Some("00-bad"), sound, None, false),
            (None, None, sound, None, false),
            (Some(own), Some(GOOD), sound, Some(ours), true),
            (Some(quiet), Some(GOOD), sound, Some(muted), true),
            (Some(own), Some(GOOD), unsound, Some(ours), false),
            (Some(own), Some("00-bad"), sound, Some(ours), false),
            (Some(own), None, sound, Some(ours), false),
        ];
        for (own, sent, state, told, keeps) in rows {
            let mut sent: Vec<_> = sent.map(|line| ("traceparent", line)).into_iter().collect();
            sent.push(("tracestate", state));
            let mut headers = headers(&sent);
            let trace = Trace { parent: parent(&headers), own, decision: None };
            trace.onward().apply(&mut headers);
            let found = headers.get("traceparent").map(|value| value.to_str().unwrap());
            assert_eq!((found, headers.contains_key("tracestate")), (told, keeps), "{sent:?}");
        }
        let mut two = headers(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        Trace::begin(None, &two).onward().apply(&mut two);
        assert!(two.is_empty());
    }
}
