//! Limits of the process: descriptors, memory.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{Role, Site};
use crate::support::http::call;
use crate::support::until;
use crate::support::upstream::Upstream;

/// Hub and enforcement point, ready.
pub(super) fn running(site: &Site) -> (Role, Role) {
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    until("ready", || site.ready() == 200);
    (hub, proxy)
}

/// The value of a metric without labels, or with these.
pub(super) fn metric(site: &Site, name: &str) -> u64 {
    let text = String::from_utf8(call(site.health, "GET", "/metrics", &[]).body.to_vec()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
}

#[test]
fn accepting_goes_on_after_descriptors_have_run_out() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let (_hub, mut proxy) = running(&site);
    assert_eq!(site.call_as("ledger"), 200);
    let errors = || metric(&site, "portreeve_accept_errors_total{listener=\"inbound\"}");
    assert_eq!(errors(), 0);

    let id = Pid::from_child(&proxy.child);
    let set =
        |current: Option<u64>| prlimit(Some(id), Resource::Nofile, Rlimit { current, maximum: Some(4096) });
    let before = set(Some(4096)).unwrap();
    assert_eq!(before.current, before.maximum, "as many as the hard limit allows, from the start");
    // The caller of the metrics has its connection before the descriptors run out.
    let open = fs::read_dir(format!("/proc/{}/fd", proxy.child.id())).map(Iterator::count);
    // What a hidden process has open cannot be listed by others; a low limit will do.
    let low = open.map_or(8, |open| open as u64);
    set(Some(low)).unwrap();
    let waiting: Vec<_> = (0..8).map(|_| TcpStream::connect(site.proxy).unwrap()).collect();
    proxy.says("no connection can be accepted");
    set(Some(4096)).unwrap();
    until("an accept that failed was counted", || errors() > 0);
    let begun = Instant::now();
    assert_eq!(site.call_as("ledger"), 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
    drop(waiting);
    proxy.stop();
}

#[test]
fn a_spent_memory_budget_refuses_and_says_so() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let file = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}memory_budget: 16TiB\n")).unwrap();
    let (_hub, proxy) = running(&site);
    assert_eq!(site.call_as("ledger"), 200);
    let resident = metric(&site, "portreeve_memory_resident_bytes");
    assert!(resident > 1 << 20, "{resident}");
    assert_eq!(metric(&site, "portreeve_memory_budget_bytes"), 16 << 40);
    let ends = metric(&site, "portreeve_certificate_expiry_timestamp_seconds{name=\"hub\",use=\"hub\"}");
    assert!(ends > jsonwebtoken::get_current_timestamp(), "the certificate for the hub ends at {ends}");
    proxy.stop();
    // Less than the process itself needs.
    fs::write(&file, format!("{text}memory_budget: 16MiB\n")).unwrap();
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    until("more resident than the budget", || {
        metric(&site, "portreeve_memory_resident_bytes") > metric(&site, "portreeve_memory_budget_bytes")
    });
    let refused = || metric(&site, "portreeve_connections_refused_total{listener=\"inbound\"}");
    let before = refused();
    let mut caller = crate::support::caller::Caller::to(site.proxy);
    assert!(caller.is_closed());
    assert_eq!(refused(), before + 1);
    proxy.stop();
}
