//! A hub and an enforcement point as the two processes that users run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use super::http::{Answer, call};
use super::issuer::TestIssuer;
use super::port::free;
use super::process::{Lines, end_of, output_of};

/// A role as a process of its own, its log readable line by line.
pub(crate) struct Role {
    pub(crate) child: Child,
    pub(crate) log: Lines,
}

impl Role {
    pub(crate) fn start(role: &str, config: &Path) -> Self {
        Self::start_with(role, config, &[])
    }

    /// The same with these variables.
    pub(crate) fn start_with(role: &str, config: &Path, variables: &[(&str, &str)]) -> Self {
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
    pub(crate) fn says(&mut self, text: &str) {
        let plain = |line: &String| assert!(!line.contains('\u{1b}'), "an escape in {line:?}");
        let found = self.log.by_ref().inspect(plain).any(|line| line.contains(text));
        assert!(found, "the process ended before it said `{text}`");
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(end_of(&mut self.child).success());
    }

    /// Ends it without any chance to tidy up.
    pub(crate) fn kill(mut self) {
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
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) api: SocketAddr,
    pub(crate) proxy: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) issuer: TestIssuer,
}

impl Site {
    pub(crate) fn new(upstream: SocketAddr) -> Self {
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

    pub(crate) fn start(&self, role: &str) -> Role {
        Role::start(role, &self.folder.path().join(format!("{role}.yaml")))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        command
            .args(arguments)
            .env("PORTREEVE_HUB", format!("http://{}", self.api))
            .env("PORTREEVE_TOKEN_FILE", self.folder.path().join("hub/admin.token"))
            .env("PORTREEVE_TENANT", "demo");
        output_of(&mut command)
    }

    /// Copies the hub's store to or from beside it.
    pub(crate) fn copy_store(&self, from: &str, to: &str) {
        for end in ["", "-wal", "-shm"] {
            let at = |name: &str| self.folder.path().join(format!("{name}{end}"));
            fs::remove_file(at(to)).ok();
            if at(from).exists() {
                fs::copy(at(from), at(to)).unwrap();
            }
        }
    }

    /// One issuer, one resource, and `ledger` and `batch`, who may read orders.
    pub(crate) fn apply_records(&self) {
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
    pub(crate) fn call_as(&self, subject: &str) -> u16 {
        self.answer_to(subject).status.as_u16()
    }

    pub(crate) fn answer_to(&self, subject: &str) -> Answer {
        call(self.proxy, "GET", "/", &[("authorization", &self.bearer(subject))])
    }

    /// A token of `subject`, as it is presented.
    pub(crate) fn bearer(&self, subject: &str) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = json!({
            "iss": self.issuer.iss(), "sub": subject, "aud": "orders", "iat": now, "exp": now + 300,
        });
        format!("Bearer {}", self.issuer.sign(&self.issuer.header(), &claims))
    }

    /// Lets the enforcement point join, with a token that is put where it looks for it.
    pub(crate) fn let_join(&self) {
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

    pub(crate) fn ready(&self) -> u16 {
        call(self.health, "GET", "/readyz", &[]).status.as_u16()
    }
}
