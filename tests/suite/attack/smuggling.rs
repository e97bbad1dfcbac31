//! One request hidden in another: H1 to H11.

use super::{End, Row, Then, check, get, passed, post, row};

const SMUGGLED: &str = "GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn refused() -> End {
    End::Refused(400)
}

fn sized(body: &str) -> End {
    passed("POST /open/x", &format!("host: a|content-length: {}", body.len()), body)
}

fn chunked(body: &str) -> End {
    passed("POST /open/x", "host: a|transfer-encoding: chunked", body)
}

#[test]
fn a_body_has_one_length() {
    let hidden = format!("0\r\n\r\n{SMUGGLED}");
    let mut rows = vec![
        post("H1", "a length alone", "Content-Length: 5", "hello", sized("hello")),
        post(
            "H1",
            "a coding alone",
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
            chunked("hello"),
        ),
        post("H1", "CL.TE", "Content-Length: 45\r\nTransfer-Encoding: chunked", &hidden, refused()),
        post("H1", "TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5", &hidden, refused()),
        post("H1", "a length of 0", "Content-Length: 0\r\nTransfer-Encoding: chunked", &hidden, refused()),
        post("H1", "cases", "TRANSFER-ENCODING: chunked\r\ncontent-length: 5", &hidden, refused()),
        post(
            "H3",
            "leading zeros",
            "Content-Length: 05",
            "hello",
            passed("POST /open/x", "host: a|content-length: 05", "hello"),
        ),
        post("H3", "spaces around", "Content-Length: \t 5 ", "hello", sized("hello")),
        post("H3", "two that agree", "Content-Length: 5\r\nContent-Length: 5", "hello", refused()),
        post("H3", "two that do not", "Content-Length: 5\r\nContent-Length: 6", "hello!", refused()),
        post("H3", "another name for it", "Content_Length: 5", "", refused()),
        post("H3", "apart by a space", "Content-Length : 5", "hello", refused()),
    ];
    let lengths = [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,5",
        "5, 5",
        "5, 6",
        "5;",
        "5.0",
        "5e0",
        "",
        "five",
        "\u{b2}",
        "5\0",
        "5\r",
        "5\u{b}",
        "18446744073709551616",
        "99999999999999999999999",
    ];
    for length in lengths {
        let line = format!("Content-Length: {length}");
        rows.push(post("H3", &line, &line, "hello", refused()));
    }
    check(&rows);
}

#[test]
fn a_coding_is_chunked_and_said_plainly() {
    let whole = "5\r\nhello\r\n0\r\n\r\n";
    let mut rows = vec![
        post("H2", "in any case", "Transfer-Encoding: CHUNKED", whole, chunked("hello")),
        post("H2", "spaces around", "Transfer-Encoding:\t chunked \t", whole, chunked("hello")),
        post(
            "H2",
            "none",
            "X-Transfer-Encoding: chunked\r\nContent-Length: 5",
            "hello",
            passed("POST /open/x", "host: a|content-length: 5|x-transfer-encoding: chunked", "hello"),
        ),
    ];
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND"] {
        let head =
            format!("{method} /open/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{whole}");
        let line = format!("{method} /open/x");
        let end = passed(&line, "host: a|transfer-encoding: chunked", "hello");
        rows.push(row("H2", &format!("a body of {method}"), &head, &[end]));
    }
    let lines = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chu nked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{c}",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: chunked\r",
        "Transfer-Encoding:\u{ff}chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding\u{e9}: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer.Encoding: chunked",
    ];
    rows.extend(lines.map(|line| post("H2", line, line, whole, refused())));
    check(&rows);
}

