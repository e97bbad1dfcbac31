//! Front doors, as run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::listener as raw;
use crate::config::run::callers::{self, CallerCertificates};
use crate::config::run::carriers::{self, Carriers};
use crate::config::run::check::Check;
use crate::config::run::route::{self, Defaults, Route};
use crate::config::run::workload;
use crate::core::evidence::Door;
use crate::core::policy::RouteRules;

/// A front door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its name in evidence and metrics.
    pub name: Arc<str>,
    /// Where it listens; port 0: any free one.
    pub address: SocketAddr,
    /// Where credentials are looked for.
    pub carriers: Carriers,
    /// Bounds of its connections.
    pub limits: Limits,
    /// Most records a second of refusals before an identity is resolved; 1 to 1,000,000.
    pub unresolved_refusals_per_s: u32,
    /// What it speaks.
    pub kind: ListenerKind,
}

impl Listener {
    /// The kind of door, as the core names it.
    pub const fn door(&self) -> Door {
        match self.kind {
            ListenerKind::Proxy(_) => Door::Proxy,
            ListenerKind::ExtAuthz(_) => Door::ExtAuthz,
        }
    }
}

/// What a listener speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenerKind {
    /// The reverse proxy: HTTP/1.1 and HTTP/2.
    Proxy(ProxyListener),
    /// Envoy's external authorization, gRPC.
    ExtAuthz(ExtAuthzListener),
}

/// The reverse proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyListener {
    /// Its certificate; `None`: cleartext.
    pub tls: Option<Tls>,
    /// Which certificate is a caller's.
    pub certificates: CallerCertificates,
    /// Tried in this order; at least one.
    pub routes: Arc<[Route]>,
}

/// Envoy's external authorization.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtAuthzListener {
    /// The key of the context extensions under which a check names its service.
    pub service_key: Arc<str>,
    /// Whether the certificate counts that Envoy says it validated.
    pub takes_certificates: bool,
    /// The `iss` of the issuer whose certificates callers show.
    pub client_issuer: Option<Arc<str>>,
    /// The rules of every check; its upstream is empty.
    pub rules: Arc<RouteRules>,
}

/// Certificates by name, and which certificates clients may show. Files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// At most one of them the default.
    pub certificates: Vec<Certificate>,
    /// Whether the first certificate of the Workload API is shown instead: there are none then.
    pub from_workload_api: bool,
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
    /// Whose client certificates are accepted; `None`: none is asked for.
    pub clients: Option<ClientCertificates>,
}

/// The files of one certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The certificate, then its chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Whether it is shown to clients that ask for no name, or for one that no certificate is for.
    pub default: bool,
}

/// Whose client certificates are accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificates {
    /// Who vouches for them.
    pub ca: Authorities,
    /// Whether a client must show one.
    pub required: bool,
}

/// Who vouches for client certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authorities {
    /// Those in a file.
    File(PathBuf),
    /// The Workload API's bundle of this trust domain.
    WorkloadApi(Arc<str>),
}

/// Bounds of a listener's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most open connections; 1 to 1,000,000.
    pub max_connections: usize,
    /// Longest wait for the head of a request; 100 ms to 10 min.
    pub header_timeout: Duration,
    /// Most bytes of the head of a request; 8 KiB to 1 MiB.
    pub max_header_bytes: u32,
    /// Most open HTTP/2 streams of one connection; 1 to 10,000.
    pub max_concurrent_streams: u32,
    /// How long a caller may take to take the end of an exchange that is allowed no more; 10 to 900 ms.
    pub end_timeout: Duration,
    /// Most requests under way; 1 to 1,000,000.
    pub max_requests: usize,
    /// How long a connection may be without a request; 1 s to 1 h.
    pub idle_timeout: Duration,
    /// How long a caller may take nothing of the answers that are there for it; 1 s to 1 h.
    pub send_timeout: Duration,
    /// Most header lines of a request; 10 to 1000.
    pub max_headers: usize,
    /// Most bytes of a request's target; 64 B to 64 KiB.
    pub max_uri_bytes: usize,
    /// Most bytes of a request's body; 0 to 16 TiB; `None`: any.
    pub max_body_bytes: Option<u64>,
    /// Longest silence within a request's body; 1 s to 1 h.
    pub body_timeout: Duration,
    /// Least bytes a second of a request's body that is waited for; 0 to 1 MiB; 0: any.
    pub min_body_rate: u64,
    /// Most HTTP/2 streams of one connection that the caller may reset in 30 s; 1 to 100,000.
    pub max_resets: u32,
    /// Most HTTP/2 control frames of one connection in 30 s; 100 to 1,000,000.
    pub max_control_frames: u32,
}

