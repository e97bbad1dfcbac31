//! Who is at the other end of a connection, as far as the connection itself tells.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use crate::mtls::Certified;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// `None`: it has none, as within one process.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) who: Who,
}

/// What a connection tells of who is there.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// Nothing, and what its messages say is to be taken for true: a pipe within the process, or
    /// loopback in clear where the configuration allows that.
    Claimed,
    /// What its certificate says, which was verified.
    Certified(Arc<Certified>),
    /// Nothing: it showed no certificate. It may join, and nothing else.
    Stranger,
    /// Its certificate was verified, and names nobody.
    Nameless(String),
}

impl Peer {
    /// The peer of a request.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the connection does not tell, which the ways in here exclude.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let told = request.extensions().get::<Self>().cloned();
        told.ok_or_else(|| Status::unauthenticated("the connection does not tell who is there"))
    }

    /// Its address, for people.
    pub(crate) fn place(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// A connection with who is at its other end.
#[derive(Debug)]
pub(crate) struct Carried<C> {
    pub(crate) io: C,
    pub(crate) peer: Peer,
}

impl<C> Carried<C> {
    /// One whose peer is taken at its word.
    pub(crate) const fn claimed(io: C, address: Option<SocketAddr>) -> Self {
        Self { io, peer: Peer { address, who: Who::Claimed } }
    }
}

impl<C> Connected for Carried<C> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Carried<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Carried<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
