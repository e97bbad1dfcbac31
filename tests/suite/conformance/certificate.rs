//! Client certificates: standards §2, §6 and §7, threats T35 and T36.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portreeve::core::credential::ClientCertificate;
use portreeve::core::identity::{
    Binding, Credential, CredentialKind, CredentialStatus, Issuer, Record, TokenProfile,
};
use portreeve::core::policy::{Exchange, Reason};
use portreeve::core::time::Timestamp;
use portreeve::pep::{
    CallerCertificates, ClientAuthorities, ClientCertificates, ForwardedCertificates, ForwardedHeader,
    ListenerTls, TlsSettings,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use super::dpop;
use crate::support::clock::ManualClock;
use crate::support::front::Gate;
use crate::support::issuer::base64url;
use crate::support::upstream::Upstream;
use crate::support::world::{World, identity, name};

const DOMAIN: &str = "spiffe://acme.example";
const LEDGER: &str = "spiffe://acme.example/ns/pay/ledger";
const START: Timestamp = ManualClock::START;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(START.as_seconds() + seconds)
}

/// The certificate of `ledger`, an hour long and begun a minute ago.
fn svid() -> ClientCertificate {
    ClientCertificate {
        thumbprint: [7; 32],
        serial: "0a".into(),
        uris: vec![LEDGER.into()],
        hosts: Vec::new(),
        mails: Vec::new(),
        is_authority: false,
        signs: true,
        not_before: at(-60),
        not_after: at(3539),
        issuer: Some(DOMAIN.into()),
        voucher: None,
    }
}

fn certificates_of(iss: &str, profile: TokenProfile) -> Record {
    let algorithms = if profile == TokenProfile::X509 {
        Vec::new()
    } else {
        vec![portreeve::core::credential::Algorithm::Es256]
    };
    Record::Issuer(Arc::new(Issuer::new(
        iss.into(),
        profile,
        algorithms,
        Vec::new(),
        3600,
        Arc::from(Vec::new()),
    )))
}

/// `ledger`, also known by its SPIFFE ID, and by names that another authority vouches for.
fn world() -> World {
    let world = World::new();
    prepare(&world);
    world
}

fn prepare(world: &World) {
    let mut ledger = identity("ledger");
    let bound = [
        ("td", LEDGER),
        ("ca", "dns:ledger.acme.example"),
        ("ca", "uri:urn:ledger"),
        ("ca", "email:ledger@acme.example"),
    ];
    ledger
        .bindings
        .extend(bound.map(|(issuer, subject)| Binding { issuer: name(issuer), subject: subject.into() }));
    world.put(vec![
        ("td", 1, certificates_of(DOMAIN, TokenProfile::X509)),
        ("ca", 1, certificates_of("ca.acme.example", TokenProfile::X509)),
        ("ledger", 1, Record::Identity(Arc::new(ledger))),
    ]);
}

fn ask(world: &World, certificate: ClientCertificate) -> Exchange {
    let exchange = world.exchange(None, "GET", "/orders/1");
    Exchange { certificate: Some(Arc::new(certificate)), ..exchange }
}

fn texts(values: &[&str]) -> Vec<Arc<str>> {
    values.iter().map(|value| Arc::from(*value)).collect()
}

