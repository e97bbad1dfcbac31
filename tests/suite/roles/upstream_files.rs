//! Files of upstreams, as a running enforcement point takes them over.

use std::fs;

use super::Site;
use crate::support::tls::put;
use crate::support::upstream::Upstream;

#[test]
fn a_changed_secret_is_taken_over_and_an_absent_one_ends_the_start() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let path = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let url = format!("url: \"http://{}\"", upstream.address());
    let credential = "credential: { kind: header, header: x-app-key, value_file: app.key }";
    let changed = text.replace(&url, &format!("{url}, {credential}"));
    assert_ne!(text, changed);
    fs::write(&path, changed).unwrap();

    let ended = site.output(&["proxy", "--config", path.to_str().unwrap()]);
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && told.contains("upstream `app`") && told.contains("app.key"), "{told}");

    put(site.folder.path(), "app.key", "first\n");
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    assert_eq!(site.call_as("ledger"), 200);
    assert_eq!(upstream.next().one("x-app-key"), Some("first"));
    put(site.folder.path(), "app.key", "second\n");
    proxy.says("the credential for an upstream was taken over");
    assert_eq!(site.call_as("ledger"), 200);
    let arrived = upstream.next();
    assert_eq!((arrived.one("x-app-key"), arrived.one("authorization")), (Some("second"), None));
}
