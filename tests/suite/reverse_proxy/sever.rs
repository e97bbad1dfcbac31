//! Open exchanges: only what no longer holds is ended, whatever made it so, and soon, whatever anybody does.

mod ends;
mod http2;
mod lists;
mod turns;

use std::sync::Arc;

use portreeve::core::identity::{Record, Revocation, RevocationTarget};

use crate::support::caller::Caller;
use crate::support::clock::ManualClock;
use crate::support::front::Gate;
use crate::support::upstream::{Reply, Upstream};

/// The head of an answer without an end, and its first piece.
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

/// An upstream whose answers do not end.
fn streaming() -> Upstream {
    Upstream::new(|_| Reply::Open(STREAM.to_vec()))
}

fn revocation(target: RevocationTarget) -> Record {
    Record::Revocation(Arc::new(Revocation {
        target,
        reason: "test".into(),
        requested_by: "admin".into(),
        at: ManualClock::START,
    }))
}

pub(super) fn whole(identity: &str) -> Record {
    let identity = portreeve::core::id::Name::parse(identity).unwrap();
    revocation(RevocationTarget::Identity { identity, generation: 1 })
}

/// Opens a stream of `subject` and reads its first piece.
fn open(gate: &Gate, subject: &str) -> Caller {
    let mut caller = gate.caller();
    let token = gate.world.token(&gate.world.claims(subject));
    caller.write(
        format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n\r\n")
            .as_bytes(),
    );
    caller.skip_to("hello\r\n");
    caller
}
