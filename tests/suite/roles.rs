//! Hub and enforcement point as two processes, apart and together again.

mod assertion;
mod guard;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::caller::Caller;
use crate::support::http::call;
use crate::support::process::end_of;
use crate::support::site::{Role, Site};
use crate::support::until;
use crate::support::upstream::{Reply, Upstream};

mod health;
mod introspection;
mod issuers;
mod key_sources;
mod lifecycle;
mod limits;
mod status_lists;
mod traces;
mod upstream_files;
mod workload;

#[test]
fn an_enforcement_point_outlives_its_hub_and_forgets_no_revocation() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());

    // Without a hub and without a past: alive, not ready, everything refused.
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    assert_eq!((site.ready(), site.call_as("ledger")), (503, 503));
    assert_eq!(call(site.health, "GET", "/livez", &[]).status, 200);

    // The hub appears. What both keep is for their owner alone.
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    for data in ["hub", "proxy"] {
        let mode = fs::metadata(site.folder.path().join(data)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{data}");
    }
    site.let_join();
    proxy.says("joined the cluster");
    proxy.says("the hub has confirmed the state");
    let mode =
        fs::metadata(site.folder.path().join("proxy/identity/identity.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    site.apply_records();
    site.command(&["revoke", "identity", "batch", "--reason", "test", "--wait"]);
    assert_eq!((site.ready(), site.call_as("ledger"), site.call_as("batch")), (200, 200, 401));

    // Both die; the enforcement point comes back alone and decides by its last-known-good.
    hub.kill();
    proxy.kill();
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    assert_eq!((site.ready(), site.call_as("ledger"), site.call_as("batch")), (200, 200, 401));

    // A damaged last-known-good is set aside, and then nothing is known.
    proxy.kill();
    let lkg = site.folder.path().join("proxy/state/demo.lkg");
    let mut bytes = fs::read(&lkg).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&lkg, bytes).unwrap();
    let mut proxy = site.start("proxy");
    proxy.says("damaged last-known-good state");
    proxy.says("the enforcement point is running");
    assert_eq!((site.ready(), site.call_as("ledger"), site.call_as("batch")), (503, 503, 503));

    // The hub returns on its store, and with it the state: the revoked stays revoked.
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    proxy.says("the hub has confirmed the state");
    assert_eq!((site.call_as("ledger"), site.call_as("batch")), (200, 401));
}

#[test]
fn an_enforcement_point_without_a_tenant_is_not_ready_and_says_why() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    assert_eq!((site.ready(), site.call_as("ledger")), (200, 200));
    let shown = || site.command(&["fleet", "status"]);
    until("the tenant is in force", || shown().contains("demo 1"));
    site.command(&["fleet", "scope", "p1", "--none"]);
    until("it is not ready", || site.ready() == 503);
    let why = call(site.health, "GET", "/readyz", &[]).body;
    assert!(String::from_utf8_lossy(&why).contains("portreeve fleet scope"), "{why:?}");
    assert_eq!(site.call_as("ledger"), 503);
    until("the tenant is listed no more", || !shown().contains("demo"));
    site.command(&["fleet", "scope", "p1", "--tenant", "demo"]);
    until("it is ready again", || site.ready() == 200);
    assert_eq!(site.call_as("ledger"), 200);
}

