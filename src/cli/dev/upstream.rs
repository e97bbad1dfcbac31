//! The service that `dev` protects: it answers with what it saw.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use axum::extract::Request;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `stop` is cancelled.
///
/// # Errors
/// What the operating system says of the listening socket.
pub(super) async fn serve(listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    let app = Router::new().fallback(|request: Request| async move { Json(seen(&request)) });
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Binds the service's address.
pub(super) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn seen(request: &Request) -> Value {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let joined = headers.entry(name.to_string()).or_default();
        if joined.is_empty() {
            *joined = value;
        } else {
            joined.push_str(", ");
            joined.push_str(&value);
        }
    }
    json!({
        "service": "orders (demo)",
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
    })
}
