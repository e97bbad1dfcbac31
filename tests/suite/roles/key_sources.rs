//! An enforcement point that fetches keys itself, while its hub is away.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portreeve::core::credential::Algorithm;
use serde_json::{Value, json};

use super::Site;
use crate::support::PATIENCE;
use crate::support::caller::Caller;
use crate::support::http::call;
use crate::support::idp::{Idp, Reply, TestCa};
use crate::support::issuer::TestIssuer;
use crate::support::upstream::{Reply as Answer, Upstream, ok};

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not yet: {what}");
        std::thread::yield_now();
    }
}

fn bearer(key: &TestIssuer) -> String {
    let now = jsonwebtoken::get_current_timestamp();
    let claims = json!({ "iss": key.iss(), "sub": "ledger", "aud": "orders", "iat": now, "exp": now + 300 });
    format!("Bearer {}", key.sign(&key.header(), &claims))
}

#[test]
fn keys_come_and_go_while_the_hub_is_away() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Upstream::new(|arrived| match arrived.line().contains("/stream") {
        true => Answer::Open(head.to_vec()),
        false => Answer::Bytes(ok("", "hello")),
    });
    let (site, ca) = (Site::new(upstream.address()), TestCa::new());
    let key = |key_id: &str| TestIssuer::new(site.issuer.iss(), key_id, Algorithm::Es256);
    let (first, second) = (key("first"), key("second"));
    let published = Arc::new(Mutex::new(json!({ "keys": [first.jwk()] })));
    let served = Arc::clone(&published);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let idp = runtime.block_on(Idp::start(&ca, move |_| Reply::json(&served.lock().unwrap())));
    let publish = |keys: &[&TestIssuer]| {
        *published.lock().unwrap() =
            json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<Value>>() });
    };
    let file = site.folder.path().join("proxy.yaml");
    let sources = format!(
        "key_sources: {{ issuers: [{{ iss: \"{}\", url: \"{}\" }}], internal_hosts: [localhost], ca: \"{}\", \
         refetch_interval: 1s }}\n",
        site.issuer.iss(),
        idp.url("/jwks"),
        ca.file("ca.pem").display()
    );
    fs::write(&file, fs::read_to_string(&file).unwrap() + &sources).unwrap();
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    site.apply_records();
    let status =
        |key: &TestIssuer| call(site.proxy, "GET", "/", &[("authorization", &bearer(key))]).status.as_u16();
    eventually("a fetched key", || status(&first) == 200);
    assert_eq!(status(&site.issuer), 401, "the record's own key does not count");

    // Nobody but the enforcement point itself can learn of the next one.
    hub.kill();
    publish(&[&first, &second]);
    let begun = Instant::now();
    eventually("the next key", || status(&second) == 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let open = |key: &TestIssuer| {
        let mut caller = Caller::to(site.proxy);
        let text = format!("GET /stream HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n", bearer(key));
        caller.write(text.as_bytes());
        caller.skip_to("hello\r\n");
        caller
    };
    let (mut by_first, mut by_second) = (open(&first), open(&second));

    // A key that is gone takes with it what it opened, and nothing else.
    publish(&[&second]);
    let made_up = key("made-up");
    eventually("the first key is gone", || (status(&made_up), status(&first)) == (401, 401));
    assert!(by_first.ends());
    assert!(by_second.is_open());
    assert_eq!(status(&second), 200);

    let page = |path: &str| String::from_utf8(call(site.health, "GET", path, &[]).body.to_vec()).unwrap();
    let metrics = page("/metrics");
    for line in ["portreeve_key_sources_failing 0\n", "portreeve_issuer_keys_overdue 0\n"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(!metrics.contains("portreeve_issuer_keys_expiry_timestamp_seconds inf"), "{metrics}");
    proxy.stop();
}
