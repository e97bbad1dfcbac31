//! Targets that can be read in two ways: H12 and H13, H20, H21, H23.

use super::{End, Row, Then, check, passed, row};

fn target(threat: &'static str, target: &str, end: End) -> Row {
    row(threat, target, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), &[end])
}

fn arrives(target: &str) -> End {
    passed(&format!("GET {target}"), "host: a", "")
}

#[test]
fn a_path_is_read_once() {
    let pairs = [
        ("/open/x", "/open/x"),
        ("/open/", "/open/"),
        ("/%6fpen/%7Ex", "/open/~x"),
        ("/open/a%20b%C3%A4", "/open/a%20b%C3%A4"),
        ("/open/a%3ab", "/open/a:b"),
        ("/open/...", "/open/..."),
        ("/open/.x", "/open/.x"),
        ("/open/x.", "/open/x."),
        ("/open/x%2b", "/open/x%2B"),
    ];
    let mut rows: Vec<Row> = pairs.map(|(sent, seen)| target("H12", sent, arrives(seen))).into();
    let refused = [
        "/open/..",
        "/open/../orders/1",
        "/open/x/../../orders/1",
        "/open/.",
        "/open/./x",
        "/../open/x",
        "/open/%2e%2e/orders/1",
        "/open/%2E%2E/orders/1",
        "/open/.%2e/orders/1",
        "/open/%2e./orders/1",
        "/open/%2e/x",
        "/open/..%2forders/1",
        "/open/..%2Forders",
        "/open/%2f..",
        "/open%2f..%2forders/1",
        "/open/..%5corders/1",
        "/open/..\\orders/1",
        "/open\\x",
        "/open/%5c",
        "/open/x%00",
        "/open/x%00.png",
        "/open/%0d%0aX:%20y",
        "/open/%0a",
        "/open/%7f",
        "/open/%09",
        "//open/x",
        "/open//x",
        "/open///x",
        "//",
        "/open/x//",
        "/open/x;y",
        "/open/x;/../orders/1",
        "/open/..;/orders/1",
        "/open/x%3by",
        "/open/%252e%252e/orders/1",
        "/open/x%25",
        "/open/%c0%ae%c0%ae/orders/1",
        "/open/%c0%af",
        "/open/%e0%80%ae",
        "/open/%ff",
        "/open/%ed%a0%80",
        "/open/x%",
        "/open/x%2",
        "/open/x%zz",
        "/open/x%u002e",
        "/open/x#y",
        "/open/x%23y",
        "/open/x%3fy",
        "/open/<x>",
        "/open/\"x\"",
        "/open/\u{e4}",
        "/open/\u{c0}\u{ae}",
        "/open/x\u{80}",
        "/open/x\u{b}",
        "/open/x\0",
        "open/x",
        ".",
        "..",
        "?x",
        "./open/x",
        "\\open\\x",
        "",
        "*/x",
    ];
    rows.extend(refused.map(|sent| target("H12", sent, End::Refused(400))));
    // Whatever is denied is denied in each of its spellings.
    rows.extend(
        ["/admin", "/%61dmin", "/Open/x", "/open", "/", "/openx/y"]
            .map(|sent| target("H12", sent, End::Refused(403))),
    );
    check(&rows);
}

/// The query goes on byte for byte and has no say in the path.
#[test]
fn a_query_is_no_path() {
    let as_it_is = [
        "/open/x?",
        "/open/x?a=b",
        "/open/x?/../admin",
        "/open/x?%2e%2e/%2f;%00",
        "/open/x??",
        "/open/x?a?b",
        "/open/x?a//b\\c",
        "/open/x?access_token=y",
        "/open/x?%zz",
    ];
    let mut rows: Vec<Row> = as_it_is.map(|sent| target("H20", sent, arrives(sent))).into();
    rows.extend([
        target("H20", "/admin?/open/x", End::Refused(403)),
        target("H20", "/open/../admin?/open/x", End::Refused(400)),
        target("H20", "/open/x?a#b", End::Refused(400)),
        target("H20", "/open/x%3f/../admin", End::Refused(400)),
        target("H20", "/open/x?\u{e4}", End::Refused(400)),
    ]);
    check(&rows);
}

