//! A real OpenID provider: its tokens, its keys rotated under load, its silence.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Site;
use crate::support::http::call;
use crate::support::idp::TestCa;
use crate::support::node::{Provider, peers};
use crate::support::upstream::Upstream;

/// An enforcement point and what stands behind it.
struct Way<'a> {
    site: &'a Site,
    upstream: &'a Upstream,
}

impl Way<'_> {
    fn status(&self, token: &str) -> u16 {
        let bearer = format!("Bearer {token}");
        let status = call(self.site.proxy, "GET", "/", &[("authorization", &bearer)]).status.as_u16();
        if status == 200 {
            self.upstream.next();
        }
        status
    }

    /// How long it takes until a token is taken.
    fn taken_after(&self, token: &str) -> Duration {
        let begun = Instant::now();
        while self.status(token) != 200 {
            assert!(begun.elapsed() < Duration::from_secs(5), "a new key is not known after 5 s");
        }
        begun.elapsed()
    }
}

fn records(site: &Site, iss: &str) {
    let identity = |name: &str| {
        format!(
            "---\nkind: identity\nname: {name}\nspec: {{ type: workload, environment: prod, \
             bindings: [{{ issuer: main, subject: {name} }}], entitlements: [{{ name: read }}] }}\n"
        )
    };
    let text = format!(
        "kind: issuer\nname: main\nspec: {{ iss: \"{iss}\", profile: rfc9068, algorithms: [ES256], \
         audiences: [orders], keys: {{ discovery: true }}, max_lifetime: 1h }}\n---\nkind: resource\n\
         name: orders\nspec: {{ environment: prod, routes: [{{ path: \"/**\", requires: read }}] }}\n{}{}",
        identity("ledger"),
        identity("reports")
    );
    let path = site.folder.path().join("records.yaml");
    fs::write(&path, text).unwrap();
    site.command(&["apply", "-f", path.to_str().unwrap()]);
}

/// Appends to the hub's configuration where its issuers may be.
fn let_fetch(site: &Site, ca: &TestCa) {
    let file = site.folder.path().join("hub.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!(
        "issuers: {{ internal_hosts: [localhost], ca: \"{}\", refetch_interval: 1s }}\n",
        ca.file("ca.pem").display()
    ));
    fs::write(&file, text).unwrap();
}

#[test]
fn a_providers_keys_rotate_under_load_and_no_good_token_is_refused() {
    let Some(peers) = peers() else { return };
    let (upstream, ca) = (Upstream::hello(), TestCa::new());
    let mut provider = Provider::start(&peers, &ca);
    let site = Site::new(upstream.address());
    let_fetch(&site, &ca);
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    records(&site, provider.iss());
    let way = Way { site: &site, upstream: &upstream };

    let first = provider.tell("token ledger");
    way.taken_after(&first);
    let shown = site.command(&["issuer", "show", "main"]);
    assert!(shown.contains("first") && shown.contains("last fetch"), "{shown}");

    // Whoever holds a token goes on while keys come.
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rotated = std::thread::scope(|scope| {
        let load = |token: String| {
            let (way, over, calls) = (&way, &over, &calls);
            move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(way.status(&token), 200, "a good token is refused");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let loads = [scope.spawn(load(first.clone())), scope.spawn(load(first.clone()))];
        let mut published = "first".to_owned();
        let mut rotated = Vec::new();
        for key in ["second", "third", "fourth"] {
            published = format!("{key},{published}");
            assert_eq!(provider.tell(&format!("keys {published}")), "ok");
            let token = provider.tell("token reports");
            let took = way.taken_after(&token);
            eprintln!("`{key}` was good after {took:?}");
            rotated.push(token);
        }
        over.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().unwrap();
        }
        rotated
    });
    assert!(calls.load(Ordering::Relaxed) > 10, "there was load");

    // Keys that are withdrawn are gone with what was verified by them; the others stay.
    assert_eq!(provider.tell("keys fourth,third"), "ok");
    let shown = site.command(&["issuer", "refresh", "main"]);
    assert!(shown.contains("fourth") && !shown.contains("first"), "{shown}");
    // The receipt says that the change before it has arrived.
    site.command(&["revoke", "identity", "ledger", "--reason", "test", "--wait"]);
    let statuses: Vec<_> = rotated.iter().map(|token| way.status(token)).collect();
    assert_eq!(statuses, [401, 200, 200]);
    assert_eq!(way.status(&first), 401);

    // A silent provider is an alarm, and no refusal.
    drop(provider);
    let refused = site.output(&["issuer", "refresh", "main"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be fetched"));
    assert_eq!(way.status(&rotated[2]), 200);
    proxy.stop();
    hub.stop();
}
