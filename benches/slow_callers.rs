//! Many callers that never finish their first head: what each costs, when it is gone, and what honest callers
//! feel of them meanwhile.
//!
//! `cargo bench --profile dist --bench slow_callers -- [--callers N] [--requests N]`
//!
//! The slow ones are a process of their own: one process may not open both ends of so many connections. All
//! traffic is on loopback; the run ends by itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;

use support::caller::Caller;
use support::front::Gate;
use support::upstream::Upstream;

#[path = "../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Options {
    /// Slow connections.
    #[arg(long, default_value_t = 10_000)]
    callers: usize,
    /// Requests of the honest caller, without and with the slow ones; one a millisecond.
    #[arg(long, default_value_t = 3000)]
    requests: usize,
    /// Be the slow ones, against this address.
    #[arg(long, hide = true)]
    against: Option<SocketAddr>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Between two bytes of a slow caller: none is silent for long.
const DRIP: Duration = Duration::from_secs(2);
/// In how many turns all of them have dripped.
const TURNS: u32 = 100;
/// Longest wait for the last of them to be closed.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let options = Options::parse();
    match options.against {
        Some(address) => drip(address, options.callers),
        None => measure(&options),
    }
}

/// Opens the connections, says so, and writes to each a byte now and then until all are closed.
fn drip(address: SocketAddr, callers: usize) {
    let mut open: Vec<(u32, TcpStream)> = (0..TURNS)
        .cycle()
        .take(callers)
        .map(|turn| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\nX-Slow: ").unwrap();
            stream.set_nonblocking(true).unwrap();
            (turn, stream)
        })
        .collect();
    println!("open");
    let begun = Instant::now();
    for now in (0..TURNS).cycle() {
        if open.is_empty() || begun.elapsed() > PATIENCE {
            break;
        }
        // Not all at once: they are strangers to each other.
        std::thread::sleep(DRIP / TURNS);
        open.retain_mut(|(turn, stream)| {
            if *turn != now {
                return true;
            }
            let is_open =
                stream.read(&mut [0; 512]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            is_open && stream.write_all(b"x").is_ok()
        });
    }
    println!("{} left after {} ms", open.len(), begun.elapsed().as_millis());
}

fn measure(options: &Options) {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let drain = || while !upstream.is_untouched() {};
    honest(&gate, options.requests / 3);
    drain();
    let alone = honest(&gate, options.requests);
    drain();

    let before = resident_kib();
    let mut slow = Slow::start(&gate, options.callers);
    let opened = Instant::now();
    let grown = resident_kib() - before;
    let with_them = honest(&gate, options.requests);
    drain();
    println!(
        "{} slow callers: {:.1} KiB resident each",
        options.callers,
        grown as f64 / options.callers as f64
    );
    println!("an honest caller alone: p50 {:.0?}, p99 {:.0?}", at(&alone, 50), at(&alone, 99));
    println!("beside them: p50 {:.0?}, p99 {:.0?}", at(&with_them, 50), at(&with_them, 99));
    println!("the slow ones, {:.1?} after the last was open: {}", opened.elapsed(), slow.says());
    let text = gate.metrics.render();
    let ended =
        text.lines().find(|line| line.starts_with("portreeve_connections_ended_total{cause=\"head\""));
    println!("{}", ended.unwrap_or("none was ended for its head"));
}

struct Slow(Child, BufReader<std::process::ChildStdout>);

impl Slow {
    fn start(gate: &Gate, callers: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--callers", &callers.to_string(), "--against", &gate.running.address().to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut slow = Self(child, said);
        assert_eq!(slow.says(), "open");
        slow
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

/// Answers' times, in order.
fn honest(gate: &Gate, requests: usize) -> Vec<Duration> {
    let text = gate.order_text("GET", "");
    let mut caller: Caller = gate.caller();
    let mut times: Vec<_> = (0..requests)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            let begun = Instant::now();
            assert_eq!(caller.ask(&text).status, 200);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn at(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() - 1) * percent / 100]
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
