//! Authorities, certificates, and relays that put TLS or a Unix socket in front of a plain upstream.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub(crate) certificate: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// One whose certificate is `pem`, and which signs nothing of that.
    pub(crate) fn with_certificate(&self, pem: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(CertificateParams::default(), key);
        Self { issuer, certificate: pem.to_owned() }
    }

    /// A certificate for a name or an address, good from 2026 until the first day of `until`.
    pub(crate) fn certify(&self, name: &str, until: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// The server side: a certificate, whose clients must have one of `clients`, and protocols for ALPN.
pub(crate) fn server(own: &Pair, clients: Option<&Authority>, alpn: &[&str]) -> ServerConfig {
    let chain = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(portreeve::mtls::provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), portreeve::mtls::provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(vec![chain], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// What stands in front of a plain upstream, for as long as it is held.
pub(crate) struct Relay {
    /// Where it listens; of no meaning for a Unix socket.
    pub(crate) address: SocketAddr,
    config: Arc<Mutex<Option<Arc<ServerConfig>>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// Speaks TLS; what comes in by it goes to `upstream` in clear.
    pub(crate) fn tls(upstream: SocketAddr, config: ServerConfig) -> Self {
        let config = Arc::new(Mutex::new(Some(Arc::new(config))));
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let held = Arc::clone(&config);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let config = held.lock().unwrap().clone().unwrap();
                tokio::spawn(async move {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        pass(stream, upstream).await;
                    }
                });
            }
        });
        Self { address, config, _runtime: runtime }
    }

    /// Listens on a Unix socket.
    pub(crate) fn unix(upstream: SocketAddr, path: &Path) -> Self {
        let runtime = runtime();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(path).unwrap()
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, upstream));
            }
        });
        Self { address: upstream, config: Arc::default(), _runtime: runtime }
    }

    /// Shows another certificate, on connections from now on.
    pub(crate) fn change(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Some(Arc::new(config));
    }
}

/// Runs by itself, for as long as it is held.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn pass(mut outer: impl AsyncRead + AsyncWrite + Unpin, upstream: SocketAddr) {
    let mut inner = TcpStream::connect(upstream).await.unwrap();
    // A caller may end it in any way.
    drop(copy_bidirectional(&mut outer, &mut inner).await);
}

/// Writes a file.
pub(crate) fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
