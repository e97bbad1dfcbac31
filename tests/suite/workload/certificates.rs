//! A listener that shows its own SVID and takes those of one trust domain; an upstream that is shown it.

use std::sync::Arc;

use portreeve::core::identity::{Binding, Issuer, Record, TokenProfile};
use portreeve::mtls::{DomainTrust, WallClock};
use portreeve::pep::{
    CallerCertificates, ClientAuthorities, ClientCertificates, ListenerTls, TlsSettings, UpstreamAddress,
    UpstreamFiles, UpstreamTls,
};
use tonic::Code;

use super::{Ask, DOMAIN, Followed, HOST, LEDGER, PROXY, Read};
use crate::support::PATIENCE;
use crate::support::front::{Gate, Parts};
use crate::support::spiffe::{Domain, Peer, Svid, status};
use crate::support::tls::{Authority, Relay, put, server};
use crate::support::until;
use crate::support::upstream::{Reply, Upstream};
use crate::support::world::{TENANT, World, identity, name};

/// The head of an answer without an end, and its first piece.
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

const BOTH: Ask<'_> = Ask { identity: true, authorities: true, domains: &[] };

/// A proxy whose TLS comes from an agent; `ledger` is bound to its SPIFFE ID.
struct Mesh {
    gate: Arc<Gate>,
    followed: Followed,
}

impl Mesh {
    fn new(upstream: &Upstream, agent: impl FnOnce(&crate::support::spiffe::Agent)) -> Self {
        let mut followed = Followed::new(agent);
        let world = World::new();
        let mut ledger = identity("ledger");
        ledger.bindings.push(Binding { issuer: name("td"), subject: LEDGER.into() });
        let domain = Issuer::new(DOMAIN.into(), TokenProfile::X509, vec![], vec![], u32::MAX, Arc::from([]));
        world.put(vec![
            ("td", 1, Record::Issuer(Arc::new(domain))),
            ("ledger", 1, Record::Identity(Arc::new(ledger))),
        ]);
        let clock = WallClock::new(world.clock.clone());
        let trust = DomainTrust::new(Arc::clone(&followed.bundles), DOMAIN.into(), clock);
        let settings = TlsSettings {
            identity: Some(Arc::clone(&followed.identity)),
            clients: Some((ClientAuthorities::Live(trust), ClientCertificates::Required)),
            ..TlsSettings::default()
        };
        let tls = ListenerTls::open(&"inbound".into(), settings, world.clock.clone()).unwrap();
        let (parts, mut read) = (Parts::of(&world), Read::of(&world));
        let gate = Gate::over(world, parts, upstream.address(), |settings, listener| {
            listener.tls = Some(Arc::new(tls));
            settings.certificates = CallerCertificates { issuer: Some(DOMAIN.into()), forwarded: None };
        });
        let gate = Arc::new(gate);
        let exchanges = Arc::clone(&gate.exchanges);
        read.moved = Arc::new(move || {
            exchanges.doubted(&name(TENANT));
        });
        followed.follow(BOTH, read);
        Self { gate, followed }
    }

    /// Asks on a connection of its own; 0: there was no answer.
    fn status(&self, own: &Svid, roots: &Domain) -> u16 {
        let mut peer = self.peer(own, roots);
        peer.ask("Connection: close\r\n");
        status(&peer.rest())
    }

    fn peer(&self, own: &Svid, roots: &Domain) -> Peer {
        Peer::new(self.gate.running.address(), Some(own), roots)
    }
}

#[test]
fn a_handshake_by_svids_and_authorities_that_rotate_and_go() {
    let upstream = Upstream::hello();
    let (first, second) = (Domain::new(), Domain::new());
    let own = first.svid(PROXY, HOST);
    let mesh = Mesh::new(&upstream, |_| {});
    let of_first = first.svid(LEDGER, "ledger.test");
    let of_second = second.svid(LEDGER, "ledger.test");
    let nobody = first.svid("spiffe://acme.example/nobody", "x.test");
    let foreign = second.svid("spiffe://other.example/ns/pay/ledger", "x.test");
    assert_eq!(mesh.status(&of_first, &first), 0, "before anything was said there is no handshake");

    until("both wait", || mesh.followed.waited() == 2);
    let agent = &mesh.followed.agent;
    agent.gives(&own);
    agent.vouches(&[(DOMAIN, &[&first]), ("spiffe://other.example", &[&second])]);
    (0..2).for_each(|_| mesh.followed.pass());
    until("both have come", || mesh.followed.status.updates() == 2);
    let asked = |svid: &Svid| mesh.status(svid, &first);
    assert_eq!(asked(&of_first), 200);
    assert_eq!(upstream.next().one("x-portreeve-identity"), Some("ledger"));
    assert_eq!(
        (asked(&nobody), asked(&of_second), asked(&foreign)),
        (401, 0, 0),
        "§7 each by its own domain"
    );

    let mut kept = mesh.peer(&of_first, &first);
    kept.ask("");
    assert_eq!(status(&kept.read_to("hello")), 200);

    // Two authorities side by side, as a rotation begins.
    agent.vouches(&[(DOMAIN, &[&first, &second])]);
    until("the second counts", || asked(&of_second) == 200);
    assert_eq!(asked(&of_first), 200);
    kept.ask("");
    assert_eq!(status(&kept.read_to("hello")), 200, "what still holds goes on");

    // The first is gone, on connections that it opened, too.
    let updates = mesh.followed.status.updates();
    agent.vouches(&[(DOMAIN, &[&second])]);
    until("taken", || mesh.followed.status.updates() == updates + 1);
    until("the first does not count", || asked(&of_first) == 0);
    kept.ask("");
    assert_eq!(status(&kept.read_to("\r\n\r\n")), 401, "the handshake's verdict is no more");
    assert_eq!(asked(&of_second), 200);

    // The domain is gone, another's authority is the same.
    agent.vouches(&[("spiffe://other.example", &[&second])]);
    until("the domain does not count", || asked(&of_second) == 0);

    // Its own certificate rotates, and is withdrawn.
    agent.vouches(&[(DOMAIN, &[&second])]);
    let next = second.svid(PROXY, HOST);
    agent.gives(&next);
    until("the next is shown", || mesh.status(&of_second, &second) == 200);
    let mut peer = mesh.peer(&of_second, &second);
    peer.ask("");
    assert_eq!((status(&peer.read_to("hello")), peer.shown()), (200, next.certificate));
    agent.ends_certificates(Code::PermissionDenied);
    until("nothing is shown", || mesh.status(&of_second, &second) == 0);
}

