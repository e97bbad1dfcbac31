//! Chromium: a page that asks with a credential, and reads a stream until it is cut.

use std::process::{Child, Command, Stdio};

use super::revoke;
use crate::support::front::Gate;
use crate::support::peer::peer;
use crate::support::upstream::{Reply, Upstream, ok};

/// Asks, reads a stream, and says to `/open/said` what it meets.
const PAGE: &str = r#"<!doctype html><title>page</title><script type="module">
const say = text => fetch('/open/said', { method: 'POST', body: text });
const headers = { Authorization: 'Bearer ' + location.hash.slice(1) };
const ask = async what => {
    const answer = await fetch('/orders/1', what);
    await say(`${answer.status} ${answer.headers.has('x-portreeve-decision')} ${(await answer.text()).slice(0, 5)}`);
};
await ask({});
await ask({ headers });
const stream = await fetch('/orders/stream', { headers });
const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
try {
    for (;;) {
        const { done, value } = await reader.read();
        await say(done ? 'whole' : value.trim());
        if (done) break;
    }
} catch {
    await say('cut');
}
await ask({ headers });
await say('over');
</script>"#;

struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

#[test]
fn chromium_fetches_and_sees_that_its_stream_was_cut() {
    let Some(program) = peer("PORTREEVE_CHROMIUM") else { return };
    let upstream = Upstream::new(|arrived| {
        match arrived.line() {
        "GET /open/page HTTP/1.1" => Reply::Bytes(ok("content-type: text/html\r\n", PAGE)),
        "GET /orders/stream HTTP/1.1" => Reply::Open(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n"
                .to_vec(),
        ),
        _ => Reply::Bytes(ok("", "hello")),
    }
    });
    let gate = Gate::new(upstream.address());
    let folder = tempfile::tempdir().unwrap();
    let port = gate.running.address().port();
    let child = Command::new(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"])
        .arg("--host-resolver-rules=MAP orders.test 127.0.0.1")
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .args(["--remote-debugging-port=0", &format!("http://orders.test:{port}/open/page#{}", gate.token())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _browser = Browser(child);
    let said = || loop {
        let arrived = upstream.next();
        if arrived.line() == "POST /open/said HTTP/1.1" {
            assert_eq!(arrived.one("host"), Some(format!("orders.test:{port}").as_str()));
            return String::from_utf8(arrived.body).unwrap();
        }
        if arrived.line().contains("/orders/") {
            assert_eq!(
                (arrived.one("authorization"), arrived.one("x-portreeve-identity")),
                (None, Some("ledger"))
            );
        }
    };
    assert_eq!(said(), "401 true {\"typ");
    assert_eq!(said(), "200 true hello");
    assert_eq!(said(), "data: first");
    assert_eq!(revoke(&gate), 1);
    assert_eq!(said(), "cut");
    assert_eq!(said(), "401 true {\"typ");
    assert_eq!(said(), "over");
}
