//! Endings over HTTP/2: one stream ends, its connection and the other streams stay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::whole;
use crate::support::PATIENCE;
use crate::support::front::Gate;
use crate::support::world::{block_on_io, identity};

/// An HTTP/2 upstream whose answers go on: one piece, then `piece` over and over if there is one.
async fn upstream(piece: Option<Bytes>) -> SocketAddr {
    answering(Bytes::from_static(b"hello"), piece).await
}

/// The same with another first piece.
async fn answering(first: Bytes, piece: Option<Bytes>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (first, piece) = (first.clone(), piece.clone());
            let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                let first = futures_util::stream::iter([first.clone()]);
                let rest = match piece.clone() {
                    Some(piece) => futures_util::stream::repeat(piece).boxed(),
                    None => futures_util::stream::pending().boxed(),
                };
                let pieces =
                    first.chain(rest).map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
                let mut response = Response::new(StreamBody::new(pieces));
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn connect(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// Opens a stream of `subject` and reads its head; the request's body stays open.
async fn open(
    gate: &Gate,
    sender: &mut SendRequest<Bytes>,
    subject: &str,
    kind: &str,
) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let token = gate.world.token(&gate.world.claims(subject));
    let request = Request::builder()
        .uri("http://orders.test/orders/1")
        .version(Version::HTTP_2)
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", kind)
        .body(())
        .unwrap();
    let (response, upload) = sender.send_request(request, false).unwrap();
    (response.await.unwrap(), upload)
}

fn gate(upstream: SocketAddr) -> Gate {
    gate_with(upstream, PATIENCE)
}

/// One that waits so long within a body.
fn gate_with(upstream: SocketAddr, body_timeout: Duration) -> Gate {
    let gate = Gate::with(upstream, |settings, _| {
        settings.upstreams.get_mut("app").unwrap().http2 = true;
        settings.limits.body_timeout = body_timeout;
    });
    gate.world.put_identity("audit", 1, identity("audit"));
    gate
}

/// The next bytes of a body, in however many pieces they come.
async fn bytes(body: &mut h2::RecvStream, count: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
    taken
}

/// Trailers and status, or the reset that ended it.
async fn end_of(body: &mut h2::RecvStream) -> Result<HeaderMap, h2::Reason> {
    let end = async {
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|error| error.reason().unwrap())?;
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        body.trailers().await.map(Option::unwrap_or_default).map_err(|error| error.reason().unwrap())
    };
    tokio::time::timeout(PATIENCE, end).await.expect("it ends")
}

#[test]
fn one_stream_ends_and_the_others_of_its_connection_go_on() {
    let rows = [("application/grpc", Ok("16")), ("text/event-stream", Err(h2::Reason::CANCEL))];
    for (kind, expected) in rows {
        block_on_io(async {
            let gate = gate(upstream(None).await);
            let mut sender = connect(gate.running.address(), 65_535).await;
            let (ledger, _upload) = open(&gate, &mut sender, "ledger", kind).await;
            let (audit, _other) = open(&gate, &mut sender, "audit", kind).await;
            let (mut ledger, mut audit) = (ledger.into_body(), audit.into_body());
            assert_eq!(bytes(&mut audit, 5).await, b"hello");
            assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
            let ended = end_of(&mut ledger).await;
            let status = ended.as_ref().map(|trailers| trailers["grpc-status"].to_str().unwrap());
            assert_eq!(status.map_err(|reason| *reason), expected, "{kind}");
            // Another exchange on the same connection, and the other stream still there.
            let (again, _third) = open(&gate, &mut sender, "audit", kind).await;
            assert_eq!(again.status(), 200, "{kind}");
            let silent = tokio::time::timeout(Duration::from_millis(1), audit.data()).await;
            assert!(silent.is_err(), "{kind}: {silent:?}");
            assert_eq!(gate.exchanges.open(), 2, "{kind}");
        });
    }
}

/// The call's silence began first: when the other has ended for its silence, the call is allowed it.
#[test]
fn a_call_may_pause_and_a_plain_body_may_not() {
    block_on_io(async {
        let gate = gate_with(upstream(None).await, Duration::from_millis(200));
        let mut sender = connect(gate.running.address(), 65_535).await;
        let (call, mut more) = open(&gate, &mut sender, "ledger", "application/grpc").await;
        let (plain, _upload) = open(&gate, &mut sender, "audit", "text/plain").await;
        let (mut call, mut plain) = (call.into_body(), plain.into_body());
        assert_eq!(bytes(&mut call, 5).await, b"hello");
        assert_eq!(end_of(&mut plain).await, Err(h2::Reason::CANCEL));
        let line = "portreeve_exchanges_severed_total{reason=\"request.too_slow\"} 1\n";
        assert!(gate.metrics.render().contains(line));
        more.send_data(Bytes::from_static(b"more"), false).unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(1), call.data()).await;
        assert!(silent.is_err(), "{silent:?}");
        assert_eq!(gate.exchanges.open(), 1);
    });
}

/// It gives no window for more, so no trailers can go: the stream is reset, with what was queued; and so it is where
/// nothing more waits to be sent.
#[test]
fn a_caller_that_gives_no_window_is_reset() {
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    let rows = [
        ("application/grpc", "hello".into(), Some(piece.clone())),
        ("application/grpc", piece.slice(..1000), None),
        ("application/grpc", piece.slice(..101), None),
        ("text/event-stream", "hello".into(), Some(piece.clone())),
        ("text/event-stream", piece.slice(..1000), None),
    ];
    for (kind, first, then) in rows {
        block_on_io(async {
            let gate = gate(answering(first, then).await);
            let mut sender = connect(gate.running.address(), 100).await;
            let (ledger, _upload) = open(&gate, &mut sender, "ledger", kind).await;
            let mut ledger = ledger.into_body();
            assert_eq!(bytes(&mut ledger, 100).await.len(), 100);
            let begun = Instant::now();
            assert_eq!(gate.change(vec![("r1", 1, whole("ledger"))]), 1);
            let ended = tokio::time::timeout(PATIENCE, ledger.data()).await.expect("it ends");
            assert_eq!(ended.unwrap().unwrap_err().reason(), Some(h2::Reason::CANCEL), "{kind}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{kind}: {:?}", begun.elapsed());
            let (again, _other) = open(&gate, &mut sender, "audit", kind).await;
            assert_eq!(again.status(), 200, "{kind}: the connection goes on");
        });
    }
}
