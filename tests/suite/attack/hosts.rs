//! Whom a request is for: H14.

use super::{End, Row, check, passed, row};

#[test]
fn there_is_one_host() {
    let lines = |what: &str, lines: &str, end| {
        row("H14", what, &format!("GET /open/x HTTP/1.1\r\n{lines}\r\n"), &[end])
    };
    let mut rows: Vec<Row> = ["a", "A.b", "a:80", "a-b.c_d", "127.0.0.1:8080", "[::1]", "[::1]:443"]
        .map(|host| {
            let end = passed("GET /open/x", &format!("host: {host}"), "");
            lines(host, &format!("Host: {host}\r\n"), end)
        })
        .into();
    let refused = [
        "",
        " ",
        "a, b",
        "a,b",
        "a b",
        "a@b",
        "user:secret@a",
        "a:80:80",
        "a:",
        "a:x",
        "a:+80",
        "a:-1",
        "a:123456",
        "a/b",
        "a?b",
        "a#b",
        "http://a",
        "a\\b",
        "a;b",
        "a%00",
        "a%2eb",
        "[::1",
        "::1",
        "[::1]x",
        "[[::1]]",
        "[::1]]",
        "[a]",
        "[::1%25eth0]",
        "a\tb",
        "\u{e4}",
        "a\u{80}",
        "a\u{7f}",
        "<a>",
        "*",
        "a\0",
    ];
    rows.extend(refused.map(|host| {
        lines(&format!("host {}", host.escape_debug()), &format!("Host: {host}\r\n"), End::Refused(400))
    }));
    let doubled = [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a\r\n Host: b\r\n",
        "Host : a\r\n",
        " Host: a\r\n",
        "Host: a\r\nH_o_s_t: b\r\n",
        "Host: a\r\nHo.st: b\r\n",
        "H-ost: a\r\n",
        "Host: a\r\nX: y\r\nHost: a\r\n",
    ];
    rows.extend(doubled.map(|text| lines(&text.escape_debug().to_string(), text, End::Refused(400))));
    check(&rows);
}

/// A route that names a host is found by it, whatever its case and port, and by no other.
#[test]
fn a_route_is_its_hosts() {
    let order = |host: &str, end| {
        row("H14", host, &format!("GET /orders/1 HTTP/1.1\r\nHost: {host}\r\n{{auth}}\r\n\r\n"), &[end])
    };
    let seen = |host: &str| {
        let lines = format!("host: {host}|x-portreeve-identity: ledger|x-portreeve-tenant: demo");
        passed("GET /orders/1", &lines, "")
    };
    let mut rows: Vec<Row> =
        ["orders.test", "ORDERS.TEST", "Orders.Test:8443"].map(|host| order(host, seen(host))).into();
    let others =
        ["orders.test.", "orders.test.evil.test", "evil.orders.test", "orders_test", "xorders.test", "a"];
    rows.extend(others.map(|host| order(host, End::Refused(403))));
    check(&rows);
}
