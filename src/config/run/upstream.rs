//! Upstreams and what they are told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::endpoint::{Endpoint, is_host_name};
use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::listener::LiveSource;
use crate::config::raw::proxy as raw;
use crate::config::run::carriers;
use crate::config::run::check::Check;
use crate::config::run::health::{self, Health};
use crate::config::run::workload;

/// A server that allowed requests are forwarded to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub address: UpstreamAddress,
    /// Longest wait for a connection; 10 ms to 1 min.
    pub connect_timeout: Duration,
    /// Longest wait for the head of an answer; 10 ms to 1 h.
    pub response_timeout: Duration,
    /// Idle connections each worker keeps; 0 to 10,000.
    pub max_idle_per_worker: usize,
    /// Whether HTTP/2 is spoken: by ALPN with TLS, else with prior knowledge.
    pub http2: bool,
    /// What it is shown in place of the caller's credential.
    pub credential: Option<UpstreamCredential>,
    /// What is asserted to it of the caller.
    pub assertion: Option<Assertion>,
    /// How it is checked; `None`: it is not.
    pub health: Option<Health>,
}

/// A signed JWT of who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assertion {
    /// Its `iss`.
    pub issuer: Arc<str>,
    /// Its `aud`.
    pub audience: Arc<str>,
    /// From its `iat` to its `exp`; 1 s to 60 s.
    pub lifetime: Duration,
}

/// What an upstream is shown in place of the caller's credential.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpstreamCredential {
    /// A user, and the file of the password.
    Basic(Arc<str>, PathBuf),
    /// A header, and the file of its value.
    Header(Arc<str>, PathBuf),
}

/// Where an upstream is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpstreamAddress {
    /// A server, in clear.
    Clear(Endpoint),
    /// A server, by TLS.
    Secure(Endpoint, UpstreamTls),
    /// A Unix socket; an absolute path.
    Socket(Arc<Path>),
}

/// TLS to an upstream; files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamTls {
    /// Authorities of its certificate.
    pub ca: PathBuf,
    /// The certificate it is shown.
    pub own: Option<OwnCertificate>,
    /// The DNS name or IP address its certificate must be for.
    pub server_name: Arc<str>,
}

/// A certificate of one's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnCertificate {
    /// The file of the certificate and its chain, and that of the private key.
    Files(PathBuf, PathBuf),
    /// The first that the Workload API gives.
    WorkloadApi,
}

/// What an upstream is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// Whether `x-portreeve-identity`, `-tenant` and `-decision` are sent.
    pub identity_headers: bool,
    /// Whether the credential is sent on.
    pub pass_credential: bool,
}

pub(super) fn upstreams(
    check: &mut Check<'_>,
    raw: &BTreeMap<String, raw::Upstream>,
    workload_api: bool,
) -> Option<BTreeMap<Arc<str>, Arc<Upstream>>> {
    let key = Key::root().field("upstreams");
    // All are judged before the first that failed ends the collecting.
    let judged: Vec<_> =
        raw.iter().map(|(name, raw)| upstream(check, &key.field(name), (name, raw), workload_api)).collect();
    judged.into_iter().map(|one| one.map(|one| (Arc::clone(&one.name), Arc::new(one)))).collect()
}

fn upstream(
    check: &mut Check<'_>,
    key: &Key,
    (name, raw): (&str, &raw::Upstream),
    workload_api: bool,
) -> Option<Upstream> {
    let wait = |longest_s| Duration::from_millis(10)..=Duration::from_secs(longest_s);
    let known_name = check.name(key, name);
    let address = address(check, key, raw, workload_api);
    let credential_key = key.field("credential");
    let own = raw.credential.as_ref().map(|raw| credential(check, &credential_key, raw));
    if let (Some(_), Some(UpstreamAddress::Clear(server))) = (&own, &address)
        && !server.is_loopback()
    {
        let weak = "it crosses the network in clear: not a loopback address, and no TLS";
        check.warn(&credential_key, weak);
    }
    let asserted = raw.assertion.as_ref().map(|raw| assertion(check, &key.field("assertion"), raw));
    let connect_timeout = check.duration(&key.field("connect_timeout"), &raw.connect_timeout, &wait(60));
    let response_timeout = check.duration(&key.field("response_timeout"), &raw.response_timeout, &wait(3600));
    let idle = check.number(&key.field("max_idle_per_worker"), raw.max_idle_per_worker, 0..=10_000);
    let checked = raw.health.as_ref().map(|raw| health::health(check, &key.field("health"), raw));
    let credential = match own {
        Some(own) => Some(own?),
        None => None,
    };
    let health = match checked {
        Some(checked) => Some(checked?),
        None => None,
    };
    let assertion = match asserted {
        Some(asserted) => Some(asserted?),
        None => None,
    };
    Some(Upstream {
        name: Arc::from(known_name?.as_str()),
        address: address?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        max_idle_per_worker: idle?,
        http2: raw.http2,
        credential,
        assertion,
        health,
    })
}

