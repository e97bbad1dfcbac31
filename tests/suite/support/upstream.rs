//! A fake HTTP/1.1 upstream: answers what a test says, and tells what it received.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::PATIENCE;

/// What an upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Writes these bytes.
    Bytes(Vec<u8>),
    /// Writes these bytes whatever was asked, and whether they are taken or not.
    Raw(Vec<u8>),
    /// Writes these bytes and closes the connection.
    ThenClose(Vec<u8>),
    /// Writes nothing until the caller goes away.
    Silence,
    /// Writes these bytes, and tells with [`Upstream::wait_closed`] when the caller goes away.
    Open(Vec<u8>),
    /// Switches to WebSocket, writes these bytes, and echoes until the caller goes away.
    Switch(Vec<u8>),
    /// Switches to WebSocket; then as [`Self::Flood`].
    SwitchAndFlood(Vec<u8>),
    /// Writes these bytes over and over until the caller goes away; tells with
    /// [`Upstream::wait_stalled`] when they are no longer taken, and with [`Upstream::wait_closed`].
    Flood(Vec<u8>),
    /// Writes these bytes once the test says so with [`Upstream::go`].
    WhenTold(Vec<u8>),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    /// Request line and header lines, in lower case but for values.
    pub(crate) head: Vec<String>,
    /// The body, chunks joined.
    pub(crate) body: Vec<u8>,
    /// Which connection it came by, counted from 0.
    pub(crate) connection: usize,
}

impl Arrived {
    /// The request line.
    pub(crate) fn line(&self) -> &str {
        &self.head[0]
    }

    /// The values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head[1..].iter().filter_map(|line| line.split_once(": "));
        lines.filter(|(held, _)| held.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The one value of a header, if there is one.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.first().copied()
    }
}

/// The upstream.
pub(crate) struct Upstream {
    address: SocketAddr,
    arrived: Mutex<Receiver<Arrived>>,
    closed: Mutex<Receiver<()>>,
    stalled: Mutex<Receiver<()>>,
    told: SyncSender<()>,
}

/// What the threads of an upstream share.
struct Inside {
    reply: Box<dyn Fn(&Arrived) -> Reply + Send + Sync>,
    arrived: SyncSender<Arrived>,
    closed: SyncSender<()>,
    stalled: SyncSender<()>,
    told: Mutex<Receiver<()>>,
}

/// Bytes not taken for this long are not taken.
const STALLED: Duration = Duration::from_millis(200);

impl Upstream {
    /// Answers each request as `reply` says.
    pub(crate) fn new(reply: impl Fn(&Arrived) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // A test that looks at none of what arrives must not stop the answers.
        let (arrived_in, arrived) = sync_channel(20_000);
        let (closed_in, closed) = sync_channel(1000);
        let (stalled_in, stalled) = sync_channel(1000);
        let (told, told_out) = sync_channel(1000);
        let reply = Box::new(reply);
        let inside = Arc::new(Inside {
            reply,
            arrived: arrived_in,
            closed: closed_in,
            stalled: stalled_in,
            told: Mutex::new(told_out),
        });
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let inside = Arc::clone(&inside);
                std::thread::spawn(move || serve(stream.unwrap(), number, &inside));
            }
        });
        Self {
            address,
            arrived: Mutex::new(arrived),
            closed: Mutex::new(closed),
            stalled: Mutex::new(stalled),
            told,
        }
    }

    /// Answers every request with 200 and `hello`.
    pub(crate) fn hello() -> Self {
        Self::new(|_| Reply::Bytes(ok("", "hello")))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request that arrives.
    pub(crate) fn next(&self) -> Arrived {
        self.arrived.lock().unwrap().recv_timeout(PATIENCE).expect("a request arrives")
    }

    /// Whether nothing has arrived that was not taken yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.arrived.lock().unwrap().try_recv().is_err()
    }

    /// Waits until it has closed a connection.
    pub(crate) fn wait_closed(&self) {
        self.closed.lock().unwrap().recv_timeout(PATIENCE).expect("a connection is closed");
    }

    /// Waits until what it writes is no longer taken.
    pub(crate) fn wait_stalled(&self) {
        self.stalled.lock().unwrap().recv_timeout(PATIENCE).expect("writing stalls");
    }

    /// Lets one [`Reply::WhenTold`] go.
    pub(crate) fn go(&self) {
        self.told.send(()).unwrap();
    }
}

/// A 200 with these further header lines, each ending in CRLF, and a body.
pub(crate) fn ok(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{lines}\r\n{body}", body.len()).into_bytes()
}

fn serve(stream: TcpStream, connection: usize, inside: &Inside) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(arrived) = read(&mut reader, connection) {
        let reply = (inside.reply)(&arrived);
        let head_only = arrived.line().starts_with("HEAD");
        let switch = switch(&arrived);
        let switches = matches!(reply, Reply::SwitchAndFlood(_));
        inside.arrived.send(arrived).unwrap();
        match reply {
            Reply::Bytes(bytes) if head_only => {
                let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
                writer.write_all(&bytes[..end]).unwrap();
            }
            Reply::Bytes(bytes) => writer.write_all(&bytes).unwrap(),
            Reply::Raw(bytes) => {
                writer.write_all(&bytes).ok();
            }
            Reply::ThenClose(bytes) => {
                writer.write_all(&bytes).unwrap();
                drop((writer, reader));
                inside.closed.send(()).unwrap();
                return;
            }
            Reply::Silence => {
                // Until the caller hangs up.
                drop(reader.read(&mut [0]));
                return;
            }
            Reply::Open(bytes) => {
                writer.write_all(&bytes).unwrap();
                drop(std::io::copy(&mut reader, &mut std::io::sink()));
                // A test may be over.
                inside.closed.send(()).ok();
                return;
            }
            Reply::Switch(bytes) => {
                writer.write_all(&[switch, bytes].concat()).unwrap();
                drop(std::io::copy(&mut reader, &mut writer));
                inside.closed.send(()).ok();
                return;
            }
            Reply::Flood(bytes) | Reply::SwitchAndFlood(bytes) => {
                if switches {
                    writer.write_all(&switch).unwrap();
                }
                writer.set_write_timeout(Some(STALLED)).unwrap();
                while writer.write_all(&bytes).is_ok() {}
                inside.stalled.send(()).ok();
                writer.set_write_timeout(None).unwrap();
                while writer.write_all(&bytes).is_ok() {}
                inside.closed.send(()).ok();
                return;
            }
            Reply::WhenTold(bytes) => {
                inside.told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                writer.write_all(&bytes).unwrap();
            }
        }
    }
}

/// The head that switches to WebSocket, as a request asks for it.
fn switch(arrived: &Arrived) -> Vec<u8> {
    use base64::Engine as _;
    let key = arrived.one("sec-websocket-key").unwrap_or_default();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    .into_bytes()
}

fn read(reader: &mut BufReader<TcpStream>, connection: usize) -> Option<Arrived> {
    let mut head = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let mut arrived = Arrived { head, body: Vec::new(), connection };
    if arrived.one("transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(&read_line(reader)?, 16).ok()?;
            let at = arrived.body.len();
            arrived.body.resize(at + size, 0);
            reader.read_exact(&mut arrived.body[at..]).ok()?;
            // A last chunk may be followed by trailers; they are kept as header lines to be seen.
            loop {
                let line = read_line(reader)?;
                if line.is_empty() {
                    break;
                }
                arrived.head.push(line);
            }
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = arrived.one("content-length") {
        arrived.body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut arrived.body).ok()?;
    }
    Some(arrived)
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    Some(line.trim_end_matches(['\r', '\n']).to_owned())
}
