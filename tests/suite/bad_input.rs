//! What cannot work says what, where and what to do, with the exit code of its kind; and nothing is lost by it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::dev::Dev;
use crate::support::process::output_of;

/// Exit codes of the design.
const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const INVALID: i32 = 3;

fn portreeve(arguments: &[&str]) -> Output {
    output_of(Command::new(env!("CARGO_BIN_EXE_portreeve")).args(arguments))
}

/// The exit code, and that the error stream holds every part.
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A proxy configuration with free ports, and `listener` as its listener's further lines.
fn proxy_file(folder: &Path, hub: &str, listener: &str) -> String {
    let data = folder.join("data").display().to_string();
    file(
        folder,
        "proxy.yaml",
        &format!(
            "enforcement_point: {{ id: p1, data_dir: {data} }}
hub: {{ endpoints: [\"{hub}\"], insecure_cleartext_loopback: true }}
listeners:
  - name: inbound
    kind: proxy
    {listener}
    routes:
      - match: {{ path: \"/**\" }}
        service: orders
        upstream: app
upstreams:
  app: {{ url: \"http://127.0.0.1:9\" }}
credentials: {{ audiences: [orders] }}
admin: {{ address: \"127.0.0.1:0\" }}
metrics: {{ address: \"127.0.0.1:0\" }}
"
        ),
    )
}

const ANY: &str = "address: 127.0.0.1:0";
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn arguments_and_configurations() {
    let folder = tempfile::tempdir().unwrap();
    refused(&portreeve(&["proxy"]), USAGE, &["--config"]);
    refused(&portreeve(&["nonsense"]), USAGE, &["nonsense"]);
    refused(&portreeve(&["hub", "--config", "absent.yaml"]), INVALID, &["absent.yaml"]);

    let good = proxy_file(folder.path(), NOWHERE, ANY);
    assert!(portreeve(&["check", "--config", &good]).status.success());
    let unknown = proxy_file(folder.path(), NOWHERE, "adress: 127.0.0.1:0");
    for command in ["check", "proxy"] {
        let output = portreeve(&[command, "--config", &unknown]);
        refused(&output, INVALID, &["proxy.yaml:6", "adress", "address"]);
    }
    let schema = portreeve(&["check", "--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema["$defs"].is_object());
}

#[test]
fn a_port_in_use_names_listener_and_address() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = proxy_file(folder.path(), NOWHERE, &format!("address: {address}"));
    let output = portreeve(&["proxy", "--config", &config]);
    refused(&output, FAILURE, &["inbound", &address.to_string(), "port"]);
}

#[test]
fn a_key_file_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = file(folder.path(), "tls.crt", &made.cert.pem());
    let garbage = file(folder.path(), "garbage.key", "no key at all");
    let absent = folder.path().join("absent.key").display().to_string();
    for (key, named) in [(absent, "absent.key"), (garbage, "garbage.key")] {
        let tls =
            format!("{ANY}\n    tls: {{ certificates: [{{ certificate: {certificate}, key: {key} }}] }}");
        let config = proxy_file(folder.path(), NOWHERE, &tls);
        refused(&portreeve(&["proxy", "--config", &config]), FAILURE, &["inbound", named]);
    }
}

#[test]
fn damaged_stores_are_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("hub.db");
    fs::write(&store, "this is no database, whatever its name says").unwrap();
    let config = file(
        folder.path(),
        "hub.yaml",
        "hub: { store: \"sqlite://hub.db\", data_dir: . }\nstate: { address: \"127.0.0.1:0\" }
api: { address: \"127.0.0.1:0\" }\nmetrics: { address: \"127.0.0.1:0\" }\n",
    );
    refused(&portreeve(&["hub", "--config", &config]), FAILURE, &["hub.db"]);
    assert!(
        fs::read_to_string(&store).unwrap().starts_with("this is no database"),
        "nothing was overwritten"
    );
}

#[test]
fn a_hub_that_cannot_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let token = file(folder.path(), "admin.token", "x");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let output = portreeve(&["identity", "list", "--hub", NOWHERE, "--token-file", &token]);
    refused(&output, FAILURE, &["127.0.0.1:9", "PORTREEVE_HUB"]);
}

#[test]
fn records_that_are_refused_change_nothing() {
    let dev = Dev::start();
    let records =
        || ["identity", "policy", "revocation"].map(|kind| dev.must(&[kind, "list", "--output", "json"]));
    let before = records();
    let folder = TempDir::new().unwrap();
    let policy =
        file(folder.path(), "bad.cedar", "permit(principal, action, resource) when { context.nope };");
    let rows: [(&[&str], i32, &[&str]); 7] = [
        (
            &["identity", "create", "ledger", "--environment", "prod", "--owner-team", "x"],
            FAILURE,
            &["ledger", "exists"],
        ),
        (&["identity", "create", "Bad Name", "--environment", "prod"], USAGE, &["Bad Name"]),
        (
            &["identity", "create", "twin", "--environment", "prod", "--bind", "dev=ledger"],
            INVALID,
            &["bindings", "ledger"],
        ),
        (&["policy", "create", "extra", "--cedar", &policy], INVALID, &["nope"]),
        (&["revoke", "identity", "nobody", "--reason", "x"], FAILURE, &["nobody"]),
        (&["identity", "show", "nobody"], FAILURE, &["nobody"]),
        (&["apply", "-f", "absent.yaml"], INVALID, &["absent.yaml"]),
    ];
    for (arguments, code, parts) in rows {
        refused(&dev.run(arguments), code, parts);
    }
    // One bad document of two: neither is stored.
    let documents = file(
        folder.path(),
        "two.yaml",
        "kind: identity\ntenant: demo\nname: good\nspec: { type: workload, environment: prod }\n---\n\
         kind: identity\ntenant: demo\nname: bad\nspec: { type: workload, environment: prod, \
         bindings: [{ issuer: absent, subject: x }] }\n",
    );
    refused(&dev.run(&["apply", "-f", &documents]), INVALID, &["two.yaml", "absent"]);
    assert_eq!(records(), before, "nothing was stored, nothing was lost");
}
