//! Both doors have opaque tokens asked about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{Desk, good, inactive};
use crate::ext_authz::ask;
use crate::support::front::{Gate, Parts, ext_authz_with};
use crate::support::idp::Reply;
use crate::support::upstream::Upstream;

fn request(token: &str) -> String {
    format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n\r\n")
}

fn answers(token: &str) -> Reply {
    match token {
        "good" => Reply::json(&good()),
        "foreign" => Reply::json(&super::with(good(), "aud", json!("billing"))),
        "broken" => Reply::Text(500, vec![], String::new()),
        _ => inactive(),
    }
}

/// A runtime on which the issuer and what asks it live while callers block.
fn beside() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_proxy_forwards_what_its_issuer_vouches_for() {
    let runtime = beside();
    let upstream = Upstream::hello();
    let desk = runtime.block_on(Desk::new(answers));
    let Desk { world, idp, .. } = desk;
    let parts = Parts::of(&world);
    let gate = Gate::over(world, parts, upstream.address(), |_, _| {});
    let mut caller = gate.caller();
    for (token, status, reason) in [
        ("good", 200, None),
        ("gone", 401, None),
        ("foreign", 401, None),
        ("broken", 503, Some("introspection.failed")),
    ] {
        let answer = caller.ask(&request(token));
        assert_eq!(answer.status, status, "{token}");
        assert_eq!(answer.one("x-portreeve-reason"), reason, "{token}");
    }
    let arrived = upstream.next();
    assert_eq!((arrived.one("x-portreeve-identity"), arrived.one("authorization")), (Some("ledger"), None));
    assert!(upstream.is_untouched());
    assert_eq!(idp.asked(), 4);
    assert_eq!(caller.ask(&request("good")).status, 200);
    assert_eq!(idp.asked(), 4, "from memory");
}

#[test]
fn envoys_checks_are_answered_alike() {
    let runtime = beside();
    let desk = runtime.block_on(Desk::new(answers));
    let (running, _door) = ext_authz_with(&desk.world, |_| {});
    for (token, code) in [("good", 0), ("gone", 16), ("foreign", 16), ("broken", 7)] {
        let line = format!("Bearer {token}");
        assert_eq!(ask(running.address(), &[("authorization", &line)]).0, code, "{token}");
    }
    assert_eq!(desk.idp.asked(), 4);
}

#[test]
fn a_stream_ends_once_its_issuer_says_that_its_token_is_not_active() {
    use crate::support::upstream::Reply as Sent;
    let runtime = beside();
    let said = Arc::new(AtomicBool::new(true));
    let read = Arc::clone(&said);
    let far =
        super::with(good(), "exp", json!(crate::support::clock::ManualClock::START.as_seconds() + 3000));
    let answers = move |_: &str| if read.load(Ordering::SeqCst) { Reply::json(&far) } else { inactive() };
    let upstream =
        Upstream::new(|_| Sent::Open(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()));
    let desk = runtime.block_on(Desk::new(answers));
    let Desk { world, .. } = desk;
    let parts = Parts::of(&world);
    let gate = Gate::over(world, parts, upstream.address(), |_, _| {});
    let mut caller = gate.caller();
    caller.write(request("good").as_bytes());
    caller.skip_to("half");
    said.store(false, Ordering::SeqCst);
    gate.world.clock.advance(std::time::Duration::from_secs(30));
    gate.world.refresh();
    // Each round finds that the answer is old, until there is another.
    let begun = std::time::Instant::now();
    while gate.exchanges.open() > 0 {
        assert!(begun.elapsed() < crate::support::PATIENCE, "it is open");
        gate.exchanges.look();
        std::thread::yield_now();
    }
    assert!(caller.is_reset());
}
