//! TLS of a listener: which certificate is shown, and how files are taken over.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portreeve::pep::{
    CertificateFiles, ClientAuthorities, ClientCertificates, ListenerTls, TlsSettings, TlsVersion,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::front::{Gate, Parts};
use crate::support::tls::{Authority, Pair, put};
use crate::support::upstream::Upstream;
use crate::support::world::World;

/// Files as a mounted secret has them: names that lead through `..data` to a folder of one edition.
struct Secret {
    folder: TempDir,
    edition: u32,
}

impl Secret {
    fn new(files: &[(&str, &str)]) -> Self {
        let mut secret = Self { folder: tempfile::tempdir().unwrap(), edition: 0 };
        secret.swap(files);
        for (name, _) in files {
            std::os::unix::fs::symlink(Path::new("..data").join(name), secret.at(name)).unwrap();
        }
        secret
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Swaps all files at once.
    fn swap(&mut self, files: &[(&str, &str)]) {
        self.edition += 1;
        let edition = format!("..{}", self.edition);
        std::fs::create_dir(self.at(&edition)).unwrap();
        for (name, text) in files {
            put(&self.at(&edition), name, text);
        }
        std::os::unix::fs::symlink(&edition, self.at("..new")).unwrap();
        std::fs::rename(self.at("..new"), self.at("..data")).unwrap();
    }
}

/// A gate with TLS by these settings.
fn gate(upstream: &Upstream, settings: TlsSettings) -> (Gate, Arc<ListenerTls>) {
    let world = World::new();
    let tls = Arc::new(ListenerTls::open(&"inbound".into(), settings, world.clock.clone()).unwrap());
    let (parts, held) = (Parts::of(&world), Arc::clone(&tls));
    (Gate::over(world, parts, upstream.address(), |_, listener| listener.tls = Some(held)), tls)
}

/// A caller that takes any certificate, to look at it.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        portreeve::mtls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// An open connection.
struct Connection(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Connection {
    fn to(
        address: SocketAddr,
        name: &str,
        own: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let builder = rustls::ClientConfig::builder_with_provider(portreeve::mtls::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any));
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(rustls::StreamOwned::new(session, stream))
    }

    /// Asks, and says which certificate was shown; `None`: there was no answer.
    fn ask(&mut self) -> Option<CertificateDer<'static>> {
        self.0.write_all(b"GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"hello") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).ok()?;
            seen.push(byte[0]);
        }
        self.0.conn.peer_certificates()?.first().cloned()
    }
}

fn shown(address: SocketAddr, name: &str) -> Option<CertificateDer<'static>> {
    Connection::to(address, name, None, rustls::ALL_VERSIONS).ask()
}

fn der(pair: &Pair) -> Option<CertificateDer<'static>> {
    Some(CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap())
}

