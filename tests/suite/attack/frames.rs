//! HTTP/2 frame by frame: G4, G5, G7 to G10, G14. Floods that a limit of ours bounds are in `reverse_proxy::limits`.

use super::End;
use super::passed;
use super::recorder::{Recorder, Seen};
use crate::support::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS, RST_STREAM, frame,
};
use crate::support::front::Gate;

const DATA: u8 = 0;

/// Header fields.
type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A header block of literals, by RFC 7541 §6.2.2, letters as Latin-1.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let text = super::bytes(text);
            integer(text.len(), &mut block);
            block.extend(text);
        }
    }
    block
}

/// An integer of a seven-bit prefix (§5.1).
fn integer(number: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = number.checked_sub(127) else {
        return block.push(u8::try_from(number).unwrap());
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// What becomes of a stream.
enum Told {
    /// It arrives so.
    Passed(End),
    /// It is refused with 400, or its stream is reset.
    Refused,
    /// It is answered with anything but 200.
    TooMuch,
    /// It is reset, or the connection ended.
    Reset,
}

struct Row<'a> {
    threat: &'a str,
    what: String,
    fields: Fields<'a>,
    data: Option<&'a str>,
    trailers: Option<Fields<'a>>,
    told: Told,
}

/// The fields of a plain request, then others.
fn plain<'a>(others: &[(&'a str, &'a str)]) -> Fields<'a> {
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/open/x"), (":authority", "a")];
    base.iter().chain(others).copied().collect()
}

/// The same with one of its fields changed.
fn but<'a>(name: &'a str, value: &'a str) -> Fields<'a> {
    plain(&[]).into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect()
}

fn row<'a>(threat: &'a str, what: &str, fields: Fields<'a>, told: Told) -> Row<'a> {
    Row { threat, what: what.to_owned(), fields, data: None, trailers: None, told }
}

fn seen(lines: &str) -> Told {
    Told::Passed(passed("GET /open/x", lines, ""))
}

fn check(rows: Vec<Row<'_>>) {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    for Row { threat, what, fields, data, trailers, told } in rows {
        let what = format!("{threat} {what}");
        let mut caller = Frames::to(gate.running.address());
        let last = |is_last| if is_last { END_STREAM } else { 0 };
        let (end, block_bytes) = (last(data.is_none() && trailers.is_none()), block(&fields));
        // In one write: what comes late could find the request answered.
        let mut frames = Vec::new();
        let mut pieces = block_bytes.chunks(16_000).enumerate().peekable();
        while let Some((at, piece)) = pieces.next() {
            let (kind, end) = if at == 0 { (HEADERS, end) } else { (CONTINUATION, 0) };
            let whole = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            frames.extend(frame(kind, end | whole, 1, piece));
        }
        if let Some(data) = data {
            frames.extend(frame(DATA, last(trailers.is_none()), 1, data.as_bytes()));
        }
        if let Some(trailers) = trailers {
            frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers)));
        }
        caller.write(&frames);
        let answer = caller.next(&[HEADERS, RST_STREAM, GOAWAY]);
        // The status is the first field: 0x88 stands for 200, 0x8c for 400 (RFC 7541, appendix A).
        let status = answer.as_ref().filter(|frame| frame.kind == HEADERS).map(|frame| frame.payload[0]);
        match told {
            Told::Passed(End::Passed(line, lines, body)) => {
                assert_eq!(status, Some(0x88), "{what}: {answer:?}");
                assert_eq!(upstream.next(), Seen::whole(&line, &lines, &body), "{what}");
            }
            Told::Passed(_) => unreachable!(),
            Told::Refused => assert!(matches!(status, None | Some(0x8c)), "{what}: {answer:?}"),
            Told::TooMuch => assert!(status.is_some_and(|status| status != 0x88), "{what}: {answer:?}"),
            Told::Reset => assert_eq!(status, None, "{what}: {answer:?}"),
        }
        let ended = answer.is_none_or(|frame| frame.kind == GOAWAY);
        if !ended {
            assert!(caller.is_answered(101, "/open/step"), "{what}: the connection goes on");
            assert_eq!(
                upstream.next(),
                Seen::whole("GET /open/step HTTP/1.1", "host: orders.test", ""),
                "{what}"
            );
        }
        assert!(Frames::to(gate.running.address()).is_answered(1, "/open/probe"), "{what}");
        assert_eq!(
            upstream.next(),
            Seen::whole("GET /open/probe HTTP/1.1", "host: orders.test", ""),
            "{what}"
        );
    }
}

