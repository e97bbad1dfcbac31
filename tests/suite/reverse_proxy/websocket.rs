//! WebSockets through the proxy: judged before they switch, relayed after, ended with 1008.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Version};

use super::sever::whole;
use crate::support::PATIENCE;
use crate::support::caller::Caller;
use crate::support::front::Gate;
use crate::support::upstream::{Reply, Upstream};
use crate::support::world::{block_on_io, identity};

/// The key of the standard's example, and what answers it (RFC 6455 §1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A masked text frame, `hi`.
const HI: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
const CLOSE_1008: &[u8] = &[0x88, 2, 0x03, 0xf0];
const WISH: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n";

fn ask(gate: &Gate, subject: &str, caller: &mut Caller, behind: &[u8]) {
    let token = gate.world.token(&gate.world.claims(subject));
    let text =
        format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n{WISH}\r\n");
    caller.write(&[text.as_bytes(), behind].concat());
}

pub(super) fn open(gate: &Gate, subject: &str) -> Caller {
    let mut caller = gate.caller();
    ask(gate, subject, &mut caller, b"");
    let answer = caller.read(false);
    assert_eq!((answer.status, answer.one("sec-websocket-accept")), (101, Some(ACCEPT)));
    caller
}

#[test]
fn an_allowed_one_is_relayed_both_ways() {
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hello".to_vec()));
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    // What comes right behind the head waits for the switch.
    ask(&gate, "ledger", &mut caller, HI);
    let arrived = upstream.next();
    assert_eq!(arrived.line(), "GET /orders/1 HTTP/1.1");
    for (name, value) in [
        ("upgrade", Some("websocket")),
        ("connection", Some("upgrade")),
        ("sec-websocket-key", Some(KEY)),
        ("sec-websocket-version", Some("13")),
        ("sec-websocket-protocol", Some("chat")),
        ("x-portreeve-identity", Some("ledger")),
        ("authorization", None),
    ] {
        assert_eq!(arrived.one(name), value, "{name}");
    }
    let answer = caller.read(false);
    assert_eq!(answer.status, 101);
    for (name, value) in [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-accept", ACCEPT),
        ("sec-websocket-protocol", "chat"),
        ("x-portreeve-decision", arrived.one("x-portreeve-decision").unwrap()),
    ] {
        assert_eq!(answer.one(name), Some(value), "{name}");
    }
    assert_eq!(caller.bytes(7), b"\x81\x05hello");
    assert_eq!(caller.bytes(HI.len()), HI);
    // What looks like a chunked request with a chunk that is none.
    let lookalike = b"\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    let head = [0x82, u8::try_from(lookalike.len()).unwrap()];
    let sent = [&head[..], lookalike].concat();
    caller.write(&sent);
    assert_eq!(caller.bytes(sent.len()), sent);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let head = [0x82, 127, 0, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0];
    let sent = [&head[..], &large].concat();
    let mut writer = caller.another();
    let written = sent.clone();
    let writing = std::thread::spawn(move || writer.write(&written));
    assert!(caller.bytes(sent.len()) == sent, "3 MB there and back");
    writing.join().unwrap();
    assert_eq!(gate.exchanges.open(), 1);
    drop(caller);
    upstream.wait_closed();
    gate.wait_open(0);
}

#[test]
fn a_denied_one_leaves_the_upstream_untouched() {
    let upstream = Upstream::new(|_| Reply::Switch(Vec::new()));
    let gate = Gate::new(upstream.address());
    let token = gate.token();
    let auth = format!("Authorization: Bearer {token}\r\n");
    for (path, auth, status) in [
        ("/orders/1", "", 401),
        ("/admin", &auth, 403),
        ("/orders/../x", &auth, 400),
        ("/orders/1", &auth, 101),
    ] {
        let mut caller = gate.caller();
        caller.write(format!("GET {path} HTTP/1.1\r\nHost: orders.test\r\n{auth}{WISH}\r\n").as_bytes());
        assert_eq!(caller.read(false).status, status, "{path}");
        assert_eq!(upstream.is_untouched(), status != 101, "{path}");
    }
}

/// Anything but a whole wish for a WebSocket is forwarded without it, as an ordinary request.
#[test]
fn no_other_upgrade_is_forwarded() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let rows = [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
            .to_owned(),
        WISH.replace("websocket", "h2c"),
        WISH.replace("Upgrade: websocket", "Upgrade: websocket, h2c"),
        WISH.replace("Version: 13", "Version: 12"),
        format!("{WISH}Upgrade: h2c\r\n"),
        format!("{WISH}Content-Length: 5\r\n"),
    ];
    for lines in rows {
        let mut caller = gate.caller();
        let token = gate.token();
        let text = format!(
            "GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nAuthorization: Bearer {token}\r\n{lines}\r\nhello"
        );
        caller.write(text.as_bytes());
        assert_eq!(caller.read(false).status, 200, "{lines}");
        let arrived = upstream.next();
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(arrived.one(gone), None, "{gone} of {lines}");
        }
    }
}

