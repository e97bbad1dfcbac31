//! Bytes put together at random: whatever the proxy makes of them, the upstream receives only requests that a
//! reader without any leniency finds in them, in their order.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::recorder::{Recorder, Seen};
use super::strict::{Found, request};
use crate::support::front::Gate;

const CASES: u32 = 400;
const PROBE: &str = "GET /open/probe HTTP/1.1";

/// Whole requests.
const WHOLE: &[&str] = &[
    "GET /open/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /open/b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /open/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// What can come between them or within.
const PIECES: &[&str] = &[
    "POST /open/d HTTP/1.1\r\nHost: a\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 38\r\n",
    "content-length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tchunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: x\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\n",
    "X: y\r\n",
    " z\r\n",
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "hello",
    "5\r\nhello\r\n",
    "5\r\n",
    "5 \r\n",
    "5;a=\"\r\n",
    "26\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "X: \n",
    ":",
];

#[test]
fn the_upstream_receives_only_what_a_strict_reader_reads() {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    let passed = Cell::new(0);
    let piece = prop_oneof![proptest::sample::select(WHOLE), proptest::sample::select(PIECES)];
    let pieces = proptest::collection::vec(piece, 1..9);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&pieces, |pieces| {
        let text = pieces.concat();
        let mut rest = text.as_bytes();
        let found: Vec<Found> = std::iter::from_fn(|| request(&mut rest)).collect();
        let mut caller = gate.caller();
        caller.write(text.as_bytes());
        // It may wait for more.
        if !caller.ends_within(Duration::from_millis(20)) {
            caller.end_writing();
            caller.rest();
        }
        assert_eq!(gate.caller().ask(&format!("{PROBE}\r\nHost: a\r\n\r\n")).status, 200);
        let mut candidates = found.iter();
        loop {
            let seen: Seen = upstream.next();
            if seen.line == PROBE {
                break Ok(());
            }
            passed.set(passed.get() + 1);
            let is_next = |(line, body): &Found| *line == seen.line && *body == seen.body;
            prop_assert!(candidates.any(is_next), "{seen:?} is not in {found:?}, of {text:?}");
        }
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(passed.get() > CASES / 8, "only {} requests arrived", passed.get());
}
