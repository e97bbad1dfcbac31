//! Issuers that others wrote, under Node.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::idp::TestCa;
use super::process::Lines;

/// Where the packages are; `None`, loudly, where they are not installed. In CI their absence is a failure.
pub(crate) fn peers() -> Option<PathBuf> {
    super::peer::peer("PORTREEVE_NODE_PEERS")
}

/// A script of `tests/peers`, to be run with these packages.
pub(crate) fn script(peers: &Path, name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)).env("PEERS", peers);
    command
}

/// An OpenID provider: `tests/peers/issuer.mjs` says what it can be told.
pub(crate) struct Provider {
    child: Child,
    commands: ChildStdin,
    answers: Lines,
    iss: String,
}

impl Provider {
    /// Starts one with a certificate of `ca` for `localhost`.
    pub(crate) fn start(peers: &Path, ca: &TestCa) -> Self {
        let mut child = script(peers, "issuer.mjs")
            .env("TLS", ca.file("ca.pem").parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let mut answers = Lines::of(child.stdout.take().unwrap());
        let first = answers.next().expect("the provider starts");
        let iss = first.strip_prefix("at ").expect("an address").to_owned();
        Self { child, commands, answers, iss }
    }

    /// Its exact `iss`.
    pub(crate) fn iss(&self) -> &str {
        &self.iss
    }

    /// Tells it something; its answer.
    pub(crate) fn tell(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").unwrap();
        self.answers.next().unwrap_or_else(|| panic!("no answer to `{command}`"))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
