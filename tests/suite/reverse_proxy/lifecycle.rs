//! Listeners: start, limits, faults, end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portreeve::core::evidence::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use portreeve::core::id::DecisionId;
use portreeve::core::policy::{Reason, Verdict};
use portreeve::pep::{Bound, ClientAuthorities, ClientCertificates, Drained, ListenerTls, TlsSettings};

use crate::support::evidence::{Entry, MemoryLog};
use crate::support::front::{Gate, Parts, listener};
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::{World, block_on};

#[test]
fn a_port_in_use_is_an_error_at_start_that_says_what_to_do() {
    let first = Bound::bind(listener(2)).unwrap();
    let mut settings = listener(2);
    settings.address = first.address();
    let error = Bound::bind(settings).unwrap_err().to_string();
    for part in ["`inbound`", &first.address().to_string(), "choose another `address`"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn all_workers_share_one_port() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |_, listener| listener.workers = 3);
    for _ in 0..30 {
        assert_eq!(gate.order(&mut gate.caller(), "").status, 200);
    }
    assert_eq!(block_on(gate.running.stop()), Drained::default());
}

#[test]
fn stopping_lets_the_exchange_under_way_finish() {
    let upstream = Upstream::new(|_| Reply::WhenTold(ok("", "hello")));
    let gate = Gate::new(upstream.address());
    let (mut idle, mut busy) = (gate.caller(), gate.caller());
    busy.write(gate.order_text("GET", "").as_bytes());
    upstream.next();
    let running = gate.running;
    let stopping = std::thread::spawn(move || block_on(running.stop()));
    assert!(idle.is_closed(), "an idle connection ends at once");
    upstream.go();
    let answer = busy.read(false);
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert!(busy.is_closed());
    assert_eq!(stopping.join().unwrap(), Drained::default());
}

#[test]
fn what_outlasts_the_drain_is_cut_and_counted() {
    let upstream = Upstream::new(|_| Reply::Silence);
    let gate = Gate::with(upstream.address(), |_, listener| {
        listener.limits.drain_timeout = std::time::Duration::from_millis(50);
    });
    let mut caller = gate.caller();
    caller.write(gate.order_text("GET", "").as_bytes());
    upstream.next();
    assert_eq!(block_on(gate.running.stop()), Drained { cut: 1, lost: 0 });
    assert!(caller.is_closed());
}

#[test]
fn a_full_listener_closes_what_comes() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |_, listener| listener.limits.connections_max = 1);
    let mut first = gate.caller();
    assert_eq!(gate.order(&mut first, "").status, 200);
    assert!(gate.caller().is_closed());
    assert_eq!(gate.order(&mut first, "").status, 200);
    let text = gate.metrics.render();
    assert!(text.contains("portreeve_connections{listener=\"inbound\"} 1\n"), "{text}");
    assert!(text.contains("portreeve_connections_refused_total{listener=\"inbound\"} 1\n"), "{text}");
}

#[test]
fn a_silent_caller_is_not_waited_for() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |_, listener| {
        listener.limits.head_timeout = std::time::Duration::from_millis(50);
    });
    for begun in ["", "P", "PRI * HT", "GET /open/x HTTP/1.1\r\nHost: a\r\n"] {
        let mut caller = gate.caller();
        caller.write(begun.as_bytes());
        assert!(caller.ends(), "{begun}");
    }
}

#[test]
fn a_head_over_the_limit_is_refused() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let long = "x".repeat(80 * 1024);
    let answer = gate.caller().ask(&format!("GET /open/x HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"));
    assert_eq!(answer.status, 431);
    let many = "X: 1\r\n".repeat(200);
    let answer = gate.caller().ask(&format!("GET /open/x HTTP/1.1\r\nHost: a\r\n{many}\r\n"));
    assert_eq!(answer.status, 431);
    let path = "x".repeat(10_000);
    let answer = gate.caller().ask(&format!("GET /open/{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!((answer.status, answer.one("x-portreeve-reason")), (414, Some("request.target_too_long")));
    assert!(upstream.is_untouched());
}

#[test]
fn the_configured_bound_of_a_head_is_exact() {
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |settings, _| settings.limits.head_bytes_max = 10_000);
    // The target has 7 bytes, the host's line 9, the other line 5 and its value.
    for (length, status) in [(9_979, 200), (9_980, 431)] {
        let value = "x".repeat(length);
        let answer = gate.caller().ask(&format!("GET /open/x HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n"));
        assert_eq!(answer.status, status, "{length}");
    }
}

