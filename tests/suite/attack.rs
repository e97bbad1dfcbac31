//! What strangers send, byte for byte, beside what is allowed: what the caller is told, and what the
//! upstream receives. [`index`] says for each threat of the list where it is shown.

mod faults;
mod frames;
mod heads;
mod hosts;
mod index;
mod names;
mod paths;
mod recorder;
mod smuggling;
mod strict;
mod upstreams;

use std::collections::BTreeMap;

use crate::support::front::Gate;
use recorder::{Recorder, Seen};

/// Bytes of one connection, and what becomes of each request in them.
struct Row {
    threat: &'static str,
    what: String,
    bytes: Vec<u8>,
    ends: Vec<End>,
    then: Then,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
enum End {
    /// The caller is told this; the upstream receives nothing. 400: by the parser, or on record.
    Refused(u16),
    /// It arrives with this line, these header lines parted by `|` (beside the decision's) and this body.
    Passed(String, String, String),
    /// The caller is told 400; the upstream sees no end of it.
    Cut,
}

/// What the connection is for afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Closed,
    InStep,
    /// Either: the body was not read.
    Unasked,
}

/// The bytes of a text of Latin-1.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

/// A row whose connection is closed when its last request is refused with 400.
fn row(threat: &'static str, what: &str, text: &str, ends: &[End]) -> Row {
    let closed = matches!(ends.last(), Some(End::Refused(400) | End::Cut));
    let then = if closed { Then::Closed } else { Then::InStep };
    Row { threat, what: what.to_owned(), bytes: bytes(text), ends: ends.to_vec(), then }
}

/// A `POST` of an anonymous route with further header lines.
fn post(threat: &'static str, what: &str, lines: &str, body: &str, end: End) -> Row {
    row(threat, what, &format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}"), &[end])
}

/// A `GET` of an anonymous route with further header lines.
fn get(threat: &'static str, what: &str, lines: &str, end: End) -> Row {
    row(threat, what, &format!("GET /open/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"), &[end])
}

/// Passed with this request line, these header lines and body.
fn passed(line: &str, lines: &str, body: &str) -> End {
    End::Passed(format!("{line} HTTP/1.1"), lines.to_owned(), body.to_owned())
}

impl Row {
    /// The same, the connection being this afterwards.
    fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// Sends each row on a connection of its own.
fn check(rows: &[Row]) {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    let token = gate.token();
    let mut shown: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for Row { threat, what, bytes, ends, then } in rows {
        let what = format!("{threat} {what}");
        let mut caller = gate.caller();
        caller.write(&with_token(bytes, &token));
        for (at, end) in ends.iter().enumerate() {
            let answer = caller.read(at == 0 && bytes.starts_with(b"HEAD"));
            let reason = answer.one("x-portreeve-reason");
            let both = shown.entry(threat).or_default();
            both.0 |= matches!(end, End::Passed(..));
            both.1 |= !matches!(end, End::Passed(..));
            match end {
                End::Passed(line, lines, body) => {
                    assert_eq!(answer.status, 200, "{what}: {answer:?}");
                    assert_eq!(upstream.next(), Seen::whole(line, lines, body), "{what}");
                }
                End::Refused(400) | End::Cut => {
                    assert_eq!(answer.status, 400, "{what}: {answer:?}");
                    let known = [None, Some("request.ambiguous"), Some("request.credentials")];
                    assert!(known.contains(&reason), "{what}: {reason:?}");
                }
                End::Refused(status) => assert_eq!(answer.status, *status, "{what}: {answer:?}"),
            }
        }
        match then {
            Then::Closed => assert!(caller.is_closed(), "{what}: it is closed"),
            Then::InStep => {
                let step = caller.ask("GET /open/step HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_eq!(step.status, 200, "{what}: the connection is in step");
                assert_eq!(upstream.next(), Seen::whole("GET /open/step HTTP/1.1", "host: a", ""), "{what}");
            }
            Then::Unasked => {}
        }
        // Nothing else has arrived, by whatever connection.
        assert_eq!(gate.caller().ask("GET /open/probe HTTP/1.1\r\nHost: a\r\n\r\n").status, 200, "{what}");
        assert_eq!(upstream.next(), Seen::whole("GET /open/probe HTTP/1.1", "host: a", ""), "{what}");
    }
    for (threat, both) in shown {
        assert_eq!(both, (true, true), "{threat}: a row that passes beside one that does not");
    }
}

fn with_token(bytes: &[u8], token: &str) -> Vec<u8> {
    let auth: &[u8] = b"{auth}";
    let mut sent = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(auth.len()).position(|window| window == auth) {
        sent.extend(&rest[..at]);
        sent.extend(format!("Authorization: Bearer {token}").as_bytes());
        rest = &rest[at + auth.len()..];
    }
    sent.extend(rest);
    sent
}