#[test]
fn a_head_over_http2_is_plain() {
    let long = "x".repeat(40_000);
    let mut rows = vec![
        row("G7", "plain", plain(&[]), seen("host: a")),
        row("G7", "a value", plain(&[("x", "a\tb\u{e9}")]), seen("host: a|x: a\tb\u{e9}")),
        row("G8", "host as well", plain(&[("host", "a")]), seen("host: a")),
        row("G8", "host in another case", plain(&[("host", "A")]), seen("host: A")),
        row(
            "G8",
            "host instead",
            plain(&[("host", "a")]).into_iter().filter(|field| field.0 != ":authority").collect(),
            seen("host: a"),
        ),
        row("G8", "te: trailers", plain(&[("te", "trailers")]), seen("host: a")),
        row("G8", "another scheme", but(":scheme", "https"), seen("host: a")),
        row("G5", "a list that is too long", plain(&[("x", &long)]), Told::TooMuch),
    ];
    let bad_values = ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "a\u{1}", "a\u{7f}"];
    rows.extend(
        bad_values
            .map(|value| row("G7", &value.escape_debug().to_string(), plain(&[("x", value)]), Told::Reset)),
    );
    for name in ["x\r\ny", "x y", "x:", "X-Upper", "x\0", "", "x\u{e9}", " x", "x(", "x\n"] {
        rows.push(row("G7", &format!("name {}", name.escape_debug()), plain(&[(name, "y")]), Told::Reset));
    }
    let connection = [
        ("connection", "keep-alive"),
        ("connection", "x"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ];
    rows.extend(connection.map(|field| row("G8", &format!("{field:?}"), plain(&[field]), Told::Reset)));
    let pseudo = [
        (":method", "GET"),
        (":path", "/open/y"),
        (":authority", "a"),
        (":scheme", "http"),
        (":status", "200"),
        (":unknown", "x"),
        (":protocol", "websocket"),
    ];
    // Doubled, unknown, or behind a plain field.
    rows.extend(pseudo.map(|field| row("G8", &format!("again {field:?}"), plain(&[field]), Told::Reset)));
    rows.extend(
        pseudo.map(|field| row("G8", &format!("late {field:?}"), plain(&[("x", "y"), field]), Told::Reset)),
    );
    for gone in [":method", ":scheme", ":path"] {
        let fields = plain(&[]).into_iter().filter(|field| field.0 != gone).collect();
        rows.push(row("G8", &format!("no {gone}"), fields, Told::Reset));
    }
    for (name, value) in [
        (":method", "GET / HTTP/1.1\r\nX: y"),
        (":method", ""),
        (":method", "G T"),
        (":path", "/open/x HTTP/1.1\r\nX: y"),
        (":path", "/open/\n"),
        (":path", ""),
        (":path", "/open/x y"),
        (":authority", "a\r\nX: y"),
        (":authority", "a b"),
        (":authority", "a/b"),
        (":scheme", "http\r\n"),
        (":scheme", "h p"),
    ] {
        rows.push(row("G7", &format!("{name} {}", value.escape_debug()), but(name, value), Told::Reset));
    }
    check(rows);
}

#[test]
fn a_head_over_http2_is_read_in_one_way() {
    let mut rows = vec![row("G8", "plain", plain(&[]), seen("host: a"))];
    for (name, value) in [
        (":path", "/open/../orders/1"),
        (":path", "/open/%2e%2e/x"),
        (":path", "//open/x"),
        (":path", "/open/x%2f"),
        (":path", "/open/x;y"),
        (":path", "/open\\x"),
        (":path", "*"),
        (":path", "open/x"),
        (":path", "/open/x%00"),
        (":path", "http://a/open/x"),
        (":authority", "user@a"),
        (":authority", "a:80:80"),
        (":authority", ""),
        (":scheme", "ftp"),
        (":method", "CONNECT"),
    ] {
        rows.push(row("G8", &format!("{name} {value}"), but(name, value), Told::Refused));
    }
    for field in [
        ("host", "b"),
        ("host", "a:80"),
        ("host", "a, a"),
        ("x_portreeve_identity", "root"),
        ("x.portreeve.identity", "root"),
        ("content_length", "5"),
        ("transfer_encoding", "chunked"),
    ] {
        rows.push(row("G8", &format!("{field:?}"), plain(&[field]), Told::Refused));
    }
    rows.push(row("G8", "two hosts", plain(&[("host", "a"), ("host", "a")]), Told::Refused));
    rows.push(row(
        "G8",
        "ours",
        plain(&[("x-portreeve-identity", "root"), ("forwarded", "for=1")]),
        seen("host: a"),
    ));
    rows.push(row("G10", "without a token", plain(&[("x", "y")]), seen("host: a|x: y")));
    check(rows);
}

