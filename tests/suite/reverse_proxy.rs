//! The reverse proxy on real sockets: what an upstream receives, what a caller is told.

pub(crate) mod assertion;
mod drain;
mod health;
mod http2;
mod legacy;
mod lifecycle;
mod limits;
mod secure;
mod sever;
mod tls;
mod traces;
mod upstreams;
mod websocket;

use portreeve::core::policy::Reason;
use portreeve::pep::ForwardSettings;

use crate::support::evidence::Entry;
use crate::support::front::Gate;
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::identity;

#[test]
fn an_allowed_request_arrives_introduced_and_without_its_credential() {
    let upstream = Upstream::new(|_| {
        Reply::Bytes(ok(
            "x-portreeve-decision: forged\r\nx_portreeve_identity: forged\r\nx-app: 1\r\n",
            "hello",
        ))
    });
    let gate = Gate::new(upstream.address());
    let sent = "X-Portreeve-Identity: root\r\nX-Portreeve-Later: 1\r\nX-Forwarded-For: 10.0.0.1\r\n\
                X-Original-URL: /admin\r\nX-HTTP-Method-Override: DELETE\r\nForwarded: for=1\r\nX-Kept: yes\r\n\
                Keep-Alive: 5\r\nConnection: x-hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nTE: trailers\r\n\
                Proxy-Authorization: Basic eDp5\r\n";
    let answer = gate.order(&mut gate.caller(), sent);
    let arrived = upstream.next();
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert_eq!(arrived.line(), "GET /orders/1 HTTP/1.1");
    assert_eq!(arrived.one("x-portreeve-identity"), Some("ledger"));
    assert_eq!(arrived.one("x-portreeve-tenant"), Some("demo"));
    assert_eq!(arrived.one("x-portreeve-decision"), answer.one("x-portreeve-decision"));
    assert_eq!(arrived.one("host"), Some("orders.test"));
    assert_eq!(arrived.one("x-kept"), Some("yes"));
    for gone in [
        "authorization",
        "x-portreeve-later",
        "x-portreeve-warning",
        "x-forwarded-for",
        "x-original-url",
        "x-http-method-override",
        "forwarded",
        "keep-alive",
        "connection",
        "x-hop",
        "upgrade",
        "te",
        "proxy-authorization",
    ] {
        assert_eq!(arrived.one(gone), None, "{gone}");
    }
    assert_eq!(answer.one("x-app"), Some("1"));
    assert_eq!(answer.one("x_portreeve_identity"), None);
    assert_ne!(answer.one("x-portreeve-decision"), Some("forged"));
    assert!(matches!(gate.world.log.entries().as_slice(), [Entry::Decided(v)] if v.reason().is_none()));
}

#[test]
fn the_credential_passes_only_where_configured_and_introductions_can_be_off() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.forward = ForwardSettings { identity_headers: false, pass_credential: true };
    });
    let text = gate.order_text("GET", "X-Portreeve-Identity: root\r\n");
    let answer = gate.caller().ask(&text);
    let arrived = upstream.next();
    assert_eq!(answer.status, 200);
    assert!(text.contains(arrived.one("authorization").unwrap()));
    for gone in ["x-portreeve-identity", "x-portreeve-tenant", "x-portreeve-decision"] {
        assert_eq!(arrived.one(gone), None, "{gone}");
    }
}

#[test]
fn a_warning_travels_to_the_upstream() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let mut ownerless = identity("ledger");
    ownerless.owner = Default::default();
    gate.world.put_identity("ledger", 1, ownerless);
    assert_eq!(gate.order(&mut gate.caller(), "").status, 200);
    assert_eq!(upstream.next().one("x-portreeve-warning"), Some("hygiene.ownerless"));
    assert!(gate.metrics.render().contains("portreeve_warnings_total{rule=\"hygiene.ownerless\"} 1\n"));
}

