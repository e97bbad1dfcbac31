//! The service behind all subjects: as cheap as can be, so that what is measured is in front of it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What it answers with, beside its head.
pub(super) const BODY_BYTES: usize = 1024;

/// Serves from a thread of its own for as long as the process lives.
pub(super) fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
            );
            let answer: &'static [u8] = [head.into_bytes(), vec![b'x'; BODY_BYTES]].concat().leak();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, answer));
            }
        });
    });
    address
}

/// Requests without bodies, one after the other.
async fn serve(mut stream: tokio::net::TcpStream, answer: &'static [u8]) {
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return,
            Ok(read) => filled += read,
        }
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}