/// A length that lies is an error of its stream, and never one of the upstream's connection (H2.CL).
#[test]
fn a_length_over_http2_is_the_bodys() {
    let post = |length: &'static str, data, told| Row {
        threat: "G7",
        what: format!("{length} for {data:?}"),
        fields: but(":method", "POST").into_iter().chain([("content-length", length)]).collect(),
        data,
        trailers: None,
        told,
    };
    let arrives = |length: &str, body: &str| {
        Told::Passed(passed("POST /open/x", &format!("host: a|content-length: {length}"), body))
    };
    let mut rows = vec![
        post("5", Some("hello"), arrives("5", "hello")),
        post("0", None, arrives("0", "")),
        post("0", Some(""), arrives("0", "")),
        Row {
            trailers: Some(vec![
                ("x-late", "y"),
                ("authorization", "Bearer x"),
                ("x-portreeve-identity", "root"),
            ]),
            ..post("5", Some("hello"), arrives("5", "hello"))
        },
    ];
    for (length, data) in [
        ("5", None),
        ("5", Some("")),
        ("5", Some("hell")),
        ("4", Some("hello")),
        ("0", Some("GET / HTTP/1.1\r\n\r\n")),
        ("+5", Some("hello")),
        ("x", Some("hello")),
        ("18446744073709551616", Some("hello")),
        ("5, 5", Some("hello")),
    ] {
        rows.push(post(length, data, Told::Reset));
    }
    let twice = |second: &'static str, told| {
        let mut row = post("5", Some("hello"), told);
        row.fields.push(("content-length", second));
        row
    };
    let whole = Told::Passed(passed("GET /open/x", "host: a|transfer-encoding: chunked", "hello"));
    rows.push(Row { fields: plain(&[]), ..post("of GET, without a length", Some("hello"), whole) });
    rows.push(twice("5", Told::Refused));
    rows.push(twice("6", Told::Reset));
    // What is no trailer; a pseudo-field is passed over with the rest.
    for (late, told) in [
        (("connection", "x"), Told::Reset),
        (("X-Upper", "y"), Told::Reset),
        (("x", "a\r\nb"), Told::Reset),
        (
            (":path", "/open/y"),
            Told::Passed(passed("POST /open/x", "host: a|transfer-encoding: chunked", "hello")),
        ),
    ] {
        let fields = but(":method", "POST");
        let what = format!("trailers {late:?}");
        rows.push(Row { what, fields, trailers: Some(vec![late]), ..post("", Some("hello"), told) });
    }
    check(rows);
}

/// A credential that comes behind the body comes too late.
#[test]
fn a_credential_in_trailers_counts_for_nothing() {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    let bearer = format!("Bearer {}", gate.token());
    let order = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/orders/1"),
        (":authority", "orders.test"),
        ("content-length", "5"),
    ];
    let mut allowed = order.to_vec();
    allowed.push(("authorization", &bearer));
    for (fields, trailers, status) in
        [(allowed.as_slice(), [("x", "y")], Some(0x88)), (&order, [("authorization", bearer.as_str())], None)]
    {
        let mut caller = Frames::to(gate.running.address());
        caller.write(&frame(HEADERS, END_HEADERS, 1, &block(fields)));
        caller.write(&frame(DATA, 0, 1, b"hello"));
        caller.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers)));
        let answer = caller.next(&[HEADERS, RST_STREAM, GOAWAY]).unwrap();
        assert_eq!((answer.kind, answer.payload[0] == 0x88), (HEADERS, status.is_some()), "{answer:?}");
    }
    let lines = "content-length: 5|host: orders.test|x-portreeve-identity: ledger|x-portreeve-tenant: demo";
    assert_eq!(upstream.next(), Seen::whole("GET /orders/1 HTTP/1.1", lines, "hello"));
    assert_eq!(gate.world.log.entries().len(), 2);
}

