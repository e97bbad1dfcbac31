//! grpcio: a client and an application that speak gRPC through the proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use portreeve::core::identity::{Record, ResourceRoute};
use portreeve::core::policy::PathPattern;

use super::{revoke, run, script};
use crate::support::front::Gate;
use crate::support::peer::peer;
use crate::support::process::Lines;
use crate::support::world::orders;

/// A script that goes on, read line by line.
pub(super) struct Running {
    child: Child,
    lines: Lines,
}

impl Running {
    /// Starts it; it ends when its standard input does.
    pub(super) fn start(python: &Path, name: &str, arguments: &[&str]) -> Self {
        let mut command = script(python, name);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Its next line.
    pub(super) fn says(&mut self) -> String {
        self.lines.next().expect("it says more")
    }

    /// All that it says to its end.
    pub(super) fn rest(&mut self) -> Vec<String> {
        self.lines.by_ref().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

#[test]
fn grpcio_calls_and_its_stream_ends_with_a_status() {
    let Some(python) = peer("PORTREEVE_PYTHON") else { return };
    let mut server = Running::start(&python, "grpc_server.py", &[]);
    let port = server.says();
    let upstream: SocketAddr = format!("127.0.0.1:{}", port.strip_prefix("at ").unwrap()).parse().unwrap();
    let gate = Gate::with(upstream, |settings, _| settings.upstreams.get_mut("app").unwrap().http2 = true);
    let mut calls = orders();
    calls.routes.push(ResourceRoute {
        methods: vec!["POST".into()],
        path: PathPattern::parse("/orders/*").unwrap(),
        requires: Some("orders:read".into()),
    });
    gate.world.put(vec![("orders", 1, Record::Resource(Arc::new(calls)))]);
    let at = gate.running.address().to_string();

    assert_eq!(run(script(&python, "grpc_client.py").arg(&at)).out, "Say UNAUTHENTICATED\n");

    let mut client = Running::start(&python, "grpc_client.py", &[&at, &gate.token()]);
    assert_eq!(client.says(), "Say OK 00ff20");
    assert_eq!(server.says(), "say ledger None True", "the caller, no credential, its deadline");
    assert_eq!(client.says(), "Fail RESOURCE_EXHAUSTED");
    assert_eq!(client.says(), "Hang DEADLINE_EXCEEDED");
    assert_eq!(server.says(), "hang cancelled");
    assert_eq!(client.says(), "Count OK 1000");
    assert_eq!(client.says(), "Watch first");
    assert_eq!(revoke(&gate), 1);
    assert_eq!(client.says(), "Watch UNAUTHENTICATED");
    assert_eq!(server.says(), "watch cancelled");
    assert_eq!(client.rest(), ["Say UNAUTHENTICATED"]);
}
