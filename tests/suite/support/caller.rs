//! A caller that writes HTTP/1.1 byte for byte.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// One connection to a proxy.
pub(crate) struct Caller(BufReader<TcpStream>);

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// Header lines, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub(crate) body: String,
}

impl Answer {
    /// The one value of a header, if there is one.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(held, _)| held == name);
        let found = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} twice: {:?}", self.headers);
        found
    }
}

impl Caller {
    /// Connects.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Connects, if somebody listens.
    pub(crate) fn try_to(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).ok().map(Self::over)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Whether anything is there to read, waited for.
    pub(crate) fn is_answered(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty())
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // A proxy that has refused the head may have closed already.
        drop(self.0.get_mut().write_all(bytes));
    }

    /// Says that nothing more is written; answers can still be read.
    pub(crate) fn end_writing(&mut self) {
        self.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: &str) -> Answer {
        self.write(request.as_bytes());
        self.read(request.starts_with("HEAD"))
    }

    /// Reads one answer.
    pub(crate) fn read(&mut self, bodiless: bool) -> Answer {
        let status = self.line();
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {status:?}")).parse();
        let mut answer = Answer { status: status.unwrap(), headers: Vec::new(), body: String::new() };
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            answer.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let body = if bodiless { Vec::new() } else { self.body(&answer) };
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Whether the proxy closes the connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => !is_timeout(&error),
        }
    }

    /// Whether the proxy closes the connection, whatever it says before.
    pub(crate) fn ends(&mut self) -> bool {
        self.0.read_to_end(&mut Vec::new()).err().is_none_or(|error| !is_timeout(&error))
    }

    /// Whether the proxy closes the connection within `time`, whatever it says before.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let ends = self.ends();
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        ends
    }

    /// Reads and drops everything up to and with `text`.
    pub(crate) fn skip_to(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&seen));
            });
            seen.push(byte[0]);
        }
    }

    /// As many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Another handle of the same connection, to write while this one reads.
    pub(crate) fn another(&mut self) -> Self {
        Self(BufReader::new(self.0.get_ref().try_clone().unwrap()))
    }

    /// Everything until the proxy closes the connection, in whatever way.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        drop(self.0.read_to_end(&mut rest));
        rest
    }

    /// Whether the connection ends in a reset, whatever the proxy says before.
    pub(crate) fn is_reset(&mut self) -> bool {
        let ended = self.0.read_to_end(&mut Vec::new());
        ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }

    /// Whether the connection is open, with nothing to read on it.
    pub(crate) fn is_open(&mut self) -> bool {
        let stream = self.0.get_mut();
        stream.set_nonblocking(true).unwrap();
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        seen.is_err_and(|error| is_timeout(&error))
    }

    fn body(&mut self, answer: &Answer) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(length) = answer.one("content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body).unwrap();
        } else if answer.one("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).unwrap();
                let at = body.len();
                body.resize(at + size, 0);
                self.0.read_exact(&mut body[at..]).unwrap();
                assert_eq!(self.line(), "");
                if size == 0 {
                    break;
                }
            }
        }
        body
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
