//! Liveness, readiness, metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::serve::{BindError, Server};

/// Whether requests may be sent here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// They may.
    pub ready: bool,
    /// Why not, or in what condition, a line each.
    pub detail: Vec<String>,
}

/// What the health server shows.
#[derive(Clone)]
pub struct Health {
    /// Asked at each `/readyz`.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// Asked at each `/metrics`, to bring gauges up to date.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Gathered at each `/metrics`.
    pub registry: Registry,
    /// Public keys of assertions, a JWK set; `None`: nothing is asserted.
    pub keys: Option<Arc<str>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    /// Binds the server: `/livez`, `/readyz`, `/metrics`, `/.well-known/jwks.json`, and `/healthz` as another name of `/livez`.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or not this machine's.
    pub fn bind(self, address: SocketAddr) -> Result<Server, BindError> {
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/.well-known/jwks.json", get(keys))
            .with_state(self);
        Server::bind("health and metrics", address, router)
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let Readiness { ready, detail } = (health.readiness)();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
    for line in detail {
        text.push_str(&line);
        text.push('\n');
    }
    (status, text)
}

async fn keys(State(health): State<Health>) -> Response {
    match health.keys {
        Some(keys) => {
            let lines =
                [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "max-age=300")];
            (lines, keys.to_string()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    (health.refresh)();
    let mut body = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&health.registry.gather(), &mut body) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
