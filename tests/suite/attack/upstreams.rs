//! Upstreams that are broken or evil: H24 and F17. What is answered with 502 whole is in `reverse_proxy::upstreams`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::front::Gate;
use crate::support::upstream::{Reply, Upstream, ok};

/// What the caller is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// A status and a whole body.
    Whole(u16, &'static str),
    /// A head, and an end that is not that of the body.
    Cut(u16),
}

struct Row {
    what: &'static str,
    method: &'static str,
    reply: Vec<u8>,
    /// Whether the upstream closes behind it.
    closes: bool,
    told: Told,
    /// Whether the connection is used again.
    kept: bool,
}

fn row(what: &'static str, reply: impl AsRef<[u8]>, told: Told) -> Row {
    Row { what, method: "GET", reply: reply.as_ref().to_vec(), closes: false, told, kept: false }
}

fn head(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n")
}

impl Row {
    fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }
}

const BAD: Told = Told::Whole(502, "");
const HELLO: Told = Told::Whole(200, "hello");
const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";

fn heads() -> Vec<Row> {
    let many = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(4 << 20));
    vec![
        row("sound", ok("x: y\r\n", "hello"), HELLO).kept(),
        row("a word of another protocol", "ICY 200 OK\r\n\r\n", BAD),
        row("another version", "HTTP/2.0 200 OK\r\n\r\n", BAD),
        row("a status of two digits", "HTTP/1.1 99 X\r\n\r\n", BAD),
        row("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", BAD),
        row("a status of letters", "HTTP/1.1 abc OK\r\n\r\n", BAD),
        row("a status below all", "HTTP/1.1 000 X\r\n\r\n", BAD),
        row("a TLS alert", b"\x15\x03\x01\x00\x02\x02\x0a", BAD).closing(),
        row("a head without an end", "HTTP/1.1 200 OK\r\nx: y\r\n", BAD).closing(),
        row("a folded line", head("x: y\r\n z\r\ncontent-length: 5\r\n") + "hello", BAD),
        row("a space before the colon", head("content-length : 5\r\n") + "hello", BAD),
        row("a name that is none", head("x y: z\r\ncontent-length: 5\r\n") + "hello", BAD),
        row("a NUL", head("x: \0\r\ncontent-length: 5\r\n") + "hello", BAD),
        row("a bare CR", head("x: y\rset-cookie: z\r\ncontent-length: 5\r\n") + "hello", BAD),
        row("too many lines", head(&many), BAD),
        row("a head of 4 MB", head(&long), BAD),
        row("a length list", head("content-length: 5, 5\r\n") + "hello", BAD),
        row("a length with a sign", head("content-length: +5\r\n") + "hello", BAD),
        row("a length beyond all", head("content-length: 18446744073709551616\r\n") + "hello", BAD),
        row(
            "coding and length",
            head("transfer-encoding: chunked\r\ncontent-length: 5\r\n") + "5\r\nhello\r\n0\r\n\r\n",
            BAD,
        ),
        row(
            "a coding twice",
            head("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n") + "0\r\n\r\n",
            BAD,
        ),
        row("a coding that is none", head("transfer-encoding: identity\r\n") + "hello", BAD).closing(),
        row(
            "a switch that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            BAD,
        ),
    ]
}

fn bodies() -> Vec<Row> {
    let coded = |chunks: &str| head("transfer-encoding: chunked\r\n") + chunks;
    let none = |status: u16| Told::Whole(status, "");
    let behind = |first: &[u8]| [first, EVIL.as_bytes()].concat();
    vec![
        row("chunks", coded("5\r\nhello\r\n0\r\n\r\n"), HELLO).kept(),
        row("until the end of the connection", "HTTP/1.1 200 OK\r\n\r\nhello", HELLO).closing(),
        row("shorter than it says", head("content-length: 10\r\n") + "hello", Told::Cut(200)).closing(),
        row("chunks without an end", coded("5\r\nhello\r\n"), Told::Cut(200)).closing(),
        row("a chunk without an end", coded("a\r\nhello"), Told::Cut(200)).closing(),
        row("a chunk's size that is none", coded("5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n"), Told::Cut(200)),
        row(
            "a chunk's size beyond all",
            coded("5\r\nhello\r\n10000000000000005\r\nhello\r\n"),
            Told::Cut(200),
        ),
        row("a chunk longer than it says", coded("4\r\nhello\r\n0\r\n\r\n"), Told::Cut(200)),
        row("another answer behind it", behind(&ok("", "hello")), HELLO),
        row("another answer behind chunks", behind(coded("5\r\nhello\r\n0\r\n\r\n").as_bytes()), HELLO),
        row("a body of HEAD", ok("", "hello"), none(200)).method("HEAD"),
        row("another answer behind HEAD", behind(head("content-length: 5\r\n").as_bytes()), none(200))
            .method("HEAD"),
        row("a body of 204", "HTTP/1.1 204 No Content\r\n\r\n".to_owned() + EVIL, none(204)),
        row(
            "a body of 304",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n".to_owned() + EVIL,
            none(304),
        ),
        row(
            "hints before it",
            format!(
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{}{}",
                "HTTP/1.1 102 Processing\r\n\r\n".repeat(50),
                head("content-length: 5\r\n") + "hello"
            ),
            HELLO,
        )
        .kept(),
        row("hints and no answer", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000), BAD).closing(),
        row(
            "what concerns its connection",
            head("connection: close, x-hop\r\nx-hop: 1\r\ncontent-length: 5\r\n") + "hello",
            HELLO,
        ),
    ]
}

