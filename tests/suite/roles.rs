//! Hub and enforcement point as two processes, apart and together again.

mod assertion;
mod guard;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::caller::Caller;
use crate::support::http::{Answer, call};
use crate::support::issuer::TestIssuer;
use crate::support::port::free;
use crate::support::process::{Lines, end_of, output_of};
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

/// A role as a process of its own, its log readable line by line.
struct Role {
    child: Child,
    log: Lines,
}

impl Role {
    fn start(role: &str, config: &Path) -> Self {
        Self::start_with(role, config, &[])
    }

    /// The same with these variables.
    fn start_with(role: &str, config: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portreeve"))
            .arg(role)
            .arg("--config")
            .arg(config)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log up to a line that holds `text`; a log that is no terminal's has no colours.
    fn says(&mut self, text: &str) {
        let plain = |line: &String| assert!(!line.contains('\u{1b}'), "an escape in {line:?}");
        let found = self.log.by_ref().inspect(plain).any(|line| line.contains(text));
        assert!(found, "the process ended before it said `{text}`");
    }

    /// Asks it to stop and waits until it has.
    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(end_of(&mut self.child).success());
    }

    /// Ends it without any chance to tidy up.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Addresses and files of one hub and one enforcement point.
struct Site {
    folder: tempfile::TempDir,
    api: SocketAddr,
    proxy: SocketAddr,
    health: SocketAddr,
    issuer: TestIssuer,
}

impl Site {
    fn new(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [state, api, proxy, health] = [(); 4].map(|()| free());
        let at = |name: &str| folder.path().join(name);
        let hub = format!(
            "hub: {{ store: \"sqlite://hub.db\", data_dir: hub }}\nstate: {{ address: \"{state}\" }}\n\
             api: {{ address: \"{api}\" }}\nmetrics: {{ address: \"127.0.0.1:0\" }}\n"
        );
        fs::write(at("hub.yaml"), hub).unwrap();
        let point = format!(
            "enforcement_point: {{ id: p1, tenant: demo, data_dir: proxy }}\n\
             hub: {{ endpoints: [\"https://{state}\"], join_token_file: join.token }}\nlisteners:\n  - name: inbound\n    kind: proxy\n    \
             address: \"{proxy}\"\n    routes: [{{ match: {{ path: \"/**\" }}, service: orders, upstream: app }}]\n\
             upstreams: {{ app: {{ url: \"http://{upstream}\" }} }}\ncredentials: {{ audiences: [orders] }}\n\
             evidence: {{ spool: {{ max_bytes: 64MiB, segment_bytes: 4MiB }}, \
             sinks: [{{ kind: file, path: decisions.jsonl }}] }}\n\
             admin: {{ address: \"127.0.0.1:0\" }}\nmetrics: {{ address: \"{health}\" }}\n"
        );
        fs::write(at("proxy.yaml"), point).unwrap();
        Self { folder, api, proxy, health, issuer: TestIssuer::es256() }
    }

    fn start(&self, role: &str) -> Role {
        Role::start(role, &self.folder.path().join(format!("{role}.yaml")))
    }

    fn command(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        command
            .args(arguments)
            .env("PORTREEVE_HUB", format!("http://{}", self.api))
            .env("PORTREEVE_TOKEN_FILE", self.folder.path().join("hub/admin.token"))
            .env("PORTREEVE_TENANT", "demo");
        output_of(&mut command)
    }

    /// Copies the hub's store to or from beside it.
    fn copy_store(&self, from: &str, to: &str) {
        for end in ["", "-wal", "-shm"] {
            let at = |name: &str| self.folder.path().join(format!("{name}{end}"));
            fs::remove_file(at(to)).ok();
            if at(from).exists() {
                fs::copy(at(from), at(to)).unwrap();
            }
        }
    }

    /// One issuer, one resource, and `ledger` and `batch`, who may read orders.
    fn apply_records(&self) {
        let path = self.folder.path().join("records.yaml");
        fs::write(self.folder.path().join("jwks.json"), self.issuer.jwks()).unwrap();
        let identity = |name: &str| {
            format!(
                "---\nkind: identity\nname: {name}\nspec: {{ type: workload, environment: prod, \
                 bindings: [{{ issuer: main, subject: {name} }}], entitlements: [{{ name: read }}] }}\n"
            )
        };
        let text = format!(
            "kind: issuer\nname: main\nspec: {{ iss: \"{}\", profile: generic, algorithms: [ES256], \
             audiences: [orders], keys: {{ file: jwks.json }}, max_lifetime: 1h }}\n---\nkind: resource\n\
             name: orders\nspec: {{ environment: prod, routes: [{{ path: \"/**\", requires: read }}] }}\n{}{}",
            self.issuer.iss(),
            identity("ledger"),
            identity("batch")
        );
        fs::write(&path, text).unwrap();
        self.command(&["apply", "-f", path.to_str().unwrap()]);
    }

    /// The status of a call with a token of `subject`.
    fn call_as(&self, subject: &str) -> u16 {
        self.answer_to(subject).status.as_u16()
    }

    fn answer_to(&self, subject: &str) -> Answer {
        call(self.proxy, "GET", "/", &[("authorization", &self.bearer(subject))])
    }

    /// A token of `subject`, as it is presented.
    fn bearer(&self, subject: &str) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = json!({
            "iss": self.issuer.iss(), "sub": subject, "aud": "orders", "iat": now, "exp": now + 300,
        });
        format!("Bearer {}", self.issuer.sign(&self.issuer.header(), &claims))
    }

    /// Lets the enforcement point join, with a token that is put where it looks for it.
    fn let_join(&self) {
        let file = self.folder.path().join("join.token");
        self.command(&[
            "hub",
            "join-token",
            "--id",
            "p1",
            "--tenant",
            "demo",
            "--to",
            file.to_str().unwrap(),
        ]);
    }

    fn ready(&self) -> u16 {
        call(self.health, "GET", "/readyz", &[]).status.as_u16()
    }
}

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
