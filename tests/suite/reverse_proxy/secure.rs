//! Upstreams by TLS and by Unix socket: who is spoken to, and who is not.

use std::path::Path;
use std::sync::Arc;

use portreeve::core::time::Clock;
use portreeve::pep::{UpstreamAddress, UpstreamFiles, UpstreamSettings, UpstreamTls};
use tempfile::TempDir;

use crate::support::clock::ManualClock;
use crate::support::front::{Gate, Parts};
use crate::support::tls::{Authority, Pair, Relay, put, runtime, server};
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::World;

/// The name that upstreams here are certified for.
const NAME: &str = "app.test";

/// A folder with the files of an upstream.
struct Folder(TempDir);

impl Folder {
    /// Trusts `authority`, shows `own`.
    fn new(authority: &Authority, own: Option<&Pair>) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.trust(authority);
        if let Some(own) = own {
            put(folder.0.path(), "own.crt", &own.certificate);
            put(folder.0.path(), "own.key", &own.key);
        }
        folder
    }

    fn trust(&self, authority: &Authority) {
        put(self.0.path(), "ca.pem", &authority.certificate);
    }

    fn files(&self) -> UpstreamFiles {
        let at = |name: &str| self.0.path().join(name);
        let own = at("own.crt").exists().then(|| (at("own.crt"), at("own.key")));
        UpstreamFiles { ca: at("ca.pem"), own }
    }

    fn tls(&self, name: &str, http2: bool, clock: Arc<ManualClock>) -> Result<UpstreamTls, String> {
        let clock: Arc<dyn Clock> = clock;
        UpstreamTls::open(&"app".into(), name, http2, self.files(), None, clock).map_err(|e| e.to_string())
    }

    /// A gate that asks for `name` behind `relay`, and its upstream's TLS.
    fn gate(&self, relay: &Relay, name: &str, http2: bool) -> (Gate, Arc<UpstreamTls>) {
        let world = World::new();
        let tls = Arc::new(self.tls(name, http2, world.clock.clone()).unwrap());
        let parts = Parts::of(&world);
        let address = relay.address;
        let held = Arc::clone(&tls);
        let gate = Gate::over(world, parts, address, |settings, _| {
            let app = settings.upstreams.get_mut("app").unwrap();
            app.address = UpstreamAddress::Secure(address.ip().to_string().into(), address.port(), held);
            app.http2 = http2;
        });
        (gate, tls)
    }
}

/// How often the upstream failed in this way.
fn failed(gate: &Gate, kind: &str) -> bool {
    let line = format!("portreeve_upstream_errors_total{{kind=\"{kind}\",upstream=\"app\"}} 1\n");
    gate.metrics.render().contains(&line)
}

#[test]
fn an_upstream_is_spoken_to_only_as_whom_it_must_be() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.certify(NAME, 2030);
    // The clock of the tests stands in November 2026.
    let expired = ours.certify(NAME, 2026);
    let expiring = ours.certify(NAME, 2027);
    let by_address = ours.certify("127.0.0.1", 2030);
    let rows = [
        ("the right one", &good, &ours, NAME, None),
        ("not expired yet", &expiring, &ours, NAME, None),
        ("by its address", &by_address, &ours, "127.0.0.1", None),
        ("of another authority", &good, &other, NAME, Some(502)),
        ("for another name", &good, &ours, "other.test", Some(502)),
        ("for no address", &good, &ours, "127.0.0.1", Some(502)),
        ("expired", &expired, &ours, NAME, Some(502)),
    ];
    for (row, shown, trusted, name, refused) in rows {
        let upstream = Upstream::hello();
        let relay = Relay::tls(upstream.address(), server(shown, None, &["h2", "http/1.1"]));
        let (gate, _tls) = Folder::new(trusted, None).gate(&relay, name, false);
        let mut caller = gate.caller();
        let answer = gate.order(&mut caller, "");
        assert_eq!(answer.status, refused.unwrap_or(200), "{row}");
        assert!(answer.one("x-portreeve-decision").is_some(), "{row}");
        assert_eq!(failed(&gate, "tls"), refused.is_some(), "{row}");
        assert_eq!(upstream.is_untouched(), refused.is_some(), "{row}");
        if refused.is_none() {
            assert_eq!(gate.order(&mut caller, "").status, 200, "{row}");
            assert_eq!(upstream.next().connection, 0, "{row}: connections are used again");
        }
    }
}

#[test]
fn an_upstream_that_asks_for_a_certificate_gets_ours_and_no_other_will_do() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.certify("portreeve.test", 2030);
    let foreign = other.certify("portreeve.test", 2030);
    for (row, own, allowed) in
        [("ours", Some(&good), true), ("none", None, false), ("a foreign one", Some(&foreign), false)]
    {
        let upstream = Upstream::hello();
        let relay = Relay::tls(upstream.address(), server(&ours.certify(NAME, 2030), Some(&ours), &[]));
        let (gate, _tls) = Folder::new(&ours, own).gate(&relay, NAME, false);
        let answer = gate.order(&mut gate.caller(), "");
        assert_eq!(answer.status, if allowed { 200 } else { 502 }, "{row}");
        assert_eq!(upstream.is_untouched(), !allowed, "{row}");
    }
}

