//! A caller that writes HTTP/2 frame by frame.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What a peer that asks for calm says.
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
/// What it says of a stream that was not begun.
pub(crate) const REFUSED_STREAM: u32 = 7;

/// A frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of a reset or a farewell.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a `GET` without a credential, by RFC 7541: static names, literal values.
pub(crate) fn block(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(0x04, path), (0x01, "orders.test")] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    block
}

/// The frames that open a stream, and ask nothing more on it.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(path))
}

/// The frame that resets a stream.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// One connection.
pub(crate) struct Frames(TcpStream);

impl Frames {
    /// Connects and says the preface with one `SETTINGS` frame.
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut frames = Self(stream);
        frames.write(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat());
        frames
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // A proxy that has seen enough may have closed already.
        drop(self.0.write_all(bytes));
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the proxy is silent")
            }
            outcome => outcome.ok()?,
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], stream, payload })
    }

    /// The next frame of these kinds; `None` at the end of the connection.
    pub(crate) fn next(&mut self, kinds: &[u8]) -> Option<Frame> {
        std::iter::from_fn(|| self.read()).find(|frame| kinds.contains(&frame.kind))
    }

    /// The code of the farewell, the connection closed behind it.
    pub(crate) fn farewell(&mut self) -> Option<u32> {
        let code = self.next(&[GOAWAY])?.code();
        assert!(self.next(&[HEADERS, RST_STREAM]).is_none(), "nothing after a farewell");
        Some(code)
    }

    /// Whether a request on `stream` is answered with any head.
    pub(crate) fn is_answered(&mut self, stream: u32, path: &str) -> bool {
        self.write(&get(stream, path));
        self.next(&[HEADERS, GOAWAY]).is_some_and(|frame| (frame.kind, frame.stream) == (HEADERS, stream))
    }
}
