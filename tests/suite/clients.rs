//! Clients that others wrote, through the proxy: what they are told, and what they make of an end.

mod browser;
mod grpc;
mod lines;
mod load;
mod sockets;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use portreeve::core::identity::{Record, Revocation, RevocationTarget};

use crate::support::clock::ManualClock;
use crate::support::front::Gate;
use crate::support::process::output_of;
use crate::support::world::name;

/// What a client said, once it has ended.
struct Said {
    out: String,
    err: String,
    code: Option<i32>,
}

/// Runs a client to its end.
fn run(command: &mut Command) -> Said {
    let output = output_of(command);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { out: text(output.stdout), err: text(output.stderr), code: output.status.code() }
}

/// A script of `tests/peers`, to be run by this Python.
fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-u").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
    command
}

/// Revokes `ledger`; how many of its exchanges that ended at once.
fn revoke(gate: &Gate) -> u64 {
    let revocation = Revocation {
        target: RevocationTarget::Identity { identity: name("ledger"), generation: 1 },
        reason: "test".into(),
        requested_by: "admin".into(),
        at: ManualClock::START,
    };
    gate.change(vec![("r1", 1, Record::Revocation(Arc::new(revocation)))])
}
