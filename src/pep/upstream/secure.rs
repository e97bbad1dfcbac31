//! TLS to an upstream: whom it must be, what we show it, files that are read again when they change.
//!
//! Verification cannot be turned off, and nothing is resumed: each connection is verified anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::core::time::{Clock, Timestamp};
use crate::mtls::{
    FileError, Files, Key, LiveIdentity, WallClock, certificates, key_pair, provider, roots, validity,
};

/// The files of TLS to an upstream, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamFiles {
    /// Authorities of its certificate, the only ones trusted.
    pub ca: PathBuf,
    /// What it is shown: a certificate with its intermediates, and the private key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// A file of an upstream cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("upstream `{upstream}`: {what}")]
pub struct UpstreamFileError {
    upstream: Arc<str>,
    what: String,
}

impl UpstreamFileError {
    pub(super) fn new(upstream: &Arc<str>, what: impl ToString) -> Self {
        Self { upstream: Arc::clone(upstream), what: what.to_string() }
    }
}

/// TLS to one upstream, for all workers.
///
/// INVARIANT: files that cannot be used change nothing: what was read before is used on.
#[derive(Debug)]
pub struct UpstreamTls {
    upstream: Arc<str>,
    server_name: ServerName<'static>,
    http2: bool,
    files: UpstreamFiles,
    /// What it is shown instead of a certificate from files.
    identity: Option<Arc<LiveIdentity>>,
    clock: WallClock,
    seen: Mutex<Files>,
    held: ArcSwap<Held>,
    refused: AtomicBool,
}

/// What the files held.
#[derive(Debug)]
struct Held {
    config: Arc<ClientConfig>,
    /// From when until when our own certificate is good.
    validity: Option<(Timestamp, Timestamp)>,
    /// Counts up with each change.
    edition: u64,
}

impl UpstreamTls {
    /// Reads the files of `upstream`, whose certificate must be for `server_name`. `http2`: that, and
    /// nothing else, is asked for by ALPN; else HTTP/1.1. Blocks.
    ///
    /// # Errors
    /// [`UpstreamFileError`] names the upstream and the file that cannot be used.
    pub fn open(
        upstream: &Arc<str>,
        server_name: &str,
        http2: bool,
        files: UpstreamFiles,
        identity: Option<Arc<LiveIdentity>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, UpstreamFileError> {
        let refuse = |error: FileError| UpstreamFileError::new(upstream, error);
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| UpstreamFileError::new(upstream, format!("`{server_name}` is no server name")))?;
        let clock = WallClock::new(clock);
        let mut seen = Files::default();
        let contents = seen.changed(&files.paths()).map_err(refuse)?.unwrap_or_default();
        let (config, validity) = files.read(contents, http2, &clock).map_err(refuse)?;
        let held = ArcSwap::from_pointee(Held { config, validity, edition: 0 });
        Ok(Self {
            upstream: Arc::clone(upstream),
            server_name,
            http2,
            files,
            identity,
            clock,
            seen: Mutex::new(seen),
            held,
            refused: AtomicBool::new(false),
        })
    }

    /// Takes over what has changed: for connections opened from now on. Blocks.
    pub(super) fn look(&self) {
        let mut seen = self.seen.lock();
        let read = seen.changed(&self.files.paths()).and_then(|contents| {
            contents.map(|contents| self.files.read(contents, self.http2, &self.clock)).transpose()
        });
        let upstream = &*self.upstream;
        match read {
            Ok(None) => {}
            Ok(Some((config, validity))) => {
                let edition = self.held.load().edition + 1;
                self.held.store(Arc::new(Held { config, validity, edition }));
                self.refused.store(false, Ordering::Relaxed);
                tracing::info!(upstream, "certificates for an upstream were taken over");
            }
            Err(error) => {
                self.refused.store(true, Ordering::Relaxed);
                tracing::error!(%error, upstream, "certificates for an upstream cannot be taken over; those before stay");
            }
        }
    }

    /// From when until when the certificate is good that the upstream is shown; `None`: it is shown none.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        match &self.identity {
            Some(identity) => identity.current().and_then(|shown| validity(shown.cert.first()?)),
            None => self.held.load().validity,
        }
    }

    /// Whether it is shown a certificate, now or once there is one.
    pub fn shows_certificate(&self) -> bool {
        self.identity.is_some() || self.validity().is_some()
    }

    /// Whether the files are others than those in use, and cannot be used.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Which edition of the files, and of the certificate that changes while it is used, counts now.
    pub(super) fn edition(&self) -> u64 {
        self.held.load().edition + self.identity.as_ref().map_or(0, |identity| identity.edition())
    }

    /// Speaks TLS on `stream`; with the edition it was verified by.
    pub(super) async fn connect(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, u64)> {
        // Read first: what comes meanwhile is of another edition.
        let edition = self.edition();
        let mut config = Arc::clone(&self.held.load().config);
        if let Some(identity) = &self.identity {
            let none = || std::io::Error::other("the Workload API has given no certificate to show it");
            let pair = CertifiedKey::clone(&*identity.current().ok_or_else(none)?);
            // This one or nothing: were it looked up in the handshake, it could be gone by then.
            Arc::make_mut(&mut config).client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(pair));
        }
        let stream = TlsConnector::from(config).connect(self.server_name.clone(), stream).await?;
        let spoken = stream.get_ref().1.alpn_protocol();
        // An upstream that knows no ALPN speaks HTTP/1.1.
        if self.http2 && spoken != Some(H2) {
            return Err(std::io::Error::other("it does not offer `h2`"));
        }
        Ok((stream, edition))
    }
}

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// A way to speak TLS, and from when until when our own certificate is good.
type Read = (Arc<ClientConfig>, Option<(Timestamp, Timestamp)>);

impl UpstreamFiles {
    fn paths(&self) -> Vec<&Path> {
        let own = self.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        std::iter::once(&self.ca).chain(own).map(PathBuf::as_path).collect()
    }

    fn read(
        &self,
        contents: Vec<Zeroizing<Vec<u8>>>,
        http2: bool,
        clock: &WallClock,
    ) -> Result<Read, FileError> {
        let mut contents = contents.into_iter();
        let mut next = || contents.next().unwrap_or_default();
        let ca = certificates(&self.ca, &next())?;
        let unfit = |error: rustls::Error| FileError {
            path: self.ca.clone(),
            what: error.to_string(),
            expected: "certificates of authorities",
        };
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(unfit)?
            .with_root_certificates(roots(&ca).map_err(unfit)?);
        let mut good = None;
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate, &next())?;
                good = chain.first().and_then(validity);
                let pem = Key::new(std::mem::take(&mut *next()));
                let pair = key_pair((certificate, &chain), (key, &pem))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = vec![if http2 { H2 } else { HTTP1 }.to_vec()];
        config.resumption = Resumption::disabled();
        Ok((Arc::new(config), good))
    }
}