/// The head is judged before the body comes, so the upstream may see it begin.
#[test]
fn a_chunk_is_framed_in_one_way() {
    let coding = "Transfer-Encoding: chunked";
    let mut rows = vec![
        post("H4", "leading zeros", coding, "0005\r\nhello\r\n0\r\n\r\n", chunked("hello")),
        post("H4", "upper case", coding, "A\r\nhellohello\r\n0\r\n\r\n", chunked("hellohello")),
        post(
            "H5",
            "extensions end here",
            coding,
            "5;a;b=c;d=\"e\"\r\nhello\r\n0;f\r\n\r\n",
            chunked("hello"),
        ),
        post(
            "H5",
            "a flood of them",
            coding,
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000)),
            End::Cut,
        ),
        post(
            "H5",
            "a flood in pieces",
            coding,
            &format!("1;{}\r\nh\r\n", "x".repeat(900)).repeat(30),
            End::Cut,
        ),
    ];
    let chunks = [
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\t;x\r\nhello\r\n",
        "5\nhello\r\n",
        "5\rhello\r\n",
        "\r\n5\r\nhello\r\n",
        "g\r\nhello\r\n",
        ";x\r\nhello\r\n",
        "5;x\nhello\r\n",
        "5;x=\"\r\nhello\r\n",
        "5;x=\"\r\n\"\r\nhello\r\n",
        "5;\0\r\nhello\r\n",
        "5\r\nhello\n",
        "5\r\nhello",
        "5\r\nhello!\r\n",
        "4\r\nhello\r\n",
        "10000000000000005\r\nhello\r\n",
        "ffffffffffffffff0\r\nhello\r\n",
    ];
    for chunk in chunks {
        let what = format!("chunk {}", chunk.escape_debug());
        rows.push(post("H4", &what, coding, &format!("{chunk}0\r\n\r\n{SMUGGLED}"), End::Cut));
        let later = format!("5\r\nhello\r\n{chunk}0\r\n\r\n{SMUGGLED}");
        rows.push(post("H4", &format!("second {what}"), coding, &later, End::Cut));
    }
    check(&rows);
}

#[test]
fn trailers_end_here() {
    let coding = "Transfer-Encoding: chunked";
    let names = [
        "X-Late",
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "X-Portreeve-Identity",
        "X_Portreeve_Identity",
        "Cookie",
        "Connection",
        "Content-Type",
    ];
    let mut rows: Vec<Row> = names
        .iter()
        .map(|name| {
            let body = format!("5\r\nhello\r\n0\r\n{name}: 4\r\n\r\n");
            post("H6", name, &format!("{coding}\r\nTrailer: {name}"), &body, chunked("hello"))
        })
        .collect();
    for late in [
        "X: y\n\r\n",
        "X y\r\n\r\n",
        " X: y\r\n\r\n",
        "X: \0\r\n\r\n",
        "X\u{e9}: y\r\n\r\n",
        "X: y\rZ: z\r\n\r\n",
    ] {
        let what = format!("trailer {}", late.escape_debug());
        rows.push(post("H6", &what, coding, &format!("5\r\nhello\r\n0\r\n{late}{SMUGGLED}"), End::Cut));
    }
    check(&rows);
}

