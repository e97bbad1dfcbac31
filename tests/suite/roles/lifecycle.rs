//! An enforcement point under load: its end, and its configuration read again.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::limits::{metric, running};
use super::{Role, Site};
use crate::support::caller::Caller;
use crate::support::http::call;
use crate::support::port::free;
use crate::support::process::end_of;
use crate::support::until;
use crate::support::upstream::{Reply, Upstream, ok};

/// Callers that ask without pause, each on connections that it keeps, until told to end or nobody listens.
struct Load {
    over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(site: &Site, callers: usize) -> Self {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n", site.bearer("ledger"));
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let address = site.proxy;
        let caller = |_| {
            let (over, answers, text) = (Arc::clone(&over), Arc::clone(&answers), text.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let Some(mut caller) = Caller::try_to(address) else { break };
                    // Also short-lived connections.
                    for at in 0..20 {
                        caller.write(text.as_bytes());
                        if at == 0 && !caller.is_answered() {
                            // It came to the kernel's queue as the socket was closed.
                            return;
                        }
                        let answer = caller.read(false);
                        assert_eq!(answer.status, 200, "{answer:?}");
                        answers.fetch_add(1, Ordering::SeqCst);
                        if answer.one("connection") == Some("close") {
                            break;
                        }
                    }
                }
            })
        };
        let callers = (0..callers).map(caller).collect();
        Self { over, answers, callers }
    }

    fn count(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }

    /// Ends it; every answer was good.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.join().expect("no request failed");
        }
        self.answers.load(Ordering::SeqCst)
    }
}

fn signal(role: &Role, signal: Signal) {
    kill_process(Pid::from_child(&role.child), signal).unwrap();
}

#[test]
fn told_to_end_under_load_it_fails_no_request_and_keeps_every_record() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let (_hub, mut proxy) = running(&site);
    // One that has asked holds its connection, and asks again only after the signal.
    let load = Load::begin(&site, 4);
    until("under load", || load.count() > 200);
    signal(&proxy, Signal::TERM);
    proxy.says("stopping");
    let answers = load.end();
    assert!(end_of(&mut proxy.child).success());
    let lines = fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap();
    let allowed = lines.lines().filter(|line| line.contains("\"effect\":\"allow\"")).count() as u64;
    assert!(allowed >= answers, "{answers} answers, {allowed} records");
}

/// A balancer sends nothing more while requests under way are finished; without any, it is over at once.
#[test]
fn what_drains_is_not_ready() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let site = Site::new(upstream.address());
    let (_hub, mut proxy) = running(&site);
    let mut caller = Caller::to(site.proxy);
    let auth = site.bearer("ledger");
    caller.write(format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {auth}\r\n\r\n").as_bytes());
    upstream.next();
    assert_eq!(site.ready(), 200);
    signal(&proxy, Signal::TERM);
    proxy.says("stopping");
    let shown = call(site.health, "GET", "/readyz", &[]);
    assert_eq!(shown.status, 503);
    let text = String::from_utf8(shown.body.to_vec()).unwrap();
    assert!(text.contains("stopping: requests under way are finished"), "{text}");
    assert_eq!(call(site.health, "GET", "/livez", &[]).status, 200);
    upstream.go();
    assert_eq!(caller.read(false).status, 200);
    assert!(end_of(&mut proxy.child).success());
}

#[test]
fn a_hundred_reloads_under_load_fail_no_request() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let (_hub, mut proxy) = running(&site);
    let file = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let load = Load::begin(&site, 2);
    for at in 0..100 {
        let other = text.replace(
            "upstreams: { app: {",
            &format!("upstreams: {{ app: {{ response_timeout: {}s, ", 10 + at % 2),
        );
        assert_ne!(other, text);
        fs::write(&file, other).unwrap();
        signal(&proxy, Signal::HUP);
        proxy.says("the configuration was taken over");
    }
    assert!(load.end() > 0);
    // A change may have been seen before the signal, too.
    assert!(metric(&site, "portreeve_config_reloads_total{outcome=\"taken\"}") >= 100);
    assert_eq!(metric(&site, "portreeve_config_reloads_total{outcome=\"refused\"}"), 0);
    proxy.stop();
}