const CLAIM_BYTES_MAX: usize = 256;

fn assertion(check: &mut Check<'_>, key: &Key, raw: &raw::Assertion) -> Option<Assertion> {
    let mut claim = |name: &str, text: &str| {
        let sound = (1..=CLAIM_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if !sound {
            let expected = format!("1 to {CLAIM_BYTES_MAX} bytes of text");
            check.refuse(&key.field(name), quoted(text), expected, "write what the upstream expects there");
        }
        sound.then(|| Arc::from(text))
    };
    let (issuer, audience) = (claim("issuer", &raw.issuer), claim("audience", &raw.audience));
    let span = Duration::from_secs(1)..=Duration::from_secs(60);
    let lifetime = check.duration(&key.field("lifetime"), &raw.lifetime, &span);
    Some(Assertion { issuer: issuer?, audience: audience?, lifetime: lifetime? })
}

const USER_BYTES_MAX: usize = 256;

fn credential(check: &mut Check<'_>, key: &Key, raw: &raw::UpstreamCredential) -> Option<UpstreamCredential> {
    match raw {
        raw::UpstreamCredential::Basic(raw) => {
            let file = check.path(&key.field("password_file"), &raw.password_file);
            let user = raw.user.as_str();
            let sound = (1..=USER_BYTES_MAX).contains(&user.len())
                && !user.chars().any(|c| c == ':' || c.is_control());
            if !sound {
                let expected = format!("1 to {USER_BYTES_MAX} bytes of text without `:`");
                check.refuse(&key.field("user"), quoted(user), expected, "write the user's name alone");
            }
            Some(UpstreamCredential::Basic(Arc::from(sound.then_some(user)?), file?))
        }
        raw::UpstreamCredential::Header(raw) => {
            let file = check.path(&key.field("value_file"), &raw.value_file);
            let name = raw.header.as_str();
            let sound = name == "authorization" || carriers::header(check, &key.field("header"), name);
            Some(UpstreamCredential::Header(Arc::from(sound.then_some(name)?), file?))
        }
    }
}

/// What the URL of an upstream looks like.
const URL_FORM: &str = "`http://host:port`, `https://host:port` or `unix:///path`";

/// Bytes that the path of a socket may have: one less than the system's address holds.
const SOCKET_BYTES_MAX: usize = 107;

fn address(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::Upstream,
    workload_api: bool,
) -> Option<UpstreamAddress> {
    // All is judged before the first that failed ends it.
    let tls = raw.tls.as_ref().map(|raw| tls(check, &key.field("tls"), raw, workload_api));
    let url_key = key.field("url");
    if let Some(path) = raw.url.strip_prefix("unix://") {
        refuse_tls(check, key, raw);
        return socket(check, &url_key, path).map(UpstreamAddress::Socket);
    }
    let Some(endpoint) = Endpoint::parse_either(&raw.url) else {
        // What stands before an `@` may be a password: it is not shown.
        let found = if raw.url.contains('@') { "a URL with a user".to_owned() } else { quoted(&raw.url) };
        check.refuse(&url_key, found, URL_FORM, "write scheme, host, `:` and port, and nothing else");
        return None;
    };
    if !endpoint.is_secure() {
        refuse_tls(check, key, raw);
        return Some(UpstreamAddress::Clear(endpoint));
    }
    let Some(tls) = tls else {
        let expected = "`tls` beside it, which says whom to trust";
        check.refuse(&url_key, quoted(&raw.url), expected, "add `tls: { ca: FILE }`");
        return None;
    };
    let (ca, own, name) = tls?;
    let server_name = name.unwrap_or_else(|| Arc::from(endpoint.host()));
    Some(UpstreamAddress::Secure(endpoint, UpstreamTls { ca, own, server_name }))
}

fn refuse_tls(check: &mut Check<'_>, key: &Key, raw: &raw::Upstream) {
    if raw.tls.is_some() {
        let found = format!("`tls` beside {}", quoted(&raw.url));
        let expected = "an `https` URL beside it";
        check.refuse(&key.field("tls"), found, expected, "write `https`, or remove the key");
    }
}

fn socket(check: &mut Check<'_>, key: &Key, path: &str) -> Option<Arc<Path>> {
    let sound = path.starts_with('/') && !path.ends_with('/') && !path.contains(['\0', '?', '#', '%']);
    if !sound || path.len() > SOCKET_BYTES_MAX {
        let found = quoted(&format!("unix://{path}"));
        let expected =
            format!("`unix://` and the absolute path of a socket, at most {SOCKET_BYTES_MAX} bytes");
        check.refuse(key, found, expected, "write a path such as `unix:///run/app.sock`");
        return None;
    }
    Some(Arc::from(Path::new(path)))
}

/// What is known of TLS before its URL is: authorities, own certificate and key, name.
type KnownTls = (PathBuf, Option<OwnCertificate>, Option<Arc<str>>);

fn tls(check: &mut Check<'_>, key: &Key, raw: &raw::UpstreamTls, workload_api: bool) -> Option<KnownTls> {
    let ca = check.path(&key.field("ca"), &raw.ca);
    let written = (raw.certificate.as_ref(), raw.key.as_ref(), raw.certificate_from);
    let own = own_certificate(check, key, written, workload_api);
    let name = raw.server_name.as_ref().map(|name| server_name(check, &key.field("server_name"), name));
    let name = match name {
        Some(name) => Some(name?),
        None => None,
    };
    Some((ca?, own?, name))
}

/// A certificate from files, or from the Workload API; inside, `None`: neither is written.
pub(super) fn own_certificate(
    check: &mut Check<'_>,
    key: &Key,
    (certificate, private, live): (Option<&String>, Option<&String>, Option<LiveSource>),
    workload_api: bool,
) -> Option<Option<OwnCertificate>> {
    let certificate = certificate.map(|path| check.path(&key.field("certificate"), path));
    let private = private.map(|path| check.path(&key.field("key"), path));
    if live.is_some() {
        let key = key.field("certificate_from");
        workload::needed(check, &key, workload_api);
        if certificate.is_some() || private.is_some() {
            let found = "`certificate` or `key` beside it";
            check.refuse(&key, found, "either files or this", "remove one of them");
            return None;
        }
        return workload_api.then_some(Some(OwnCertificate::WorkloadApi));
    }
    match (certificate, private) {
        (None, None) => Some(None),
        (Some(certificate), Some(private)) => Some(Some(OwnCertificate::Files(certificate?, private?))),
        (certificate, _) => {
            let (present, absent) =
                if certificate.is_some() { ("certificate", "key") } else { ("key", "certificate") };
            let expected = format!("`{absent}` beside it");
            let remedy = format!("add `{absent}: FILE`, or remove `{present}`");
            check.refuse(&key.field(present), format!("no `{absent}`"), expected, remedy);
            None
        }
    }
}

fn server_name(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Arc<str>> {
    let lower = text.to_ascii_lowercase();
    if lower.parse::<IpAddr>().is_err() && !is_host_name(&lower) {
        let remedy = "write the name in its certificate, without scheme and port";
        check.refuse(key, quoted(text), "a DNS name or an IP address", remedy);
        return None;
    }
    Some(Arc::from(lower))
}

pub(super) fn forward(check: &mut Check<'_>, raw: &raw::Forward) -> Forward {
    if raw.pass_credential {
        let key = Key::root().field("forward").field("pass_credential");
        check.warn(&key, "upstreams receive credentials and could use them elsewhere");
    }
    Forward { identity_headers: raw.identity_headers, pass_credential: raw.pass_credential }
}