#[test]
fn a_fault_refuses_the_request_and_nothing_else() {
    let world = World::new();
    let log = Arc::new(FaultyOnce { log: Arc::clone(&world.log), faulty: AtomicBool::new(true) });
    let parts = Parts { log, ..Parts::of(&world) };
    let upstream = Upstream::hello();
    let gate = Gate::over(world, parts, upstream.address(), |_, _| {});
    let mut caller = gate.caller();
    let answer = gate.order(&mut caller, "");
    assert_eq!((answer.status, answer.one("x-portreeve-reason")), (500, Some("internal")));
    assert_eq!(gate.world.log.last_verdict().reason(), Some(Reason::Internal));
    assert!(upstream.is_untouched());
    assert_eq!(gate.order(&mut caller, "").status, 200, "the process and the connection stay");
}

#[test]
fn no_room_for_evidence_refuses() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    gate.world.log.fill();
    let answer = gate.order(&mut gate.caller(), "");
    assert_eq!((answer.status, answer.one("x-portreeve-reason")), (503, Some("evidence.unavailable")));
    assert_eq!((gate.world.log.lost(), upstream.is_untouched()), (1, true));
}

#[test]
fn evidence_that_cannot_be_made_safe_withdraws_the_allow() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    gate.world.log.fail();
    assert_eq!(gate.order(&mut gate.caller(), "").status, 503);
    let entries = gate.world.log.entries();
    assert!(matches!(entries.last(), Some(Entry::Withdrawn(Reason::EvidenceUnavailable))));
    assert!(upstream.is_untouched());
}

#[test]
fn tls_serves_callers_and_asks_for_their_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(client);
    for (clients, expected) in [
        (None, true),
        (Some(ClientCertificates::Optional), true),
        (Some(ClientCertificates::Required), false),
    ] {
        let upstream = Upstream::hello();
        let gate = Gate::with(upstream.address(), |_, listener| {
            let clients = clients.map(|demand| (ClientAuthorities::File(certificate.clone()), demand));
            let settings = TlsSettings { clients, ..TlsSettings::one(certificate.clone(), key.clone()) };
            let tls = ListenerTls::open(&listener.name, settings, World::new().clock.clone());
            listener.tls = Some(Arc::new(tls.unwrap()));
        });
        let name = "localhost".try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::clone(&client), name).unwrap();
        let stream = std::net::TcpStream::connect(gate.running.address()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let request = "GET /open/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // Without a certificate that is asked for, writing or reading fails.
        drop(std::io::Write::write_all(&mut stream, request.as_bytes()));
        let mut text = Vec::new();
        drop(std::io::Read::read_to_end(&mut stream, &mut text));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text.starts_with("HTTP/1.1 200") && text.ends_with("hello"),
            expected,
            "{clients:?} {text}"
        );
        assert_eq!(upstream.is_untouched(), !expected);
    }
}

/// A log whose first decision meets a fault.
struct FaultyOnce {
    log: Arc<MemoryLog>,
    faulty: AtomicBool,
}

impl EvidenceLog for FaultyOnce {
    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        self.log.reserve(mode)
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        assert!(!self.faulty.swap(false, Ordering::SeqCst), "a fault made by the test");
        self.log.decided(slot, mode, facts, verdict)
    }

    fn abandoned(&self, slot: Option<Slot>, facts: &ExchangeFacts) {
        self.log.abandoned(slot, facts);
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) {
        self.log.withdrawn(withdrawal);
    }

    fn severed(&self, severance: &Severance) {
        self.log.severed(severance);
    }
}
