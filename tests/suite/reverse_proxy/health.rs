//! Upstreams that are checked: what a check asks, what passes, and what requests are told meanwhile.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::core::time::Clock;
use portreeve::pep::{
    HealthChecks, HealthReport, HealthRule, HealthState, UpstreamAddress, UpstreamFiles, UpstreamHealth,
    UpstreamSettings, UpstreamTls,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::PATIENCE;
use crate::support::front::Gate;
use crate::support::port::free;
use crate::support::tls::{Authority, Pair, Relay, put, runtime, server};
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::World;

fn rule(path: Option<&str>) -> HealthRule {
    HealthRule {
        path: path.map(Arc::from),
        interval: Duration::from_secs(7),
        timeout: Duration::from_secs(20),
        healthy_after: 2,
        unhealthy_after: 3,
        expected_status: Arc::default(),
    }
}

fn at(address: SocketAddr) -> UpstreamSettings {
    UpstreamSettings::new(address.ip().to_string().into(), address.port())
}

/// Checks that come when the test says so: the pause between two of them is its own.
struct Checks {
    health: Arc<UpstreamHealth>,
    ended: Receiver<Duration>,
    go: Arc<Semaphore>,
    stop: CancellationToken,
    over: Option<tokio::task::JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
}

impl Checks {
    /// Waits for the first, which comes at once.
    fn begin(mut settings: UpstreamSettings, rule: HealthRule) -> Self {
        let health = Arc::new(UpstreamHealth::new(rule));
        settings.health = Some(Arc::clone(&health));
        let (tell, ended) = sync_channel(100);
        let (go, tell) = (Arc::new(Semaphore::new(0)), Mutex::new(tell));
        let held = Arc::clone(&go);
        let checks = HealthChecks {
            upstreams: vec![("app".into(), settings)],
            pause: Arc::new(move |wait| {
                tell.lock().unwrap().send(wait).unwrap();
                let held = Arc::clone(&held);
                Box::pin(async move { held.acquire().await.unwrap().forget() })
            }),
        };
        let (runtime, stop) = (runtime(), CancellationToken::new());
        let over = Some(runtime.spawn(checks.run(stop.clone())));
        let checks = Self { health, ended, go, stop, over, runtime };
        checks.wait();
        checks
    }

    fn wait(&self) {
        let pause = self.ended.recv_timeout(PATIENCE).expect("a check ends");
        assert_eq!(pause, Duration::from_secs(7));
    }

    /// One more; what is known after it.
    fn next(&self) -> HealthReport {
        self.go.add_permits(1);
        self.wait();
        self.health.report()
    }

    /// Whether the first passed.
    fn passed(self) -> bool {
        let report = self.health.report();
        assert_eq!(report.passed + report.failed, 1);
        assert_eq!(report.fault.is_some(), report.failed == 1, "{report:?}");
        report.passed == 1
    }
}

/// Whether one check of such an upstream passes.
fn passes(settings: UpstreamSettings, rule: HealthRule) -> bool {
    Checks::begin(settings, rule).passed()
}

#[test]
fn while_it_is_unhealthy_requests_are_refused_at_once_and_then_it_recovers() {
    let status = Arc::new(Mutex::new(200));
    let said = Arc::clone(&status);
    let upstream = Upstream::new(move |arrived| match arrived.line() {
        "GET /healthz HTTP/1.1" => {
            let status = said.lock().unwrap();
            Reply::Bytes(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").into_bytes())
        }
        _ => Reply::Bytes(ok("", "hello")),
    });
    let checks = Checks::begin(at(upstream.address()), rule(Some("/healthz")));
    let gate = Gate::with(upstream.address(), |settings, _| {
        settings.upstreams.get_mut("app").unwrap().health = Some(Arc::clone(&checks.health));
    });
    let mut caller = gate.caller();
    // (what the check is told, the state after it, what a request is answered)
    let rows = [
        (200, HealthState::Healthy, 200),
        (500, HealthState::Healthy, 200),
        (500, HealthState::Healthy, 200),
        (500, HealthState::Unhealthy, 503),
        (200, HealthState::Unhealthy, 503),
        (500, HealthState::Unhealthy, 503),
        (200, HealthState::Unhealthy, 503),
        (200, HealthState::Healthy, 200),
    ];
    let mut decisions = 0;
    for (at, (told, state, answered)) in rows.into_iter().enumerate() {
        *status.lock().unwrap() = told;
        let report = checks.next();
        assert_eq!(report.state, state, "row {at}");
        assert_eq!(report.fault, (told != 200).then(|| format!("status {told}")), "row {at}");
        assert_eq!(gate.world.log.entries().len(), decisions, "row {at}: a check leaves no record");
        while !upstream.is_untouched() {}
        let answer = gate.order(&mut caller, "");
        assert_eq!(answer.status, answered, "row {at}");
        assert_eq!(upstream.is_untouched(), answered == 503, "row {at}");
        decisions += 1;
        assert_eq!(gate.world.log.entries().len(), decisions, "row {at}: an allow is recorded all the same");
        if answered == 503 {
            assert_eq!(answer.one("retry-after"), Some("1"));
            assert!(
                answer.one("x-portreeve-decision").is_some() && answer.one("x-portreeve-reason").is_none()
            );
        }
    }
    let counted = "portreeve_upstream_errors_total{kind=\"unhealthy\",upstream=\"app\"} 4\n";
    assert!(gate.metrics.render().contains(counted));
}

#[test]
fn a_check_shows_nothing_of_anybody() {
    let upstream = Upstream::hello();
    let folder = tempfile::tempdir().unwrap();
    let secret = put(folder.path(), "app.key", "s3cret\n");
    let form = portreeve::pep::CredentialForm::Header("x-app-key".into());
    let mut settings = at(upstream.address());
    let credential = portreeve::pep::UpstreamCredential::open(&"app".into(), form, &secret).unwrap();
    settings.credential = Some(Arc::new(credential));
    assert!(passes(settings, rule(Some("/healthz?full=1"))));
    let arrived = upstream.next();
    let host = format!("host: {}", upstream.address());
    let agent = format!("user-agent: portreeve/{} (health)", env!("CARGO_PKG_VERSION"));
    let mut head = arrived.head.clone();
    head.sort();
    assert_eq!(head, ["GET /healthz?full=1 HTTP/1.1", "connection: close", &host, &agent]);
    assert!(arrived.body.is_empty() && upstream.is_untouched());
}

#[test]
fn the_status_must_be_expected() {
    let rows: [(&[u16], u16, bool); 8] = [
        (&[], 200, true),
        (&[], 299, true),
        (&[], 300, false),
        (&[], 404, false),
        (&[], 500, false),
        (&[401, 204], 401, true),
        (&[401, 204], 204, true),
        (&[401, 204], 200, false),
    ];
    for (expected, status, good) in rows {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        let upstream = Upstream::new(move |_| Reply::Bytes(head.clone().into_bytes()));
        let rule = HealthRule { expected_status: expected.into(), ..rule(Some("/")) };
        assert_eq!(passes(at(upstream.address()), rule), good, "{status} where {expected:?}");
    }
}

#[test]
fn what_does_not_answer_fails() {
    let silent = Upstream::new(|_| Reply::Silence);
    let short = HealthRule { timeout: Duration::from_millis(50), ..rule(Some("/")) };
    assert!(!passes(at(silent.address()), short.clone()), "silence");
    let closing = Upstream::new(|_| Reply::ThenClose(Vec::new()));
    assert!(!passes(at(closing.address()), rule(Some("/"))), "closed without an answer");
    let strange = Upstream::new(|_| Reply::ThenClose(b"SMTP ready\r\n\r\n".to_vec()));
    assert!(!passes(at(strange.address()), rule(Some("/"))), "another protocol");
    assert!(!passes(at(free()), rule(Some("/"))), "nobody listens");
    let endless = Upstream::new(|_| Reply::Flood(ok("", "x")));
    assert!(passes(at(endless.address()), rule(Some("/"))), "the head is enough");
}

#[test]
fn without_a_path_a_connection_is_enough() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert!(passes(at(address), rule(None)));
    let (mut taken, _) = listener.accept().unwrap();
    // It was closed without a byte.
    assert_eq!(std::io::Read::read(&mut taken, &mut [0]).unwrap_or(0), 0);
    drop((taken.write_all(b"x"), listener));
    assert!(!passes(at(address), rule(None)));
}

#[test]
fn a_check_goes_by_the_tls_and_the_socket_of_requests() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (good, foreign) = (ours.certify("app.test", 2030), other.certify("app.test", 2030));
    let own = ours.certify("portreeve.test", 2030);
    let upstream = Upstream::hello();
    // (row, what it shows, whether it asks for a certificate, what it is shown, whether that passes)
    let rows: [(&str, &Pair, bool, Option<&Pair>, bool); 5] = [
        ("whom it must be", &good, false, None, true),
        ("somebody else", &foreign, false, None, false),
        ("shown ours", &good, true, Some(&own), true),
        ("shown none", &good, true, None, false),
        ("shown a foreign one", &good, true, Some(&foreign), false),
    ];
    for (row, shown, asks, mine, good) in rows {
        let relay = Relay::tls(upstream.address(), server(shown, asks.then_some(&ours), &["http/1.1"]));
        let folder = tempfile::tempdir().unwrap();
        let ca = put(folder.path(), "ca.pem", &ours.certificate);
        let own = mine.map(|pair| {
            let put = |name, text| put(folder.path(), name, text);
            (put("own.crt", &pair.certificate), put("own.key", &pair.key))
        });
        let clock: Arc<dyn Clock> = World::new().clock.clone();
        let files = UpstreamFiles { ca, own };
        let tls = UpstreamTls::open(&"app".into(), "app.test", false, files, None, clock).unwrap();
        let mut settings = at(relay.address);
        let (host, port) = (relay.address.ip().to_string().into(), relay.address.port());
        settings.address = UpstreamAddress::Secure(host, port, Arc::new(tls));
        assert_eq!(passes(settings.clone(), rule(Some("/"))), good, "{row}");
        if !asks {
            assert_eq!(passes(settings, rule(None)), good, "{row}: the handshake alone");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let mut settings = at(upstream.address());
    settings.address = UpstreamAddress::Socket(path.as_path().into());
    assert!(!passes(settings.clone(), rule(Some("/"))), "no socket yet");
    let _relay = Relay::unix(upstream.address(), &path);
    assert!(passes(settings, rule(Some("/"))));
}

#[test]
fn http2_is_spoken_where_requests_speak_it() {
    let runtime = runtime();
    let mut settings = at(super::http2::echoing(&runtime));
    assert!(!passes(settings.clone(), rule(Some("/"))), "HTTP/1.1 is not what it speaks");
    settings.http2 = true;
    assert!(passes(settings, rule(Some("/healthz"))));
    let mut other = at(Upstream::hello().address());
    other.http2 = true;
    assert!(!passes(other, rule(Some("/healthz"))));
}

#[test]
fn checks_end_when_they_are_told_to() {
    let upstream = Upstream::hello();
    let mut checks = Checks::begin(at(upstream.address()), rule(Some("/")));
    assert_eq!(checks.next().passed, 2);
    checks.stop.cancel();
    let over = checks.over.take().unwrap();
    checks.runtime.block_on(over).unwrap();
    assert_eq!(checks.health.report().passed, 2);
}
