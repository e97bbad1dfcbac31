//! Requests over HTTP/1 as they are framed on the wire, followed beside the server that reads them.
//!
//! The HTTP library repairs what it can: of a length beside a coding it takes the coding, of equal lengths
//! one, a bare LF for the end of a line; a fragment of a target it drops, and spaces behind the size of a chunk. Who stood before us may have read
//! the same bytes in another way. Here such a head is refused, and such a body ends. Nothing is let
//! through that the library refuses, and nothing is kept but the beginning of one line.
//!
//! # Standard
//! RFC 9112 §2.2, §6.3 and §7.1, stricter: what a recipient may repair is refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The head of a request can be read in two ways: kept among its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doubtful;

/// Which requests of a connection are doubtful: from one on, all.
#[derive(Debug)]
pub(crate) struct Doubts {
    first: AtomicU64,
    asked: AtomicU64,
    /// It has switched to another protocol.
    over: AtomicBool,
}

impl Default for Doubts {
    fn default() -> Self {
        Self { first: AtomicU64::new(u64::MAX), asked: AtomicU64::new(0), over: AtomicBool::new(false) }
    }
}

impl Doubts {
    /// Whether the next request in turn is doubtful.
    fn next(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) >= self.first.load(Ordering::Relaxed)
    }
}

/// A connection's service, which is told of doubtful requests.
#[derive(Debug)]
pub(crate) struct FramedService<S> {
    service: S,
    doubts: Option<Arc<Doubts>>,
}

impl<S> FramedService<S> {
    /// Tells `service`; `None`: over HTTP/2 there are none.
    pub(crate) const fn new(service: S, doubts: Option<Arc<Doubts>>) -> Self {
        Self { service, doubts }
    }
}

impl<S, B> Service<Request<Incoming>> for FramedService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Future: Unpin>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = FramedAnswer<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if self.doubts.as_ref().is_some_and(|doubts| doubts.next()) {
            request.extensions_mut().insert(Doubtful);
        }
        FramedAnswer { answer: self.service.call(request), doubts: self.doubts.clone() }
    }
}

/// An answer that is being made; behind a switch nothing is HTTP.
#[derive(Debug)]
pub(crate) struct FramedAnswer<A> {
    answer: A,
    doubts: Option<Arc<Doubts>>,
}

impl<A, B, E> Future for FramedAnswer<A>
where
    A: Future<Output = Result<Response<B>, E>> + Unpin,
{
    type Output = A::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        let switches = |answer: &Response<B>| answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(doubts) = self.doubts.as_ref().filter(|_| answer.as_ref().is_ok_and(switches)) {
            doubts.over.store(true, Ordering::Relaxed);
        }
        Poll::Ready(answer)
    }
}

/// The socket of an HTTP/1 connection, followed.
#[derive(Debug)]
pub(crate) struct FramedIo<I> {
    io: I,
    scan: Scan,
    doubts: Arc<Doubts>,
    broken: bool,
}

