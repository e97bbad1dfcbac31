//! Hubs as processes of their own, and many enforcement points over real gRPC: from the commit of a
//! revocation to its being in force at each of them, and to every receipt.
//!
//! `cargo bench --profile dist --bench fleet -- [--members N] [--identities N] [--revocations N]`
//! `… -- --store postgresql://USER@127.0.0.1/DATABASE --hubs 2`, in a database made for it.
//!
//! With several hubs each takes its share of the enforcement points, and of the revocations.
//! Each enforcement point is the product's own client: it joins with a token of its own, keeps two
//! connections under mutual TLS, its own table and its own last-known-good on disk; only requests are
//! missing. All traffic stays on loopback; the run ends by itself.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use portreeve::app::clock::SystemClock;
use portreeve::core::id::Name;
use portreeve::core::identity::{Keyer, SnapshotCell};
use portreeve::core::time::Clock;
use portreeve::state::{
    self, AppliedBatch, Applier, ClientSettings, EnrolledDial, EnrolmentSettings, LastKnownGood, Observer,
    StateStatus,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Options {
    /// Enforcement points.
    #[arg(long, default_value_t = 1000)]
    members: usize,
    /// Identities in the one tenant that all of them hold.
    #[arg(long, default_value_t = 1000)]
    identities: usize,
    /// Revocations, one after the other; each of an identity of its own.
    #[arg(long, default_value_t = 100)]
    revocations: usize,
    /// The hubs' store; an SQLite file of its own when left out.
    #[arg(long)]
    store: Option<String>,
    /// Hubs on that store.
    #[arg(long, default_value_t = 1)]
    hubs: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    assert!(options.revocations <= options.identities, "one identity a revocation: raise --identities");
    assert!(options.hubs == 1 || options.store.is_some(), "several hubs need a --store that they share");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let mut hubs: Vec<Hub> = Vec::new();
    for n in 0..options.hubs.max(1) {
        let own = folder.path().join(format!("hub-{n}"));
        std::fs::create_dir(&own).unwrap();
        // Of one cluster; one token for all.
        for shared in hubs.first().into_iter().flat_map(|_| ["cluster.key", "admin.token"]) {
            std::fs::copy(folder.path().join("hub-0").join(shared), own.join(shared)).unwrap();
        }
        hubs.push(Hub::start(&own, options.store.as_deref()).await);
    }
    hubs[0].fill(options.identities).await;
    println!("hub: {} identities, {} MiB resident", options.identities, hubs[0].resident_mib());

    let seen = Arc::new(Seen::default());
    let begun = Instant::now();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut members = Vec::new();
    for n in 0..options.members {
        members.push(Member::start(n, folder.path(), &hubs, &seen, &clock).await);
    }
    for member in &members {
        member.fresh().await;
    }
    println!(
        "{} enforcement points fresh after {:.2} s; hub {} MiB resident, this process {} MiB",
        members.len(),
        begun.elapsed().as_secs_f64(),
        hubs[0].resident_mib(),
        resident_mib(std::process::id()),
    );

    let mut figures = Figures::default();
    let cpu_seconds = |hubs: &[Hub]| hubs.iter().map(Hub::cpu_seconds).sum::<f64>();
    let before = cpu_seconds(&hubs);
    for n in 0..options.revocations {
        figures.add(hubs[n % hubs.len()].revoke(n, &seen, members.len()).await);
    }
    let cpu = (cpu_seconds(&hubs) - before) / f64::from(u32::try_from(options.revocations).unwrap());
    figures.print(options.revocations);
    println!("{} hubs: {:.1} ms of CPU a revocation, heartbeats included", hubs.len(), cpu * 1000.0);
    for member in members {
        member.stop().await;
    }
    hubs.iter_mut().for_each(Hub::end);
}

/// Who has which revision in force since when.
#[derive(Default)]
struct Seen {
    at: Mutex<(u64, Vec<Instant>)>,
    count: AtomicUsize,
}

impl Seen {
    /// Begins to count a revision that is about to be made.
    fn expect(&self) {
        *self.at.lock() = (0, Vec::new());
        self.count.store(0, Ordering::SeqCst);
    }
}

struct Report(Arc<Seen>, u64);

impl Observer for Report {
    fn in_force(&self, applied: &AppliedBatch<'_>) -> u64 {
        if !applied.ahead && applied.batch.changes.iter().any(portreeve::core::identity::Change::denies) {
            self.0.at.lock().1.push(Instant::now());
            self.0.count.fetch_add(1, Ordering::SeqCst);
        }
        self.1
    }
}

/// One enforcement point without doors.
struct Member {
    state: Arc<SnapshotCell>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Member {
    async fn start(n: usize, folder: &Path, hubs: &[Hub], seen: &Arc<Seen>, clock: &Arc<dyn Clock>) -> Self {
        let id = format!("member-{n}");
        let body = json!({ "id": id, "ttl_s": 3600, "scope": { "tenants": ["demo"] } });
        let token = hubs[0].ask("POST", "/v1/join-tokens", Some(body)).await;
        let join_token_file = folder.join(format!("{id}.token"));
        std::fs::write(&join_token_file, token["token"].as_str().unwrap()).unwrap();
        let enrolment = EnrolmentSettings {
            join_token_file,
            folder: folder.join(&id).join("identity"),
            spoke_id: Name::parse(&id).unwrap(),
            look_every: Duration::from_secs(10),
            jitter: n as u64 + 1,
        };
        let keyer = Keyer::new(n as u128 + 1);
        let minute = Duration::from_secs(60);
        let (lkg, loaded) = LastKnownGood::open(&folder.join(&id), "bench", keyer).unwrap();
        let state = Arc::new(SnapshotCell::new(loaded.snapshot));
        let status = Arc::new(StateStatus::default());
        let report = Box::new(Report(Arc::clone(seen), 0));
        let applier = Applier::new(Arc::clone(&state), lkg, report, Arc::clone(&status));
        let mut incarnation = [0; 16];
        incarnation[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
        let settings = ClientSettings {
            dial: Arc::new(EnrolledDial::open(enrolment, Arc::clone(clock)).unwrap()),
            endpoints: (0..hubs.len())
                .map(|place| format!("https://{}", hubs[(n + place) % hubs.len()].stream))
                .collect(),
            spoke_id: id,
            incarnation,
            deny_after_max: minute,
            waived: Vec::new(),
            jitter: n as u64 + 1,
        };
        let stop = CancellationToken::new();
        let running = state::run(
            settings,
            applier,
            status,
            Arc::new(SystemClock::new()),
            state::KeyReports::new().1,
            stop.clone(),
        );
        Self { state, stop, ended: tokio::spawn(running) }
    }

    async fn fresh(&self) {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while self.state.lease().fresh_at.is_none() {
            looks.tick().await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }
}

/// The hub's process.
struct Hub {
    child: Child,
    api: SocketAddr,
    stream: SocketAddr,
    token: String,
}

/// What one revocation came to.
struct Revoked {
    /// From the answer to the request until each enforcement point had it in force.
    in_force: Vec<Duration>,
    /// From commit to the last receipt, by the hub's clock.
    receipts: Duration,
    /// From the request to its answer: committed.
    commit: Duration,
}

impl Hub {
    async fn start(folder: &Path, store: Option<&str>) -> Self {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (api, stream, metrics) = (free(), free(), free());
        let store = store.unwrap_or("sqlite://hub.db");
        let text = format!(
            "hub: {{ store: \"{store}\", data_dir: . }}\n\
             state: {{ address: \"{stream}\" }}\n\
             revocation: {{ guard: {{ count: 1000000, percent: 100 }} }}\n\
             api: {{ address: \"{api}\", admin_token_file: admin.token }}\n\
             metrics: {{ address: \"{metrics}\" }}\n\
             log: {{ level: warn }}\n"
        );
        let config = folder.join("hub.yaml");
        std::fs::write(&config, text).unwrap();
        let binary = env!("CARGO_BIN_EXE_portreeve");
        let child = Command::new(binary).arg("hub").arg("--config").arg(config).stdout(Stdio::null()).spawn();
        let mut hub = Self { child: child.unwrap(), api, stream, token: String::new() };
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while tokio::net::TcpStream::connect(api).await.is_err() {
            assert!(hub.child.try_wait().unwrap().is_none(), "the hub ended before it served");
            looks.tick().await;
        }
        hub.token = std::fs::read_to_string(folder.join("admin.token")).unwrap().trim().to_owned();
        hub
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let socket = tokio::net::TcpStream::connect(self.api).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hub")
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))
            .unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        drop(sender);
        connection.await.unwrap().unwrap();
        assert!(head.status.is_success(), "{path}: {} {}", head.status, String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn fill(&self, identities: usize) {
        let document = |n: usize| {
            json!({
                "kind": "identity", "tenant": "demo", "name": format!("identity-{n}"),
                "spec": {
                    "type": "workload", "environment": "prod", "owner": { "team": "payments" },
                    "entitlements": [{ "name": "orders:read" }],
                },
            })
        };
        for from in (0..identities).step_by(1000) {
            let some: Vec<_> = (from..identities.min(from + 1000)).map(document).collect();
            self.ask("POST", "/v1/apply", Some(json!({ "documents": some }))).await;
            print!("\rapplied {}/{identities}", identities.min(from + 1000));
            std::io::stdout().flush().unwrap();
        }
        println!();
    }

    /// Revokes one identity and waits until every enforcement point's receipt is there.
    async fn revoke(&self, n: usize, seen: &Seen, members: usize) -> Revoked {
        seen.expect();
        let body = json!({ "target": { "identity": format!("identity-{n}") }, "reason": "bench" });
        let asked = Instant::now();
        let receipt = self.ask("POST", "/v1/tenants/demo/revocations", Some(body)).await;
        let answered = Instant::now();
        let revision = receipt["revision"].as_u64().unwrap();
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        while seen.count.load(Ordering::SeqCst) < members {
            looks.tick().await;
        }
        let path = format!("/v1/revisions/{revision}/receipts");
        let mut receipt = self.ask("GET", &path, None).await;
        while receipt["state"] != "EFFECTIVE" {
            looks.tick().await;
            receipt = self.ask("GET", &path, None).await;
        }
        let time = |key: &str| micros(receipt[key].as_str().unwrap());
        let receipts = Duration::from_micros(time("effective_since") - time("committed_at"));
        let at = std::mem::take(&mut seen.at.lock().1);
        let in_force = at.iter().map(|at| at.saturating_duration_since(asked)).collect();
        Revoked { in_force, receipts, commit: answered - asked }
    }

    fn resident_mib(&self) -> u64 {
        resident_mib(self.child.id())
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u32 = [11, 12].iter().map(|at| fields[*at].parse::<u32>().unwrap()).sum();
        f64::from(ticks) / 100.0
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn micros(time: &str) -> u64 {
    let at: jiff::Timestamp = time.parse().unwrap();
    at.as_microsecond().try_into().unwrap()
}

fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[derive(Default)]
struct Figures {
    in_force: Vec<Duration>,
    receipts: Vec<Duration>,
    commit: Vec<Duration>,
}

impl Figures {
    fn add(&mut self, revoked: Revoked) {
        self.in_force.extend(revoked.in_force);
        self.receipts.push(revoked.receipts);
        self.commit.push(revoked.commit);
    }

    fn print(&mut self, revocations: usize) {
        println!("{revocations} revocations, ms            p50      p90      p99      max");
        let rows = [
            ("request to its answer (committed)", &mut self.commit),
            ("request to in force, each member", &mut self.in_force),
            ("commit to the last receipt", &mut self.receipts),
        ];
        for (what, all) in rows {
            all.sort_unstable();
            let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)].as_secs_f64() * 1e3;
            println!("{what:<34} {:>8.2} {:>8.2} {:>8.2} {:>8.2}", at(50), at(90), at(99), at(100));
        }
    }
}
