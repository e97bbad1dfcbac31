//! `portreeve dev` as a process of its own, and an Envoy in front of its upstream.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Lines, end_of, output_of};

/// A running `dev`.
pub(crate) struct Dev {
    child: Child,
    folder: TempDir,
    offset: u16,
}

/// Offsets tried, each leaving room for all ports of one process.
const OFFSETS: u16 = 40;
const OFFSET_STEP: u16 = 25;

impl Dev {
    /// Starts it with its data in a fresh folder and waits until it says that it is ready.
    ///
    /// Ports are found by trying: whoever takes one in between only costs another try.
    pub(crate) fn start() -> Self {
        offsets().find_map(Self::start_at).expect("some range of ports is free")
    }

    fn start_at(offset: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_portreeve"))
            .args(["dev", "--data"])
            .arg(folder.path())
            .args(["--port-offset", &offset.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        if wait_for_line(child.stdout.take().unwrap(), "portreeve is ready") {
            return Some(Self { child, folder, offset });
        }
        end_of(&mut child);
        None
    }

    /// An address of the design's port table, shifted.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port + self.offset).into()
    }

    /// The data folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command of the same binary against it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        command
            .args(arguments)
            .env("PORTREEVE_HUB", format!("http://{}", self.address(7411)))
            .env("PORTREEVE_TOKEN_FILE", self.folder().join("admin.token"))
            .env("PORTREEVE_TENANT", "demo")
            .env("PORTREEVE_DEV_ISSUER", self.folder().join("dev-issuer.json"));
        output_of(&mut command)
    }

    /// The same; its output, which must be a success.
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asks it to stop as a terminal would, and waits; then the records it left.
    pub(crate) fn stop(mut self) -> (ExitStatus, Vec<Value>) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        let status = end_of(&mut self.child);
        let lines = std::fs::read_to_string(self.folder().join("decisions.jsonl")).unwrap();
        (status, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Offsets whose ports are all free just now, in an order that differs between tests.
fn offsets() -> impl Iterator<Item = u16> {
    static TURN: AtomicU16 = AtomicU16::new(0);
    let ports = [7400, 7401, 7403, 7404, 7410, 7411, 7420];
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let turn =
        TURN.fetch_add(7, Ordering::Relaxed).wrapping_add(u16::try_from(std::process::id() % 40).unwrap());
    let all = (0..OFFSETS).map(move |n| OFFSET_STEP * (1 + n.wrapping_add(turn) % OFFSETS));
    all.filter(move |offset| ports.iter().all(|port| free(port + offset)))
}

/// Reads lines until one holds `text`; the rest is read and dropped.
/// `false`: the stream ended first.
fn wait_for_line(stream: impl std::io::Read + Send + 'static, text: &str) -> bool {
    Lines::of(stream).any(|line| line.contains(text))
}

/// A real Envoy, asking the `ext_authz` listener of a [`Dev`] about its upstream.
pub(crate) struct Envoy {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Envoy {
    /// Starts one; `None`, loudly, where none is installed. In CI its absence is a failure.
    pub(crate) fn start(dev: &Dev) -> Option<Self> {
        let Some(binary) = std::env::var_os("PORTREEVE_ENVOY").map(PathBuf::from) else {
            assert!(std::env::var_os("CI").is_none(), "PORTREEVE_ENVOY is not set: run `.ci/peers`");
            eprintln!("SKIPPED: no Envoy. Set PORTREEVE_ENVOY to its path (`.ci/peers` installs one).");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = super::port::free().port();
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy/envoy.yaml");
        let config = std::fs::read_to_string(sample)
            .unwrap()
            .replace("port_value: ENVOY_PORT", &format!("port_value: {port}"))
            .replace("port_value: AUTHZ_PORT", &format!("port_value: {}", dev.address(7401).port()))
            .replace("port_value: APP_PORT", &format!("port_value: {}", dev.address(7420).port()));
        let path = folder.path().join("envoy.yaml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(binary)
            .arg("--config-path")
            .arg(path)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "info"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = wait_for_line(child.stderr.take().unwrap(), "starting main dispatch loop");
        assert!(started, "Envoy ended before it served");
        Some(Self { child, address: (Ipv4Addr::LOCALHOST, port).into(), _folder: folder })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