impl<I> FramedIo<I> {
    /// Follows what is read from `io`.
    pub(crate) fn new(io: I, doubts: Arc<Doubts>) -> Self {
        Self { io, scan: Scan::default(), doubts, broken: false }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for FramedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.doubts.over.load(Ordering::Relaxed) {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let Self { scan, doubts, broken, .. } = &mut *self;
        let (_, new) = buffer.filled().split_at(before);
        let sound = scan.follow(new, doubts);
        if sound < new.len() {
            // What is before it may be a head that is to be answered.
            *broken = true;
            buffer.set_filled(before + sound);
            if sound == 0 {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for FramedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Where a stream of requests stands.
#[derive(Debug, Default)]
struct Scan {
    next: Next,
    line: Line,
    head: Head,
    heads: u64,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default)]
enum Next {
    /// A line of a head.
    #[default]
    Head,
    /// As many bytes of a body of known length.
    Body(u64),
    /// The line of a chunk's size.
    Size,
    /// As many bytes of a chunk.
    Chunk(u64),
    /// The empty line behind a chunk.
    ChunkEnd,
    /// A line of the trailers.
    Trailer,
    /// What it is does not matter any more.
    Anything,
}

/// What the head under way has said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    lines: u32,
    length: Option<u64>,
    chunked: bool,
}

/// It can be read in two ways.
struct Ambiguous;

impl Scan {
    /// Follows `bytes`; gives how many of them are sound. Only a body can be unsound: a head is noted as doubtful.
    fn follow(&mut self, bytes: &[u8], doubts: &Doubts) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sound = bytes.len() - rest.len();
            match self.next {
                Next::Anything => return bytes.len(),
                Next::Body(left) => self.pass(left, &mut rest, Next::Body, Next::Head),
                Next::Chunk(left) => self.pass(left, &mut rest, Next::Chunk, Next::ChunkEnd),
                Next::Head => {
                    if self.line(&mut rest).is_err() {
                        doubts.first.fetch_min(self.heads, Ordering::Relaxed);
                        self.next = Next::Anything;
                    }
                }
                Next::Size | Next::ChunkEnd | Next::Trailer => {
                    if self.line(&mut rest).is_err() {
                        self.next = Next::Anything;
                        return sound;
                    }
                }
            }
        }
        bytes.len()
    }

    fn pass(&mut self, left: u64, rest: &mut &[u8], more: fn(u64) -> Next, then: Next) {
        let passed = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        *rest = rest.split_at(passed).1;
        self.next = match left - passed as u64 {
            0 => then,
            left => more(left),
        };
    }

    fn line(&mut self, rest: &mut &[u8]) -> Result<(), Ambiguous> {
        let mark = match self.next {
            Next::Head if self.head.lines == 0 => Some(b'#'),
            Next::Size => Some(b'"'),
            _ => None,
        };
        if !self.line.take(rest, mark)? {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        self.next = match self.next {
            Next::Head => self.head_line(&line)?,
            Next::Size => line.size()?,
            Next::ChunkEnd if line.length == 0 => Next::Size,
            Next::Trailer if line.length == 0 => Next::Head,
            Next::Trailer => Next::Trailer,
            _ => return Err(Ambiguous),
        };
        Ok(())
    }

    fn head_line(&mut self, line: &Line) -> Result<Next, Ambiguous> {
        let head = &mut self.head;
        if line.length > 0 {
            if head.lines == 0 && line.marks > 0 {
                return Err(Ambiguous);
            }
            let once = head.length.is_none() && !head.chunked;
            if let Some(value) = line.value_of(b"content-length") {
                head.length = Some(number(value?).filter(|_| once).ok_or(Ambiguous)?);
            } else if let Some(value) = line.value_of(b"transfer-encoding") {
                head.chunked = once && value?.eq_ignore_ascii_case(b"chunked");
                return if head.chunked { Ok(Next::Head) } else { Err(Ambiguous) };
            }
            head.lines = head.lines.saturating_add(1);
            return Ok(Next::Head);
        }
        // Empty lines before a request line are passed over (RFC 9112 §2.2).
        if head.lines == 0 {
            return Ok(Next::Head);
        }
        self.heads += 1;
        let Head { length, chunked, .. } = std::mem::take(head);
        Ok(match length {
            _ if chunked => Next::Size,
            Some(length) if length > 0 => Next::Body(length),
            _ => Next::Head,
        })
    }
}

/// A line under way, without its CRLF.
#[derive(Clone, Copy, Debug)]
struct Line {
    begin: [u8; BEGIN],
    length: usize,
    /// The last byte was a CR.
    returned: bool,
    /// How often it has what was looked for.
    marks: usize,
}

/// Bytes kept of a line: enough for what is read of any.
const BEGIN: usize = 64;

impl Default for Line {
    fn default() -> Self {
        Self { begin: [0; BEGIN], length: 0, returned: false, marks: 0 }
    }
}

impl Line {
    /// Takes bytes up to the end of the line, and counts this one; whether the end is reached.
    fn take(&mut self, bytes: &mut &[u8], mark: Option<u8>) -> Result<bool, Ambiguous> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (text, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        *bytes = rest.get(1..).unwrap_or_default();
        if self.returned && !text.is_empty() {
            return Err(Ambiguous);
        }
        let (text, returned) = match text.strip_suffix(b"\r") {
            Some(text) => (text, true),
            None => (text, self.returned),
        };
        // A CR stands before an LF, an LF behind a CR, and neither elsewhere.
        if text.contains(&b'\r') || text.contains(&0) || (end.is_some() && !returned) {
            return Err(Ambiguous);
        }
        self.returned = returned;
        for (place, byte) in self.begin.iter_mut().skip(self.length).zip(text) {
            *place = *byte;
        }
        self.length += text.len();
        if mark.is_some() {
            self.marks += text.iter().filter(|byte| Some(**byte) == mark).count();
        }
        Ok(end.is_some())
    }

    /// The value, when it is a line of this header; it must be short.
    fn value_of(&self, name: &[u8]) -> Option<Result<&[u8], Ambiguous>> {
        let kept = self.begin.get(..self.length).unwrap_or(&self.begin);
        let (held, rest) = kept.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":").filter(|_| held.eq_ignore_ascii_case(name))?;
        Some(if self.length > BEGIN { Err(Ambiguous) } else { Ok(value.trim_ascii()) })
    }

    /// What follows the line of a chunk's size. Extensions pass, if no quote hides their end.
    fn size(&self) -> Result<Next, Ambiguous> {
        let kept = self.begin.get(..self.length).unwrap_or(&self.begin);
        let digits = kept.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, rest) = kept.split_at(digits);
        let extended = rest.first() == Some(&b';') && self.marks.is_multiple_of(2);
        let size = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        match size.filter(|_| rest.is_empty() || extended) {
            Some(0) => Ok(Next::Trailer),
            Some(size) => Ok(Next::Chunk(size)),
            None => Err(Ambiguous),
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is doubtful and how much is sound, read in pieces of any size.
    fn read(text: &str) -> (Option<u64>, usize) {
        let bytes = text.as_bytes();
        let outcomes = [1, 2, 3, 7, 50, bytes.len()].map(|piece| {
            let (mut scan, doubts) = (Scan::default(), Doubts::default());
            let mut sound = 0;
            for part in bytes.chunks(piece) {
                let followed = scan.follow(part, &doubts);
                sound += followed;
                if followed < part.len() {
                    break;
                }
            }
            let first = doubts.first.load(Ordering::Relaxed);
            ((first < u64::MAX).then_some(first), sound)
        });
        let whole = outcomes[5];
        for outcome in outcomes {
            assert_eq!(outcome.0, whole.0, "{text:?}");
            // A line that came in pieces was sound until its fault came.
            assert!(outcome.1 >= whole.1 && (outcome.1 < bytes.len()) == (whole.1 < bytes.len()), "{text:?}");
        }
        whole
    }

    #[test]
    fn heads_are_framed_in_one_way() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let rows = [
            ("", None),
            ("X: \"\r\n", None),
            ("Content-Length: 0\r\n", None),
            ("content-length:\t007 \r\n", None),
            ("Transfer-Encoding: Chunked\r\n", None),
            ("Content-Lengths: a\r\nX-Content-Length: b\r\n", None),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Some(1)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Some(1)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Some(1)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some(1)),
            ("Transfer-Encoding: gzip\r\n", Some(1)),
            ("Content-Length: +5\r\n", Some(1)),
            ("Content-Length:\r\n", Some(1)),
            ("Content-Length: 18446744073709551616\r\n", Some(1)),
            (&format!("Content-Length: {}5\r\n", " ".repeat(60)), Some(1)),
            ("X: a\n", Some(1)),
            ("X: a\rb\r\n", Some(1)),
            ("X: a\r\r\n", Some(1)),
            ("X: a\0\r\n", Some(1)),
            ("\n", Some(1)),
        ];
        for (lines, doubtful) in rows {
            let text = format!("{get}\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            assert_eq!(read(&text), (doubtful, text.len()), "{lines:?}");
        }
    }

    #[test]
    fn a_target_has_no_fragment() {
        for (head, doubtful) in [("GET /#a", Some(0)), ("GET /a?b#", Some(0)), ("GET /\r\nX: #", None)] {
            let text = format!("{head} HTTP/1.1\r\n\r\n");
            assert_eq!(read(&text), (doubtful, text.len()), "{head:?}");
        }
    }

    #[test]
    fn bodies_are_passed_over() {
        let bodies = ["", "\n", "hello", "\r\n\r\n\n\0", "GET / HTTP/1.1\n\n"];
        for body in bodies {
            let sized = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let coded = format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n",
                body.len()
            );
            let coded = if body.is_empty() { coded } else { format!("{coded}0;a=\"b\"\r\nX: y\r\n\r\n") };
            for text in [sized, coded] {
                let doubled = format!("{text}GET / HTTP/1.1\n\n");
                assert_eq!(read(&text), (None, text.len()), "{text:?}");
                assert_eq!(read(&doubled), (Some(1), doubled.len()), "{text:?}");
            }
        }
    }

