//! A real OpenID provider that is asked about its opaque tokens.

use std::fs;
use std::time::{Duration, Instant};

use super::Site;
use crate::support::http::call;
use crate::support::idp::TestCa;
use crate::support::node::{Provider, peers};
use crate::support::upstream::Upstream;

/// How long it counts here that a token is active.
const ACTIVE: Duration = Duration::from_secs(1);

fn status(site: &Site, upstream: &Upstream, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let status = call(site.proxy, "GET", "/", &[("authorization", &bearer)]).status.as_u16();
    if status == 200 {
        upstream.next();
    }
    status
}

fn let_ask(site: &Site, ca: &TestCa, endpoint: &str) {
    fs::write(site.folder.path().join("idp.secret"), "a-secret-of-the-tests\n").unwrap();
    let file = site.folder.path().join("proxy.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!(
        "introspection:\n  clients: [{{ endpoint: \"{endpoint}\", client_id: reports, client_secret_file: idp.secret }}]\n  \
         internal_hosts: [localhost]\n  ca: \"{}\"\n  active_max: 1s\n  inactive_max: 1s\n  timeout: 5s\n",
        ca.file("ca.pem").display()
    ));
    fs::write(&file, text).unwrap();
}

fn records(site: &Site) {
    let identity = |name: &str| {
        format!(
            "kind: identity\nname: {name}\nspec: {{ type: workload, environment: prod, \
             bindings: [{{ issuer: main, subject: {name} }}], entitlements: [{{ name: read }}] }}\n---\n"
        )
    };
    let text = format!(
        "{}{}kind: resource\nname: orders\nspec: {{ environment: prod, routes: [{{ path: \"/**\", requires: read }}] }}\n",
        identity("ledger"),
        identity("reports")
    );
    let path = site.folder.path().join("records.yaml");
    fs::write(&path, text).unwrap();
    site.command(&["apply", "-f", path.to_str().unwrap()]);
}

#[test]
fn a_providers_opaque_tokens_are_taken_until_they_are_revoked() {
    let Some(peers) = peers() else { return };
    let (upstream, ca) = (Upstream::hello(), TestCa::new());
    let mut provider = Provider::start(&peers, &ca);
    let endpoint = format!("{}/token/introspection", provider.iss());
    let site = Site::new(upstream.address());
    let_ask(&site, &ca, &endpoint);
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    let iss = provider.iss().to_owned();
    site.command(&[
        "issuer",
        "create",
        "main",
        "--iss",
        &iss,
        "--audiences",
        "orders",
        "--introspection",
        &endpoint,
        "--introspection-subject",
        "client_id",
    ]);
    assert!(site.command(&["issuer", "show", "main"]).contains(&endpoint));
    records(&site);

    let ledger = provider.tell("opaque ledger");
    let (reports, other) = (provider.tell("opaque reports"), provider.tell("opaque reports"));
    assert!(!ledger.contains('.'), "an opaque token");
    let begun = Instant::now();
    while status(&site, &upstream, &ledger) != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the records have not arrived");
    }
    assert_eq!((status(&site, &upstream, &reports), status(&site, &upstream, &other)), (200, 200));
    assert_eq!(status(&site, &upstream, "made-up"), 401);

    // Revoked at the provider: refused once what was said before counts no more.
    assert_eq!(provider.tell(&format!("revoke {ledger}")), "ok");
    let revoked = Instant::now();
    while status(&site, &upstream, &ledger) == 200 {
        assert!(revoked.elapsed() < ACTIVE + Duration::from_secs(5), "it is taken still");
    }
    assert_eq!(status(&site, &upstream, &ledger), 401);

    // One token revoked at the hub by its digest, and then the identity: refused with the receipt.
    let file = site.folder.path().join("token");
    fs::write(&file, &reports).unwrap();
    site.command(&[
        "revoke",
        "token",
        "--file",
        file.to_str().unwrap(),
        "--expires",
        "2099-01-01T00:00:00Z",
        "--reason",
        "test",
        "--wait",
    ]);
    assert_eq!((status(&site, &upstream, &reports), status(&site, &upstream, &other)), (401, 200));
    site.command(&["revoke", "identity", "reports", "--reason", "test", "--wait"]);
    assert_eq!(status(&site, &upstream, &other), 401);

    // A silent provider denies, and says why.
    let late = provider.tell("opaque ledger");
    drop(provider);
    let bearer = format!("Bearer {late}");
    let answer = call(site.proxy, "GET", "/", &[("authorization", &bearer)]);
    assert_eq!((answer.status.as_u16(), answer.header("x-portreeve-reason")), (503, "introspection.failed"));
    let metrics = call(site.health, "GET", "/metrics", &[]);
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains("portreeve_introspection_requests_total{result=\"failed\"} 1"), "{metrics}");
    proxy.stop();
    hub.stop();
}