fn failed_handshakes(gate: &Gate) -> u64 {
    let text = gate.metrics.render();
    let name = "portreeve_tls_handshakes_failed_total{listener=\"inbound\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

#[test]
fn the_certificate_is_that_of_the_name_asked_for() {
    let authority = Authority::new();
    let [exact, wild, other] = ["a.test", "*.b.test", "c.test"].map(|name| authority.certify(name, 2030));
    let folder = tempfile::tempdir().unwrap();
    let files = |index: usize, pair: &Pair, default| CertificateFiles {
        certificate: put(folder.path(), &format!("{index}.crt"), &pair.certificate),
        key: put(folder.path(), &format!("{index}.key"), &pair.key),
        default,
    };
    // An address asks for no name.
    let rows = [
        ("a.test", Some(&exact)),
        ("A.Test", Some(&exact)),
        ("x.a.test", None),
        ("x.b.test", Some(&wild)),
        ("b.test", None),
        ("x.y.b.test", None),
        ("c.test", Some(&other)),
        ("d.test", None),
        ("127.0.0.1", None),
    ];
    for default in [false, true] {
        let upstream = Upstream::hello();
        let certificates = vec![files(0, &exact, false), files(1, &wild, false), files(2, &other, default)];
        let (gate, _tls) = gate(&upstream, TlsSettings { certificates, ..TlsSettings::default() });
        let mut refused = 0;
        for (name, expected) in rows {
            let expected = expected.or(default.then_some(&other));
            refused += u64::from(expected.is_none());
            assert_eq!(shown(gate.running.address(), name), expected.and_then(der), "{name} {default}");
        }
        // A caller hears of it before it is counted.
        let begun = std::time::Instant::now();
        while failed_handshakes(&gate) != refused {
            assert!(begun.elapsed() < PATIENCE, "{} of {refused}", failed_handshakes(&gate));
            std::thread::yield_now();
        }
    }
    let twice = vec![files(0, &exact, false), files(3, &authority.certify("a.test", 2030), false)];
    let error = open_error(TlsSettings { certificates: twice, ..TlsSettings::default() });
    assert!(error.contains("3.crt") && error.contains("`a.test`"), "{error}");
}

fn open_error(settings: TlsSettings) -> String {
    ListenerTls::open(&"inbound".into(), settings, World::new().clock.clone()).unwrap_err().to_string()
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let (own, other) = (authority.certify("a.test", 2030), authority.certify("b.test", 2030));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| put(folder.path(), name, text);
    let (certificate, key) = (file("own.crt", &own.certificate), file("own.key", &own.key));
    let (foreign, empty, absent) =
        (file("other.key", &other.key), file("empty.pem", ""), folder.path().join("absent.pem"));
    let one = |certificate: &Path, key: &Path| TlsSettings::one(certificate.to_owned(), key.to_owned());
    let with_ca = |ca: &Path| TlsSettings {
        clients: Some((ClientAuthorities::File(ca.to_owned()), ClientCertificates::Required)),
        ..one(&certificate, &key)
    };
    let rows = [
        (one(&absent, &key), "absent.pem"),
        (one(&empty, &key), "empty.pem"),
        (one(&certificate, &certificate), "own.crt"),
        (one(&certificate, &foreign), "other.key"),
        (with_ca(&empty), "empty.pem"),
        (with_ca(&absent), "absent.pem"),
    ];
    for (settings, named) in rows {
        let error = open_error(settings);
        assert!(error.starts_with("listener `inbound`: ") && error.contains(named), "{error}");
        assert!(error.contains("expected"), "{error}");
    }
}

#[test]
fn a_swapped_secret_is_taken_over_without_ending_what_is_open() {
    let authority = Authority::new();
    let [first, second] = [2030, 2031].map(|until| authority.certify("a.test", until));
    let pair = |certificate: &Pair, key: &Pair| {
        [("tls.crt", certificate.certificate.clone()), ("tls.key", key.key.clone())]
    };
    let mut secret = Secret::new(&texts(&pair(&first, &first)));
    let upstream = Upstream::hello();
    let (gate, tls) = gate(&upstream, TlsSettings::one(secret.at("tls.crt"), secret.at("tls.key")));
    let address = gate.running.address();
    let mut open = Connection::to(address, "a.test", None, rustls::ALL_VERSIONS);
    assert_eq!(open.ask(), der(&first));

    // A key that is not the certificate's: what was before stays, and this is known.
    secret.swap(&texts(&pair(&second, &first)));
    tls.look();
    assert_eq!((shown(address, "a.test"), tls.is_refused()), (der(&first), true));
    tls.look();
    assert!(tls.is_refused(), "it is not forgotten");
    secret.swap(&texts(&pair(&second, &second)));
    tls.look();
    assert_eq!((shown(address, "a.test"), tls.is_refused()), (der(&second), false));
    let ends = |until| rcgen::date_time_ymd(until, 1, 1).unix_timestamp();
    assert_eq!(tls.validity().unwrap().1.as_micros(), ends(2031) * 1_000_000);
    assert_eq!(open.ask(), der(&first), "what was open goes on");
    assert_eq!(failed_handshakes(&gate), 0);
}

fn texts<'a>(files: &'a [(&'static str, String); 2]) -> [(&'static str, &'a str); 2] {
    [(files[0].0, files[0].1.as_str()), (files[1].0, files[1].1.as_str())]
}

/// A hundred rotations, and no handshake that fails.
#[test]
fn rotations_fail_no_handshake() {
    let authority = Authority::new();
    let pairs = [2030, 2031].map(|until| authority.certify("a.test", until));
    let files = |at: usize| {
        let pair = &pairs[at % 2];
        [("tls.crt", pair.certificate.clone()), ("tls.key", pair.key.clone())]
    };
    let mut secret = Secret::new(&texts(&files(0)));
    let upstream = Upstream::hello();
    let (gate, tls) = gate(&upstream, TlsSettings::one(secret.at("tls.crt"), secret.at("tls.key")));
    let address = gate.running.address();
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let caller = std::thread::spawn(move || {
        let mut count = 0;
        while !told.load(Ordering::SeqCst) {
            assert!(shown(address, "a.test").is_some(), "handshake {count}");
            count += 1;
        }
        count
    });
    for at in 1..=100 {
        secret.swap(&texts(&files(at)));
        tls.look();
        assert!(!tls.is_refused(), "{at}");
    }
    over.store(true, Ordering::SeqCst);
    assert!(caller.join().unwrap() > 0);
    assert_eq!(shown(address, "a.test"), der(&pairs[0]));
    assert_eq!(failed_handshakes(&gate), 0);
}

#[test]
fn an_expired_certificate_begins_no_connection_and_ends_none() {
    let authority = Authority::new();
    let own = authority.certify("a.test", 2027);
    let folder = tempfile::tempdir().unwrap();
    let settings = TlsSettings::one(
        put(folder.path(), "tls.crt", &own.certificate),
        put(folder.path(), "tls.key", &own.key),
    );
    let upstream = Upstream::hello();
    let (gate, _tls) = gate(&upstream, settings);
    let address = gate.running.address();
    let mut open = Connection::to(address, "a.test", None, rustls::ALL_VERSIONS);
    assert_eq!(open.ask(), der(&own));
    gate.world.clock.advance(Duration::from_secs(39 * 86_400));
    assert_eq!(shown(address, "a.test"), der(&own), "the last day of 2026");
    gate.world.clock.advance(Duration::from_secs(2 * 86_400));
    assert_eq!(shown(address, "a.test"), None);
    assert_eq!(open.ask(), der(&own));
}

#[test]
fn the_least_version_holds() {
    let own = Authority::new().certify("a.test", 2030);
    let folder = tempfile::tempdir().unwrap();
    let one = TlsSettings::one(
        put(folder.path(), "tls.crt", &own.certificate),
        put(folder.path(), "tls.key", &own.key),
    );
    let (tls12, tls13) = ([&rustls::version::TLS12], [&rustls::version::TLS13]);
    for (version_min, old) in [(TlsVersion::Tls12, true), (TlsVersion::Tls13, false)] {
        let upstream = Upstream::hello();
        let (gate, _tls) = gate(&upstream, TlsSettings { version_min, ..one.clone() });
        let asked =
            |versions: &[_]| Connection::to(gate.running.address(), "a.test", None, versions).ask().is_some();
        assert_eq!((asked(&tls12), asked(&tls13)), (old, true), "{version_min:?}");
    }
}

#[test]
fn authorities_of_callers_are_taken_over() {
    let (before, after) = (Authority::new(), Authority::new());
    let own = before.certify("a.test", 2030);
    let callers = [before.certify("caller.test", 2030), after.certify("caller.test", 2030)];
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| put(folder.path(), name, text);
    let ca = file("ca.pem", &before.certificate);
    let settings = TlsSettings {
        clients: Some((ClientAuthorities::File(ca), ClientCertificates::Required)),
        ..TlsSettings::one(file("tls.crt", &own.certificate), file("tls.key", &own.key))
    };
    let upstream = Upstream::hello();
    let (gate, tls) = gate(&upstream, settings);
    let taken = |own: Option<&Pair>| {
        Connection::to(gate.running.address(), "a.test", own, rustls::ALL_VERSIONS).ask().is_some()
    };
    assert_eq!([taken(Some(&callers[0])), taken(Some(&callers[1])), taken(None)], [true, false, false]);
    file("ca.pem", &after.certificate);
    tls.look();
    assert_eq!([taken(Some(&callers[0])), taken(Some(&callers[1])), taken(None)], [false, true, false]);
}
