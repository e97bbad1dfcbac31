//! Header names that count, however they are spelled: H15 to H18, T29, T36.

use super::{End, Row, Then, check, get, passed, row};

fn order(threat: &'static str, lines: &str, end: End) -> Row {
    let text = format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n");
    row(threat, &lines.escape_debug().to_string(), &text, &[end])
}

/// As it arrives from `ledger`, with further lines.
fn introduced(lines: &str) -> End {
    let all = format!("host: orders.test|x-portreeve-identity: ledger|x-portreeve-tenant: demo|{lines}");
    passed("GET /orders/1", &all, "")
}

#[test]
fn what_concerns_one_connection_ends_here() {
    let plain = || passed("GET /open/x", "host: a", "");
    let gone = [
        "Connection: X-Hop\r\nX-Hop: 1",
        "Connection: keep-alive, x-hop, te\r\nX-Hop: 1\r\nTE: gzip",
        "Connection: X-One\r\nConnection: X-Two\r\nX-One: 1\r\nX-Two: 2",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Authenticate: Basic",
        "TE: trailers",
        "TE: gzip, trailers",
        "Trailer: X-Late",
        "Upgrade: websocket",
        "Upgrade: TLS/1.0\r\nConnection: Upgrade",
        "HTTP2-Settings: AAAA",
        "Connection: ,,\t,",
        "Expect: 100-continue",
    ];
    let mut rows: Vec<Row> = gone.map(|lines| get("H15", lines, lines, plain())).into();
    let counts = [
        "Authorization",
        "authorization",
        "Host",
        "Content-Length",
        "Cookie",
        "DPoP",
        "X-Portreeve-Identity",
        "X-Portreeve-Decision",
        "x_portreeve_identity",
        "X-Portreeve-Anything",
        "close, host",
        "Au_thorization",
        "keep-alive,Authorization ,x",
    ];
    rows.extend(
        counts.map(|name| order("H15", &format!("{{auth}}\r\nConnection: {name}\r\n"), End::Refused(400))),
    );
    rows.push(order("H15", "{auth}\r\nConnection: x\u{e9}\r\n", End::Refused(400)));
    rows.push(order("H15", "{auth}\r\nConnection: x-hop\r\nX-Hop: 1\r\n", introduced("")));
    check(&rows);
}

#[test]
fn nobody_else_introduces_a_caller() {
    let mut rows = vec![order("H16", "{auth}\r\n", introduced(""))];
    let removed = [
        "X-Portreeve-Identity: root",
        "x-portreeve-identity: root\r\nX-PORTREEVE-IDENTITY: root",
        "X-Portreeve-Identity:",
        "X-Portreeve-Tenant: other",
        "X-Portreeve-Decision: 1",
        "X-Portreeve-Warning: x",
        "X-Portreeve-Assertion: a.b.c",
        "X-Portreeve-Reason: x",
        "X-Portreeve-Later: x",
    ];
    rows.extend(removed.map(|lines| order("H16", &format!("{{auth}}\r\n{lines}\r\n"), introduced(""))));
    rows.extend(removed.map(|lines| get("H16", lines, lines, passed("GET /open/x", "host: a", ""))));
    let aliases = [
        "X_Portreeve_Identity",
        "X-Portreeve_Identity",
        "X.Portreeve.Identity",
        "x-portreeve.identity",
        "XPortreeveIdentity",
        "X-Port-Reeve-Identity",
        "X-Portreeve-Iden-tity",
        "_X-Portreeve-Identity",
        "X-Portreeve-Identity_",
        "X--Portreeve-Identity",
        "X-Portreeve-Identity-",
        "X~Portreeve~Identity",
        "X|Portreeve|Identity",
        "X'Portreeve'Tenant",
        "X_Portreeve_Later",
        "X-Portreeve",
    ];
    rows.extend(
        aliases.map(|name| order("H16", &format!("{{auth}}\r\n{name}: root\r\n"), End::Refused(400))),
    );
    rows.extend(aliases.map(|name| get("H16", name, &format!("{name}:"), End::Refused(400))));
    check(&rows);
}

