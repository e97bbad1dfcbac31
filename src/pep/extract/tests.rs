//! What is read and what is refused, beside each other.

use http::{HeaderName, Request};

use super::*;
use crate::core::policy::{PathPattern, Presentation};
use crate::pep::routes::Route;
use crate::pep::testing;

fn routes() -> Routes {
    let route = |host: Option<&str>, path: &str| Route {
        host: host.map(Arc::from),
        path: Some(PathPattern::parse(path).unwrap()),
        methods: Vec::new(),
        service: None,
        rules: Arc::new(testing::rules("app")),
    };
    Routes::new(vec![route(Some("orders.test"), "/**"), route(None, "/open")])
}

/// `target`, then header lines; HTTP/2 when the target is absolute and `http2` is set.
fn ask(method: &str, target: &str, http2: bool, lines: &[(&str, &str)]) -> Result<Admitted, Reason> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = target.parse().unwrap();
    *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    let (mut parts, ()) = request.into_parts();
    let mut facts = testing::facts();
    facts.method = Arc::from(method);
    let carriers = Carriers::new(true, Some("x-api-key")).unwrap();
    let (routes, certificates) = (routes(), CallerCertificates::default());
    let rules = AdmitRules {
        routes: &routes,
        carriers: &carriers,
        certificates: &certificates,
        limits: &RequestLimits::default(),
    };
    admit(&mut parts, &facts, None, &rules)
}

/// Header lines.
type Lines<'a> = &'a [(&'a str, &'a str)];

const HOST: (&str, &str) = ("host", "orders.test");

#[test]
fn targets() {
    let rows: &[(&str, Result<&str, Reason>)] = &[
        ("/orders/1?x=1", Ok("/orders/1?x=1")),
        ("/%6frders/1?x=%2e%2e/", Ok("/orders/1?x=%2e%2e/")),
        ("/orders?a=/../b;c", Ok("/orders?a=/../b;c")),
        ("/orders?", Ok("/orders?")),
        ("/orders?a?b", Ok("/orders?a?b")),
        ("/", Ok("/")),
        ("/public/../admin", Err(Reason::RequestAmbiguous)),
        ("/public/%2e%2e/admin", Err(Reason::RequestAmbiguous)),
        ("//admin", Err(Reason::RequestAmbiguous)),
        ("/a%2fb", Err(Reason::RequestAmbiguous)),
        ("/admin;x", Err(Reason::RequestAmbiguous)),
        ("/a%00", Err(Reason::RequestAmbiguous)),
        ("*", Err(Reason::RequestAmbiguous)),
        ("/orders?a=ä", Err(Reason::RequestAmbiguous)),
    ];
    for (target, expected) in rows {
        let found = ask("GET", target, false, &[HOST]);
        let found = found.as_ref().map(|admitted| admitted.target.as_str()).map_err(|reason| *reason);
        assert_eq!(found, *expected, "{target}");
    }
    let long = format!("/{}", "a".repeat(9000));
    assert_eq!(ask("GET", &long, false, &[HOST]).unwrap_err(), Reason::RequestTarget);
}

#[test]
fn hosts() {
    let rows: &[(&str, bool, Lines<'_>, Result<&str, Reason>)] = &[
        ("/a", false, &[HOST], Ok("orders.test")),
        ("/a", false, &[("host", "ORDERS.test:8080")], Ok("ORDERS.test:8080")),
        ("http://orders.test/a", false, &[HOST], Ok("orders.test")),
        ("http://Orders.Test/a", false, &[HOST], Ok("orders.test")),
        ("http://orders.test/a", true, &[], Ok("orders.test")),
        ("http://orders.test/a", true, &[HOST], Ok("orders.test")),
        ("/open", false, &[("host", "[::1]:80")], Ok("[::1]:80")),
        ("/open", false, &[("host", "other")], Ok("other")),
        ("/a", false, &[("host", "other.test")], Err(Reason::PolicyDenied)),
        ("/a", false, &[("host", "orders.test.")], Err(Reason::PolicyDenied)),
        ("/a", false, &[], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[HOST, HOST], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "orders.test, orders.test")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "orders.test:")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "orders.test:8o")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "user@orders.test")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "orders.test/x")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "[::1")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "[[::1]")], Err(Reason::RequestAmbiguous)),
        ("/a", false, &[("host", "[::1]]")], Err(Reason::RequestAmbiguous)),
        ("http://orders.test/a", false, &[], Err(Reason::RequestAmbiguous)),
        ("http://admin.test/a", false, &[HOST], Err(Reason::RequestAmbiguous)),
        ("http://orders.test:80/a", false, &[HOST], Err(Reason::RequestAmbiguous)),
        ("http://user@orders.test/a", false, &[HOST], Err(Reason::RequestAmbiguous)),
        ("ftp://orders.test/a", false, &[HOST], Err(Reason::RequestAmbiguous)),
        ("http://admin.test/a", true, &[HOST], Err(Reason::RequestAmbiguous)),
        ("/a", true, &[], Err(Reason::RequestAmbiguous)),
    ];
    for (target, http2, lines, expected) in rows {
        let found = ask("GET", target, *http2, lines);
        let found = found.as_ref().map(|admitted| admitted.host.to_str().unwrap()).map_err(|reason| *reason);
        assert_eq!(found, *expected, "{target} {lines:?} http2 {http2}");
    }
    assert_eq!(ask("CONNECT", "orders.test:443", false, &[HOST]).unwrap_err(), Reason::RequestAmbiguous);
    assert_eq!(ask("OPTIONS", "*", false, &[HOST]).unwrap_err(), Reason::RequestAmbiguous);
}

