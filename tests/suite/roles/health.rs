//! Checks of an upstream by a running enforcement point: shown, survived, ended.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::limits::{metric, running};
use super::{Role, Site};
use crate::support::http::call;
use crate::support::port::free;
use crate::support::until;
use crate::support::upstream::{Reply, Upstream, ok};

fn reload(proxy: &mut Role) {
    kill_process(Pid::from_child(&proxy.child), Signal::HUP).unwrap();
    proxy.says("the configuration was taken over");
}

#[test]
fn health_is_shown_gates_readiness_where_asked_and_survives_a_reload() {
    let status = Arc::new(AtomicU64::new(200));
    let said = Arc::clone(&status);
    let upstream = Upstream::new(move |arrived| match arrived.line() {
        line if line.starts_with("GET /health") => {
            let status = said.load(Ordering::SeqCst);
            Reply::Bytes(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").into_bytes())
        }
        _ => Reply::Bytes(ok("", "hello")),
    });
    let site = Site::new(upstream.address());
    let (file, admin) = (site.folder.path().join("proxy.yaml"), free());
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("admin: { address: \"127.0.0.1:0\"", &format!("admin: {{ address: \"{admin}\""));
    let checked = |more: &str| {
        let check = format!("health: {{ path: /healthz, interval: 100ms, {more}}}");
        text.replace("upstreams: { app: {", &format!("upstreams: {{ app: {{ {check}, "))
    };
    fs::write(&file, checked("")).unwrap();
    let (_hub, mut proxy) = running(&site);
    let healthy = || metric(&site, "portreeve_upstream_healthy{upstream=\"app\"}");
    let checks = |outcome: &str| {
        metric(
            &site,
            &format!("portreeve_upstream_health_checks_total{{outcome=\"{outcome}\",upstream=\"app\"}}"),
        )
    };
    let detail = || {
        let body = call(site.health, "GET", "/readyz", &[]).body;
        String::from_utf8_lossy(&body).contains("upstream `app` is unhealthy")
    };
    let shown = || -> Value {
        let body = call(admin, "GET", "/state", &[]).body;
        serde_json::from_slice::<Value>(&body).unwrap()["upstreams"]["app"].clone()
    };
    until("checked", || checks("passed") > 1);
    assert_eq!((healthy(), site.ready(), detail(), site.call_as("ledger")), (1, 200, false, 200));
    assert_eq!((&shown()["state"], &shown()["last_fault"]), (&"healthy".into(), &Value::Null));

    status.store(500, Ordering::SeqCst);
    until("unhealthy", || healthy() == 0);
    assert_eq!((site.ready(), detail(), site.call_as("ledger")), (200, true, 503), "ready all the same");
    assert_eq!((&shown()["state"], &shown()["last_fault"]), (&"unhealthy".into(), &"status 500".into()));

    // Another time limit: it goes on as what it was. The counts would begin anew with another check.
    let failed = checks("failed");
    fs::write(&file, checked("").replace("app: {", "app: { response_timeout: 11s,")).unwrap();
    reload(&mut proxy);
    assert_eq!((healthy(), site.call_as("ledger")), (0, 503));
    assert!(checks("failed") >= failed);
    until("checks go on", || checks("failed") > failed);

    // Another check begins anew, and here it gates readiness.
    fs::write(&file, checked("unhealthy_after: 1, gates_readiness: true")).unwrap();
    reload(&mut proxy);
    until("unhealthy and so not ready", || healthy() == 0 && site.ready() == 503);
    assert_eq!((checks("passed"), detail()), (0, true));
    status.store(200, Ordering::SeqCst);
    until("ready again", || site.ready() == 200);
    assert_eq!((healthy(), site.call_as("ledger")), (1, 200));

    // No check, no series.
    fs::write(&file, &text).unwrap();
    reload(&mut proxy);
    let metrics = call(site.health, "GET", "/metrics", &[]).body;
    assert!(!String::from_utf8_lossy(&metrics).contains("portreeve_upstream_health"));
    assert_eq!((shown(), site.call_as("ledger")), (Value::Null, 200));
    proxy.stop();
}
