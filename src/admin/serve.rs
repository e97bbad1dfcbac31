//! Binding first, serving later: a taken port is an error at start.

use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use tokio_util::sync::CancellationToken;

/// A bound server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: cannot listen on {address}: {source}; free the port or choose another address")]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Server {
    pub(super) fn bind(what: &'static str, address: SocketAddr, router: Router) -> Result<Self, BindError> {
        let fault = |source| BindError { what, address, source };
        let listener = TcpListener::bind(address).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(Self { listener, router })
    }

    /// The address in use.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled and open requests are done.
    ///
    /// # Errors
    /// What the operating system says of the listening socket.
    pub async fn serve(self, stop: CancellationToken) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        axum::serve(listener, self.router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}