pub(super) fn listeners(
    check: &mut Check<'_>,
    raw: &[raw::Listener],
    defaults: &Defaults<'_>,
) -> Option<Vec<Listener>> {
    let key = Key::root().field("listeners");
    if raw.is_empty() {
        check.refuse(
            &key,
            "an empty list",
            "at least one listener",
            "add one of kind `proxy` or `ext_authz`",
        );
        return None;
    }
    unique_names(check, &key, raw);
    // All are judged before the first that failed ends the collecting.
    let judged: Vec<_> =
        raw.iter().enumerate().map(|(index, raw)| listener(check, &key.item(index), raw, defaults)).collect();
    judged.into_iter().collect()
}

fn unique_names(check: &mut Check<'_>, key: &Key, raw: &[raw::Listener]) {
    let name = |raw: &'_ raw::Listener| match raw {
        raw::Listener::Proxy(raw) => raw.name.clone(),
        raw::Listener::ExtAuthz(raw) => raw.name.clone(),
    };
    let names: Vec<String> = raw.iter().map(name).collect();
    for (index, name) in names.iter().enumerate() {
        if let Some(first) = names.iter().take(index).position(|other| other == name) {
            let line = check.line(&key.item(first).field("name"));
            let found = format!("{}, the name of the listener on line {line}", quoted(name));
            check.refuse(&key.item(index).field("name"), found, "a name of its own", "choose another name");
        }
    }
}

fn listener(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::Listener,
    defaults: &Defaults<'_>,
) -> Option<Listener> {
    let (name, address, budget, limits, resets) = match raw {
        raw::Listener::Proxy(raw) => {
            (&raw.name, &raw.address, raw.unresolved_refusals_per_s, &raw.limits, RESETS)
        }
        raw::Listener::ExtAuthz(raw) => {
            (&raw.name, &raw.address, raw.unresolved_refusals_per_s, &raw.limits, RESETS_OF_ALL)
        }
    };
    let own = match raw {
        raw::Listener::Proxy(raw) => &raw.carriers,
        raw::Listener::ExtAuthz(raw) => &raw.carriers,
    };
    let carriers = match own {
        Some(own) => carriers::carriers(check, &key.field("carriers"), own),
        None => defaults.carriers.clone(),
    };
    let name = check.name(&key.field("name"), name);
    let address = check.address(&key.field("address"), address);
    let budget = check.number(&key.field("unresolved_refusals_per_s"), budget, 1..=1_000_000);
    let limits = self::limits(check, &key.field("limits"), limits, resets);
    let kind = match raw {
        raw::Listener::Proxy(raw) => proxy(check, key, raw, defaults).map(ListenerKind::Proxy),
        raw::Listener::ExtAuthz(raw) => ext_authz(check, key, raw, defaults).map(ListenerKind::ExtAuthz),
    };
    let clear = !matches!(raw, raw::Listener::Proxy(raw::ProxyListener { tls: Some(_), .. }));
    if clear && address.is_some_and(|address| !address.ip().to_canonical().is_loopback()) {
        check.warn(
            &key.field("address"),
            "credentials cross the network in clear: not a loopback address, and no TLS",
        );
    }
    Some(Listener {
        name: Arc::from(name?.as_str()),
        address: address?,
        carriers: carriers?,
        limits: limits?,
        unresolved_refusals_per_s: budget?,
        kind: kind?,
    })
}

fn proxy(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::ProxyListener,
    defaults: &Defaults<'_>,
) -> Option<ProxyListener> {
    let tls = raw.tls.as_ref().map(|tls| self::tls(check, key, tls, raw.client_issuer.as_ref(), defaults));
    let forwarded_key = key.field("forwarded_client_certificate");
    let forwarded =
        raw.forwarded_client_certificate.as_ref().map(|raw| callers::forwarded(check, &forwarded_key, raw));
    let asked = forwarded.is_some()
        || raw.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some() || tls.client_ca_from.is_some());
    let issuer = callers::issuer(check, &key.field("client_issuer"), raw.client_issuer.as_ref(), asked);
    let proofs = callers::proofs(check, key, raw.public_url.as_ref(), raw.dpop_nonces);
    let asked = proofs.clone().unwrap_or_default();
    let routes = route::routes(check, &key.field("routes"), &raw.routes, &asked, defaults);
    proofs?;
    let forwarded = match forwarded {
        Some(forwarded) => Some(forwarded?),
        None => None,
    };
    let tls = match tls {
        Some(tls) => Some(tls?),
        None => None,
    };
    let certificates = CallerCertificates { issuer, forwarded };
    Some(ProxyListener { tls, certificates, routes: routes? })
}

