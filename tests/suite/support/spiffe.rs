//! A trust domain's authority, and an agent that serves the Workload API on a Unix socket.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt as _};
use portreeve::wire::workload as proto;
use portreeve::wire::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Code, Request, Response, Status};

use super::PATIENCE;

/// Signs the certificates of a trust domain.
pub(crate) struct Domain {
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub(crate) certificate: CertificateDer<'static>,
}

/// A workload's certificate and key.
#[derive(Clone)]
pub(crate) struct Svid {
    pub(crate) id: String,
    pub(crate) certificate: CertificateDer<'static>,
    /// PKCS #8.
    pub(crate) key: Vec<u8>,
}

impl Domain {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: rcgen::Issuer::new(params, key), certificate }
    }

    /// A certificate of `id`, for `host` too, good for decades.
    pub(crate) fn svid(&self, id: &str, host: &str) -> Svid {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI(id.try_into().unwrap()), SanType::DnsName(host.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Svid { id: id.to_owned(), certificate, key: key.serialize_der() }
    }
}

/// What an agent says on one stream: a message, or how the stream ends.
pub(crate) type Said<M> = Result<M, Code>;

/// What it says on each stream, now and until it is changed.
struct Says {
    svids: watch::Sender<Said<proto::X509svidResponse>>,
    authorities: watch::Sender<Said<proto::X509BundlesResponse>>,
    keys: watch::Sender<Said<proto::JwtBundlesResponse>>,
    /// Streams that were asked for.
    asked: AtomicUsize,
}

/// An agent, for as long as it is held.
pub(crate) struct Agent {
    says: Arc<Says>,
    path: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

impl Agent {
    /// Listens at `path`, and has nothing for anybody.
    pub(crate) fn start(path: &Path) -> Self {
        let says = Arc::new(Says {
            svids: watch::channel(Err(Code::PermissionDenied)).0,
            authorities: watch::channel(Err(Code::PermissionDenied)).0,
            keys: watch::channel(Err(Code::PermissionDenied)).0,
            asked: AtomicUsize::new(0),
        });
        let runtime = super::tls::runtime();
        let listener = {
            let _inside = runtime.enter();
            UnixListenerStream::new(tokio::net::UnixListener::bind(path).unwrap())
        };
        let service = SpiffeWorkloadApiServer::new(Answers(Arc::clone(&says)));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(async move { server.serve_with_incoming(listener).await.unwrap() });
        Self { says, path: path.to_owned(), _runtime: runtime }
    }

    /// As `SPIFFE_ENDPOINT_SOCKET` names it.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// How many streams were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.says.asked.load(Ordering::SeqCst)
    }

    /// Gives this certificate from now on.
    pub(crate) fn gives(&self, svid: &Svid) {
        self.gives_all(std::slice::from_ref(svid));
    }

    pub(crate) fn gives_all(&self, svids: &[Svid]) {
        let svids = svids.iter().map(|svid| proto::X509svid {
            spiffe_id: svid.id.clone(),
            x509_svid: svid.certificate.to_vec().into(),
            x509_svid_key: svid.key.clone().into(),
            bundle: svid.certificate.to_vec().into(),
            hint: String::new(),
        });
        let message = proto::X509svidResponse { svids: svids.collect(), ..Default::default() };
        drop(self.says.svids.send_replace(Ok(message)));
    }

    /// Ends the stream of certificates so.
    pub(crate) fn ends_certificates(&self, code: Code) {
        drop(self.says.svids.send_replace(Err(code)));
    }

    /// Lets these authorities vouch from now on.
    pub(crate) fn vouches(&self, bundles: &[(&str, &[&Domain])]) {
        let der =
            |domains: &[&Domain]| domains.iter().flat_map(|it| it.certificate.to_vec()).collect::<Vec<_>>();
        let bundles = bundles.iter().map(|(id, domains)| ((*id).to_owned(), der(domains))).collect();
        self.vouches_by(bundles);
    }

    /// The same, byte for byte.
    pub(crate) fn vouches_by(&self, bundles: HashMap<String, Vec<u8>>) {
        let bundles = bundles.into_iter().map(|(id, der)| (id, der.into())).collect();
        drop(
            self.says
                .authorities
                .send_replace(Ok(proto::X509BundlesResponse { bundles, ..Default::default() })),
        );
    }

    /// Ends the stream of authorities so.
    pub(crate) fn ends_authorities(&self, code: Code) {
        drop(self.says.authorities.send_replace(Err(code)));
    }

    /// Says these key sets from now on.
    pub(crate) fn signs(&self, bundles: &[(&str, Vec<u8>)]) {
        let bundles = bundles.iter().map(|(id, set)| ((*id).to_owned(), set.clone().into())).collect();
        drop(self.says.keys.send_replace(Ok(proto::JwtBundlesResponse { bundles })));
    }

    /// Ends the stream of key sets so.
    pub(crate) fn ends_keys(&self, code: Code) {
        drop(self.says.keys.send_replace(Err(code)));
    }
}

struct Answers(Arc<Says>);

type Streamed<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

impl Answers {
    /// What is said now, and then each change; the first end ends it.
    fn answer<T, M: Clone + Send + Sync + 'static>(
        &self,
        request: &Request<T>,
        says: &watch::Sender<Said<M>>,
    ) -> Result<Response<Streamed<M>>, Status> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let header = request.metadata().get("workload.spiffe.io").map(|value| value.as_bytes());
        if header != Some(b"true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let status = |code: Code| Status::new(code, "so it is");
        let said = WatchStream::new(says.subscribe()).map(move |said| said.map_err(status));
        Ok(Response::new(Box::pin(said)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Answers {
    type FetchX509SVIDStream = Streamed<proto::X509svidResponse>;
    type FetchX509BundlesStream = Streamed<proto::X509BundlesResponse>;
    type FetchJWTBundlesStream = Streamed<proto::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<proto::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.answer(&request, &self.0.svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<proto::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.answer(&request, &self.0.authorities)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<proto::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.answer(&request, &self.0.keys)
    }
}

/// The status of an answer; 0: there was none.
pub(crate) fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A caller over TLS, who asks for `orders.test`.
pub(crate) struct Peer(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Peer {
    /// Connects with a certificate, or none; `roots` signed what it must be shown.
    pub(crate) fn new(address: SocketAddr, own: Option<&Svid>, roots: &Domain) -> Self {
        let mut store = rustls::RootCertStore::empty();
        store.add(roots.certificate.clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(portreeve::mtls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.clone()).unwrap();
                builder.with_client_auth_cert(vec![own.certificate.clone()], key).unwrap()
            }
        };
        let session =
            rustls::ClientConnection::new(Arc::new(config), "orders.test".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(rustls::StreamOwned::new(session, stream))
    }

    /// A certificate that is not taken ends the connection, before or after this.
    pub(crate) fn ask(&mut self, lines: &str) {
        let text = format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n");
        drop(self.0.write_all(text.as_bytes()));
    }

    /// Reads up to `text`; what there was, if the connection ends before.
    pub(crate) fn read_to(&mut self, text: &str) -> Vec<u8> {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(text.as_bytes()) && self.0.read_exact(&mut byte).is_ok() {
            seen.push(byte[0]);
        }
        seen
    }

    /// All there is until the connection ends.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        drop(self.0.read_to_end(&mut rest));
        rest
    }

    /// Whether the connection ends without another whole answer.
    pub(crate) fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        let timed_out = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        };
        !read.as_ref().is_err_and(timed_out) && !String::from_utf8_lossy(&rest).contains("0\r\n\r\n")
    }

    /// The certificate that it was shown.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}