#[test]
fn credentials() {
    let one = |value| vec![("authorization", value)];
    let rows = [
        (vec![], Ok("nothing")),
        (one("Bearer abc.def-_~+/=="), Ok("one")),
        (one("bearer abc"), Ok("one")),
        (one("BEARER abc"), Ok("one")),
        (one("Bearer"), Ok("malformed")),
        (one("Bearer "), Ok("malformed")),
        (one("Bearer  abc"), Ok("malformed")),
        (one("Bearer abc def"), Ok("malformed")),
        (one("Bearer abc,Bearer def"), Ok("malformed")),
        (one("Bearer =="), Ok("malformed")),
        (one("Bearer a=b"), Ok("malformed")),
        (one("Bearer\tabc"), Ok("malformed")),
        (one("Basic abc"), Ok("malformed")),
        (one("DPoP abc"), Ok("one")),
        (one("dpop abc"), Ok("one")),
        (one("DPoP a b"), Ok("malformed")),
        (vec![("authorization", "DPoP a"), ("dpop", "b")], Ok("one")),
        (vec![("authorization", "DPoP a"), ("dpop", "b"), ("dpop", "b")], Err(Reason::RequestCredentials)),
        (vec![("authorization", "DPoP a"), ("d_pop", "b")], Err(Reason::RequestAmbiguous)),
        (one("abc"), Ok("malformed")),
        (one(""), Ok("malformed")),
        (vec![("authorization", "Bearer a"), ("authorization", "Bearer a")], Err(Reason::RequestCredentials)),
        (vec![("author_ization", "Bearer a")], Err(Reason::RequestAmbiguous)),
        (vec![("x-api-key", "k")], Ok("one")),
        (vec![("x-api-key", "k"), ("x-api-key", "k")], Err(Reason::RequestCredentials)),
        (vec![("x-api-key", "k"), ("authorization", "Bearer a")], Err(Reason::RequestCredentials)),
        (vec![("x-api-key", "k"), ("authorization", "")], Err(Reason::RequestCredentials)),
        (vec![("x_api_key", "k")], Err(Reason::RequestAmbiguous)),
    ];
    for (mut lines, expected) in rows {
        lines.push(HOST);
        let found = ask("GET", "/a", false, &lines).map(|admitted| match admitted.exchange.presentation {
            Presentation::Nothing => "nothing",
            Presentation::One(_) => "one",
            Presentation::Malformed => "malformed",
        });
        assert_eq!(found.as_ref().map(|s| *s).map_err(|r| *r), expected, "{lines:?}");
    }
}

#[test]
fn framing_is_said_once() {
    let rows: &[(&[(&str, &str)], bool)] = &[
        (&[], true),
        (&[("content-length", "5")], true),
        (&[("transfer-encoding", "chunked")], true),
        (&[("transfer-encoding", "Chunked")], true),
        (&[("transfer-encoding", "gzip, chunked")], false),
        (&[("transfer-encoding", "chunked, chunked")], false),
        (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
        (&[("transfer-encoding", "identity")], false),
        (&[("transfer-encoding", "chunked"), ("content-length", "5")], false),
        (&[("content-length", "5"), ("content-length", "5")], false),
        (&[("content-length", "5, 5")], false),
        (&[("content-length", "+5")], false),
        (&[("content-length", "0x5")], false),
        (&[("content-length", "")], false),
        (&[("content_length", "5")], false),
    ];
    for (lines, accepted) in rows {
        let lines: Vec<_> = lines.iter().copied().chain([HOST]).collect();
        assert_eq!(ask("POST", "/a", false, &lines).is_ok(), *accepted, "{lines:?}");
    }
}