#[test]
fn http2_is_agreed_on_or_nothing_is_sent() {
    let ours = Authority::new();
    let own = ours.certify(NAME, 2030);
    for alpn in [&["http/1.1"][..], &[]] {
        let upstream = Upstream::hello();
        let relay = Relay::tls(upstream.address(), server(&own, None, alpn));
        let (gate, _tls) = Folder::new(&ours, None).gate(&relay, NAME, true);
        assert_eq!(gate.order(&mut gate.caller(), "").status, 502, "{alpn:?}");
        assert!(failed(&gate, "tls") && upstream.is_untouched(), "{alpn:?}");
    }
    let runtime = runtime();
    let upstream = super::http2::echoing(&runtime);
    let relay = Relay::tls(upstream, server(&own, None, &["http/1.1", "h2"]));
    let (gate, _tls) = Folder::new(&ours, None).gate(&relay, NAME, true);
    for _ in 0..2 {
        let answer = gate.order(&mut gate.caller(), "");
        assert_eq!(answer.body, "orders.test te=- identity=ledger authorization=- host=-");
    }
}

#[test]
fn files_are_taken_over_without_ending_what_is_open() {
    let (before, after) = (Authority::new(), Authority::new());
    let upstream = Upstream::new(|arrived| match arrived.line() {
        "GET /open/slow HTTP/1.1" => Reply::WhenTold(ok("", "slow")),
        _ => Reply::Bytes(ok("", "hello")),
    });
    let relay = Relay::tls(upstream.address(), server(&before.certify(NAME, 2030), None, &[]));
    let folder = Folder::new(&before, None);
    let (gate, tls) = folder.gate(&relay, NAME, false);
    // What the part that watches the files looks at.
    let mut watched = UpstreamSettings::new("127.0.0.1".into(), 1);
    watched.address = UpstreamAddress::Secure("127.0.0.1".into(), 1, tls);
    assert!(watched.has_files() && !UpstreamSettings::new("127.0.0.1".into(), 1).has_files());
    let mut caller = gate.caller();
    assert_eq!(gate.order(&mut caller, "").status, 200);
    assert_eq!(upstream.next().connection, 0);

    let mut slow = gate.caller();
    slow.write(b"GET /open/slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(upstream.next().connection, 0, "one is open");
    // Files that cannot be used change nothing.
    put(folder.0.path(), "ca.pem", "nothing");
    watched.look();
    assert_eq!(gate.order(&mut caller, "").status, 200);
    assert_eq!(upstream.next().connection, 1);
    // Whom is trusted now has not certified the upstream: its idle connection is not used again.
    folder.trust(&after);
    watched.look();
    assert_eq!(gate.order(&mut caller, "").status, 502);
    assert!(failed(&gate, "tls") && upstream.is_untouched());
    relay.change(server(&after.certify(NAME, 2030), None, &[]));
    assert_eq!(gate.order(&mut caller, "").status, 200);
    assert_eq!(upstream.next().connection, 2);
    // What was open before ends as if nothing had been.
    upstream.go();
    assert_eq!(slow.read(false).body, "slow");
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let (ours, other) = (Authority::new(), Authority::new());
    let own = ours.certify("portreeve.test", 2030);
    let mixed = Pair { certificate: own.certificate.clone(), key: other.certify("x.test", 2030).key };
    let clock = || Arc::new(ManualClock::new());
    assert!(Folder::new(&ours, Some(&own)).tls(NAME, false, clock()).is_ok());
    let folder = Folder::new(&ours, Some(&mixed));
    let error = folder.tls(NAME, false, clock()).unwrap_err();
    assert!(error.starts_with("upstream `app`: `") && error.contains("own.key"), "{error}");
    std::fs::remove_file(folder.0.path().join("ca.pem")).unwrap();
    let error = folder.tls(NAME, false, clock()).unwrap_err();
    assert!(error.starts_with("upstream `app`: `") && error.contains("ca.pem"), "{error}");
    let error = Folder::new(&ours, None).tls("a b", false, clock()).unwrap_err();
    assert_eq!(error, "upstream `app`: `a b` is no server name");
}

#[test]
fn a_unix_socket_is_an_upstream() {
    let upstream = Upstream::hello();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let gate = Gate::with(upstream.address(), |settings, _| {
        let path: Arc<Path> = path.as_path().into();
        settings.upstreams.get_mut("app").unwrap().address = UpstreamAddress::Socket(path);
    });
    let mut caller = gate.caller();
    assert_eq!(gate.order(&mut caller, "").status, 503, "nobody listens there");
    assert!(failed(&gate, "connect"));
    let _relay = Relay::unix(upstream.address(), &path);
    for _ in 0..2 {
        assert_eq!(gate.order(&mut caller, "").body, "hello");
        let arrived = upstream.next();
        assert_eq!((arrived.connection, arrived.one("host")), (0, Some("orders.test")));
    }
}