#[test]
fn an_upstream_that_does_not_switch_as_asked_is_no_tunnel() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
    let rows = [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_owned(), 403),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), 200),
        (format!("{switch}sec-websocket-accept: {ACCEPT}\r\n\r\n"), 101),
        (format!("{switch}\r\n"), 502),
        (format!("{switch}sec-websocket-accept: AAAA\r\n\r\n"), 502),
        (format!("{}sec-websocket-accept: {ACCEPT}\r\n\r\n", switch.replace("websocket", "h2c")), 502),
    ];
    for (reply, status) in rows {
        let said = reply.clone();
        let upstream = Upstream::new(move |_| Reply::Open(said.clone().into_bytes()));
        let gate = Gate::new(upstream.address());
        let mut caller = gate.caller();
        ask(&gate, "ledger", &mut caller, b"");
        assert_eq!(caller.read(false).status, status, "{reply}");
    }
}

#[test]
fn one_is_closed_with_1008_and_the_others_go_on() {
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hello".to_vec()));
    let gate = Gate::new(upstream.address());
    gate.change(vec![("audit", 1, portreeve::core::identity::Record::Identity(identity("audit").into()))]);
    let (mut ledger, mut audit) = (open(&gate, "ledger"), open(&gate, "audit"));
    assert_eq!((ledger.bytes(7).len(), audit.bytes(7).len()), (7, 7));
    let begun = Instant::now();
    assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
    assert_eq!(ledger.rest(), CLOSE_1008, "and no waiting for what it answers");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    upstream.wait_closed();
    audit.write(HI);
    assert_eq!(audit.bytes(HI.len()), HI);
}

/// A close cannot be said inside a frame whose rest has not come.
#[test]
fn a_frame_under_way_is_cut() {
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x7e\xff\xffhello".to_vec()));
    let gate = Gate::new(upstream.address());
    let mut ledger = open(&gate, "ledger");
    assert_eq!(ledger.bytes(9), b"\x81\x7e\xff\xffhello");
    gate.change(vec![("r1", 1, whole("ledger"))]);
    assert!(ledger.is_reset());
}

#[test]
fn a_caller_that_does_not_read_is_cut_all_the_same() {
    let frame = [&[0x82, 126, 0x80, 0][..], &[0; 0x8000]].concat();
    let upstream = Upstream::new(move |_| Reply::SwitchAndFlood(frame.clone()));
    let gate = Gate::new(upstream.address());
    let mut ledger = open(&gate, "ledger");
    upstream.wait_stalled();
    let begun = Instant::now();
    assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
    upstream.wait_closed();
    gate.wait_open(0);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(ledger.is_reset());
}

async fn over_http2(
    gate: &Gate,
    auth: Option<String>,
) -> (http::Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let stream = tokio::net::TcpStream::connect(gate.running.address()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://orders.test/orders/1")
        .version(Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from_static("websocket"));
    if let Some(auth) = auth {
        request = request.header("authorization", auth);
    }
    let (response, upload) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    (response.await.unwrap(), upload)
}

#[test]
fn over_http2_it_is_an_extended_connect() {
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hello".to_vec()));
    let gate = Gate::new(upstream.address());
    block_on_io(async {
        let (refused, _) = over_http2(&gate, None).await;
        assert_eq!(refused.status(), 401);
        assert!(upstream.is_untouched());
        let (answer, mut upload) = over_http2(&gate, Some(format!("Bearer {}", gate.token()))).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers().get("sec-websocket-accept"), None);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        let mut body = answer.into_body();
        upload.send_data(Bytes::from_static(HI), false).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 7 + HI.len() {
            seen.extend(body.data().await.unwrap().unwrap());
        }
        assert_eq!(seen, [b"\x81\x05hello", HI].concat());
        assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
        let last = tokio::time::timeout(PATIENCE, body.data()).await.unwrap();
        assert_eq!(last.unwrap().unwrap(), CLOSE_1008);
        let rest = async {
            while let Some(piece) = body.data().await {
                assert_eq!(piece.unwrap(), "", "nothing but the end of the stream");
            }
        };
        tokio::time::timeout(PATIENCE, rest).await.expect("and the stream ends");
    });
    let arrived = upstream.next();
    assert_eq!((arrived.line(), arrived.one("host")), ("GET /orders/1 HTTP/1.1", Some("orders.test")));
    assert_eq!(gate.world.log.last_verdict().reason(), None);
    upstream.wait_closed();
}

/// Over HTTP/2 a success would be taken for a switch.
#[test]
fn over_http2_a_plain_answer_is_no_switch() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    block_on_io(async {
        let (answer, _) = over_http2(&gate, Some(format!("Bearer {}", gate.token()))).await;
        assert_eq!(answer.status(), 502);
    });
}
