//! Limits: just inside is served, just outside is refused or ended. docs/limits.md names these tests.

mod frames;

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::policy::Reason;
use portreeve::pep::{Limits, Load, Memory, RequestLimits};

use crate::support::caller::Caller;
use crate::support::evidence::Entry;
use crate::support::front::Gate;
use crate::support::upstream::{Reply, Upstream, ok};

const SHORT: Duration = Duration::from_millis(200);

fn gate(upstream: &Upstream, change: impl FnOnce(&mut RequestLimits)) -> Gate {
    Gate::with(upstream.address(), |settings, _| change(&mut settings.limits))
}

/// A gate whose connections have other limits.
pub(super) fn bounded(upstream: &Upstream, change: impl FnOnce(&mut Limits)) -> Gate {
    Gate::with(upstream.address(), |_, listener| change(&mut listener.limits))
}

/// How many connections were ended for `cause`.
pub(super) fn ended(gate: &Gate, cause: &str) -> u64 {
    let text = gate.metrics.render();
    let name = format!("portreeve_connections_ended_total{{cause=\"{cause}\",listener=\"inbound\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[test]
fn a_head_that_drips_has_its_end_from_the_accepting_on() {
    let upstream = Upstream::hello();
    let gate = bounded(&upstream, |limits| limits.head_timeout = SHORT);
    let mut caller = gate.caller();
    caller.write(b"GET /open/x HTTP/1.1\r\nHost: a\r\nX: ");
    let begun = std::time::Instant::now();
    while !caller.ends_within(Duration::from_millis(20)) {
        caller.write(b"x");
        assert!(begun.elapsed() < 20 * SHORT, "each byte puts the end off");
    }
    assert_eq!((ended(&gate, "head"), upstream.is_untouched()), (1, true));
}

#[test]
fn a_later_head_has_its_end_from_its_first_byte() {
    let upstream = Upstream::hello();
    let gate = bounded(&upstream, |limits| limits.head_timeout = SHORT);
    let mut caller = gate.caller();
    for _ in 0..2 {
        assert_eq!(gate.order(&mut caller, "").status, 200);
    }
    assert!(!caller.ends_within(2 * SHORT), "a connection may be idle for longer than a head may take");
    caller.write(b"GET /open/x HTTP/1.1\r\n");
    assert!(caller.ends());
    assert_eq!((ended(&gate, "head"), ended(&gate, "idle")), (1, 0));
}

#[test]
fn an_idle_connection_ends() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let gate = bounded(&upstream, |limits| limits.idle_timeout = SHORT);
    let mut caller = gate.caller();
    caller.write(gate.order_text("GET", "").as_bytes());
    assert!(!caller.ends_within(2 * SHORT), "a request is under way");
    upstream.go();
    assert_eq!(caller.read(false).status, 200);
    assert!(caller.is_closed());
    assert_eq!(ended(&gate, "idle"), 1);
}

#[test]
fn an_answer_that_is_not_taken_ends_in_a_reset() {
    let upstream = Upstream::new(|_| {
        // What it writes over and over is one body.
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
        Reply::Flood(format!("{head}{}", "x".repeat(0x4000)).into_bytes())
    });
    let gate = bounded(&upstream, |limits| limits.send_timeout = SHORT);
    let mut caller = gate.caller();
    caller.write(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.wait_closed();
    assert!(caller.is_reset());
    assert_eq!(ended(&gate, "send"), 1);
}

#[test]
fn a_slow_answer_of_the_upstream_is_not_the_callers() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let gate = bounded(&upstream, |limits| limits.send_timeout = SHORT);
    let mut caller = gate.caller();
    caller.write(gate.order_text("GET", "").as_bytes());
    assert!(!caller.ends_within(2 * SHORT));
    upstream.go();
    assert_eq!((caller.read(false).status, ended(&gate, "send")), (200, 0));
}

#[test]
fn one_request_too_many_is_shed_on_record() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let gate =
        Gate::with(upstream.address(), |settings, _| settings.load = Arc::new(Load::new(1, Arc::default())));
    let mut first = gate.caller();
    first.write(gate.order_text("GET", "").as_bytes());
    upstream.next();
    let mut second = gate.caller();
    let answer = gate.order(&mut second, "");
    assert_eq!((answer.status, answer.one("x-portreeve-reason")), (503, Some("overloaded")));
    assert_eq!(answer.one("retry-after"), Some("1"));
    assert_eq!(gate.world.log.last_verdict().reason(), Some(Reason::Overloaded));
    assert!(upstream.is_untouched());
    upstream.go();
    assert_eq!(first.read(false).status, 200);
    drop(first);
    upstream.go();
    assert_eq!(gate.order(&mut second, "").status, 200, "the place is free, the connection is in step");
    let line = "effect=\"deny\",listener=\"inbound\",reason=\"overloaded\"} 1\n";
    assert!(gate.metrics.render().contains(line));
}

#[test]
fn a_web_socket_keeps_its_place() {
    let upstream = Upstream::new(|_| Reply::Switch(Vec::new()));
    let gate =
        Gate::with(upstream.address(), |settings, _| settings.load = Arc::new(Load::new(1, Arc::default())));
    let mut socket = gate.caller();
    let wish = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    socket.write(gate.order_text("GET", wish).as_bytes());
    socket.skip_to("\r\n\r\n");
    assert_eq!(gate.order(&mut gate.caller(), "").status, 503);
    drop(socket);
    gate.wait_open(0);
    assert_ne!(gate.order(&mut gate.caller(), "").status, 503);
}

