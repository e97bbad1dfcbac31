//! TLS of a listener: certificates by name, callers' certificates where asked for, files that are
//! read again when they change.
//!
//! Provider and clock are named, never a process-wide default. What depends on who calls depends on the
//! caller's certificate and the request's host, never on the name asked for in the handshake.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::core::time::{Clock, Timestamp};
use crate::mtls::{
    DomainTrust, DomainVerifier, FileError, Files, Key, LiveIdentity, WallClock, certificates, key_pair,
    provider, roots, validity,
};
use crate::pep::certificate;

/// Whether callers must show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// One that does not verify ends the connection; none is fine.
    Optional,
    /// None ends the connection as well.
    Required,
}

/// The least version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsVersion {
    /// 1.2 or 1.3.
    #[default]
    Tls12,
    /// 1.3 only.
    Tls13,
}

/// The files of one certificate, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The certificate, then its intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Shown to callers that ask for no name, or for one that none of the certificates is for.
    pub default: bool,
}

/// Who signs callers' certificates.
#[derive(Clone, Debug)]
pub enum ClientAuthorities {
    /// Those in a PEM file.
    File(PathBuf),
    /// Those of one trust domain, which change while they are used.
    Live(DomainTrust),
}

/// What a TLS listener needs.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Its certificates, at least one, at most one of them the default. Each is for the names in it.
    pub certificates: Vec<CertificateFiles>,
    /// One that changes while it is used, in the place of all those; handshakes fail while there is none.
    pub identity: Option<Arc<LiveIdentity>>,
    /// Who signs callers' certificates, and whether they must have one; `None`: none is asked for.
    pub clients: Option<(ClientAuthorities, ClientCertificates)>,
    /// The least version.
    pub version_min: TlsVersion,
}

impl TlsSettings {
    /// One certificate for whatever name is asked for, and no callers' certificates.
    pub fn one(certificate: PathBuf, key: PathBuf) -> Self {
        let only = CertificateFiles { certificate, key, default: true };
        Self { certificates: vec![only], ..Self::default() }
    }
}

/// The files of a listener cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("listener `{listener}`: {source}")]
pub struct TlsError {
    listener: Arc<str>,
    source: FileError,
}

/// TLS of one listener, for all its workers.
///
/// INVARIANT: files that cannot be used change nothing: what was read before is used on.
pub struct ListenerTls {
    listener: Arc<str>,
    clock: Arc<dyn Clock>,
    files: Mutex<(TlsSettings, Files)>,
    held: ArcSwap<Held>,
    refused: AtomicBool,
}

/// What the files held.
#[derive(Debug)]
struct Held {
    config: Arc<ServerConfig>,
    /// Of the certificate in files that ends first.
    validity: Option<(Timestamp, Timestamp)>,
    /// What is shown in the place of files.
    identity: Option<Arc<LiveIdentity>>,
    /// By whom callers' certificates are verified, if that changes while it is used.
    trust: Option<DomainTrust>,
}

impl std::fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerTls").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl ListenerTls {
    /// Reads the files of `listener`. Blocks.
    ///
    /// # Errors
    /// [`TlsError`] names the listener, the file and what was expected.
    pub fn open(listener: &Arc<str>, settings: TlsSettings, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let refuse = |source| TlsError { listener: Arc::clone(listener), source };
        let mut seen = Files::default();
        let contents = seen.changed(&settings.paths()).map_err(refuse)?.unwrap_or_default();
        let held = settings.read(contents, &clock).map_err(refuse)?;
        Ok(Self {
            listener: Arc::clone(listener),
            clock,
            files: Mutex::new((settings, seen)),
            held: ArcSwap::from_pointee(held),
            refused: AtomicBool::new(false),
        })
    }

    /// Takes over what has changed: for connections accepted from now on. Blocks.
    pub fn look(&self) {
        let mut files = self.files.lock();
        let (settings, seen) = &mut *files;
        let read = seen
            .changed(&settings.paths())
            .and_then(|contents| contents.map(|contents| settings.read(contents, &self.clock)).transpose());
        let listener = &*self.listener;
        match read {
            Ok(None) => {}
            Ok(Some(held)) => {
                self.held.store(Arc::new(held));
                self.refused.store(false, Ordering::Relaxed);
                tracing::info!(listener, "certificates of a listener were taken over");
            }
            Err(error) => {
                self.refused.store(true, Ordering::Relaxed);
                tracing::error!(%error, listener, "certificates of a listener cannot be taken over; those before stay");
            }
        }
    }

    /// Goes on as `other`: for connections accepted from now on.
    pub fn adopt(&self, other: &Self) {
        let mut files = self.files.lock();
        *files = std::mem::take(&mut *other.files.lock());
        self.held.store(other.held.load_full());
        self.refused.store(false, Ordering::Relaxed);
    }

    /// From when until when the certificate is good that ends first; `None`: there is none yet.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let held = self.held.load();
        match &held.identity {
            Some(identity) => identity.current().and_then(|shown| validity(shown.cert.first()?)),
            None => held.validity,
        }
    }

    /// Whether the files are others than those in use, and cannot be used.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// What accepts a connection now, and by whom its certificate is verified, if that changes.
    pub(crate) fn acceptor(&self) -> (TlsAcceptor, Option<DomainTrust>) {
        let held = self.held.load();
        (TlsAcceptor::from(Arc::clone(&held.config)), held.trust.clone())
    }
}

