//! The operator's own server, on loopback only.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
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
    /// `GET /config_dump`, `GET /state`, `GET /logging`, `POST /logging?level=LEVEL`, `POST /explain`.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or not this machine's.
    pub fn bind(self, address: SocketAddr) -> Result<Server, BindError> {
        let router = Router::new()
            .route("/config_dump", get(|State(c): State<Self>| async move { Json((c.config)()) }))
            .route("/state", get(|State(c): State<Self>| async move { Json((c.state)()) }))
            .route("/logging", get(level).post(set_level))
            .route("/explain", post(explain))
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