fn tls(
    check: &mut Check<'_>,
    listener: &Key,
    raw: &raw::Tls,
    issuer: Option<&String>,
    defaults: &Defaults<'_>,
) -> Option<Tls> {
    let key = listener.field("tls");
    let from_workload_api = raw.certificate_from.is_some();
    let certificates = if from_workload_api {
        live_certificate(check, &key, raw, defaults.workload_api)
    } else {
        certificates(check, &key.field("certificates"), &raw.certificates)
    };
    let ca = raw.client_ca.as_ref().map(|ca| check.path(&key.field("client_ca"), ca).map(Authorities::File));
    let live = raw.client_ca_from.map(|raw::LiveSource::WorkloadApi| {
        live_authorities(check, listener, issuer, raw.client_ca.is_some(), defaults.workload_api)
    });
    let ca = live.or(ca);
    let mode_key = key.field("client_certificates");
    let none = raw.client_certificates == Some(raw::ClientCertificates::None);
    if none && ca.is_some() {
        let expected = "`optional` or `required` beside `client_ca`";
        check.refuse(
            &mode_key,
            "`none` beside `client_ca`",
            expected,
            "write one of them, or remove `client_ca`",
        );
    }
    if raw.client_certificates.is_some() && !none && ca.is_none() {
        let expected = "`client_ca` beside it, which says who vouches for client certificates";
        check.refuse(&mode_key, "no `client_ca`", expected, "add `client_ca`, or remove the key");
    }
    let required = raw.client_certificates == Some(raw::ClientCertificates::Required);
    let clients = match ca {
        Some(ca) => Some(ClientCertificates { ca: ca?, required }),
        None => None,
    };
    let tls13_only = raw.min_version == raw::TlsVersion::Tls13;
    Some(Tls { certificates: certificates?, from_workload_api, tls13_only, clients })
}

fn certificates(check: &mut Check<'_>, key: &Key, raw: &[raw::Certificate]) -> Option<Vec<Certificate>> {
    if raw.is_empty() {
        check.refuse(
            key,
            "an empty list",
            "at least one certificate",
            "add `{ certificate: FILE, key: FILE }`",
        );
        return None;
    }
    let mut defaults = raw.iter().enumerate().filter(|(_, files)| files.default == Some(true));
    if let Some((second, _)) = defaults.nth(1) {
        let expected = "at most one certificate with `default: true`";
        check.refuse(&key.item(second).field("default"), "a second default", expected, "remove one of them");
    }
    let judged = raw.iter().enumerate().map(|(index, files)| {
        let key = key.item(index);
        let certificate = check.path(&key.field("certificate"), &files.certificate);
        let private = check.path(&key.field("key"), &files.key);
        let default = files.default.unwrap_or(raw.len() == 1);
        Some(Certificate { certificate: certificate?, key: private?, default })
    });
    // All are judged before the first that failed ends the collecting.
    let judged: Vec<_> = judged.collect();
    judged.into_iter().collect()
}

/// No certificates from files: the Workload API's is shown.
fn live_certificate(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::Tls,
    there: bool,
) -> Option<Vec<Certificate>> {
    let key = key.field("certificate_from");
    workload::needed(check, &key, there);
    if !raw.certificates.is_empty() {
        let found = "`certificates` beside it";
        check.refuse(&key, found, "either files or this", "remove one of them");
    }
    (there && raw.certificates.is_empty()).then(Vec::new)
}

/// The bundle of the one trust domain whose certificates the listener takes.
fn live_authorities(
    check: &mut Check<'_>,
    listener: &Key,
    issuer: Option<&String>,
    also_file: bool,
    there: bool,
) -> Option<Authorities> {
    let key = listener.field("tls").field("client_ca_from");
    if also_file {
        check.refuse(&key, "`client_ca` beside it", "one of the two", "remove one of them");
    }
    workload::needed(check, &key, there);
    let Some(issuer) = issuer else {
        let expected = "`client_issuer` of the listener, the trust domain whose bundle vouches";
        check.refuse(&key, "no `client_issuer`", expected, "add `client_issuer: \"spiffe://…\"`");
        return None;
    };
    let sound = workload::trust_domain(check, &listener.field("client_issuer"), issuer);
    (sound && there && !also_file).then(|| Authorities::WorkloadApi(Arc::from(issuer.as_str())))
}

