//! Assertions of a running enforcement point, and where their keys are.

use std::fs;

use super::Site;
use crate::reverse_proxy::assertion::verified;
use crate::support::http::call;
use crate::support::upstream::Upstream;

#[test]
fn keys_of_assertions_are_published_and_outlive_a_restart() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let keys = || call(site.health, "GET", "/.well-known/jwks.json", &[]);

    // Not where nothing is asserted.
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    assert_eq!(keys().status, 404);
    proxy.stop();
    assert!(!site.folder.path().join("proxy/assertion.key").exists());

    let path = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let asserted = text.replace(
        &format!("url: \"http://{}\"", upstream.address()),
        &format!(
            "url: \"http://{}\", assertion: {{ issuer: \"https://portreeve.test\", audience: app }}",
            upstream.address()
        ),
    );
    assert_ne!(text, asserted);
    fs::write(&path, asserted).unwrap();
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    let published = keys();
    assert_eq!(published.header("content-type"), "application/jwk-set+json");
    let jwks = String::from_utf8(published.body.to_vec()).unwrap();
    assert!(!jwks.contains("\"d\""), "{jwks}");
    assert_eq!(site.call_as("ledger"), 200);
    let arrived = upstream.next();
    let claims = verified(arrived.one("x-portreeve-assertion").unwrap(), &jwks, "app").unwrap();
    assert_eq!(claims["sub"], "ledger");
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(life, 30);

    proxy.stop();
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    assert_eq!(keys().body, jwks.as_bytes());
}
