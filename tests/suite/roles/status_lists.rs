//! A status list from its server to an open stream: hub and enforcement point as two processes.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Site;
use crate::conformance::status::{list_header, status_list};
use crate::support::caller::Caller;
use crate::support::http::call;
use crate::support::idp::{Idp, Reply, TestCa};
use crate::support::upstream::{Reply as Answer, Upstream};

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A server whose answer can be changed.
fn serve(ca: &TestCa, list: &Arc<Mutex<String>>) -> (tokio::runtime::Runtime, Idp) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let list = Arc::clone(list);
    let idp = runtime.block_on(Idp::start(ca, move |_| {
        let kind = ("content-type", "application/statuslist+jwt".to_owned());
        Reply::Text(200, vec![kind], list.lock().unwrap().clone())
    }));
    (runtime, idp)
}

fn records(site: &Site, uri: &str) {
    let keys = String::from_utf8(site.issuer.jwks()).unwrap();
    let text = format!(
        "kind: issuer\nname: main\nspec: {{ iss: \"{}\", profile: generic, algorithms: [ES256], \
         audiences: [orders], keys: {{ inline: {keys} }}, max_lifetime: 1h, \
         status_lists: {{ uris: [\"{uri}\"], max_age: 10m }} }}\n---\nkind: resource\n\
         name: orders\nspec: {{ environment: prod, routes: [{{ path: \"/**\", requires: read }}] }}\n\
         ---\nkind: identity\nname: ledger\nspec: {{ type: workload, environment: prod, \
         bindings: [{{ issuer: main, subject: ledger }}], entitlements: [{{ name: read }}] }}\n\
         ---\nkind: identity\nname: batch\nspec: {{ type: workload, environment: prod }}\n",
        site.issuer.iss()
    );
    let path = site.folder.path().join("records.yaml");
    fs::write(&path, text).unwrap();
    site.command(&["apply", "-f", path.to_str().unwrap()]);
}

#[test]
fn a_list_refuses_a_token_and_ends_its_open_stream() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let (upstream, ca) = (Upstream::new(|_| Answer::Open(head.to_vec())), TestCa::new());
    let list = Arc::new(Mutex::new(String::new()));
    let (_runtime, idp) = serve(&ca, &list);
    let uri = idp.url("/lists/1");
    let site = Site::new(upstream.address());
    let publish = |bytes: &[u8]| {
        let claims = json!({ "sub": uri, "iat": now(), "ttl": 60, "status_list": status_list(1, bytes) });
        *list.lock().unwrap() = site.issuer.sign(&list_header(&site.issuer), &claims);
    };
    publish(&[0b0000_0010]);
    let file = site.folder.path().join("hub.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!(
        "issuers: {{ internal_hosts: [localhost], ca: \"{}\" }}\n",
        ca.file("ca.pem").display()
    ));
    fs::write(&file, text).unwrap();
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    records(&site, &idp.url("/lists/"));

    let bearer = |index: u64| {
        let claims = json!({
            "iss": site.issuer.iss(), "sub": "ledger", "aud": "orders", "iat": now(), "exp": now() + 300,
            "jti": format!("token-{index}"), "status": { "status_list": { "idx": index, "uri": uri } },
        });
        format!("Bearer {}", site.issuer.sign(&site.issuer.header(), &claims))
    };
    let open = |bearer: &str| {
        let mut caller = Caller::to(site.proxy);
        caller.write(format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\n\r\n").as_bytes());
        caller
    };
    // The first token that names the list makes it known.
    let (withdrawn, [first, second]) = (bearer(1), [0, 2].map(bearer));
    let begun = Instant::now();
    while !site.command(&["issuer", "show", "main"]).contains(&uri) {
        // 503 until the records have arrived.
        let status = call(site.proxy, "GET", "/", &[("authorization", &withdrawn)]).status.as_u16();
        assert!([401, 503].contains(&status), "{status}");
        assert!(begun.elapsed() < Duration::from_secs(20), "the list is not known");
    }
    // The receipt says that what came before it is in force.
    site.command(&["revoke", "identity", "batch", "--reason", "test", "--wait"]);
    assert_eq!(call(site.proxy, "GET", "/", &[("authorization", &withdrawn)]).status, 401);
    let mut streams = [&first, &second].map(|bearer| open(bearer));
    streams.iter_mut().for_each(|stream| stream.skip_to("hello\r\n"));

    publish(&[0b0000_0001]);
    let shown = site.command(&["issuer", "refresh-lists", "main"]);
    assert!(shown.contains(&uri), "{shown}");
    let [turned, other] = &mut streams;
    assert!(turned.ends());
    assert!(other.is_open());
    assert_eq!(call(site.proxy, "GET", "/", &[("authorization", &first)]).status, 401);
    proxy.stop();
    hub.stop();
    let decisions = fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap();
    for reason in ["credential.status_missing", "credential.status_invalid"] {
        assert!(decisions.contains(reason), "{reason}");
    }
}
