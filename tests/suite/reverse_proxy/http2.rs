//! HTTP/2 on either side.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::front::Gate;
use crate::support::upstream::Upstream;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Header lines.
type Lines<'a> = &'a [(&'static str, &'a str)];

fn request(uri: &str, lines: Lines<'_>) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().uri(uri).version(Version::HTTP_2);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).unwrap()
}

#[test]
fn each_stream_is_judged_alone_and_reaches_an_http1_upstream() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let bearer = format!("Bearer {}", gate.token());
    runtime().block_on(async {
        let mut sender = connect(gate.running.address()).await;
        let uri = "http://orders.test/orders/1?a=b";
        let lines =
            [("authorization", bearer.as_str()), ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")];
        let allowed = sender.send_request(request(uri, &lines)).await.unwrap();
        assert_eq!(allowed.status(), StatusCode::OK);
        assert_eq!(allowed.into_body().collect().await.unwrap().to_bytes(), "hello");
        let rows: [(&str, Lines<'_>, u16); 5] = [
            (uri, &[], 401),
            (uri, &[("authorization", &bearer), ("host", "admin.test")], 400),
            (uri, &[("authorization", &bearer), ("authorization", &bearer)], 400),
            (uri, &[("authorization", &bearer), ("x_portreeve_identity", "root")], 400),
            ("http://user@orders.test/orders/1", &[("authorization", &bearer)], 400),
        ];
        for (uri, lines, status) in rows {
            let refused = sender.send_request(request(uri, lines)).await.unwrap();
            assert_eq!(refused.status(), status, "{uri} {lines:?}");
        }
    });
    let arrived = upstream.next();
    assert_eq!(arrived.line(), "GET /orders/1?a=b HTTP/1.1");
    assert_eq!(arrived.one("host"), Some("orders.test"));
    assert_eq!(arrived.one("cookie"), Some("a=1; b=2"));
    assert_eq!((arrived.one("te"), arrived.one("transfer-encoding")), (None, None));
    assert!(upstream.is_untouched());
    assert_eq!(gate.world.log.entries().len(), 6);
}

#[test]
fn grpc_passes_trailers_to_an_http2_upstream_and_back() {
    let runtime = runtime();
    let upstream = echoing(&runtime);
    let gate = Gate::with(upstream, |settings, _| {
        settings.upstreams.get_mut("app").unwrap().http2 = true;
    });
    let bearer = format!("Bearer {}", gate.token());
    runtime.block_on(async {
        let mut sender = connect(gate.running.address()).await;
        for _ in 0..3 {
            let lines = [("authorization", bearer.as_str()), ("te", "trailers")];
            let answer = sender.send_request(request("http://orders.test/orders/1", &lines)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let collected = answer.into_body().collect().await.unwrap();
            let trailers = collected.trailers().cloned().unwrap();
            assert_eq!(trailers.get("grpc-status"), Some(&HeaderValue::from_static("0")));
            assert_eq!(trailers.get("x-portreeve-identity"), None);
            let seen = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
            assert_eq!(seen, "orders.test te=trailers identity=ledger authorization=- host=-");
        }
    });
}

/// Callers that go away have their streams reset on a connection that others share, which goes on: as many as
/// would end it by the library's own bound, and the first again.
#[test]
fn cancellations_of_one_end_no_connection_of_others() {
    let runtime = runtime();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let upstream = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut held = Vec::new();
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    if request.uri().path() == "/open/held" {
                        held.push(answer);
                        continue;
                    }
                    let whole = Response::new(());
                    answer.send_response(whole, true).unwrap();
                }
            });
        }
    });
    let gate = Gate::with(upstream, |settings, listener| {
        settings.upstreams.get_mut("app").unwrap().http2 = true;
        listener.limits.resets_max = 5000;
    });
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(gate.running.address()).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let get = |path: &str| http::Request::get(format!("http://a/open/{path}")).body(()).unwrap();
        // The connection that all of them share is there from the first.
        let mut sender = sender.ready().await.unwrap();
        assert_eq!(sender.send_request(get("good"), true).unwrap().0.await.unwrap().status(), 200);
        for _ in 0..40 {
            let mut held = Vec::new();
            for _ in 0..50 {
                sender = sender.ready().await.unwrap();
                held.push(sender.send_request(get("held"), true).unwrap().0);
            }
            // They have arrived: each is judged in turn.
            sender = sender.ready().await.unwrap();
            assert_eq!(sender.send_request(get("good"), true).unwrap().0.await.unwrap().status(), 200);
            drop(held);
        }
        sender = sender.ready().await.unwrap();
        assert_eq!(sender.send_request(get("good"), true).unwrap().0.await.unwrap().status(), 200);
    });
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "one connection, all the time");
}

/// An upstream that speaks HTTP/2 in clear, for as long as the runtime is held.
pub(super) fn echoing(runtime: &tokio::runtime::Runtime) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(echo);
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let text = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
    let seen = format!(
        "{} te={} identity={} authorization={} host={}",
        request.uri().authority().unwrap(),
        text("te"),
        text("x-portreeve-identity"),
        text("authorization"),
        text("host"),
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-portreeve-identity", HeaderValue::from_static("forged"));
    let body = Full::new(Bytes::from(seen)).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(Response::new(body))
}
