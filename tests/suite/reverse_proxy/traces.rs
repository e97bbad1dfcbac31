//! Traces: what the upstream is told, what a collector receives, and what neither gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use portreeve::telemetry::traces::{ExportSettings, Sampler, Tracer};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::support::PATIENCE;
use crate::support::collector::Collector;
use crate::support::front::{Gate, ext_authz_with};
use crate::support::port::free;
use crate::support::tls::{Authority, Relay, runtime, server};
use crate::support::upstream::Upstream;
use crate::support::world::World;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A tracer whose ids are 0101…, 0202… and so on, and who exports for it.
struct Tracing {
    tracer: Arc<Tracer>,
    registry: Registry,
    stop: CancellationToken,
    over: tokio::task::JoinHandle<()>,
    runtime: tokio::runtime::Runtime,
}

impl Tracing {
    fn to(endpoint: String, batch_max: usize) -> Self {
        Self::trusting(endpoint, batch_max, None)
    }

    fn trusting(endpoint: String, batch_max: usize, ca: Option<String>) -> Self {
        let (count, registry) = (AtomicU8::new(0), Registry::new());
        let ids = Box::new(move || Some([count.fetch_add(1, Ordering::SeqCst) + 1; 24]));
        let sampler = Sampler { parent_based: true, share: 1 << 63 };
        let (tracer, spans) = Tracer::new(sampler, ids, 16, &registry);
        let resource = vec![("service.name".to_owned(), "edge".to_owned())];
        let delay = Duration::from_secs(600);
        let settings = ExportSettings { endpoint, ca, resource, batch_max, delay };
        let (runtime, stop) = (runtime(), CancellationToken::new());
        let over = runtime.spawn(spans.export(settings, stop.clone()));
        Self { tracer: Arc::new(tracer), registry, stop, over, runtime }
    }

    /// Each span at once.
    fn begin(collector: &Collector) -> Self {
        Self::to(format!("http://{}", collector.address), 1)
    }

    fn gate(&self, upstream: &Upstream) -> Gate {
        Gate::with(upstream.address(), |settings, _| settings.tracer = Some(Arc::clone(&self.tracer)))
    }

