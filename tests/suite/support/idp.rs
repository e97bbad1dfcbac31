//! A server of an issuer over TLS, with an authority of its own, that answers as a test says.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use portreeve::hub::IssuerSettings;
use portreeve::outbound::{Bounds, OutboundSettings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// An authority with a certificate for `localhost` and `127.0.0.1`.
pub(crate) struct TestCa {
    folder: TempDir,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // OpenSSL takes an issuer of the same name for the certificate itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of the tests");
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("ca.pem", ca.pem()), ("tls.crt", leaf.pem()), ("tls.key", key.serialize_pem())]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder }
    }

    /// `ca.pem`, `tls.crt` or `tls.key`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that trusts it, and may ask `hosts` inside.
    pub(crate) fn outbound(&self, hosts: &[&str]) -> OutboundSettings {
        OutboundSettings {
            internal_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ca_file: Some(self.file("ca.pem")),
            bounds: Bounds { whole: Duration::from_secs(5), ..Bounds::default() },
        }
    }

    /// A hub that trusts it, looks often and may ask `localhost`.
    pub(crate) fn issuers(&self) -> IssuerSettings {
        IssuerSettings {
            look_every: Duration::from_millis(5),
            outbound: self.outbound(&["localhost"]),
            ..IssuerSettings::default()
        }
    }

    fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain =
            CertificateDer::pem_file_iter(self.file("tls.crt")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(self.file("tls.key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(portreeve::mtls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config).into()
    }
}

/// What is answered.
pub(crate) enum Reply {
    /// Status, header lines, body.
    Text(u16, Vec<(&'static str, String)>, String),
    /// So many bytes of JSON, without saying how many.
    Flood(usize),
    /// A head, and nothing after it.
    Stall,
    /// Nothing.
    Silence,
}

impl Reply {
    /// An ordinary document.
    pub(crate) fn json(value: &Value) -> Self {
        Self::Text(200, vec![("content-type", "application/json".to_owned())], value.to_string())
    }
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    /// `authorization`, `content-type` and `accept`; empty where they are absent.
    pub(crate) lines: [String; 3],
    pub(crate) body: String,
}

/// A server that runs for as long as it is held.
pub(crate) struct Idp {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Idp {
    /// Answers each path as `answers` says.
    pub(crate) async fn start(ca: &TestCa, answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::listening(ca, move |heard| answers(&heard.path)).await
    }

    /// Answers each request as `answers` says.
    pub(crate) async fn listening(
        ca: &TestCa,
        answers: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (acceptor, answers, count) = (ca.acceptor(), Arc::new(answers), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answers, count) = (acceptor.clone(), Arc::clone(&answers), Arc::clone(&count));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(|request| {
                        let (count, answers) = (&count, &answers);
                        async move {
                            let heard = hear(request).await;
                            count.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, Infallible>(respond(answers(&heard)).await)
                        }
                    });
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // Whoever has read enough goes.
                    served.await.ok();
                });
            }
        });
        Self { address, asked, serving }
    }

    /// The URL of a path, by name.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn hear(request: http::Request<hyper::body::Incoming>) -> Heard {
    let (parts, body) = request.into_parts();
    let line = |name| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    Heard {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        lines: ["authorization", "content-type", "accept"].map(line),
        body: String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn respond(reply: Reply) -> Response<Body> {
    let json =
        |body: Body| Response::builder().header("content-type", "application/json").body(body).unwrap();
    match reply {
        Reply::Text(status, lines, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in lines {
                response = response.header(name, value);
            }
            response.body(Full::new(Bytes::from(body)).boxed()).unwrap()
        }
        Reply::Flood(bytes) => {
            let chunk = Bytes::from(vec![b' '; 64 * 1024]);
            let frames = (0..bytes.div_ceil(chunk.len())).map(move |_| Ok(Frame::data(chunk.clone())));
            json(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))))
        }
        Reply::Stall => json(BodyExt::boxed(StreamBody::new(tokio_stream::pending()))),
        Reply::Silence => std::future::pending().await,
    }
}

/// An issuer whose keys are fetched from `url`.
pub(crate) fn fetched_spec(iss: &str, keys: Value) -> Value {
    json!({
        "iss": iss, "profile": "generic", "algorithms": ["ES256", "RS256"],
        "audiences": ["orders"], "max_lifetime": "1h", "keys": keys,
    })
}