#[test]
fn rows() {
    let (unverified, expired) = (Some(Reason::CredentialUnverified), Some(Reason::CredentialExpired));
    let (unknown, nobody) = (Some(Reason::IssuerUnknown), Some(Reason::IdentityUnknown));
    let other = |hosts: &[&str], uris: &[&str], mails: &[&str]| ClientCertificate {
        hosts: texts(hosts),
        uris: texts(uris),
        mails: texts(mails),
        signs: false,
        issuer: Some("ca.acme.example".into()),
        ..svid()
    };
    let uris = |uris: &[&str]| ClientCertificate { uris: texts(uris), ..svid() };
    let rows: Vec<(&str, ClientCertificate, Option<Reason>)> = vec![
        ("§7 one URI", svid(), None),
        ("§7 host names beside it", ClientCertificate { hosts: texts(&["a", "b"]), ..svid() }, None),
        ("T35 two URIs", uris(&[LEDGER, "spiffe://acme.example/x"]), unverified),
        ("T35 the same URI twice", uris(&[LEDGER, LEDGER]), unverified),
        ("T35 no URI", ClientCertificate { hosts: texts(&["ledger.acme.example"]), ..uris(&[]) }, unverified),
        ("T35 other trust domain", uris(&["spiffe://other.example/ns/pay/ledger"]), unverified),
        ("§7 the domain itself", uris(&[DOMAIN]), unverified),
        ("§7 upper case", uris(&["spiffe://ACME.example/ns/pay/ledger"]), unverified),
        ("§7 escaped", uris(&["spiffe://acme.example/ns/pay/%6cedger"]), unverified),
        ("§7 nobody's", uris(&["spiffe://acme.example/ns/pay/other"]), nobody),
        ("§7 an authority's", ClientCertificate { is_authority: true, ..svid() }, unverified),
        ("§7 key that does not sign", ClientCertificate { signs: false, ..svid() }, unverified),
        ("T35 in its last second", ClientCertificate { not_after: at(0), ..svid() }, None),
        ("T35 over", ClientCertificate { not_after: at(-1), ..svid() }, expired),
        ("begins within the skew", ClientCertificate { not_before: at(30), ..svid() }, None),
        ("begins later", ClientCertificate { not_before: at(31), ..svid() }, expired),
        ("as long as it may be", ClientCertificate { not_after: at(3540), ..svid() }, None),
        ("longer", ClientCertificate { not_after: at(3541), ..svid() }, expired),
        ("listener names no issuer", ClientCertificate { issuer: None, ..svid() }, unverified),
        (
            "listener names an unknown one",
            ClientCertificate { issuer: Some("spiffe://x".into()), ..svid() },
            unknown,
        ),
        (
            "listener names one of tokens",
            ClientCertificate { issuer: Some("https://issuer.test".into()), ..svid() },
            unknown,
        ),
        ("one host", other(&["ledger.acme.example"], &[], &[]), None),
        ("one host, one URI", other(&["ledger.acme.example"], &[LEDGER], &[]), None),
        ("two hosts", other(&["ledger.acme.example", "b"], &["urn:ledger"], &[]), unverified),
        ("one URI", other(&[], &["urn:ledger"], &["x@y"]), None),
        ("one mail name", other(&[], &[], &["ledger@acme.example"]), None),
        ("two mail names", other(&[], &[], &["ledger@acme.example", "x@y"]), unverified),
        ("T35 no name at all", other(&[], &[], &[]), unverified),
        ("SPIFFE ID under another authority", other(&[], &[LEDGER], &[]), nobody),
    ];
    for (what, certificate, expected) in rows {
        let world = world();
        assert_eq!(world.decide(&ask(&world, certificate)), expected, "{what}");
    }
}

#[test]
fn one_that_the_hub_knows_needs_no_name() {
    let record = |identity: &str, status, expires| {
        Record::Credential(Arc::new(Credential {
            kind: CredentialKind::Certificate,
            identity: Some(name(identity)),
            fingerprint: [7; 32],
            digest: None,
            issued: None,
            rotate_by: Some(at(0)),
            expires,
            status,
            source: None,
        }))
    };
    let (active, revoked) = (CredentialStatus::Active, CredentialStatus::Revoked);
    let rows = [
        (record("ledger", active, None), None),
        (record("ledger", active, Some(at(0))), Some(Reason::CredentialExpired)),
        (record("ledger", revoked, None), Some(Reason::CredentialRevoked)),
        (record("gone", active, None), Some(Reason::IdentityUnknown)),
    ];
    for (record, expected) in rows {
        for issuer in [None, Some(DOMAIN.into())] {
            let world = world();
            world.put(vec![("cert-1", 1, record.clone())]);
            let certificate = ClientCertificate { uris: Vec::new(), issuer, ..svid() };
            assert_eq!(world.decide(&ask(&world, certificate)), expected, "{record:?}");
            if expected.is_none() {
                assert_eq!(world.log.last_verdict().warnings(), [Reason::HygieneRotationOverdue]);
            }
        }
    }
    let world = world();
    world.put(vec![
        ("cert-1", 1, record("other", active, None)),
        ("other", 1, Record::Identity(Arc::new(identity("other")))),
    ]);
    assert_eq!(world.decide(&ask(&world, svid())), None);
    assert_eq!(
        world.log.last_verdict().basis().principal.as_ref().unwrap().name(),
        &name("other"),
        "the record counts"
    );
}