impl TlsSettings {
    fn paths(&self) -> Vec<&Path> {
        let pairs = self.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
        let ca = self.clients.as_ref().and_then(|(ca, _)| match ca {
            ClientAuthorities::File(path) => Some(path),
            ClientAuthorities::Live(_) => None,
        });
        pairs.chain(ca).map(PathBuf::as_path).collect()
    }

    fn read(&self, contents: Vec<Zeroizing<Vec<u8>>>, clock: &Arc<dyn Clock>) -> Result<Held, FileError> {
        let mut contents = contents.into_iter();
        let mut next = || contents.next().unwrap_or_default();
        let mut named = ByName { clock: Arc::clone(clock), names: HashMap::new(), default: None };
        let mut first_end: Option<(Timestamp, Timestamp)> = None;
        for files in &self.certificates {
            let shown = files.read(&next(), Key::new(std::mem::take(&mut *next())))?;
            first_end = first_end.filter(|first| first.1 <= shown.ends).or(Some((shown.begins, shown.ends)));
            named.add(files, shown)?;
        }
        let (wall, provider) = (Arc::new(WallClock::new(Arc::clone(clock))), provider());
        let versions: &[&rustls::SupportedProtocolVersion] = match self.version_min {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let unfit = |path: &Path, what: String, expected| FileError { path: path.to_owned(), what, expected };
        let place = self.certificates.first().map(|files| files.certificate.clone()).unwrap_or_default();
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), wall)
            .with_protocol_versions(versions)
            .map_err(|error| unfit(&place, error.to_string(), "a usable certificate"))?;
        let mut trust = None;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some((ClientAuthorities::Live(live), demand)) => {
                trust = Some(live.clone());
                let mandatory = *demand == ClientCertificates::Required;
                builder.with_client_cert_verifier(Arc::new(DomainVerifier::new(live.clone(), mandatory)))
            }
            Some((ClientAuthorities::File(path), demand)) => {
                let refuse = |error: String| unfit(path, error, "certificates of authorities");
                let roots =
                    roots(&certificates(path, &next())?).map_err(|error| refuse(error.to_string()))?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match demand {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    ClientCertificates::Required => verifier,
                };
                builder
                    .with_client_cert_verifier(verifier.build().map_err(|error| refuse(error.to_string()))?)
            }
        };
        if first_end.is_none() && self.identity.is_none() {
            return Err(unfit(&place, "no certificate".to_owned(), "at least one"));
        }
        let identity = self.identity.clone();
        let mut config = match &identity {
            Some(identity) => builder.with_cert_resolver(Arc::clone(identity) as _),
            None => builder.with_cert_resolver(Arc::new(named)),
        };
        if trust.is_some() {
            // A resumed session would bring a certificate that nobody has verified since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Held { config: Arc::new(config), validity: first_end, identity, trust })
    }
}

impl CertificateFiles {
    fn read(&self, pem: &[u8], key: Key) -> Result<Shown, FileError> {
        let chain = certificates(&self.certificate, pem)?;
        let refuse = |what: &str| FileError {
            path: self.certificate.clone(),
            what: what.to_owned(),
            expected: "a certificate for DNS names, or one that is the default",
        };
        let leaf = chain.first().ok_or_else(|| refuse("it has none"))?;
        let (begins, ends) = validity(leaf).ok_or_else(|| refuse("its first certificate cannot be read"))?;
        let hosts = certificate::parse(leaf).map(|read| read.hosts).unwrap_or_default();
        if hosts.is_empty() && !self.default {
            return Err(refuse("it is for no DNS name"));
        }
        let key = Arc::new(key_pair((&self.certificate, &chain), (&self.key, &key))?);
        Ok(Shown { key, hosts, begins, ends })
    }
}

/// A certificate that can be shown.
#[derive(Clone, Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    hosts: Vec<Arc<str>>,
    begins: Timestamp,
    ends: Timestamp,
}

/// Chooses by the name that is asked for: one that is in a certificate, then one whose first label a `*`
/// stands for, then the default. Nothing is shown past its end, and so no connection begins.
struct ByName {
    clock: Arc<dyn Clock>,
    /// In lower case; `*.` before what a wildcard covers.
    names: HashMap<Arc<str>, Shown>,
    default: Option<Shown>,
}

impl std::fmt::Debug for ByName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByName").field("names", &self.names.keys()).finish_non_exhaustive()
    }
}

impl ByName {
    fn add(&mut self, files: &CertificateFiles, shown: Shown) -> Result<(), FileError> {
        for host in &shown.hosts {
            if self.names.insert(Arc::clone(host), shown.clone()).is_some() {
                let path = files.certificate.clone();
                let what = format!("it is for `{host}`, and so is one before it");
                return Err(FileError { path, what, expected: "one certificate for each name" });
            }
        }
        if files.default {
            self.default = Some(shown);
        }
        Ok(())
    }

    fn find(&self, name: Option<&str>) -> Option<&Shown> {
        let wildcard = |name: &str| {
            let (_, rest) = name.split_once('.')?;
            self.names.get(format!("*.{rest}").as_str())
        };
        let named = name.and_then(|name| self.names.get(name).or_else(|| wildcard(name)));
        named.or(self.default.as_ref()).filter(|shown| self.clock.now().wall <= shown.ends)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.find(name.as_deref()).map(|shown| Arc::clone(&shown.key))
    }
}