    fn count(&self, outcome: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let line = format!("portreeve_trace_spans_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap()
    }

    /// Waits until one is counted so.
    fn wait(&self, outcome: &str) {
        let begun = std::time::Instant::now();
        while self.count(outcome) == 0 {
            assert!(begun.elapsed() < PATIENCE, "none is {outcome}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_request_goes_on_in_its_callers_trace() {
    let (upstream, collector) = (Upstream::hello(), Collector::new());
    let tracing = Tracing::begin(&collector);
    let gate = tracing.gate(&upstream);
    let token = gate.token();
    let ask = format!(
        "GET /orders/1?secret=xyz HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: rojo=1\r\n\r\n"
    );
    let answer = gate.caller().ask(&ask);
    assert_eq!(answer.status, 200);
    let arrived = upstream.next();
    let own = "0101010101010101";
    assert_eq!(arrived.one("traceparent"), Some(format!("00-{TRACE}-{own}-01").as_str()));
    assert_eq!(arrived.one("tracestate"), Some("rojo=1"));

    let span = collector.next();
    assert_eq!(span.ids(), (TRACE.to_owned(), own.to_owned(), CALLER.to_owned()));
    assert_eq!((span.span.kind(), span.span.name.as_str()), (SpanKind::Server, "GET /orders/**"));
    assert!(span.span.end_time_unix_nano > span.span.start_time_unix_nano);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/orders/**"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("portreeve.listener", "inbound"),
        ("portreeve.effect", "allow"),
        ("portreeve.reason", "allowed"),
        ("portreeve.decision", answer.one("x-portreeve-decision").unwrap()),
    ] {
        assert_eq!(span.attribute(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(span.span.attributes.len(), 9, "and nothing else: {:?}", span.span.attributes);
    assert_eq!(span.said_by("service.name").as_deref(), Some("edge"));
    let whole = format!("{span:?}");
    assert!(!whole.contains("xyz") && !whole.contains(&token), "neither query nor credential");
}

#[test]
fn a_refused_request_has_its_span_too() {
    let (upstream, collector) = (Upstream::hello(), Collector::new());
    let tracing = Tracing::begin(&collector);
    let gate = tracing.gate(&upstream);
    let lines = format!("Host: orders.test\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\n");
    let rows = [
        ("GET", "/orders/1", 401, "credential.missing", "GET", "GET"),
        ("BREW", "/orders/1", 401, "credential.missing", "HTTP", "_OTHER"),
        ("GET", "/nowhere", 403, "policy.denied", "GET", "GET"),
        ("GET", "/orders/../x", 400, "request.ambiguous", "GET", "GET"),
    ];
    for (at, (method, path, status, reason, name, shown)) in rows.into_iter().enumerate() {
        let answer = gate.caller().ask(&format!("{method} {path} HTTP/1.1\r\n{lines}\r\n"));
        let span = collector.next();
        let row = format!("{method} {path}");
        let own = format!("{:02x}", at + 1).repeat(8);
        assert_eq!(span.ids(), (TRACE.to_owned(), own, CALLER.to_owned()), "{row}");
        assert_eq!((answer.status, span.span.name.as_str()), (status, name), "{row}");
        assert_eq!(span.attribute("http.request.method").as_deref(), Some(shown), "{row}");
        assert_eq!(span.attribute("portreeve.effect").as_deref(), Some("deny"), "{row}");
        assert_eq!(span.attribute("portreeve.reason").as_deref(), Some(reason), "{row}");
        let decision = answer.one("x-portreeve-decision").map(str::to_owned);
        assert_eq!(span.attribute("portreeve.decision"), decision, "{row}");
        // What a caller does wrong is no error of a server's span.
        assert_eq!(span.span.status.unwrap_or_default().code(), StatusCode::Unset, "{row}");
    }
    assert!(upstream.is_untouched());
}

#[test]
fn an_upstream_that_fails_is_an_error() {
    let collector = Collector::new();
    let tracing = Tracing::begin(&collector);
    let gate = Gate::with(free(), |settings, _| settings.tracer = Some(Arc::clone(&tracing.tracer)));
    assert_eq!(gate.order(&mut gate.caller(), "").status, 503);
    let span = collector.next();
    assert_eq!(span.span.status.clone().unwrap().code(), StatusCode::Error);
    assert_eq!(span.attribute("error.type").as_deref(), Some("503"));
    assert_eq!(span.attribute("portreeve.effect").as_deref(), Some("allow"), "that was decided");
}

#[test]
fn what_the_caller_does_not_record_is_not_exported() {
    let (upstream, collector) = (Upstream::hello(), Collector::new());
    let tracing = Tracing::begin(&collector);
    let gate = tracing.gate(&upstream);
    let mut caller = gate.caller();
    let mut sent = |flags: &str| {
        let line = format!("traceparent: 00-{TRACE}-{CALLER}-{flags}\r\n");
        assert_eq!(gate.order(&mut caller, &line).status, 200);
        upstream.next().one("traceparent").unwrap().to_owned()
    };
    assert_eq!(sent("00"), format!("00-{TRACE}-0101010101010101-00"));
    assert_eq!(sent("01"), format!("00-{TRACE}-0202020202020202-01"));
    assert_eq!(collector.next().ids().1, "0202020202020202", "the first has none");
    assert!(collector.is_untouched());
    tracing.wait("exported");
    assert_eq!((tracing.count("exported"), tracing.count("dropped"), tracing.count("failed")), (1, 0, 0));
}

#[test]
fn without_a_sound_trace_one_begins_here() {
    let (upstream, collector) = (Upstream::hello(), Collector::new());
    let tracing = Tracing::begin(&collector);
    let gate = tracing.gate(&upstream);
    let good = format!("traceparent: 00-{TRACE}-{CALLER}-00\r\n");
    let rows = [
        String::new(),
        format!("traceparent: 00-{}-{CALLER}-01\r\n", "0".repeat(32)),
        format!("traceparent: ff-{TRACE}-{CALLER}-01\r\n"),
        format!("traceparent: 00-{TRACE}-{CALLER}\r\n"),
        format!("{good}{good}"),
    ];
    for (at, line) in rows.iter().enumerate() {
        let answer = gate.order(&mut gate.caller(), &format!("{line}tracestate: rojo=1\r\n"));
        assert_eq!(answer.status, 200, "{line}: it decides nothing");
        let (trace, own) = (format!("{:02x}", at + 1).repeat(16), format!("{:02x}", at + 1).repeat(8));
        let arrived = upstream.next();
        assert_eq!(arrived.one("traceparent"), Some(format!("00-{trace}-{own}-01").as_str()), "{line}");
        assert_eq!(arrived.one("tracestate"), None, "{line}");
        assert_eq!(collector.next().ids(), (trace, own, String::new()), "{line}");
    }
}

#[test]
fn without_a_tracer_a_sound_trace_goes_on_as_it_came() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let good = format!("00-{TRACE}-{CALLER}-01");
    let later = format!("01-{TRACE}-{CALLER}-01-later");
    let bad = format!("ff-{TRACE}-{CALLER}-01");
    for (sent, told) in [(&good, Some(&good)), (&later, Some(&later)), (&bad, None)] {
        let lines = format!("traceparent: {sent}\r\ntracestate: rojo=1\r\n");
        assert_eq!(gate.order(&mut gate.caller(), &lines).status, 200);
        let arrived = upstream.next();
        assert_eq!(arrived.one("traceparent"), told.map(String::as_str), "{sent}");
        assert_eq!(arrived.one("tracestate"), told.map(|_| "rojo=1"), "{sent}");
    }
}

#[test]
fn a_check_of_envoys_is_a_span_in_the_trace_of_what_is_checked() {
    let (world, collector) = (World::new(), Collector::new());
    let tracing = Tracing::begin(&collector);
    let (running, _door) =
        ext_authz_with(&world, |settings| settings.tracer = Some(Arc::clone(&tracing.tracer)));
    let bearer = format!("Bearer {}", world.token(&world.claims("ledger")));
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let rows = [(Some(&bearer), 0, "allow", "allowed"), (None, 16, "deny", "credential.missing")];
    for (at, (bearer, code, effect, reason)) in rows.into_iter().enumerate() {
        let mut headers = vec![("traceparent", parent.as_str())];
        headers.extend(bearer.map(|bearer| ("authorization", bearer.as_str())));
        assert_eq!(crate::ext_authz::ask(running.address(), &headers).0, code);
        let span = collector.next();
        let own = format!("{:02x}", at + 1).repeat(8);
        assert_eq!(span.ids(), (TRACE.to_owned(), own, CALLER.to_owned()));
        assert_eq!(span.span.kind(), SpanKind::Server);
        let check = "envoy.service.auth.v3.Authorization/Check";
        assert_eq!(span.span.name, check);
        assert_eq!(span.attribute("rpc.method").as_deref(), Some(check));
        assert_eq!(span.attribute("rpc.system.name").as_deref(), Some("grpc"));
        assert_eq!(span.attribute("portreeve.effect").as_deref(), Some(effect));
        assert_eq!(span.attribute("portreeve.reason").as_deref(), Some(reason));
        assert!(span.attribute("portreeve.decision").is_some());
    }
}

#[test]
fn a_collector_by_tls_must_be_whom_it_says() {
    let (ours, other) = (Authority::new(), Authority::new());
    let upstream = Upstream::hello();
    for (row, trusted, good) in [("the right one", &ours, true), ("of another authority", &other, false)] {
        let collector = Collector::new();
        let shown = server(&ours.certify("127.0.0.1", 2030), None, &["h2"]);
        let relay = Relay::tls(collector.address, shown);
        let endpoint = format!("https://{}", relay.address);
        let tracing = Tracing::trusting(endpoint, 1, Some(trusted.certificate.clone()));
        let gate = tracing.gate(&upstream);
        assert_eq!(gate.order(&mut gate.caller(), "").status, 200, "{row}");
        tracing.wait(if good { "exported" } else { "failed" });
        assert_eq!(collector.is_untouched(), !good, "{row}");
    }
}

#[test]
fn what_waits_is_exported_at_the_end() {
    let (upstream, collector) = (Upstream::hello(), Collector::new());
    let tracing = Tracing::to(format!("http://{}", collector.address), 100);
    let gate = tracing.gate(&upstream);
    for _ in 0..3 {
        assert_eq!(gate.order(&mut gate.caller(), "").status, 200);
    }
    assert!(collector.is_untouched());
    tracing.stop.cancel();
    let Tracing { over, runtime, registry, .. } = tracing;
    runtime.block_on(over).unwrap();
    let owns: Vec<_> = (0..3).map(|_| collector.next().ids().1).collect();
    assert_eq!(owns, ["01", "02", "03"].map(|byte| byte.repeat(8)));
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text.contains("portreeve_trace_spans_total{outcome=\"exported\"} 3\n"), "{text}");
}

#[test]
fn without_a_collector_requests_are_answered_and_spans_are_counted() {
    let upstream = Upstream::hello();
    let tracing = Tracing::to(format!("http://{}", free()), 1);
    let gate = tracing.gate(&upstream);
    let mut caller = gate.caller();
    // Far more than wait and are under way.
    for _ in 0..40 {
        assert_eq!(gate.order(&mut caller, "").status, 200);
    }
    tracing.wait("failed");
    assert!(tracing.count("dropped") > 0);
    assert_eq!(tracing.count("exported"), 0);
}