#[test]
fn an_anonymous_route_is_recorded_and_introduces_nobody() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let answer = gate.caller().ask(
        "GET /open/a%7Eb?q=%2e%2e/;x HTTP/1.1\r\nHost: any\r\nAuthorization: Bearer x.y.z\r\nX-Portreeve-Identity: root\r\n\r\n",
    );
    let arrived = upstream.next();
    assert_eq!(answer.status, 200);
    assert_eq!(arrived.line(), "GET /open/a~b?q=%2e%2e/;x HTTP/1.1", "the judged path, the query as sent");
    assert_eq!(arrived.one("x-portreeve-identity"), None);
    assert_eq!(arrived.one("authorization"), None);
    assert_eq!(arrived.one("x-portreeve-decision"), answer.one("x-portreeve-decision"));
    assert_eq!(gate.world.log.entries().len(), 1);
}

#[test]
fn refusals_leave_one_record_and_the_upstream_untouched() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let token = gate.token();
    let auth = format!("Authorization: Bearer {token}\r\n");
    let stranger = gate.world.token(&gate.world.claims("stranger"));
    let host = "Host: orders.test\r\n";
    let rows = [
        ("GET /orders/1", host.to_owned(), 401, Reason::CredentialMissing),
        ("GET /orders/1", format!("{host}Authorization: Basic eDp5\r\n"), 401, Reason::CredentialMalformed),
        ("GET /orders/1", format!("{host}Authorization: Bearer abc\r\n"), 401, Reason::CredentialMalformed),
        (
            "GET /orders/1",
            format!("{host}Authorization: Bearer {stranger}\r\n"),
            401,
            Reason::IdentityUnknown,
        ),
        ("GET /orders/1?access_token=x", host.to_owned(), 401, Reason::CredentialMissing),
        ("GET /orders/1", format!("{host}{auth}{auth}"), 400, Reason::RequestCredentials),
        ("POST /orders/1", format!("{host}{auth}"), 403, Reason::PolicyDenied),
        ("GET /admin", format!("{host}{auth}"), 403, Reason::PolicyDenied),
        ("GET /orders/1", format!("Host: other.test\r\n{auth}"), 403, Reason::PolicyDenied),
        ("GET /orders/../admin", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("GET /orders/%2e%2e/admin", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("GET /orders//1", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("GET /orders/1%2f2", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("GET http://admin.test/orders/1", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("GET /orders/1", format!("{host}{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("GET /orders/1", auth.clone(), 400, Reason::RequestAmbiguous),
        (
            "GET /orders/1",
            format!("{host}{auth}X_Portreeve_Identity: root\r\n"),
            400,
            Reason::RequestAmbiguous,
        ),
        (
            "GET /orders/1",
            format!("{host}{auth}X.Portreeve.Identity: root\r\n"),
            400,
            Reason::RequestAmbiguous,
        ),
        (
            "GET /orders/1",
            format!("{host}{auth}Connection: authorization\r\n"),
            400,
            Reason::RequestAmbiguous,
        ),
        (
            "GET /orders/1",
            format!("{host}{auth}Transfer-Encoding: gzip, chunked\r\n"),
            400,
            Reason::RequestAmbiguous,
        ),
        ("CONNECT orders.test:443", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
        ("OPTIONS *", format!("{host}{auth}"), 400, Reason::RequestAmbiguous),
    ];
    for (index, (line, lines, status, reason)) in rows.into_iter().enumerate() {
        let answer = gate.caller().ask(&format!("{line} HTTP/1.1\r\n{lines}\r\n"));
        assert_eq!(answer.status, status, "{line} {lines}");
        assert_eq!(gate.world.log.last_verdict().reason(), Some(reason), "{line} {lines}");
        assert_eq!(gate.world.log.entries().len(), index + 1, "{line} {lines}");
        let told = (status != 401).then(|| reason.code());
        assert_eq!(answer.one("x-portreeve-reason"), told, "{line} {lines}");
        assert!(answer.body.contains(answer.one("x-portreeve-decision").unwrap()), "{}", answer.body);
        let closes = reason == Reason::RequestAmbiguous;
        assert_eq!(answer.one("connection"), closes.then_some("close"), "{line} {lines}");
    }
    assert!(upstream.is_untouched());
    assert_eq!(gate.world.log.held(), 0);
}

#[test]
fn malformed_framing_never_reaches_the_upstream() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let rows = [
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5, 5",
        "Content-Length: 18446744073709551616",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, chunked",
        "X: a\r\n folded",
        "X: a\0b",
    ];
    for lines in rows {
        let mut caller = gate.caller();
        let answer = caller.ask(&format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\nhello"));
        assert_eq!(answer.status, 400, "{lines}");
        assert!(caller.is_closed(), "{lines}");
    }
    let old =
        gate.caller().ask("POST /open/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(old.status, 400);
    assert!(upstream.is_untouched());
}

/// The server under the proxy would take the coding, and drop the length (RFC 9112 §6.3).
#[test]
fn length_beside_coding_smuggles_nothing() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    for lines in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let mut caller = gate.caller();
        let smuggled = "GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let text =
            format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n2\r\nhi\r\n0\r\n\r\n{smuggled}");
        let answer = caller.ask(&text);
        assert_eq!((answer.status, answer.one("x-portreeve-reason")), (400, Some("request.ambiguous")));
        assert!(caller.is_closed());
        assert!(upstream.is_untouched());
    }
}

#[test]
fn each_pipelined_request_is_judged_alone() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    let first = gate.order_text("GET", "");
    caller.write(format!("{first}GET /orders/2 HTTP/1.1\r\nHost: orders.test\r\n\r\n{first}").as_bytes());
    let statuses: Vec<u16> = (0..3).map(|_| caller.read(false).status).collect();
    assert_eq!(statuses, [200, 401, 200]);
    assert_eq!(gate.world.log.entries().len(), 3);
}

#[test]
fn bodies_stream_both_ways() {
    let large = "x".repeat(3 << 20);
    let answer_body = large.clone();
    let upstream = Upstream::new(move |_| {
        let chunk = format!("{:x}\r\n{answer_body}\r\n0\r\n\r\n", answer_body.len());
        Reply::Bytes(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}").into_bytes())
    });
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    let head = "POST /open/x HTTP/1.1\r\nHost: a\r\n";
    let sized =
        caller.ask(&format!("{head}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n{large}", large.len()));
    // The first answer is the server's `100 Continue`.
    assert_eq!(sized.status, 100);
    let sized = caller.read(false);
    assert_eq!((sized.status, sized.body.len()), (200, large.len()));
    let arrived = upstream.next();
    assert_eq!((arrived.body.len(), arrived.one("expect")), (large.len(), None));
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\nTrailer: x-late\r\n\r\n{:x};ext=1\r\n{large}\r\n0\r\nX-Late: 1\r\nX-Portreeve-Identity: root\r\n\r\n",
        large.len()
    );
    let chunked = caller.ask(&chunked);
    assert_eq!((chunked.status, chunked.body.len()), (200, large.len()));
    let arrived = upstream.next();
    assert_eq!(arrived.body.len(), large.len());
    for gone in ["x-late", "x-portreeve-identity", "trailer"] {
        assert_eq!(arrived.one(gone), None, "{gone}");
    }
}

#[test]
fn head_has_no_body_allowed_or_refused() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    let allowed = caller.ask(&gate.order_text("HEAD", ""));
    assert_eq!((allowed.status, allowed.one("content-length")), (200, Some("5")));
    let refused = caller.ask("HEAD /orders/1 HTTP/1.1\r\nHost: orders.test\r\n\r\n");
    assert_eq!(refused.status, 401);
    assert_eq!(gate.order(&mut caller, "").body, "hello", "the connection is in step");
}
