//! The operator's own server, on loopback only.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::serve::{BindError, Server};

/// Largest body taken, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A request to explain. The credential is judged and forgotten.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// A token; without it and `api_key`: as if nothing were presented.
    pub token: Option<String>,
    /// An API key.
    pub api_key: Option<String>,
    /// The certificate that the caller shows, in PEM.
    pub certificate: Option<String>,
    /// The method.
    pub method: String,
    /// The path, with or without a query.
    pub path: String,
    /// The host, for routes that name one.
    pub host: Option<String>,
    /// The listener; absent: the first proxy listener.
    pub listener: Option<String>,
}

impl std::fmt::Debug for ExplainRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExplainRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainStep {
    /// The step.
    pub name: &'static str,
    /// What was found.
    pub finding: String,
}

/// How a request would be decided now. Nothing is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub effect: &'static str,
    /// The reason code, or `allowed`.
    pub reason: String,
    /// The status a caller would get, before the upstream has its say.
    pub status: u16,
    /// Hygiene rules that warn.
    pub warnings: Vec<String>,
    /// The state's epoch.
    pub epoch: String,
    /// The state's revision.
    pub revision: u64,
    /// The steps, in order.
    pub steps: Vec<ExplainStep>,
}

/// Changes the log level; the error says what was expected.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Explains a request; the error says what cannot be asked.
type Explain = Arc<dyn Fn(ExplainRequest) -> BoxFuture<'static, Result<Explanation, String>> + Send + Sync>;

/// Reads the last decisions back.
pub type Decisions = Arc<dyn Fn(u64) -> Result<Vec<String>, String> + Send + Sync>;

/// What the control server can do, each part supplied by the composition root.
#[derive(Clone)]
pub struct Control {
    /// The running configuration, without secrets.
    pub config: Arc<dyn Fn() -> Value + Send + Sync>,
    /// State, staleness, stream, spool.
    pub state: Arc<dyn Fn() -> Value + Send + Sync>,
    /// The log level in force.
    pub level: Arc<dyn Fn() -> String + Send + Sync>,
    /// Changes the log level.
    pub set_level: SetLevel,
    /// The last decisions, at most as many, a JSON object each; the error says why they cannot be read.
    pub decisions: Decisions,
    /// Explains a request; the error says what cannot be asked.
    pub explain: Explain,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Binds the server.
    ///
    /// `GET /config_dump`, `GET /state`, `GET /logging`, `POST /logging?level=LEVEL`, `POST /explain`,
    /// `GET /decisions?count=N`.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or not this machine's.
    pub fn bind(self, address: SocketAddr) -> Result<Server, BindError> {
        let router = Router::new()
            .route("/config_dump", get(|State(c): State<Self>| async move { Json((c.config)()) }))
            .route("/state", get(|State(c): State<Self>| async move { Json((c.state)()) }))
            .route("/logging", get(level).post(set_level))
            .route("/explain", post(explain))
            .route("/decisions", get(decisions))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self);
        Server::bind("admin", address, router)
    }
}

async fn level(State(control): State<Control>) -> String {
    format!("{}\n", (control.level)())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLevel {
    level: String,
}

async fn set_level(State(control): State<Control>, Query(new): Query<NewLevel>) -> Response {
    match (control.set_level)(&new.level) {
        Ok(()) => format!("{}\n", (control.level)()).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    #[serde(default = "decisions_shown")]
    count: u64,
}

const fn decisions_shown() -> u64 {
    100
}

/// Most decisions shown at once.
const DECISIONS_MAX: u64 = 1000;

async fn decisions(State(control): State<Control>, Query(Count { count }): Query<Count>) -> Response {
    if !(1..=DECISIONS_MAX).contains(&count) {
        let error = format!("`count` is {count}; expected 1 to {DECISIONS_MAX}\n");
        return (StatusCode::BAD_REQUEST, error).into_response();
    }
    // The log is read from its files: not on the thread that answers probes.
    let read = tokio::task::spawn_blocking(move || (control.decisions)(count)).await;
    match read.unwrap_or_else(|_| Err("a fault".to_owned())) {
        Ok(lines) => {
            let text: String = lines.iter().flat_map(|line| [line.trim_end(), "\n"]).collect();
            ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn explain(State(control): State<Control>, Json(request): Json<ExplainRequest>) -> Response {
    match (control.explain)(request).await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => {
            let problem =
                serde_json::json!({ "title": "cannot be explained", "status": 400, "detail": error });
            (StatusCode::BAD_REQUEST, Json(problem)).into_response()
        }
    }
}