#[test]
fn a_hub_whose_backup_was_put_back_is_restored_and_revokes_on() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let config = site.folder.path().join("hub.yaml");
    let restore = |more: &[&str]| {
        let arguments = ["--output", "json", "hub", "restore", "--config", config.to_str().unwrap()];
        let output = site.output(&[&arguments, more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), report, said)
    };
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    site.let_join();
    hub.stop();
    site.copy_store("hub.db", "backup.db");

    // After the backup: a revocation, in force at an enforcement point. A hub that runs is not restored.
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    site.command(&["revoke", "identity", "batch", "--reason", "test", "--wait"]);
    assert_eq!((site.call_as("ledger"), site.call_as("batch")), (200, 401));
    let (code, _, said) = restore(&["--i-have-stopped-the-old-hub"]);
    assert_eq!((code, said.contains("stop the other hub")), (1, true), "{said}");
    hub.kill();
    site.copy_store("backup.db", "hub.db");

    // Refused, and the enforcement point decides on by what it has.
    let mut hub = site.start("hub");
    hub.says("portreeve hub restore");
    assert!(!end_of(&mut hub.child).success());
    let (code, report, said) = restore(&["--dry-run"]);
    assert_eq!((code, &report["commits_lost"], &report["restored"]), (0, &json!(1), &Value::Null), "{said}");
    let (code, _, said) = restore(&[]);
    assert_eq!((code, said.contains("--i-have-stopped-the-old-hub")), (2, true), "{said}");
    assert_eq!((site.call_as("ledger"), site.call_as("batch")), (200, 401));
    let (code, report, said) = restore(&["--i-have-stopped-the-old-hub"]);
    assert_eq!((code, &report["restored"]["revision"]), (0, &json!(2)), "{said}");

    // The new epoch does not know the revocation; it stays in force all the same.
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    proxy.says("the hub has confirmed the state");
    assert_eq!((site.call_as("ledger"), site.call_as("batch")), (200, 401));
    site.command(&["revoke", "identity", "ledger", "--reason", "test", "--wait"]);
    assert!(site.command(&["fleet", "drift"]).contains("p1"), "it says who carries what");
    assert_eq!((site.call_as("ledger"), site.call_as("batch")), (401, 401));
}

#[test]
fn a_killed_enforcement_point_has_every_answered_decision_on_record() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    site.apply_records();
    // Its receipt says that the records before it have arrived too.
    site.command(&["revoke", "identity", "batch", "--reason", "test", "--wait"]);

    let mut answered = Vec::new();
    for kill in 0..5 {
        for call in 0..20 {
            let subject = if call % 3 == 0 { "stranger" } else { "ledger" };
            let answer = site.answer_to(subject);
            assert_eq!(answer.status, if call % 3 == 0 { 401 } else { 200 }, "kill {kill}, call {call}");
            answered.push(answer.header("x-portreeve-decision").to_owned());
        }
        proxy.kill();
        proxy = site.start("proxy");
        proxy.says("the hub has confirmed the state");
    }
    proxy.stop();

    let text = fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap();
    let recorded: BTreeSet<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    let missing: Vec<_> = answered.iter().filter(|id| !recorded.contains(*id)).collect();
    assert_eq!(answered.len(), 100);
    assert!(missing.is_empty(), "answered and not on record: {missing:?}");
}

/// The receipt says how many open exchanges ended, and the log which.
#[test]
fn a_receipt_counts_the_streams_that_a_revocation_ended() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Upstream::new(|_| Reply::Open(head.to_vec()));
    let site = Site::new(upstream.address());
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.let_join();
    site.apply_records();
    let mut proxy = site.start("proxy");
    proxy.says("the hub has confirmed the state");
    let open = |subject: &str| {
        let mut caller = Caller::to(site.proxy);
        caller.write(
            format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n", site.bearer(subject))
                .as_bytes(),
        );
        caller.skip_to("hello\r\n");
        caller
    };
    let mut ledger = ["ledger"; 3].map(open);
    let mut batch = open("batch");
    let receipts =
        site.command(&["revoke", "identity", "ledger", "--reason", "test", "--wait", "--output", "json"]);
    assert!(receipts.contains("\"ended_streams\": 3"), "{receipts}");
    assert!(ledger.iter_mut().all(Caller::ends));
    assert!(batch.is_open());
    drop(batch);
    proxy.stop();
    let lines = fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let severed: Vec<_> = records.iter().filter(|record| record["kind"] == "severed").collect();
    assert_eq!(severed.len(), 3);
    for record in severed {
        assert_eq!(record["reason"], "identity.revoked");
        let decided = records.iter().find(|other| other["id"] == record["decision"]).unwrap();
        assert_eq!((&decided["identity"], &decided["effect"]), (&json!("ledger"), &json!("allow")));
    }
    assert!(records.iter().any(|record| record["kind"] == "in_force" && record["ended_streams"] == 3));
}