#[test]
fn a_reload_is_taken_whole_or_refused_by_name() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let (_hub, mut proxy) = running(&site);
    let file = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let taken = text.replace("path: \"/**\"", "path: \"/orders/**\"");
    let status = |path: &str| {
        call(site.proxy, "GET", path, &[("authorization", &site.bearer("ledger"))]).status.as_u16()
    };
    let mut kept = Caller::to(site.proxy);
    let ask = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n", site.bearer("ledger"));
    assert_eq!((kept.ask(&ask).status, status("/orders/1")), (200, 200));

    fs::write(&file, &taken).unwrap();
    signal(&proxy, Signal::HUP);
    proxy.says("the configuration was taken over");
    assert_eq!((status("/"), status("/orders/1")), (403, 200));
    assert_eq!(kept.ask(&ask).status, 403, "on connections of before, too");

    // What cannot be read, what cannot be used, and what only a restart can change.
    let refused = [
        (taken.replace("upstream: app", "upstream: nowhere"), "routes[0].upstream"),
        (taken.replace("listeners:", "listners:"), "listners"),
        (format!("{taken}workers: 7\n"), "`workers`"),
        (taken.replace("name: inbound", "name: other"), "`listeners[0].name`"),
        (taken.replace("upstream: app }", "upstream: app, staleness: { deny_after: 1h } }"), "deny_after"),
        (
            taken.replace(
                "app: {",
                "app: { credential: { kind: header, header: x-k, value_file: absent.key }, ",
            ),
            "absent.key",
        ),
    ];
    let metric_of = |name: &str| metric(&site, name);
    for (at, (text, named)) in refused.iter().enumerate() {
        assert_ne!(*text, taken, "{named}");
        fs::write(&file, text).unwrap();
        signal(&proxy, Signal::HUP);
        proxy.says(named);
        assert_eq!((status("/"), status("/orders/1")), (403, 200), "{named}");
        assert_eq!(metric_of("portreeve_config_refused"), 1);
        let count = metric_of("portreeve_config_reloads_total{outcome=\"refused\"}");
        assert!(count > at as u64, "{named}");
    }
    // A file that has changed is read without being asked.
    fs::write(&file, &text).unwrap();
    proxy.says("the configuration was taken over");
    assert_eq!((status("/"), metric_of("portreeve_config_refused")), (200, 0));
    proxy.stop();
}

#[test]
fn the_operator_sees_the_last_decisions_and_what_runs() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let file = site.folder.path().join("proxy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let admin = free();
    let own = format!("admin: {{ address: \"{admin}\" }}");
    fs::write(&file, text.replace("admin: { address: \"127.0.0.1:0\" }", &own)).unwrap();
    let (_hub, mut proxy) = running(&site);
    let statuses: Vec<u16> = ["ledger", "stranger", "ledger"].map(|subject| site.call_as(subject)).into();
    assert_eq!(statuses, [200, 401, 200]);
    let ask = |path: &str| call(admin, "GET", path, &[]);
    let lines = |path: &str| {
        let body = String::from_utf8(ask(path).body.to_vec()).unwrap();
        let all = body.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        all.filter(|line| line.get("effect").is_some()).collect::<Vec<_>>()
    };
    until("three decisions", || lines("/decisions?count=1000").len() >= 3);
    let last = lines("/decisions?count=1000");
    let [.., stranger, ledger] = last.as_slice() else { panic!("two of them") };
    assert!(stranger.to_string().contains("identity.unknown"), "{stranger}");
    assert!(ledger.to_string().contains("ledger"), "{ledger}");
    assert!(lines("/decisions?count=1").len() <= 1);
    for bad in ["0", "1001", "x"] {
        assert_eq!(ask(&format!("/decisions?count={bad}")).status, 400, "{bad}");
    }
    let dump = || String::from_utf8(ask("/config_dump").body.to_vec()).unwrap();
    assert!(dump().contains("inbound"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("app: {", "app: { response_timeout: 1234ms, ")).unwrap();
    signal(&proxy, Signal::HUP);
    proxy.says("the configuration was taken over");
    assert!(dump().contains("1.234s"), "{}", dump());
    proxy.stop();
}

/// Under a supervisor a start is tried again and again: none of them may fill the volume, or tell of losses.
#[test]
fn a_start_that_fails_leaves_no_log() {
    let upstream = Upstream::hello();
    let site = Site::new(upstream.address());
    let logs = || {
        let spool = fs::read_dir(site.folder.path().join("proxy/spool")).unwrap();
        let is_log = |entry: &fs::DirEntry| entry.path().is_dir() && entry.file_name().len() == 26;
        spool.map(Result::unwrap).filter(is_log).count()
    };
    let taken = std::net::TcpListener::bind(site.health).unwrap();
    for _ in 0..3 {
        let mut failing = site.start("proxy");
        failing.says("in use");
        assert!(!end_of(&mut failing.child).success());
        assert_eq!(logs(), 0);
    }
    drop(taken);
    let mut proxy = site.start("proxy");
    proxy.says("the enforcement point is running");
    assert_eq!((site.call_as("ledger"), logs()), (503, 1));
    proxy.stop();
    let lines = fs::read_to_string(site.folder.path().join("decisions.jsonl")).unwrap();
    assert!(!lines.contains("\"loss\""), "{lines}");
}