/// Where a request goes is configured, and only that: what its target names must be its host.
#[test]
fn a_target_names_no_other_host() {
    let to = |threat, line: &str, host: &str, end| {
        row(threat, &format!("{line} {host}"), &format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"), &[end])
    };
    let plain = || arrives("/open/x");
    let mut rows = vec![
        to("H13", "GET http://a/open/x", "a", plain()),
        to("H13", "GET https://a/open/x", "a", plain()),
        to("H13", "GET HTTP://A/open/x", "a", plain()),
        to("H13", "GET http://a:80/open/x?y", "a:80", passed("GET /open/x?y", "host: a:80", "")),
        to(
            "H23",
            "GET http://169.254.169.254/open/x",
            "169.254.169.254",
            passed("GET /open/x", "host: 169.254.169.254", ""),
        ),
        to("H23", "GET http://169.254.169.254/latest/meta-data", "169.254.169.254", End::Refused(403)),
    ];
    let other = [
        ("GET http://b/open/x", "a"),
        ("GET http://a.b/open/x", "a"),
        ("GET http://a:80/open/x", "a"),
        ("GET http://a/open/x", "a:80"),
        ("GET http://a@b/open/x", "a"),
        ("GET http://b@a/open/x", "a"),
        ("GET http://user:secret@a/open/x", "a"),
        ("GET http://a/open/x", "b"),
        ("GET ftp://a/open/x", "a"),
        ("GET file:///open/x", "a"),
        ("GET ws://a/open/x", "a"),
        ("GET http:/open/x", "a"),
        ("GET http:open/x", "a"),
        ("GET http:///open/x", "a"),
        ("GET http://a/open/../admin", "a"),
        ("GET http://a\\@b/open/x", "a"),
        ("GET http://a#@b/open/x", "a"),
        ("GET a:80", "a:80"),
        ("GET *", "a"),
        ("OPTIONS *", "a"),
        ("OPTIONS /open/*/../x", "a"),
        ("CONNECT a:80", "a:80"),
        ("CONNECT /open/x", "a"),
        ("CONNECT http://a/open/x", "a"),
        ("CONNECT *", "a"),
    ];
    rows.extend(other.map(|(line, host)| to("H13", line, host, End::Refused(400))));
    let inside = [
        ("GET http://169.254.169.254/latest", "a"),
        ("CONNECT 169.254.169.254:80", "169.254.169.254:80"),
        ("CONNECT [::1]:80", "[::1]:80"),
        ("GET http://localhost/open/x", "a"),
    ];
    rows.extend(inside.map(|(line, host)| to("H23", line, host, End::Refused(400))));
    rows.push(to("H13", "GET http://a", "a", End::Refused(403)));
    check(&rows);
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    let long = |count| "x".repeat(count);
    let head = |lines: &str| format!("GET /open/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let closed =
        |what, text: &str, status| row("H21", what, text, &[End::Refused(status)]).then(Then::Closed);
    check(&[
        row(
            "H21",
            "a head that fits",
            &head(&format!("X: {}\r\n", long(1000))),
            &[passed("GET /open/x", &format!("host: a|x: {}", long(1000)), "")],
        ),
        closed("a line of 1 MB", &head(&format!("X: {}\r\n", long(1 << 20))), 431),
        closed("10,000 lines", &head(&"X: y\r\n".repeat(10_000)), 431),
        closed("a target of 1 MB", &format!("GET /open/{} HTTP/1.1\r\nHost: a\r\n\r\n", long(1 << 20)), 431),
        closed("a method of 1 MB", &format!("{} /open/x HTTP/1.1\r\nHost: a\r\n\r\n", long(1 << 20)), 431),
        closed("empty lines", &"\r\n".repeat(1 << 19), 431),
        target("H21", &format!("/open/{}", long(9000)), End::Refused(414)),
    ]);
}