    #[test]
    fn chunks_are_framed_in_one_way() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let rows = [
            ("5\r\nhello\r\n0\r\n\r\n", None),
            ("05;x\r\nhello\r\n", None),
            ("5;x=\"y\"\r\nhello\r\n", None),
            ("0\r\nX: y\r\n\r\n", None),
            ("5 \r\nhello\r\n", Some("")),
            ("5 ;x\r\nhello\r\n", Some("")),
            ("0x5\r\nhello\r\n", Some("")),
            ("+5\r\nhello\r\n", Some("")),
            ("\r\n", Some("")),
            ("5\nhello\r\n", Some("")),
            ("5;x\nhello\r\n", Some("")),
            ("5;x\rhello\r\n", Some("")),
            ("5;x=\"\r\nhello\r\n", Some("")),
            ("10000000000000000\r\n", Some("")),
            ("5\r\nhello!\r\n0\r\n\r\n", Some("5\r\nhello")),
            ("5\r\nhello\n0\r\n\r\n", Some("5\r\nhello")),
            ("0\r\nX: y\n\r\n", Some("0\r\n")),
        ];
        for (body, sound) in rows {
            let text = format!("{head}{body}");
            let expected = sound.map_or(text.len(), |sound| head.len() + sound.len());
            assert_eq!(read(&text), (None, expected), "{body:?}");
        }
    }
}
