//! An upstream that tells what it receives: each request exactly, and each that is cut.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::support::PATIENCE;

/// A request as it arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) line: String,
    /// Header lines and trailers, in order of the alphabet; that of the decision without its value.
    lines: Vec<String>,
    pub(super) body: String,
}

impl Seen {
    /// One with these header lines, parted by `|`, beside that of the decision.
    pub(super) fn whole(line: &str, lines: &str, body: &str) -> Self {
        let mut lines: Vec<String> =
            lines.split('|').filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines.push(DECISION.to_owned());
        lines.sort();
        Self { line: line.to_owned(), lines, body: body.to_owned() }
    }
}

const DECISION: &str = "x-portreeve-decision: *";

/// The upstream; it answers every whole request with 200.
pub(super) struct Recorder {
    address: SocketAddr,
    seen: Receiver<Seen>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (told, seen) = sync_channel(1000);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let told = told.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &told));
            }
        });
        Self { address, seen }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next whole request.
    pub(super) fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("a request arrives")
    }
}

fn serve(stream: TcpStream, told: &SyncSender<Seen>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(seen) = read(&mut reader) {
        let bodiless = seen.line.starts_with("HEAD");
        // A test may be over.
        told.send(seen).ok();
        let body = if bodiless { "" } else { "hello" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{body}");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A whole request, framed by nothing but CRLF, one length or one coding; `None`: there is no further one.
fn read(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let line = read_line(reader)?;
    let mut lines = Vec::new();
    read_lines(reader, &mut lines)?;
    let value = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let (coding, length) = (value("transfer-encoding: "), value("content-length: "));
    let mut body = Vec::new();
    match (coding.as_deref(), length) {
        (Some("chunked"), None) => loop {
            let size = usize::from_str_radix(&read_line(reader)?, 16).unwrap();
            if size == 0 {
                read_lines(reader, &mut lines)?;
                break;
            }
            let at = body.len();
            body.resize(at + size, 0);
            reader.read_exact(&mut body[at..]).ok()?;
            assert_eq!(read_line(reader)?, "");
        },
        (None, Some(length)) => {
            body.resize(length.parse().unwrap(), 0);
            reader.read_exact(&mut body).ok()?;
        }
        (None, None) => {}
        odd => panic!("framed as {odd:?}: {line} {lines:?}"),
    }
    for line in &mut lines {
        if line.starts_with("x-portreeve-decision: ") {
            *line = DECISION.to_owned();
        }
    }
    lines.sort();
    Some(Seen { line, lines, body: letters(&body) })
}

fn read_lines(reader: &mut BufReader<TcpStream>, lines: &mut Vec<String>) -> Option<()> {
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Some(());
        }
        lines.push(line);
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    let text = line.strip_suffix(b"\r\n")?;
    assert!(!text.contains(&b'\r') && !text.contains(&0), "{}", line.escape_ascii());
    Some(letters(text))
}

/// Each byte as a letter of its number.
pub(super) fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