fn ext_authz(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::ExtAuthzListener,
    defaults: &Defaults<'_>,
) -> Option<ExtAuthzListener> {
    let service_key = service_key(check, &key.field("service_from"), &raw.service_from);
    let takes_certificates = raw.client_certificates_validated_by_envoy;
    let issuer_key = key.field("client_issuer");
    let client_issuer = callers::issuer(check, &issuer_key, raw.client_issuer.as_ref(), takes_certificates);
    let proofs = callers::proofs(check, key, raw.public_url.as_ref(), raw.dpop_nonces);
    let rules = route::check_rules(check, key, raw, &proofs.clone().unwrap_or_default(), defaults);
    proofs?;
    Some(ExtAuthzListener {
        service_key: service_key?,
        takes_certificates,
        client_issuer,
        rules: Arc::new(rules?),
    })
}

fn service_key(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Arc<str>> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let service_key = text
        .strip_prefix("context_extensions.")
        .filter(|name| !name.is_empty() && name.bytes().all(inner))
        .map(Arc::from);
    if service_key.is_none() {
        let expected = "`context_extensions.KEY` with a key of letters, digits, `_`, `.`, `-`";
        check.refuse(key, quoted(text), expected, "write `context_extensions.service`");
    }
    service_key
}

/// Resets of one caller's connection, and of one that all callers of an Envoy share.
const RESETS: u64 = 200;
const RESETS_OF_ALL: u64 = 20_000;

fn limits(check: &mut Check<'_>, key: &Key, raw: &raw::Limits, resets: u64) -> Option<Limits> {
    let wait = Duration::from_millis(100)..=Duration::from_secs(600);
    let connections = check.number(&key.field("max_connections"), raw.max_connections, 1..=1_000_000);
    let header_timeout = check.duration(&key.field("header_timeout"), &raw.header_timeout, &wait);
    let header_bytes =
        check.size(&key.field("max_header_bytes"), &raw.max_header_bytes, &(8 << 10..=1 << 20));
    let streams = check.number(&key.field("max_concurrent_streams"), raw.max_concurrent_streams, 1..=10_000);
    let ends = Duration::from_millis(10)..=Duration::from_millis(900);
    let end_timeout = check.duration(&key.field("end_timeout"), &raw.end_timeout, &ends);
    let long = Duration::from_secs(1)..=Duration::from_secs(3600);
    let requests = check.number(&key.field("max_requests"), raw.max_requests, 1..=1_000_000);
    let idle_timeout = check.duration(&key.field("idle_timeout"), &raw.idle_timeout, &long);
    let send_timeout = check.duration(&key.field("send_timeout"), &raw.send_timeout, &long);
    let headers = check.number(&key.field("max_headers"), raw.max_headers, 10..=1000);
    let uri_bytes = check.size(&key.field("max_uri_bytes"), &raw.max_uri_bytes, &(64..=64 << 10));
    let body_key = key.field("max_body_bytes");
    let body_bytes = match &raw.max_body_bytes {
        None => Some(None),
        Some(bytes) => check.size(&body_key, bytes, &(0..=16 << 40)).map(Some),
    };
    let body_timeout = check.duration(&key.field("body_timeout"), &raw.body_timeout, &long);
    let body_rate = check.size(&key.field("min_body_rate"), &raw.min_body_rate, &(0..=1 << 20));
    let resets = check.number(&key.field("max_resets"), raw.max_resets.unwrap_or(resets), 1..=100_000);
    let control = check.number(&key.field("max_control_frames"), raw.max_control_frames, 100..=1_000_000);
    Some(Limits {
        max_connections: connections?,
        header_timeout: header_timeout?,
        max_header_bytes: u32::try_from(header_bytes?).ok()?,
        max_concurrent_streams: streams?,
        end_timeout: end_timeout?,
        max_requests: requests?,
        idle_timeout: idle_timeout?,
        send_timeout: send_timeout?,
        max_headers: headers?,
        max_uri_bytes: usize::try_from(uri_bytes?).ok()?,
        max_body_bytes: body_bytes?,
        body_timeout: body_timeout?,
        min_body_rate: body_rate?,
        max_resets: resets?,
        max_control_frames: control?,
    })
}