#[test]
fn a_token_counts_before_the_certificate() {
    let world = world();
    world.put_identity("reports", 1, identity("reports"));
    let token = world.token(&world.claims("reports"));
    let exchange =
        Exchange { certificate: Some(Arc::new(svid())), ..world.exchange(Some(&token), "GET", "/orders/1") };
    assert_eq!(world.decide(&exchange), None);
    assert_eq!(world.log.last_verdict().basis().principal.as_ref().unwrap().name(), &name("reports"));
    let bad =
        Exchange { certificate: Some(Arc::new(svid())), ..world.exchange(Some("a.b.c"), "GET", "/orders/1") };
    assert_eq!(world.decide(&bad), Some(Reason::CredentialMalformed), "a bad token is not passed over");
}

#[test]
fn tokens_bound_to_a_certificate() {
    let world = world();
    let mut claims = world.claims("ledger");
    claims["cnf"] = json!({ "x5t#S256": base64url(&[7; 32]) });
    let token = world.token(&claims);
    let with = |certificate: Option<ClientCertificate>| Exchange {
        certificate: certificate.map(Arc::new),
        ..world.exchange(Some(&token), "GET", "/orders/1")
    };
    let unbound = Some(Reason::CredentialUnbound);
    for round in ["first", "remembered"] {
        assert_eq!(world.decide(&with(None)), unbound, "RFC 8705 no certificate, {round}");
        let other = ClientCertificate { thumbprint: [8; 32], ..svid() };
        assert_eq!(world.decide(&with(Some(other))), unbound, "RFC 8705 another certificate, {round}");
        assert_eq!(world.decide(&with(Some(svid()))), None, "RFC 8705 its certificate, {round}");
    }
    assert!(world.log.last_verdict().basis().verification_cached);
    let expired = Some(Reason::CredentialExpired);
    for (what, certificate, expected) in [
        ("begins within the skew", ClientCertificate { not_before: at(30), ..svid() }, None),
        ("begins later", ClientCertificate { not_before: at(31), ..svid() }, expired),
        ("ends now", ClientCertificate { not_after: at(0), ..svid() }, None),
        ("is over", ClientCertificate { not_after: at(-1), ..svid() }, expired),
    ] {
        assert_eq!(world.decide(&with(Some(certificate))), expected, "RFC 8705 {what}");
        if what == "ends now" {
            assert_eq!(world.log.last_verdict().basis().until, Some(at(1)));
        }
    }
    for (record, expected) in dpop::bound_rows(CredentialKind::Certificate, [7; 32], START) {
        world.put(vec![("shown", 1, Record::Credential(Arc::new(record.clone())))]);
        assert_eq!(world.decide(&with(Some(svid()))), expected, "{record:?}");
    }
}

/// An authority, and certificates that it signs.
struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn sign(&self, uris: &[&str], hosts: &[&str]) -> (CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::default();
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let hosts = hosts.iter().map(|host| SanType::DnsName((*host).try_into().unwrap()));
        params.subject_alt_names = uris.chain(hosts).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }
}

/// What an authority may sign that another vouches for: host names below `acme.example` and nothing else.
fn constrained(above: &Authority) -> (Authority, CertificateDer<'static>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "constrained");
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("acme.example".into())],
        excluded_subtrees: vec![rcgen::GeneralSubtree::DnsName("prod.acme.example".into())],
    });
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &above.issuer).unwrap();
    let pem = certificate.pem();
    let der = certificate.der().clone();
    (Authority { issuer: rcgen::Issuer::new(params, key), pem }, der)
}

