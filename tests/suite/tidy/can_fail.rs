//! Each rule of the parent module can fail: rows of source text and the complaint they earn.

use super::*;

/// Asserts that a rule says nothing, or that its only complaint names the line and the words.
fn check(rule: fn(&Source) -> Vec<String>, name: &str, text: &str, expected: Option<&str>) {
    let complaints = rule(&Source::new(name, text));
    match expected {
        None => assert!(complaints.is_empty(), "{name}: {text}: {complaints:?}"),
        Some(part) => {
            assert!(complaints.len() == 1 && complaints[0].contains(part), "{name}: {text}: {complaints:?}");
        }
    }
}

#[test]
fn layering_can_fail() {
    let edge = |name, text, expected| check(layering, name, text, expected);
    edge("core/policy/mod.rs", "use crate::core::id::PolicyId;", None);
    edge(
        "core/policy/mod.rs",
        "\nuse crate::wire::Batch;",
        Some("core/policy/mod.rs:2: `core` may not use `wire`"),
    );
    edge("spool/writer.rs", "use crate::{core::id, wire};", None);
    edge("spool/writer.rs", "use crate::{\n core::{id, time},\n hub::{self, Log},\n};", Some(":3: `spool`"));
    edge("pep/http.rs", "fn f() { crate::hub::serve() }", Some("`pep` may not use `hub`"));
    edge("pep/http.rs", "// crate::hub::serve\nconst A: &str = \"crate::hub::b\";", None);
    edge("pep/http.rs", "use crate::config::Config;", Some("`config`"));
    edge(
        "pep/http.rs",
        "#[cfg(test)]\nmod tests { use crate::sink::Sink; }",
        Some(":2: `pep` may not use `sink`"),
    );
    edge("pep/http.rs", "use super::super::sink::Sink;", Some("`sink`"));
    edge("pep/mod.rs", "use super::admin;", Some("`admin`"));
    edge("pep/mod.rs", "mod tests { use super::admin; }", None);
    edge("pep/mod.rs", "use crate::*;", Some("`*`"));
    edge("main.rs", "use portreeve::{cli, config};", None);
    edge("main.rs", "use portreeve::hub;", Some("`main` may not use `hub`"));
    edge("attic/mod.rs", "", Some("not a room"));
}

#[test]
fn purity_can_fail() {
    let pure = |text, expected| check(purity, "core/time.rs", text, expected);
    pure("async fn f() {}", Some("`async`"));
    pure("let a = b.await;", Some("`.await`"));
    pure("use tokio::time;", Some("`tokio`"));
    pure("use std::net::TcpStreamish;", Some("`std::net::Tcp`"));
    pure("use std::net::IpAddr;", None);
    pure("let t = std::time::SystemTime::now();", Some("take the time"));
    pure("let t = Instant::now();", Some("take the time"));
    pure("let t = rand::random();", Some("`rand::`"));
    pure("tracing::info!(\"a\");", Some("`tracing`"));
    pure("std::fs::read(p)", Some("std::fs"));
    pure("/// not async, see tokio\nlet async_like = operand::f(\"tokio\", 'a', r#\"rand::\"#);", None);
    check(purity, "pep/time.rs", "async fn f() {}", None);
}

#[test]
fn borders_can_fail() {
    check(borders, "core/policy/cedar.rs", "use cedar_policy::Authorizer;", None);
    check(
        borders,
        "core/policy/verdict.rs",
        "use cedar_policy::Authorizer;",
        Some("`cedar_policy` stays in"),
    );
    check(borders, "pep/http.rs", "use crate::wire::proto::state;", Some("generated protobuf"));
    check(borders, "pep/ext_authz.rs", "use crate::wire::proto::state;", None);
    check(borders, "pep/http.rs", "use crate::wire::{proto, Batch};", Some("generated protobuf"));
    check(borders, "config/raw.rs", "#[derive(prost::Message)] struct A;", Some("`prost`"));
    check(borders, "spool/reader.rs", "fn f(s: tonic::Status) {}", Some("`tonic`"));
    check(borders, "state/client.rs", "fn f(s: tonic::Status) {}", None);
    check(borders, "core/id.rs", "use http::Method;", Some("`http`"));
    check(borders, "core/id.rs", "use ::http::Method;", Some("`http`"));
    check(borders, "core/id.rs", "use super::http::Method; let http = 1;", None);
    check(borders, "state/mod.rs", "use axum;", Some("`axum`"));
    check(borders, "pep/forward.rs", "use hyper::Request;", None);
    check(borders, "peppers/forward.rs", "use hyper::Request;", Some("`hyper`"));
}

#[test]
fn sizes_can_fail() {
    let long_file = "const A: u8 = 1;\n".repeat(FILE_LINES + 1);
    let test_tail = format!("#[cfg(test)]\nmod tests {{\n{long_file}}}\n");
    check(sizes, "wire/a.rs", &long_file, Some("501 lines"));
    check(sizes, "wire/a.rs", &test_tail, None);
    check(sizes, "wire/a.rs", &format!("#[cfg(test)]\nmod tests;\n{long_file}"), Some("501 lines"));
    check(sizes, "wire/a/tests.rs", &long_file, None);
    let body = |lines: usize| format!("fn long() -> [u8; 3] {{\n{}}}\n", "    // '{' \"{\"\n".repeat(lines));
    check(sizes, "wire/a.rs", &body(FUNCTION_LINES - 2), None);
    check(sizes, "wire/a.rs", &body(FUNCTION_LINES - 1), Some("`fn long` has 71 lines"));
    check(sizes, "wire/a.rs", &format!("#[cfg(test)]\nmod tests {{ {} }}", body(FUNCTION_LINES)), None);
    check(sizes, "wire/a.rs", &format!("#[cfg(not(test))]\n{}", body(FUNCTION_LINES)), Some("72 lines"));
}

#[test]
fn manners_can_fail() {
    check(manners, "wire/helpers.rs", "", Some("`helpers` says nothing"));
    check(manners, "wire/utility_bill.rs", "", None);
    check(manners, "wire/a.rs", concat!("// TO", "DO: later"), Some("has an owner"));
    check(manners, "wire/a.rs", concat!("// TO", "DO(): later"), Some("has an owner"));
    check(manners, "wire/a.rs", concat!("// TO", "DO(mira): later"), None);
    check(manners, "wire/a.rs", "#[allow(dead_code)] fn f() {}", Some("`allow` is refused"));
    check(manners, "wire/a.rs", "#![cfg_attr(test, allow(dead_code))]", Some("`allow` is refused"));
    check(manners, "wire/a.rs", "#[expect(dead_code, reason = \"allow(x)\")] fn allow() { allow() }", None);
}

#[test]
fn machine_paths_can_fail() {
    let root = concat!("/", "work", "/");
    assert_eq!(machine_paths("a", &format!("\nlet p = \"{root}main\";")).len(), 1);
    assert_eq!(machine_paths("a", concat!("see /tmp", "/bash_jobs")).len(), 1);
    assert!(machine_paths("a", &format!("spiffe://example.org{root}api, .{root}x, home{root}x")).is_empty());
}