#[test]
fn what_only_a_proxy_in_front_may_say_is_not_passed_on() {
    let plain = || passed("GET /open/x", "host: a", "");
    let claimed = [
        "Forwarded: for=1;host=b",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Host: b",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /admin",
        "X-Forwarded-Uri: /admin",
        "X-Forwarded-Method: DELETE",
        "X-Forwarded-Server: b",
        "X-Forwarded-User: root",
        "X_Forwarded_Proto: https",
        "X.Forwarded.For: 1",
        "X-Forwarded: 1",
        "X-Real-IP: 10.0.0.1",
        "X_Real_IP: 10.0.0.1",
        "Proxy: http://b",
        "pro_xy: http://b",
    ];
    let mut rows: Vec<Row> = claimed.map(|line| get("H17", line, line, plain())).into();
    rows.push(get("H17", "refused beside it", "X-Forwarded-Host: b\r\nHost: b", End::Refused(400)));
    let certificates = [
        "X-Forwarded-Client-Cert: By=a;Hash=b;URI=spiffe://c/d",
        "x_forwarded_client_cert: URI=spiffe://c/d",
        "Client-Cert: :AAAA:",
        "Client-Cert-Chain: :AAAA:",
        "X-SSL-Client-Cert: x",
        "X-SSL-Client-Verify: SUCCESS",
        "SSL-Client-S-DN: CN=root",
        "SSL_CLIENT_CERT: x",
    ];
    rows.extend(certificates.map(|line| get("T36", line, line, plain())));
    rows.extend(certificates.map(|line| order("T36", &format!("{line}\r\n"), End::Refused(401))));
    let overriding = [
        "X-Original-URL: /admin",
        "X-Original-URI: /admin",
        "X-Rewrite-URL: /admin",
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "x_http_method_override: DELETE",
        "X-Original-Method: DELETE",
        "X_Original_Host: b",
    ];
    rows.extend(overriding.map(|line| get("H18", line, line, plain())));
    rows.push(row(
        "H18",
        "denied whatever it says",
        "GET /admin HTTP/1.1\r\nHost: a\r\nX-Original-URL: /open/x\r\n\r\n",
        &[End::Refused(403)],
    ));
    check(&rows);
}

#[test]
fn there_is_one_credential() {
    let mut rows = vec![
        order("T29", "{auth}\r\n", introduced("")),
        order(
            "T29",
            "{auth}\r\nCookie: access_token=x\r\nX-Authorization: Bearer x\r\n",
            introduced("cookie: access_token=x|x-authorization: Bearer x"),
        ),
        get(
            "T29",
            "where none is looked for",
            "Authorization: Bearer x",
            passed("GET /open/x", "host: a", ""),
        ),
        row(
            "T29",
            "none in a query",
            "GET /orders/1?access_token=x HTTP/1.1\r\nHost: orders.test\r\n\r\n",
            &[End::Refused(401)],
        ),
        order("T29", "Cookie: {auth}\r\n", End::Refused(401)),
        order("T29", "X-{auth}\r\n", End::Refused(401)),
        order("T29", "Proxy-{auth}\r\n", End::Refused(401)),
    ];
    let doubled = [
        "{auth}\r\n{auth}\r\n",
        "{auth}\r\nAuthorization: Basic eDp5\r\n",
        "{auth}\r\nauthorization:\r\n",
        "{auth}\r\nAuthorization: \r\n",
        "{auth}\r\nAuth_orization: Bearer x\r\n",
        "{auth}\r\nAuthorizatio.n: x\r\n",
        "{auth}\r\nAuthorization : Bearer x\r\n",
    ];
    rows.extend(doubled.map(|lines| order("T29", lines, End::Refused(400)).then(Then::Unasked)));
    rows.push(order("T29", "{auth}, Bearer x\r\n", End::Refused(401)));
    check(&rows);
}
