//! Callers: connections that are kept, each a thread that waits for its answer before it asks again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::upstream::BODY_BYTES;

/// Callers of one subject.
pub(super) struct Load {
    requests: Arc<[Vec<u8>]>,
    connections: Vec<Mutex<Connection>>,
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Which request is next.
    next: usize,
}

impl Load {
    /// Opens the connections.
    pub(super) fn new(address: SocketAddr, requests: Arc<[Vec<u8>]>, connections: usize) -> Self {
        let open = |next| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Mutex::new(Connection { stream, buffer: vec![0; 16 * 1024], next })
        };
        Self { requests, connections: (0..connections).map(open).collect() }
    }

    /// Asks on all connections as fast as answers come; how many came.
    pub(super) fn saturate(&self, length: Duration) -> usize {
        let end = Instant::now() + length;
        let counts = self.each(|_, connection| {
            let mut count = 0;
            while Instant::now() < end {
                connection.ask(&self.requests);
                count += 1;
            }
            count
        });
        counts.into_iter().sum()
    }

    /// Asks at a fixed rate, whether answers come or not; how long each took from when it was due, or
    /// from when its thread woke where it had not been kept by the answer before.
    pub(super) fn at_rate(&self, rate: u32, length: Duration) -> Vec<Duration> {
        let step = Duration::from_secs(1) / rate;
        let count = u32::try_from(self.connections.len()).unwrap();
        let begin = Instant::now() + Duration::from_millis(10);
        let all = self.each(|place, connection| {
            let mut took = Vec::new();
            let mut due = begin + step * u32::try_from(place).unwrap();
            while due < begin + length {
                let late = Instant::now() > due;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let from = if late { due } else { Instant::now() };
                connection.ask(&self.requests);
                took.push(from.elapsed());
                due += step * count;
            }
            took
        });
        all.into_iter().flatten().collect()
    }

    fn each<T: Send>(&self, work: impl Fn(usize, &mut Connection) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = self
                .connections
                .iter()
                .enumerate()
                .map(|(place, connection)| scope.spawn(move || work(place, &mut connection.lock())))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

impl Connection {
    /// One request and its whole answer, which must be the upstream's.
    fn ask(&mut self, requests: &[Vec<u8>]) {
        self.stream.write_all(&requests[self.next % requests.len()]).unwrap();
        // Apart from the others, and through all of them in time.
        self.next += 7;
        let mut filled = 0;
        let head = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).expect("an answer comes");
            assert!(read > 0, "the connection was closed");
            filled += read;
            if let Some(at) = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let said = || String::from_utf8_lossy(&self.buffer[..filled]).into_owned();
        assert!(self.buffer.starts_with(b"HTTP/1.1 200"), "{}", said());
        while filled < head + BODY_BYTES {
            let read = self.stream.read(&mut self.buffer[filled..]).expect("the rest of it comes");
            assert!(read > 0, "the answer was cut");
            filled += read;
        }
        assert_eq!(filled, head + BODY_BYTES, "as long as it says");
    }
}
