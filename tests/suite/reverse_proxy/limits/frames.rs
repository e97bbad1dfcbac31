//! Floods of HTTP/2 frames, each at its bound.

use std::time::Duration;

use super::{bounded, ended};
use crate::support::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS, PING, REFUSED_STREAM,
    RST_STREAM, WINDOW_UPDATE, block, frame, get, reset,
};
use crate::support::upstream::{Reply, Upstream};

fn silent() -> Upstream {
    Upstream::new(|arrived| match arrived.line() {
        "GET /open/quiet HTTP/1.1" => Reply::Open(Vec::new()),
        _ => Reply::Bytes(crate::support::upstream::ok("", "hello")),
    })
}

/// More window than there can be: an error of the stream, which the server resets.
fn overflow(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())
}

#[test]
fn streams_at_once_are_bounded() {
    let upstream = silent();
    let gate = bounded(&upstream, |limits| limits.streams_max = 2);
    let mut caller = Frames::to(gate.running.address());
    caller.write(&[get(1, "/open/quiet"), get(3, "/open/quiet"), get(5, "/open/quiet")].concat());
    let refused = caller.next(&[RST_STREAM, GOAWAY]).unwrap();
    assert_eq!((refused.kind, refused.stream, refused.code()), (RST_STREAM, 5, REFUSED_STREAM));
    upstream.next();
    upstream.next();
    caller.write(&reset(1));
    upstream.wait_closed();
    assert!(caller.is_answered(7, "/open/x"), "there is room again");
}

/// Rapid reset (CVE-2023-44487) of streams that were taken up: each had its work, which is cancelled.
#[test]
fn resets_of_streams_are_bounded() {
    let upstream = silent();
    let gate = bounded(&upstream, |limits| limits.resets_max = 3);
    let mut caller = Frames::to(gate.running.address());
    let mut stream = 1;
    let mut open_and_reset = |caller: &mut Frames| {
        caller.write(&get(stream, "/open/quiet"));
        upstream.next();
        caller.write(&reset(stream));
        upstream.wait_closed();
        stream += 2;
    };
    for _ in 0..3 {
        open_and_reset(&mut caller);
    }
    assert!(caller.is_answered(101, "/open/x"));
    upstream.next();
    caller.write(&get(103, "/open/quiet"));
    upstream.next();
    caller.write(&reset(103));
    assert_eq!(caller.farewell(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(ended(&gate, "resets"), 1);
}

/// Rapid reset of streams before they were taken up.
#[test]
fn resets_in_one_burst_are_bounded() {
    let upstream = silent();
    for (count, ends) in [(20_u32, false), (21, true)] {
        let gate = bounded(&upstream, |_| {});
        let mut caller = Frames::to(gate.running.address());
        // The connection is up: what follows is read at once.
        assert!(caller.is_answered(1, "/open/x"));
        let burst: Vec<u8> =
            (1..=count).flat_map(|at| [get(2 * at + 1, "/open/quiet"), reset(2 * at + 1)].concat()).collect();
        caller.write(&burst);
        if ends {
            assert_eq!(caller.farewell(), Some(ENHANCE_YOUR_CALM));
        } else {
            assert!(caller.is_answered(1001, "/open/x"));
        }
    }
}

/// Resets that the caller makes the server send (CVE-2025-8671).
#[test]
fn resets_that_the_server_is_made_to_send_are_bounded() {
    let upstream = silent();
    let gate = bounded(&upstream, |_| {});
    let mut caller = Frames::to(gate.running.address());
    for at in 0..20 {
        let stream = 2 * at + 1;
        caller.write(&get(stream, "/open/quiet"));
        upstream.next();
        caller.write(&overflow(stream));
        assert_eq!(caller.next(&[RST_STREAM, GOAWAY]).unwrap().kind, RST_STREAM, "{at}");
    }
    assert!(caller.is_answered(101, "/open/x"));
    upstream.next();
    caller.write(&get(103, "/open/quiet"));
    upstream.next();
    caller.write(&overflow(103));
    assert_eq!(caller.farewell(), Some(ENHANCE_YOUR_CALM));
}

/// Frames of one head (CERT VU#421644), empty ones too.
#[test]
fn frames_of_a_head_are_bounded() {
    let upstream = silent();
    // The last one is not counted.
    for (count, ends) in [(6, false), (7, true)] {
        let gate = bounded(&upstream, |_| {});
        let mut caller = Frames::to(gate.running.address());
        let mut bytes = frame(HEADERS, END_STREAM, 1, &block("/open/x"));
        for at in 1..=count {
            let flags = if at == count { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, flags, 1, &[]));
        }
        caller.write(&bytes);
        if ends {
            assert_eq!(caller.farewell(), Some(ENHANCE_YOUR_CALM));
        } else {
            assert_eq!(caller.next(&[HEADERS, GOAWAY]).unwrap().kind, HEADERS);
        }
    }
}

#[test]
fn a_head_whose_frames_do_not_end_has_its_end() {
    let upstream = silent();
    let gate = bounded(&upstream, |limits| limits.head_timeout = Duration::from_millis(200));
    let mut caller = Frames::to(gate.running.address());
    assert!(caller.is_answered(1, "/open/x"));
    caller.write(&get(3, "/open/quiet"));
    caller.write(&frame(HEADERS, END_STREAM, 5, &block("/open/x")));
    assert!(caller.next(&[HEADERS]).is_none());
    assert_eq!(ended(&gate, "head"), 1);
}

#[test]
fn frames_that_carry_nothing_are_bounded() {
    let upstream = silent();
    let priority = || frame(2, 0, 1, &[0, 0, 0, 0, 1]);
    let rows = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(crate::support::frames::SETTINGS, 0, 0, &[])),
        ("PRIORITY", priority()),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("unknown", frame(0x42, 0, 0, &[])),
    ];
    for (name, one) in rows {
        let gate = bounded(&upstream, |limits| limits.control_frames_max = 100);
        let mut caller = Frames::to(gate.running.address());
        // The first SETTINGS counts, and an answer's two frames earn twenty.
        caller.write(&one.repeat(99));
        assert!(caller.is_answered(1, "/open/x"), "{name}");
        while caller.read().is_some_and(|frame| frame.kind != 0) {}
        caller.write(&one.repeat(20));
        assert!(caller.is_answered(3, "/open/x"), "{name}");
        while caller.read().is_some_and(|frame| frame.kind != 0) {}
        caller.write(&one.repeat(21));
        assert_eq!(caller.farewell(), Some(ENHANCE_YOUR_CALM), "{name}");
        assert_eq!(ended(&gate, "control"), 1, "{name}");
    }
}

#[test]
fn an_idle_connection_is_said_farewell_to() {
    let upstream = silent();
    let gate = bounded(&upstream, |limits| limits.idle_timeout = Duration::from_millis(200));
    let mut caller = Frames::to(gate.running.address());
    assert!(caller.is_answered(1, "/open/x"));
    assert_eq!(caller.farewell(), Some(0));
    assert_eq!(ended(&gate, "idle"), 1);
}
