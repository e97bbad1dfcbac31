//! The end of a listener: what is under way ends in order, whoever is connected is told.

use portreeve::pep::Drained;

use super::websocket::open;
use crate::support::frames::{Frames, GOAWAY, HEADERS, get};
use crate::support::front::Gate;
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::block_on;

const CLOSE_1001: &[u8] = &[0x88, 2, 0x03, 0xe9];

#[test]
fn a_web_socket_is_closed_with_1001() {
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hello".to_vec()));
    let gate = Gate::new(upstream.address());
    let mut socket = open(&gate, "ledger");
    assert_eq!(socket.bytes(7), b"\x81\x05hello");
    gate.running.begin_stop();
    assert_eq!(socket.rest(), CLOSE_1001);
    assert_eq!(block_on(gate.running.stop()), Drained::default());
    upstream.wait_closed();
}

#[test]
fn a_frame_that_has_begun_goes_to_its_end_first() {
    // Four bytes of a frame of five; the rest is what the caller sends, echoed.
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hell".to_vec()));
    let gate = Gate::new(upstream.address());
    let mut socket = open(&gate, "ledger");
    assert_eq!(socket.bytes(6), b"\x81\x05hell");
    gate.running.begin_stop();
    socket.write(b"o");
    assert_eq!(socket.rest(), [b"o", CLOSE_1001].concat());
    // One whose frame does not end is cut.
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hell".to_vec()));
    let gate = Gate::new(upstream.address());
    let mut socket = open(&gate, "ledger");
    assert_eq!(socket.bytes(6), b"\x81\x05hell");
    gate.running.begin_stop();
    assert!(socket.is_reset());
}

#[test]
fn an_http2_connection_is_said_farewell_to_and_its_streams_finish() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let gate = Gate::new(upstream.address());
    let mut caller = Frames::to(gate.running.address());
    caller.write(&get(1, "/open/x"));
    upstream.next();
    gate.running.begin_stop();
    let farewell = caller.next(&[GOAWAY, HEADERS]).unwrap();
    assert_eq!((farewell.kind, farewell.code()), (GOAWAY, 0));
    upstream.go();
    let answer = caller.next(&[HEADERS]).unwrap();
    assert_eq!(answer.stream, 1);
    // It answers no PING: the proxy would wait for that before it closes.
    drop(caller);
    assert_eq!(block_on(gate.running.stop()), Drained::default());
}

#[test]
fn a_request_on_its_way_is_answered_and_told_that_it_is_the_last() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let (mut used, mut fresh) = (gate.caller(), gate.caller());
    assert_eq!(gate.order(&mut used, "").one("connection"), None);
    gate.running.begin_stop();
    for caller in [&mut used, &mut fresh] {
        let answer = gate.order(caller, "");
        assert_eq!((answer.status, answer.one("connection")), (200, Some("close")));
        assert!(caller.is_closed());
    }
    assert_eq!(block_on(gate.running.stop()), Drained::default());
}

#[test]
fn a_silent_one_is_not_waited_for() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let (mut silent, mut used) = (gate.caller(), gate.caller());
    gate.order(&mut used, "");
    used.write(b"GET /open/x HT");
    assert_eq!(block_on(gate.running.stop()), Drained::default());
    assert!(silent.is_closed() && used.ends());
}