fn tls(folder: &Path, authority: &Authority) -> (TlsSettings, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["orders.test".to_owned()]).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let (certificate, key) =
        (write("tls.crt", &made.cert.pem()), write("tls.key", &made.signing_key.serialize_pem()));
    let authorities = ClientAuthorities::File(write("clients.pem", &authority.pem));
    let clients = Some((authorities, ClientCertificates::Optional));
    (TlsSettings { clients, ..TlsSettings::one(certificate, key) }, roots)
}

/// The status of a request over TLS with a certificate, or none.
fn over_tls(
    address: SocketAddr,
    roots: &rustls::RootCertStore,
    own: Option<&(CertificateDer<'static>, KeyPair)>,
    lines: &str,
) -> u16 {
    over_tls_with(address, roots, own, &[], lines)
}

/// The same, with further certificates shown behind the first.
fn over_tls_with(
    address: SocketAddr,
    roots: &rustls::RootCertStore,
    own: Option<&(CertificateDer<'static>, KeyPair)>,
    behind: &[CertificateDer<'static>],
    lines: &str,
) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone());
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let chain = [std::slice::from_ref(certificate), behind].concat();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let session = rustls::ClientConnection::new(Arc::new(config), "orders.test".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(address).unwrap());
    let text = format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nConnection: close\r\n{lines}\r\n");
    // A certificate that is not taken ends the connection, before or after this.
    drop(stream.write_all(text.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or("0").parse().unwrap()
}

/// Long-lived certificates for tests whose clock is not the host's.
pub(crate) fn prepare_for_long(world: &World) {
    prepare(world);
    let long = Issuer::new(
        DOMAIN.into(),
        TokenProfile::X509,
        Vec::new(),
        Vec::new(),
        u32::MAX,
        Arc::from(Vec::new()),
    );
    world.put(vec![("td", 1, Record::Issuer(Arc::new(long)))]);
}

#[test]
fn over_real_connections() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (settings, roots) = tls(folder.path(), &authority);
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |proxy, listener| {
        proxy.certificates = CallerCertificates { issuer: Some(DOMAIN.into()), forwarded: None };
        let tls = ListenerTls::open(&listener.name, settings, Arc::new(ManualClock::new()));
        listener.tls = Some(Arc::new(tls.unwrap()));
    });
    prepare_for_long(&gate.world);
    let good = authority.sign(&[LEDGER], &["ledger.acme.example"]);
    let ask = |own: Option<&(CertificateDer<'static>, KeyPair)>, lines: &str| {
        over_tls(gate.running.address(), &roots, own, lines)
    };
    assert_eq!(ask(Some(&good), ""), 200);
    assert_eq!(upstream.next().one("x-portreeve-identity"), Some("ledger"));
    let verdict = gate.world.log.last_verdict();
    assert_eq!(verdict.basis().verified.as_ref().unwrap().kind().as_str(), "certificate");
    assert_eq!(ask(None, ""), 401);
    assert_eq!(ask(Some(&authority.sign(&[LEDGER, "spiffe://acme.example/x"], &[])), ""), 401, "T35");
    assert_eq!(ask(Some(&authority.sign(&[], &["ledger.acme.example"])), ""), 401, "T35");
    assert_eq!(
        ask(Some(&Authority::new().sign(&[LEDGER], &[])), ""),
        0,
        "another authority's ends the connection"
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &good.0);
    let mut claims = gate.world.claims("ledger");
    claims["cnf"] = json!({ "x5t#S256": base64url(digest.as_ref()) });
    let line = format!("Authorization: Bearer {}\r\n", gate.world.token(&claims));
    assert_eq!(ask(Some(&good), &line), 200, "RFC 8705");
    assert_eq!(ask(None, &line), 401, "RFC 8705");
    let renewed = authority.sign(&[LEDGER], &[]);
    assert_eq!(ask(Some(&renewed), &line), 401, "RFC 8705");
    let forged = format!("Client-Cert: :{}:\r\n", STANDARD.encode(&good.0));
    assert_eq!(ask(None, &forged), 401, "T36");
}

#[test]
fn what_an_authority_may_not_sign_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (settings, roots) = tls(folder.path(), &authority);
    let upstream = Upstream::hello();
    let gate = Gate::with(upstream.address(), |proxy, listener| {
        proxy.certificates = CallerCertificates { issuer: Some(DOMAIN.into()), forwarded: None };
        let tls = ListenerTls::open(&listener.name, settings, Arc::new(ManualClock::new()));
        listener.tls = Some(Arc::new(tls.unwrap()));
    });
    prepare_for_long(&gate.world);
    let (below, shown) = constrained(&authority);
    let ask = |hosts: &[&str], behind: &[CertificateDer<'static>]| {
        let own = below.sign(&[LEDGER], hosts);
        over_tls_with(gate.running.address(), &roots, Some(&own), behind, "")
    };
    let shown = [shown];
    assert_eq!(ask(&["ledger.acme.example"], &shown), 200, "T35 within its names");
    upstream.next();
    assert_eq!(ask(&["ledger.acme.example"], &[]), 0, "T35 without the one between");
    for host in ["ledger.evil.example", "notacme.example", "ledger.prod.acme.example"] {
        assert_eq!(ask(&[host], &shown), 0, "T35 {host}");
        assert_eq!(ask(&["ledger.acme.example", host], &shown), 0, "T35 {host} beside a good one");
    }
    assert!(upstream.is_untouched());
}