#[test]
fn what_a_withdrawn_domain_opened_is_ended_and_nothing_else() {
    let upstream = Upstream::new(|_| Reply::Open(STREAM.to_vec()));
    let (domain, other) = (Domain::new(), Domain::new());
    let own = domain.svid(PROXY, HOST);
    let mesh = Mesh::new(&upstream, |agent| {
        agent.gives(&own);
        agent.vouches(&[(DOMAIN, &[&domain])]);
    });
    until("both have come", || mesh.followed.status.updates() == 2);
    let caller = domain.svid(LEDGER, "ledger.test");
    let mut stream = mesh.peer(&caller, &domain);
    stream.ask("");
    assert_eq!(status(&stream.read_to("hello\r\n")), 200);
    mesh.gate.wait_open(1);
    // Once indexed, and once only listed: both are found.
    for rounds in [3, 0] {
        (0..rounds).for_each(|_| mesh.gate.exchanges.look());
        let updates = mesh.followed.status.updates();
        mesh.followed.agent.vouches(&[(DOMAIN, &[&domain, &other])]);
        until("taken", || mesh.followed.status.updates() == updates + 1);
        assert_eq!(mesh.gate.exchanges.open(), 1, "an authority more turns nothing");
        mesh.followed.agent.vouches(&[(DOMAIN, &[&other])]);
        assert!(stream.is_over());
        mesh.gate.wait_open(0);
        mesh.followed.agent.vouches(&[(DOMAIN, &[&domain])]);
        until("again", || mesh.followed.status.updates() == updates + 3);
        stream = mesh.peer(&caller, &domain);
        stream.ask("");
        assert_eq!(status(&stream.read_to("hello\r\n")), 200);
        mesh.gate.wait_open(1);
    }
    let severed = "portreeve_exchanges_severed_total{reason=\"credential.unverified\"} 2";
    assert!(mesh.gate.metrics.render().contains(severed), "{}", mesh.gate.metrics.render());
}

#[test]
fn an_upstream_is_shown_the_svid_of_now() {
    let (ours, agent_of) = (Authority::new(), Domain::new());
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "ca.pem", &ours.certificate);
    let upstream = Upstream::hello();
    let pem = portreeve::mtls::encode("CERTIFICATE", &agent_of.certificate);
    let clients = ours.with_certificate(&pem);
    let relay = Relay::tls(upstream.address(), server(&ours.certify("app.test", 2030), Some(&clients), &[]));
    let mut followed = Followed::new(|_| {});
    let world = World::new();
    let files = UpstreamFiles { ca: folder.path().join("ca.pem"), own: None };
    let live = Some(Arc::clone(&followed.identity));
    let tls = UpstreamTls::open(&"app".into(), "app.test", false, files, live, world.clock.clone()).unwrap();
    let tls = Arc::new(tls);
    let (parts, read) = (Parts::of(&world), Read::of(&world));
    let (address, held) = (relay.address, Arc::clone(&tls));
    let gate = Gate::over(world, parts, address, |settings, _| {
        let app = settings.upstreams.get_mut("app").unwrap();
        app.address = UpstreamAddress::Secure(address.ip().to_string().into(), address.port(), held);
        // On a busy machine a handshake takes its time.
        app.connect_timeout = PATIENCE;
    });
    let asked = || gate.order(&mut gate.caller(), "").status;
    let by_connection = || {
        assert_eq!(asked(), 200);
        upstream.next().connection
    };
    assert_eq!(asked(), 502, "without a certificate nothing is sent");
    assert!(upstream.is_untouched());
    followed.agent.gives(&agent_of.svid(PROXY, HOST));
    followed.follow(Ask { identity: true, ..Ask::default() }, read);
    until("a certificate", || followed.identity.current().is_some());
    assert_eq!(by_connection(), 0);
    assert_eq!(by_connection(), 0, "the connection is used again");
    let edition = followed.identity.edition();
    followed.agent.gives(&agent_of.svid(PROXY, HOST));
    until("the next", || followed.identity.edition() > edition);
    assert_eq!(by_connection(), 1, "the next certificate opens a connection");
    let edition = followed.identity.edition();
    followed.agent.gives(&Domain::new().svid(PROXY, HOST));
    until("a stranger's", || followed.identity.edition() > edition);
    assert_eq!(asked(), 502, "the upstream does not take it");
}
