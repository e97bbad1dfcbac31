//! A hub over real sockets, a clock that is set by hand, and those who talk to the hub.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::encoding::AsBigEndian as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use portreeve::core::time::{BootInstant, Clock, Now, Timestamp};
use portreeve::hub::{
    AccessSettings, GuardLimits, Hub, HubError, HubFigures, HubSettings, IssuerSettings, RetentionSettings,
    Scope, StoreSettings, StreamSecurity, StreamSettings,
};
use serde_json::{Value, json};

use crate::support::PATIENCE;

/// A clock that is set by hand: microseconds since its beginning, in 2026.
#[derive(Debug, Default)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_000_000)))
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.0.fetch_add(span.as_micros().try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Now {
        let passed = self.0.load(Ordering::SeqCst);
        let wall = 1_782_000_000_000_000 + passed.cast_signed();
        Now { wall: Timestamp::from_micros(wall), boot: BootInstant::from_micros(passed) }
    }
}

pub(crate) fn settings(directory: &Path) -> HubSettings {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    HubSettings {
        store: StoreSettings::Sqlite(directory.join("hub.db")),
        data_dir: directory.to_owned(),
        stream: local,
        api: local,
        admin_token_file: directory.join("admin.token"),
        admins: vec![("second".to_owned(), directory.join("second.token"))],
        guard: GuardLimits::default(),
        retention: RetentionSettings::default(),
        witness: directory.join("hub.witness"),
        streams: StreamSettings::default(),
        access: in_clear(),
        issuers: IssuerSettings::default(),
    }
}

/// A state stream in clear, every tenant for everybody.
pub(crate) fn in_clear() -> AccessSettings {
    AccessSettings {
        security: StreamSecurity::CleartextOnLoopback,
        default_scope: Scope::All,
        ..AccessSettings::default()
    }
}

/// A hub that serves.
pub(crate) struct Lab {
    pub(crate) api: SocketAddr,
    pub(crate) stream: SocketAddr,
    pub(crate) token: String,
    pub(crate) clock: Arc<HandClock>,
    figures: HubFigures,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<Result<(), HubError>>,
}

impl Lab {
    pub(crate) async fn start(directory: &Path, clock: Arc<HandClock>) -> Self {
        Self::start_with(settings(directory), clock).await
    }

    pub(crate) async fn start_with(settings: HubSettings, clock: Arc<HandClock>) -> Self {
        let hub = patiently(|| Hub::open(settings.clone(), clock.clone())).unwrap();
        let directory = settings.data_dir.clone();
        Self::of(hub, &directory, clock).await
    }

    /// Serves a hub that is open, whose tokens lie in `directory`.
    pub(crate) async fn of(hub: Hub, directory: &Path, clock: Arc<HandClock>) -> Self {
        let figures = hub.figures().clone();
        let bound = hub.bind().await.unwrap();
        let (api, stream) = (bound.api_address().unwrap(), bound.stream_address().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(bound.serve(async {
            stopped.await.ok();
        }));
        let token = std::fs::read_to_string(directory.join("admin.token")).unwrap().trim().to_owned();
        Self { api, stream, token, clock, figures, stop: Some(stop), served }
    }

    /// Its metrics, as text.
    pub(crate) fn metrics(&self) -> String {
        let families = self.figures.refresh().registry().gather();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap()
    }

    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }

    /// One request with the admin token.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, _, body) = self.ask_as(Some(&self.token), method, path, body).await;
        (status, body)
    }

    /// One request with the admin token; `None`: the hub is gone.
    pub(crate) async fn try_ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let (status, _, body) = self.send(Some(&self.token), method, path, body).await?;
        Some((status, body))
    }

    pub(crate) async fn ask_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, http::HeaderMap, Value) {
        self.send(token, method, path, body).await.expect("an answer of the hub")
    }

    async fn send(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, http::HeaderMap, Value)> {
        let socket = tokio::net::TcpStream::connect(self.api).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.ok()?;
        let connection = tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", "hub");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
        let answer = sender.send_request(request).await.ok()?;
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        drop(sender);
        connection.await.unwrap().ok()?;
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Some((parts.status.as_u16(), parts.headers, value))
    }

    /// Applies documents that must be taken.
    pub(crate) async fn apply(&self, documents: &[Value]) -> Value {
        let (status, body) = self.ask("POST", "/v1/apply", Some(json!({ "documents": documents }))).await;
        assert_eq!(status, 200, "{body:#}");
        body
    }

    /// Asks for the hub's status until it is as wanted.
    pub(crate) async fn until_status(&self, wanted: impl Fn(&Value) -> bool) {
        self.until_answer("/v1/status", wanted).await;
    }

    /// Asks again and again until the answer is as wanted.
    pub(crate) async fn until_answer(&self, path: &str, wanted: impl Fn(&Value) -> bool) {
        let asking = async {
            loop {
                let (_, answer) = self.ask("GET", path, None).await;
                if wanted(&answer) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("the answer wanted, in time");
    }

    /// Revokes an identity of tenant `demo`.
    pub(crate) async fn revoke(&self, identity: &str) -> Value {
        let body = json!({ "target": { "identity": identity }, "reason": "test" });
        let (status, body) = self.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await;
        assert_eq!(status, 201, "{body:#}");
        body
    }
}

pub(crate) fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "kind": kind, "tenant": "demo", "name": name, "spec": spec })
}

pub(crate) fn issuer_spec() -> Value {
    let key =
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING)
            .unwrap();
    let point: aws_lc_rs::encoding::EcPublicKeyUncompressedBin<'_> =
        aws_lc_rs::signature::KeyPair::public_key(&key).as_be_bytes().unwrap();
    let (x, y) = point.as_ref()[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({
        "iss": "https://issuer.example", "profile": "generic", "algorithms": ["ES256"],
        "audiences": ["orders"], "max_lifetime": "1h",
        "keys": { "inline": { "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": encode(x), "y": encode(y) }
        ] } },
    })
}

pub(crate) fn identity_spec(subject: &str) -> Value {
    json!({
        "type": "workload", "environment": "prod",
        "owner": { "team": "payments", "contact": "payments@example.com" },
        "review_due": "2027-05-01",
        "bindings": [{ "issuer": "main", "subject": subject }],
        "entitlements": [{ "name": "orders:read", "source": "TICKET-42", "expires": "2027-11-01" }],
    })
}

pub(crate) fn resource_spec() -> Value {
    json!({
        "environment": "prod",
        "routes": [
            { "methods": ["GET", "HEAD"], "path": "/orders/**", "requires": "orders:read" },
            { "methods": ["POST"], "path": "/orders", "requires": "orders:write" },
        ],
    })
}

/// An issuer, a resource and two identities of tenant `demo`.
pub(crate) fn demo() -> Vec<Value> {
    vec![
        document("issuer", "main", issuer_spec()),
        document("resource", "orders", resource_spec()),
        document("identity", "ledger", identity_spec("ledger")),
        document("identity", "batch", identity_spec("batch")),
    ]
}

/// Opens something again and again while the last connections of the hub before hold its directory.
pub(crate) fn patiently<T>(mut open: impl FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
    let begun = std::time::Instant::now();
    loop {
        match open() {
            Err(error) if is_held(&error) && begun.elapsed() < PATIENCE => std::thread::yield_now(),
            done => return done,
        }
    }
}

fn is_held(error: &HubError) -> bool {
    error.to_string().contains("runs a hub on this directory")
}

/// Looks again and again until `holds`, which nothing else tells of.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let looks = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while !holds() {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