#[test]
fn older_versions_and_other_protocols() {
    let old = |lines: &str, body: &str| format!("POST /open/x HTTP/1.0\r\nHost: a\r\n{lines}\r\n{body}");
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    let plain = || passed("GET /open/x", "host: a", "");
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let asked = "host: a|connection: upgrade|upgrade: websocket|sec-websocket-version: 13|\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let early = format!(
        "GET /open/x HTTP/1.1\r\nHost: a\r\n{socket}\r\n\r\nGET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n\r\n"
    );
    check(&[
        row("H7", "a length", &old("Content-Length: 5\r\n", "hello"), &[sized("hello")]).then(Then::Closed),
        row("H7", "none", &old("", SMUGGLED), &[passed("POST /open/x", "host: a", "")]).then(Then::Closed),
        row("H7", "a coding", &old("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[refused()]),
        row(
            "H7",
            "both",
            &old("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            &[refused()],
        ),
        get("H8", "h2c is not offered on", offer, plain()),
        row(
            "H8",
            "nor spoken",
            &format!("GET /open/x HTTP/1.1\r\nHost: a\r\n{offer}\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            &[plain()],
        )
        .then(Then::Closed),
        row(
            "H8",
            "what comes before a switch that does not come is a request",
            &early,
            &[passed("GET /open/x", asked, ""), End::Refused(401)],
        ),
    ]);
}

#[test]
fn a_body_is_no_request() {
    let hidden = format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    let length = format!("host: a|content-length: {}", SMUGGLED.len());
    let one = "GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n";
    let denied = "GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n\r\n";
    let plain = || passed("GET /open/x", "host: a", "");
    let method = |method: &str| {
        let text = format!("{method} /open/x HTTP/1.1\r\nHost: a\r\n{hidden}");
        row("H9", method, &text, &[passed(&format!("{method} /open/x"), &length, SMUGGLED)])
    };
    let unread = |what: &str, line: &str, status| {
        let text = format!("{line} HTTP/1.1\r\nHost: orders.test\r\n{hidden}");
        row("H9", what, &text, &[End::Refused(status)]).then(Then::Unasked)
    };
    check(&[
        method("GET"),
        method("OPTIONS"),
        method("DELETE"),
        unread("refused, unread", "POST /orders/1", 401),
        unread("denied, unread", "POST /admin", 403),
        row("H10", "two", &format!("{one}{one}"), &[plain(), plain()]),
        row(
            "H10",
            "the second without a token",
            &format!("{one}{denied}{one}"),
            &[plain(), End::Refused(401), plain()],
        ),
        row(
            "H10",
            "the second to elsewhere",
            &format!("{one}GET /admin HTTP/1.1\r\nHost: a\r\n\r\n{one}"),
            &[plain(), End::Refused(403), plain()],
        ),
        row(
            "H10",
            "the second doubtful",
            &format!(
                "{one}POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n{one}"
            ),
            &[plain(), refused()],
        ),
        row(
            "H10",
            "behind a body",
            &format!("POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{denied}"),
            &[sized("hello"), End::Refused(401)],
        ),
    ]);
}

#[test]
fn a_head_is_plain() {
    let plain = || passed("GET /open/x", "host: a", "");
    let mut rows = vec![
        row("H11", "empty lines before it", "\r\n\r\nGET /open/x HTTP/1.1\r\nHost: a\r\n\r\n", &[plain()]),
        get("H11", "a tab in a value", "X: a\tb", passed("GET /open/x", "host: a|x: a\tb", "")),
        get("H11", "8 bits in a value", "X: a\u{e9}b", passed("GET /open/x", "host: a|x: a\u{e9}b", "")),
        get("H11", "an empty value", "X:", passed("GET /open/x", "host: a|x: ", "")),
    ];
    let lines = [
        "X: a\r\n b",
        "X: a\r\n\tb",
        " X: a",
        "X : a",
        "X\t: a",
        ": a",
        "X",
        "X\u{e9}: a",
        "X\0: a",
        "X: a\0b",
        "X(y): a",
        "X y: a",
        "X: a\rb",
        "X: a\nY: b",
        "X: a\u{1}b",
        "X: a\u{7f}b",
        "\"X\": a",
        "X: a\r",
    ];
    rows.extend(lines.map(|line| get("H11", &line.escape_debug().to_string(), line, refused())));
    let heads = [
        "GET /open/x HTTP/1.1\nHost: a\r\n\r\n",
        "GET /open/x HTTP/1.1\r\nHost: a\n\r\n",
        "GET /open/x HTTP/1.1\r\nHost: a\r\n\n",
        "GET /open/x HTTP/1.1\r\nHost: a\n\n",
        "\nGET /open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  /open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /open/x  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /open/x HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /open/x http/1.1\r\nHost: a\r\n\r\n",
        "GET /open/x HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET /open/x HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /open/x HTTP/0.9\r\nHost: a\r\n\r\n",
        "GET /open/x HTTP/11\r\nHost: a\r\n\r\n",
        "GET /open/x\r\nHost: a\r\n\r\n",
        "GET\r\nHost: a\r\n\r\n",
        "G\0T /open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T /open/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\r\n\r\n",
    ];
    rows.extend(heads.map(|head| row("H11", &head.escape_debug().to_string(), head, &[refused()])));
    check(&rows);
}
