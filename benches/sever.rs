//! Many idle open streams through a real proxy; identities are revoked one after the other. How long
//! from in force to the end of each of their streams, as its caller sees it; and nobody else's ends.
//!
//! `cargo bench --profile dist --bench sever -- [--streams N] [--identities N] [--revocations N]`
//!
//! Everything is on loopback, over HTTP/2 on both sides; the run ends by itself.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use futures_util::StreamExt as _;
use http::{Request, Response, Version};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portreeve::core::identity::{Record, Revocation, RevocationTarget};
use tokio::sync::mpsc;

use support::clock::ManualClock;
use support::front::Gate;
use support::world::{identity, name};

#[path = "../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

#[derive(Parser)]
struct Options {
    /// Open streams.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// Identities that they are shared among, evenly.
    #[arg(long, default_value_t = 100)]
    identities: usize,
    /// Identities revoked.
    #[arg(long, default_value_t = 10)]
    revocations: usize,
    /// Workers of the proxy.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Streams of one connection of a caller.
const STREAMS_A_CONNECTION: usize = 100;
/// Longest wait for an end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream that ended: whose, and when.
type End = (usize, Instant);

fn main() {
    let options = Options::parse();
    assert!(options.revocations <= options.identities, "one identity a revocation: raise --identities");
    assert!(options.streams % options.identities == 0, "as many streams of each identity");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let upstream = runtime.block_on(upstream());
    let gate = Gate::with(upstream, |settings, listener| {
        settings.upstreams.get_mut("app").unwrap().http2 = true;
        listener.workers = options.workers;
    });
    let subjects: Vec<_> = (0..options.identities).map(|number| format!("caller-{number}")).collect();
    let records = subjects.iter().map(|it| (it.as_str(), 1, Record::Identity(identity(it).into())));
    gate.world.put(records.collect());
    let tokens: Vec<_> = subjects.iter().map(|it| gate.world.token(&gate.world.claims(it))).collect();

    let (ended, mut ends) = mpsc::channel(options.streams);
    let begun = Instant::now();
    runtime.block_on(open_all(&options, gate.running.address(), &tokens, &ended));
    println!(
        "{} streams of {} identities open after {:.1?}",
        gate.exchanges.open(),
        tokens.len(),
        begun.elapsed()
    );
    // They are old, and found by the index.
    (0..3).for_each(|_| gate.exchanges.look());

    let mut spans = Vec::new();
    let mut judging = Vec::new();
    for (number, subject) in subjects.iter().take(options.revocations).enumerate() {
        let batch = gate.world.put(vec![(&format!("r-{number}"), 1, revocation(subject))]);
        let in_force = Instant::now();
        let count = gate.exchanges.changed(&batch.cell, &batch.changes, &gate.world.state.load());
        judging.push(in_force.elapsed());
        for _ in 0..count {
            let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, ends.recv()).await });
            let (whose, at): End = next.expect("it ends").expect("streams are open");
            assert_eq!(whose, number, "a stream of another identity ended");
            spans.push(at.duration_since(in_force));
        }
    }
    let expected = options.streams / options.identities * options.revocations;
    assert_eq!(spans.len(), expected, "every stream of the revoked, and no other");
    assert!(ends.try_recv().is_err(), "a stream of another identity ended");
    assert_eq!(gate.exchanges.open(), options.streams - expected);
    spans.sort_unstable();
    judging.sort_unstable();
    let at = |share: usize| spans[(spans.len() - 1) * share / 100];
    println!("{} streams ended, {} go on", spans.len(), gate.exchanges.open());
    println!("from in force to its end: p50 {:.2?}, p99 {:.2?}, max {:.2?}", at(50), at(99), at(100));
    println!("until the acknowledgement may go: max {:.2?}", judging[judging.len() - 1]);
    runtime.shutdown_background();
}

fn revocation(subject: &str) -> Record {
    let target = RevocationTarget::Identity { identity: name(subject), generation: 1 };
    let (reason, requested_by) = ("bench".into(), "bench".into());
    Record::Revocation(Revocation { target, reason, requested_by, at: ManualClock::START }.into())
}

/// Answers with one piece and no end.
async fn upstream() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|_: Request<Incoming>| async {
                let first = futures_util::stream::iter([Bytes::from_static(b"hello")]);
                let pieces = first.chain(futures_util::stream::pending());
                let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
                Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(100_000);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn open_all(options: &Options, proxy: SocketAddr, tokens: &[String], ended: &mpsc::Sender<End>) {
    let mut opened = 0;
    while opened < options.streams {
        let stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let last = options.streams.min(opened + STREAMS_A_CONNECTION);
        for number in opened..last {
            let whose = number % tokens.len();
            sender = sender.ready().await.unwrap();
            let request = Request::builder()
                .uri("http://orders.test/orders/1")
                .version(Version::HTTP_2)
                .header("authorization", format!("Bearer {}", tokens[whose]))
                .body(())
                .unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let ended = ended.clone();
            let mut body = response.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hello");
            // Holds the connection, too, until its last stream has ended.
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Some(Ok(_)) = body.data().await {}
                ended.try_send((whose, Instant::now())).ok();
                drop(sender);
            });
        }
        opened = last;
    }
}