#[test]
fn empty_data_is_bounded() {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    let open = block(&but(":method", "POST"));
    let empty = frame(DATA, 0, 1, &[]);
    for (count, ends) in [(50, false), (20_000, true)] {
        let mut caller = Frames::to(gate.running.address());
        caller.write(&frame(HEADERS, END_HEADERS, 1, &open));
        caller.write(&empty.repeat(count));
        if ends {
            assert_eq!(caller.farewell(), Some(ENHANCE_YOUR_CALM));
        } else {
            caller.write(&frame(DATA, END_STREAM, 1, b"hello"));
            assert_eq!(caller.next(&[HEADERS, GOAWAY]).unwrap().payload[0], 0x88);
        }
    }
}

/// One long entry of the table, named over and over: the list is counted as it is read.
#[test]
fn a_small_block_is_not_a_large_list() {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    for (count, fits) in [(2_usize, true), (1000, false)] {
        let mut caller = Frames::to(gate.running.address());
        let mut bomb = block(&plain(&[]));
        // A literal that is kept (§6.2.1), then its index, 62.
        bomb.extend([0x40, 1, b'x']);
        integer(3000, &mut bomb);
        bomb.extend([b'y'; 3000]);
        bomb.extend(std::iter::repeat_n(0x80 | 62, count));
        caller.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
        let answer = caller.next(&[HEADERS, RST_STREAM, GOAWAY]).unwrap();
        assert_eq!(answer.kind == HEADERS && answer.payload[0] == 0x88, fits, "{count}: {answer:?}");
    }
    // A table that is made small and large again costs nothing.
    let mut caller = Frames::to(gate.running.address());
    let mut thrash = [0x20, 0x3f, 0xe1, 0x1f].to_vec();
    thrash.extend(block(&plain(&[])));
    caller.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &thrash));
    assert_eq!(caller.next(&[HEADERS, GOAWAY]).unwrap().payload[0], 0x88);
}

/// What no stream can have said ends the connection, and reaches nobody.
#[test]
fn frames_out_of_place_end_the_connection() {
    let upstream = Recorder::new();
    let gate = Gate::new(upstream.address());
    let whole = block(&plain(&[]));
    let rows = [
        ("DATA before a head", frame(DATA, END_STREAM, 1, b"hello")),
        ("a head of an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &whole)),
        ("a head of no stream", frame(HEADERS, END_HEADERS | END_STREAM, 0, &whole)),
        ("a CONTINUATION alone", frame(CONTINUATION, END_HEADERS, 1, &whole)),
        (
            "another frame within a head",
            [frame(HEADERS, END_STREAM, 1, &whole), frame(6, 0, 0, &[0; 8])].concat(),
        ),
        ("a promise", frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &whole].concat())),
        ("a frame of 16 KiB and one", frame(DATA, 0, 1, &vec![0; 16_385])),
        ("a SETTINGS of a stream", frame(4, 0, 1, &[])),
        ("a PING of three bytes", frame(6, 0, 0, &[0; 3])),
        (
            "a table beyond its bound",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[&[0x3f, 0xff, 0xff, 0xff, 0x7f][..], &whole].concat(),
            ),
        ),
        ("an index of nothing", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x50])),
        ("a padding longer than its frame", frame(HEADERS, END_HEADERS | END_STREAM | 8, 1, &[200, 0])),
    ];
    for (what, bytes) in rows {
        let mut caller = Frames::to(gate.running.address());
        caller.write(&bytes);
        let answer = caller.next(&[HEADERS, RST_STREAM, GOAWAY]);
        assert!(answer.is_none_or(|frame| frame.kind == GOAWAY), "{what}");
        assert!(Frames::to(gate.running.address()).is_answered(1, "/open/probe"), "{what}");
        assert_eq!(
            upstream.next(),
            Seen::whole("GET /open/probe HTTP/1.1", "host: orders.test", ""),
            "{what}"
        );
    }
}
