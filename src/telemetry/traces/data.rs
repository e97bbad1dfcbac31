//! A span in OpenTelemetry's words.
//!
//! # Standard
//! OpenTelemetry semantic conventions for HTTP server spans and for gRPC. Deliberately absent: `url.path` and
//! `url.query`, which may hold secrets; the path's template is there.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Span, SpanDecision};
use crate::core::evidence::Door;

/// The method of a check.
const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";

/// Methods that go into names and attributes as they are; others are counted as one.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY"];

/// The span as it is exported.
pub(super) fn of(span: Span, scope: &InstrumentationScope) -> SpanData {
    let Span { context, decision, status, .. } = &span;
    let flags = TraceFlags::SAMPLED;
    let (trace, own) = (TraceId::from_bytes(context.trace_id), SpanId::from_bytes(context.span_id));
    let end_time = SystemTime::UNIX_EPOCH
        + Duration::from_micros(u64::try_from(span.ended.as_micros()).unwrap_or_default());
    let failed = status.is_some_and(|status| status >= 500);
    SpanData {
        span_context: SpanContext::new(trace, own, flags, false, TraceState::NONE),
        parent_span_id: context.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: context.parent.is_some(),
        span_kind: SpanKind::Server,
        name: name(&span),
        start_time: end_time - span.took,
        end_time,
        attributes: attributes(&span, decision.as_ref()),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

/// The method, if it is one of the usual ones.
fn method(span: &Span) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == &*span.facts.method)
}

fn name(span: &Span) -> Cow<'static, str> {
    if span.facts.door == Door::ExtAuthz {
        return Cow::Borrowed(CHECK);
    }
    let method = method(span).unwrap_or("HTTP");
    match span.decision.as_ref().and_then(|decision| decision.route.as_ref()) {
        Some(route) => Cow::Owned(format!("{method} {route}")),
        None => Cow::Borrowed(method),
    }
}

fn attributes(span: &Span, decision: Option<&SpanDecision>) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(12);
    match span.facts.door {
        Door::Proxy => {
            all.push(KeyValue::new("http.request.method", method(span).unwrap_or("_OTHER")));
            all.push(KeyValue::new("network.protocol.version", span.version));
            if let Some(peer) = span.facts.peer {
                all.push(KeyValue::new("client.address", peer.to_string()));
            }
            if let Some(route) = decision.and_then(|decision| decision.route.as_ref()) {
                all.push(KeyValue::new("http.route", route.to_string()));
            }
            if let Some(status) = span.status {
                all.push(KeyValue::new("http.response.status_code", i64::from(status)));
                if status >= 500 {
                    all.push(KeyValue::new("error.type", status.to_string()));
                }
            }
        }
        Door::ExtAuthz => {
            all.push(KeyValue::new("rpc.system.name", "grpc"));
            all.push(KeyValue::new("rpc.method", CHECK));
            all.push(KeyValue::new("rpc.response.status_code", "OK"));
        }
    }
    all.push(KeyValue::new("portreeve.listener", span.facts.listener.to_string()));
    if let Some(decision) = decision {
        all.push(KeyValue::new("portreeve.decision", decision.id.to_string()));
        all.push(KeyValue::new("portreeve.effect", decision.effect.as_str()));
        all.push(KeyValue::new("portreeve.reason", decision.reason));
    }
    all
}
