//! Bytes put together at random: whatever the proxy makes of them, the upstream receives only requests that a
//! reader without any leniency finds in them, in their order.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::recorder::{Recorder, Seen};
use crate::support::front::Gate;

/// A request as the strict reader finds it: its line and its body.
type Found = (String, String);

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

/// A line that ends in CRLF and holds no other of the two, nor a NUL.
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (text, rest) = bytes.split_at(end);
    *bytes = &rest[2..];
    let plain = !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    std::str::from_utf8(text).ok().filter(|_| plain)
}

fn body<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(body)
}

/// The next request, if there is a whole one that can be read in one way.
fn request(bytes: &mut &[u8]) -> Option<Found> {
    let mut first = line(bytes)?;
    while first.is_empty() {
        first = line(bytes)?;
    }
    let [_, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else { return None };
    if !target.starts_with('/') {
        return None;
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    loop {
        let text = line(bytes)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':')?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim().parse::<usize>().ok()?),
            "transfer-encoding" => codings.push(value.trim()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    let whole = match (&codings[..], &lengths[..]) {
        ([], []) => Vec::new(),
        ([], [length]) => body(bytes, *length)?.to_vec(),
        (["chunked"], []) => chunks(bytes)?,
        _ => return None,
    };
    (hosts == 1).then_some((first.to_owned(), String::from_utf8(whole).ok()?))
}

fn chunks(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let size = line(bytes)?;
        let digits = size.split_once(';').map_or(size, |(digits, _)| digits);
        let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| hex && !size.contains('"'))?;
        if size == 0 {
            while !line(bytes)?.is_empty() {}
            return Some(whole);
        }
        whole.extend(body(bytes, size)?);
        line(bytes).filter(|end| end.is_empty())?;
    }
}

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