#[test]
fn a_certificate_is_believed_from_configured_peers_only() {
    let upstream = Upstream::hello();
    let authority = Authority::new();
    let good = authority.sign(&[LEDGER], &[]).0;
    let double = authority.sign(&[LEDGER, "spiffe://acme.example/x"], &[]).0;
    let pem = |der: &CertificateDer<'_>| {
        format!(
            "-----BEGIN CERTIFICATE-----%0A{}%0A-----END CERTIFICATE-----%0A",
            STANDARD.encode(der).replace('+', "%2B")
        )
        .replace(' ', "%20")
    };
    let xfcc = |der: &CertificateDer<'_>| {
        format!("X-Forwarded-Client-Cert: Hash=aa;Cert=\"{}\";URI={LEDGER}\r\n", pem(der))
    };
    let own = |der: &CertificateDer<'_>| format!("Client-Cert: :{}:\r\n", STANDARD.encode(der));
    for (header, line) in [
        (ForwardedHeader::Xfcc, &xfcc as &dyn Fn(&CertificateDer<'_>) -> String),
        (ForwardedHeader::ClientCert, &own),
    ] {
        for (network, trusted) in [([127, 0, 0, 0], true), ([10, 0, 0, 0], false)] {
            let gate = Gate::with(upstream.address(), |proxy, _| {
                let forwarded = ForwardedCertificates { header, peers: Arc::from([(network.into(), 8)]) };
                proxy.certificates =
                    CallerCertificates { issuer: Some(DOMAIN.into()), forwarded: Some(forwarded) };
            });
            prepare_for_long(&gate.world);
            let ask = |lines: &str| {
                gate.caller()
                    .ask(&format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n"))
                    .status
            };
            assert_eq!(ask(&line(&good)), if trusted { 200 } else { 401 }, "T36 {header:?}");
            if trusted {
                let arrived = upstream.next();
                assert_eq!(
                    (arrived.one("x-forwarded-client-cert"), arrived.one("client-cert")),
                    (None, None)
                );
            }
            assert_eq!(ask(&line(&double)), 401, "T35 {header:?}");
            assert_eq!(ask(""), 401);
            let twice = format!("{0}{0}", line(&good));
            assert_eq!(ask(&twice), if trusted { 400 } else { 401 }, "{header:?}");
            let alias = line(&good).replacen('-', "_", 1);
            assert_eq!(ask(&alias), 401, "T36 {header:?}");
        }
    }
}
