//! Asking servers that others run, over real sockets: what is refused, and before what.

use std::time::Duration;

use portreeve::outbound::{Bounds, Client, OutboundError, OutboundSettings, Target};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::idp::{Idp, Reply, TestCa};

async fn ask(settings: &OutboundSettings, url: &str) -> Result<portreeve::outbound::Answer, OutboundError> {
    Client::new(settings).get_json(&Target::parse(url).unwrap()).await
}

fn answers(path: &str) -> Reply {
    let json = "application/json".to_owned();
    match path {
        "/good" => Reply::json(&json!({ "keys": [] })),
        "/aged" => Reply::Text(
            200,
            vec![
                ("content-type", json),
                ("cache-control", "max-age=100".to_owned()),
                ("age", "40".to_owned()),
            ],
            "{}".to_owned(),
        ),
        "/moved" => {
            let elsewhere = ("location", "https://169.254.169.254/latest/meta-data".to_owned());
            Reply::Text(302, vec![("content-type", json), elsewhere], "{}".to_owned())
        }
        "/moved-here" => Reply::Text(307, vec![("location", "/good".to_owned())], String::new()),
        "/error" => Reply::Text(503, vec![("content-type", json)], "{}".to_owned()),
        "/page" => Reply::Text(200, vec![("content-type", "text/html".to_owned())], "{}".to_owned()),
        "/untyped" => Reply::Text(200, vec![], "{}".to_owned()),
        "/zipped" => Reply::Text(
            200,
            vec![("content-type", json), ("content-encoding", "gzip".to_owned())],
            "{}".to_owned(),
        ),
        "/full" => Reply::Flood(1 << 20),
        "/flood" => Reply::Flood((1 << 20) + 1),
        "/stall" => Reply::Stall,
        "/silence" => Reply::Silence,
        _ => Reply::Text(404, vec![], String::new()),
    }
}

#[tokio::test]
async fn only_a_whole_json_answer_of_status_200_is_taken() {
    let ca = TestCa::new();
    let idp = Idp::start(&ca, answers).await;
    let settings = ca.outbound(&["localhost"]);
    let at = |path: &str| {
        let (settings, url) = (&settings, idp.url(path));
        async move { ask(settings, &url).await }
    };
    assert_eq!(at("/good").await.unwrap().body, r#"{"keys":[]}"#);
    assert_eq!(at("/aged").await.unwrap().max_age, Some(Duration::from_secs(60)));
    assert_eq!(at("/full").await.unwrap().body.len(), 1 << 20);
    let before = idp.asked();
    for (path, status) in [("/moved", 302), ("/moved-here", 307), ("/error", 503), ("/none", 404)] {
        let error = at(path).await.unwrap_err();
        assert!(matches!(error, OutboundError::Status(found) if found == status), "{path}: {error}");
    }
    assert_eq!(idp.asked(), before + 4, "no redirect is followed");
    assert!(matches!(at("/page").await, Err(OutboundError::ContentType(found)) if found == "text/html"));
    assert!(matches!(at("/untyped").await, Err(OutboundError::ContentType(_))));
    assert!(matches!(at("/zipped").await, Err(OutboundError::Encoded(found)) if found == "gzip"));
    assert_eq!(at("/flood").await, Err(OutboundError::TooLarge(1 << 20)));
}

#[tokio::test]
async fn whoever_is_slow_is_not_waited_for() {
    let ca = TestCa::new();
    let idp = Idp::start(&ca, answers).await;
    // Accepts, and never says a word of TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bounds = Bounds { whole: Duration::from_millis(200), ..Bounds::default() };
    let settings = OutboundSettings { bounds, ..ca.outbound(&["localhost"]) };
    let mute = format!("https://localhost:{}/", mute.local_addr().unwrap().port());
    for url in [idp.url("/stall"), idp.url("/silence"), mute] {
        assert_eq!(ask(&settings, &url).await, Err(OutboundError::Slow(bounds.whole)), "{url}");
    }
}

#[tokio::test]
async fn nothing_inside_is_asked_unless_its_host_is_listed() {
    let ca = TestCa::new();
    let idp = Idp::start(&ca, answers).await;
    let port = idp.address.port();
    let url = |host: &str| format!("https://{host}:{port}/good");
    for host in [
        "localhost",
        "127.0.0.1",
        "127.1.2.3",
        "[::1]",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
    ] {
        let refused = ask(&ca.outbound(&[]), &url(host)).await;
        assert!(matches!(refused, Err(OutboundError::Address { .. })), "{host}: {refused:?}");
    }
    assert_eq!(idp.asked(), 0);
    // A host is listed by the name that is asked, and no other.
    assert!(ask(&ca.outbound(&["localhost"]), &url("localhost")).await.is_ok());
    assert!(ask(&ca.outbound(&["127.0.0.1"]), &url("127.0.0.1")).await.is_ok());
    for (listed, asked) in [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost"), ("host", "localhost")] {
        let refused = ask(&ca.outbound(&[listed]), &url(asked)).await;
        assert!(matches!(refused, Err(OutboundError::Address { .. })), "{listed}, {asked}: {refused:?}");
    }
    // What gives out credentials is never asked, whatever is listed.
    for host in ["169.254.169.254", "[::ffff:127.0.0.1]", "[fe80::1]", "0.0.0.0"] {
        let listed = host.trim_matches(['[', ']']);
        let refused = ask(&ca.outbound(&[listed]), &url(host)).await;
        assert!(matches!(refused, Err(OutboundError::Address { .. })), "{host}: {refused:?}");
    }
}

#[tokio::test]
async fn only_a_certificate_of_a_trusted_authority_for_that_host_will_do() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let idp = Idp::start(&ca, answers).await;
    let refused = |error: OutboundError| matches!(error, OutboundError::Connect { .. });
    assert!(refused(ask(&other.outbound(&["localhost"]), &idp.url("/good")).await.unwrap_err()));
    let system = OutboundSettings { ca_file: None, ..ca.outbound(&["localhost"]) };
    assert!(ask(&system, &idp.url("/good")).await.is_err());
    // The certificate names `127.0.0.1` and not its neighbour.
    let neighbour = format!("https://127.0.0.2:{}/good", idp.address.port());
    assert!(ask(&ca.outbound(&["127.0.0.2"]), &neighbour).await.is_err());
    let missing = OutboundSettings { ca_file: Some("missing.pem".into()), ..ca.outbound(&["localhost"]) };
    assert!(matches!(ask(&missing, &idp.url("/good")).await, Err(OutboundError::Roots(_))));
    assert_eq!(idp.asked(), 0);
}
