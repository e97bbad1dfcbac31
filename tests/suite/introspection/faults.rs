//! What is sent, and what is taken for an answer.

use std::time::Duration;

use portreeve::core::identity::Record;
use portreeve::core::policy::Reason;
use serde_json::json;

use super::{Desk, PATH, good, inactive, with};
use crate::conformance::opaque::{TOKEN, issuer, known};
use crate::support::idp::{Heard, Reply};
use crate::support::world::identity;

/// A good answer under another status, or with another content type.
fn dressed(status: u16, content_type: &str, lines: &[(&'static str, &str)]) -> Reply {
    let mut all = vec![("content-type", content_type.to_owned())];
    all.extend(lines.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Reply::Text(status, all, good().to_string())
}

fn answers(token: &str) -> Reply {
    let json = "application/json";
    match token {
        "good" => Reply::json(&good()),
        "charset" => dressed(200, "Application/JSON; charset=utf-8", &[]),
        "gone" => inactive(),
        "foreign" => Reply::json(&with(good(), "aud", json!("billing"))),
        "issuer" => Reply::json(&with(good(), "iss", json!("https://other.test"))),
        "twice" => Reply::Text(
            200,
            vec![("content-type", json.to_owned())],
            good().to_string().replacen('{', "{\"active\":false,", 1),
        ),
        "page" => dressed(200, "text/html", &[]),
        "signed" => dressed(200, "application/token-introspection+jwt", &[]),
        "suffix" => dressed(200, "application/introspection+json", &[]),
        "zipped" => dressed(200, json, &[("content-encoding", "gzip")]),
        "error" => dressed(500, json, &[]),
        "busy" => dressed(503, json, &[]),
        "credentials" => dressed(401, json, &[]),
        "created" => dressed(201, json, &[]),
        "moved" => dressed(307, json, &[("location", "/introspect")]),
        "full" => Reply::Text(200, vec![("content-type", json.to_owned())], padded(64 * 1024)),
        "flood" => Reply::Text(200, vec![("content-type", json.to_owned())], padded(64 * 1024 + 1)),
        "stall" => Reply::Stall,
        "silence" => Reply::Silence,
        other => panic!("a question about {other}"),
    }
}

/// A good answer of so many bytes.
fn padded(bytes: usize) -> String {
    let answer = good().to_string();
    let room = bytes - answer.len();
    format!("{answer}{}", " ".repeat(room))
}

#[tokio::test]
async fn rows() {
    let desk = Desk::with(answers, |settings| settings.outbound.bounds.whole = Duration::from_secs(1)).await;
    let failed = Some(Reason::IntrospectionFailed);
    // Token, reason, and whether what was said of it is remembered.
    let rows = [
        ("good", None, true),
        ("charset", None, true),
        ("full", None, true),
        ("gone", Some(Reason::CredentialInactive), true),
        ("foreign", Some(Reason::CredentialAudience), true),
        ("issuer", Some(Reason::CredentialUnverified), true),
        ("twice", failed, false),
        ("page", failed, false),
        ("signed", failed, false),
        ("suffix", failed, false),
        ("zipped", failed, false),
        ("error", failed, false),
        ("busy", failed, false),
        ("credentials", failed, false),
        ("created", failed, false),
        ("moved", failed, false),
        ("flood", failed, false),
        ("stall", failed, false),
        ("silence", failed, false),
    ];
    for (token, expected, remembered) in rows {
        let before = desk.idp.asked();
        assert_eq!(desk.decide(token).await, expected, "{token}");
        assert_eq!(desk.idp.asked(), before + 1, "{token}: asked once");
        assert_eq!(desk.decide(token).await, expected, "{token}");
        assert_eq!(desk.idp.asked(), before + 1 + usize::from(!remembered), "{token}: asked again or not");
    }
    for (result, expected) in [("active", 4), ("inactive", 1), ("refused", 1), ("failed", 26)] {
        let series = format!("portreeve_introspection_requests_total{{result=\"{result}\"}}");
        assert_eq!(desk.count(&series), expected, "{result}");
    }
    assert_eq!(desk.count("portreeve_introspection_duration_seconds_count"), 32);
}

#[tokio::test]
async fn the_question_is_a_form_under_our_own_name() {
    let desk = Desk::new(|_| Reply::json(&good())).await;
    assert_eq!(desk.decide("a+b/c~d-e_f=").await, None);
    let heard = desk.heard.lock().unwrap().clone();
    // `port:reeve` and `s3cret +/`, each encoded, then joined.
    let authorization = "Basic cG9ydCUzQXJlZXZlOnMzY3JldCUyMCUyQiUyRg==".to_owned();
    let lines =
        [authorization, "application/x-www-form-urlencoded".to_owned(), "application/json".to_owned()];
    let body = "token=a%2Bb%2Fc%7Ed-e_f%3D&token_type_hint=access_token".to_owned();
    assert_eq!(heard, [Heard { method: "POST".to_owned(), path: PATH.to_owned(), lines, body }]);
}

#[tokio::test]
async fn a_secret_is_read_again_and_goes_to_its_own_server_only() {
    let desk = Desk::new(|_| inactive()).await;
    let last = || desk.heard.lock().unwrap().last().unwrap().lines[0].clone();
    desk.decide("one").await;
    let first = last();
    // What cannot be used changes nothing.
    let file = desk.folder.path().join("secret");
    for (text, changes) in [("", false), ("two\nlines", false), ("another", true)] {
        std::fs::write(&file, text).unwrap();
        desk.introspector.look();
        desk.decide(&format!("after-{}", text.len())).await;
        assert_eq!(last() != first, changes, "{text:?}");
    }
    // The record names a server that is none of ours, were it the same host.
    let asked = desk.idp.asked();
    for path in ["/other", "/introspect/", "/introspect?x", "/Introspect"] {
        known(&desk.world, &desk.idp.url(path));
        assert_eq!(desk.decide("one").await, Some(Reason::IntrospectionUnconfigured), "{path}");
    }
    assert_eq!(desk.idp.asked(), asked);
    known(&desk.world, &desk.idp.url(PATH));
    assert_eq!(desk.decide("one").await, Some(Reason::CredentialInactive));
}

#[tokio::test]
async fn a_server_inside_is_asked_only_if_its_host_is_listed() {
    let desk =
        Desk::with(|_| Reply::json(&good()), |settings| settings.outbound.internal_hosts.clear()).await;
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::IntrospectionFailed));
    assert_eq!(desk.idp.asked(), 0);
}

#[tokio::test]
async fn nobody_is_asked_about_what_cannot_be_decided() {
    let desk = Desk::new(|_| Reply::json(&good())).await;
    let mut unbound = identity("ledger");
    unbound.bindings.clear();
    // Two issuers that may have issued it.
    desk.world.put(vec![("second", 1, issuer(&desk.idp.url(PATH), ""))]);
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::IssuerUndecided));
    // Tokens that are no opaque ones.
    assert_eq!(desk.decide("a.b.c").await, Some(Reason::CredentialMalformed));
    assert_eq!(desk.idp.asked(), 0);
    // Told apart by what theirs begin with.
    desk.world.put(vec![("second", 1, issuer(&desk.idp.url(PATH), "op_"))]);
    assert_eq!(desk.decide(TOKEN).await, None);
    // Whoever is known to the issuer need not be known here.
    desk.world.put(vec![("ledger", 1, Record::Identity(std::sync::Arc::new(unbound)))]);
    assert_eq!(desk.decide(TOKEN).await, Some(Reason::IdentityUnknown));
}