fn check(rows: Vec<Row>) {
    let rows = Arc::new(rows);
    let replies = Arc::clone(&rows);
    let upstream = Upstream::new(move |arrived| {
        let at = arrived.line().split(['/', ' ']).nth(3).and_then(|at| at.parse::<usize>().ok());
        let Some(row) = at.and_then(|at| replies.get(at)) else { return Reply::Bytes(ok("", "hello")) };
        if row.closes { Reply::ThenClose(row.reply.clone()) } else { Reply::Raw(row.reply.clone()) }
    });
    let gate = Gate::new(upstream.address());
    for (at, row) in rows.iter().enumerate() {
        let (what, method) = (row.what, row.method);
        let mut caller = gate.caller();
        caller.write(format!("{method} /open/{at} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let arrived = upstream.next();
        match row.told {
            Told::Whole(status, body) => {
                let answer = caller.read(method == "HEAD" || matches!(status, 204 | 304));
                assert_eq!(answer.status, status, "{what}: {answer:?}");
                assert!(status == 502 || answer.body == body, "{what}: {answer:?}");
                assert!(
                    answer.one("x-hop").is_none() && answer.one("x-portreeve-decision").is_some(),
                    "{what}"
                );
            }
            Told::Cut(status) => {
                let text = String::from_utf8(caller.rest()).unwrap();
                assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {text}");
                assert!(!text.ends_with("\r\n0\r\n\r\n") && !text.contains("evil"), "{what}: {text}");
            }
        }
        // Whoever comes next gets its own answer, by a connection that is in step.
        let good = gate.caller().ask("GET /open/good HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((good.status, good.body.as_str()), (200, "hello"), "after {what}");
        let next = upstream.next();
        assert_eq!(next.line(), "GET /open/good HTTP/1.1", "after {what}");
        assert_eq!(
            next.connection == arrived.connection,
            row.kept,
            "{what}: whether the connection is used again"
        );
    }
}

#[test]
fn a_head_that_can_be_read_in_two_ways_is_none() {
    check(heads());
}

#[test]
fn an_answer_is_whole_or_visibly_cut_and_nothing_follows_it() {
    check(bodies());
}

/// What is not sent again: a request of which anything may have arrived. A connection that was closed
/// before costs a retry: `reverse_proxy::upstreams`.
#[test]
fn what_may_have_arrived_is_not_sent_again() {
    let upstream = Upstream::new(|arrived| {
        if arrived.line().contains("/open/lost") {
            Reply::ThenClose(Vec::new())
        } else {
            Reply::Bytes(ok("", "hello"))
        }
    });
    let gate = Gate::new(upstream.address());
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let mut caller = gate.caller();
        let ask =
            |path: &str| format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(caller.ask(&ask("/open/good")).status, 200, "{method}");
        let first = upstream.next();
        // It goes by the connection that is open already, and once.
        assert_eq!(caller.ask(&ask("/open/lost")).status, 502, "{method}");
        let lost = upstream.next();
        assert_eq!((lost.connection, lost.line().contains("lost")), (first.connection, true), "{method}");
        assert_eq!(caller.ask(&ask("/open/good")).status, 200, "{method}");
        let next = upstream.next();
        assert!(
            next.line().contains("/open/good") && next.connection != first.connection,
            "{method}: {next:?}"
        );
    }
}

/// Hints without end are silence: they are not waited for longer, and their connection ends.
#[test]
fn hints_without_end_are_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Gate::with(listener.local_addr().unwrap(), |settings, _| {
        settings.upstreams.get_mut("app").unwrap().response_timeout = Duration::from_millis(200);
    });
    let flood = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let asked = stream.read(&mut [0; 4096]).unwrap();
        assert!(asked > 0);
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
        let end = loop {
            if let Err(error) = stream.write_all(hints.as_bytes()) {
                break error.kind();
            }
        };
        assert_ne!(end, std::io::ErrorKind::WouldBlock, "the connection was ended");
    });
    let answer = gate.caller().ask("GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status, 504);
    flood.join().unwrap();
}

/// Over HTTP/1.0 the end of the connection is the end of the answer: one that is not its own must be a reset.
#[test]
fn an_old_caller_sees_that_an_answer_was_cut() {
    let upstream = Upstream::new(|arrived| {
        let whole = arrived.line().contains("/open/whole");
        let chunks = if whole { "5\r\nhello\r\n0\r\n\r\n" } else { "5\r\nhello\r\n" };
        Reply::ThenClose((head("transfer-encoding: chunked\r\n") + chunks).into_bytes())
    });
    let gate = Gate::new(upstream.address());
    for (path, cut) in [("/open/whole", false), ("/open/cut", true)] {
        let mut caller = gate.caller();
        caller.write(format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(caller.is_reset(), cut, "{path}");
    }
}

/// A caller that goes away within its body is no failure of the upstream, and the upstream sees no end of it.
#[test]
fn a_body_that_breaks_off_is_its_callers_fault() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut caller = gate.caller();
        caller.write(format!("POST /open/x HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes());
        caller.end_writing();
        assert_eq!(caller.read(false).status, 400, "{framing}");
        assert!(caller.is_closed());
    }
    assert!(upstream.is_untouched());
    let text = gate.metrics.render();
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("portreeve_upstream_errors_total{") && !line.ends_with(" 0")),
        "{text}"
    );
}