#[test]
fn memory_that_is_short_sheds_connections_and_then_requests() {
    let upstream = Upstream::hello();
    let memory = Arc::new(Memory::new(Some(1000)));
    let load = Arc::new(Load::new(100, Arc::clone(&memory)));
    let gate = Gate::with(upstream.address(), |settings, listener| {
        settings.load = Arc::clone(&load);
        listener.load = Arc::clone(&load);
    });
    memory.observe(900);
    let mut held = gate.caller();
    assert_eq!(gate.order(&mut held, "").status, 200);
    memory.observe(901);
    assert!(gate.caller().is_closed());
    memory.observe(1000);
    assert_eq!(gate.order(&mut held, "").status, 200);
    memory.observe(1001);
    let answer = gate.order(&mut held, "");
    assert_eq!((answer.status, answer.one("x-portreeve-reason")), (503, Some("overloaded")));
    memory.observe(0);
    assert_eq!(gate.order(&mut gate.caller(), "").status, 200);
    assert!(gate.metrics.render().contains("portreeve_connections_refused_total{listener=\"inbound\"} 1\n"));
}

/// A request with a body of `length`, said beforehand or chunked.
fn post(length: usize, chunked: bool) -> String {
    let body = "x".repeat(length);
    let head = "POST /open/x HTTP/1.1\r\nHost: a\r\n";
    if chunked {
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n")
    } else {
        format!("{head}Content-Length: {length}\r\n\r\n{body}")
    }
}

#[test]
fn the_bound_of_a_body_is_exact() {
    let upstream = Upstream::hello();
    let gate = gate(&upstream, |limits| limits.body_bytes_max = Some(10));
    for chunked in [false, true] {
        assert_eq!(gate.caller().ask(&post(10, chunked)).status, 200, "{chunked}");
        assert_eq!(upstream.next().body.len(), 10);
        let mut caller = gate.caller();
        let answer = caller.ask(&post(11, chunked));
        let reason = Some("request.body_too_large");
        assert_eq!((answer.status, answer.one("x-portreeve-reason")), (413, reason), "{chunked}");
        assert!(caller.ends(), "{chunked}");
        match gate.world.log.entries().last().unwrap() {
            Entry::Decided(verdict) if !chunked => assert_eq!(verdict.reason(), Some(Reason::RequestBody)),
            // It was allowed before its size was known.
            Entry::Severed(_, reason) if chunked => assert_eq!(*reason, Reason::RequestBody),
            other => panic!("{chunked}: {other:?}"),
        }
    }
}

#[test]
fn a_body_that_stands_still_is_not_waited_for() {
    let upstream = Upstream::hello();
    let gate = gate(&upstream, |limits| limits.body_timeout = SHORT);
    let mut caller = gate.caller();
    caller.write(b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    let answer = caller.read(false);
    assert_eq!((answer.status, answer.one("x-portreeve-reason")), (408, Some("request.too_slow")));
    assert!(caller.is_closed());
    let last = gate.world.log.entries().pop();
    assert!(matches!(last, Some(Entry::Severed(_, Reason::RequestSlow))), "{last:?}");
    let line = "portreeve_exchanges_severed_total{reason=\"request.too_slow\"} 1\n";
    assert!(gate.metrics.render().contains(line));
    assert_eq!(gate.caller().ask(&post(5, false)).status, 200);
}

#[test]
fn a_slow_upstream_is_not_the_callers_slowness() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let gate = gate(&upstream, |limits| limits.body_timeout = SHORT);
    let mut caller = gate.caller();
    caller.write(post(5, false).as_bytes());
    assert!(!caller.ends_within(2 * SHORT));
    upstream.go();
    assert_eq!(caller.read(false).status, 200);
}

#[test]
fn the_number_of_header_lines_is_bounded() {
    let upstream = Upstream::hello();
    let ask = |caller: &mut Caller, lines: usize| {
        let lines = "X: 1\r\n".repeat(lines - 1);
        caller.ask(&format!("GET /open/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
    };
    for most in [20, 100, 150] {
        let gate = Gate::with(upstream.address(), |settings, listener| {
            settings.limits.headers_max = most;
            listener.limits.headers_max = most;
        });
        assert_eq!(ask(&mut gate.caller(), most).status, 200, "{most}");
        let answer = ask(&mut gate.caller(), most + 1);
        assert_eq!(answer.status, 431, "{most}");
        // From 100 on the parser's own bound comes first.
        assert_eq!(answer.one("x-portreeve-reason"), (most < 100).then_some("request.limit"), "{most}");
    }
}

#[test]
fn the_bound_of_a_target_is_exact() {
    let upstream = Upstream::hello();
    let gate = gate(&upstream, |limits| limits.target_bytes_max = 100);
    for (length, status) in [(100, 200), (101, 414)] {
        let target = format!("/open/{}?{}", "x".repeat(50), "y".repeat(length - 57));
        let answer = gate.caller().ask(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((target.len(), answer.status), (length, status));
        let reason = (status == 414).then_some("request.target_too_long");
        assert_eq!(answer.one("x-portreeve-reason"), reason);
    }
}
