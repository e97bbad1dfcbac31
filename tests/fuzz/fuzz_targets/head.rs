//! The bytes of a connection: the upstream receives only requests that a reader without any leniency finds in
//! them, in their order, framed in one way.
#![no_main]
#![expect(dead_code, reason = "the modules are the suite's, and this needs some of them")]

#[path = "../targets/path.rs"]
mod path;
#[path = "../../suite/attack/recorder.rs"]
mod recorder;
#[path = "../../suite/attack/strict.rs"]
mod strict;
#[path = "../support.rs"]
mod support;

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;

use recorder::Recorder;
use support::front::Gate;

static SETTING: LazyLock<Mutex<(Recorder, Gate)>> = LazyLock::new(|| {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    Mutex::new((upstream, gate))
});

const PROBE: &str = "GET /open/probe HTTP/1.1";

fuzz_target!(|bytes: &[u8]| {
    let setting = SETTING.lock().unwrap_or_else(PoisonError::into_inner);
    let (upstream, gate) = &*setting;
    let mut rest = bytes;
    let mut found =
        std::iter::from_fn(|| strict::request(&mut rest)).map(|(line, body)| (canonical(&line), body));
    let mut caller = gate.caller();
    caller.write(bytes);
    if !caller.ends_within(Duration::from_millis(5)) {
        caller.end_writing();
        caller.rest();
    }
    assert_eq!(gate.caller().ask(&format!("{PROBE}\r\nHost: a\r\n\r\n")).status, 200);
    loop {
        let seen = upstream.next();
        if seen.line == PROBE {
            break;
        }
        assert!(found.any(|(line, body)| line.as_ref() == Some(&seen.line) && body == seen.body), "{seen:?}");
    }
});

/// The line with its path in the form that is judged, by the second reader; `None`: it has none.
fn canonical(line: &str) -> Option<String> {
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let end = target.find('?').unwrap_or(target.len());
    let (raw, query) = target.split_at(end);
    Some(format!("{method} {}{query} {version}", path::plainer(raw)?))
}
