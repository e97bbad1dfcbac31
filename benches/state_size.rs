//! What a state of many identities costs: memory, building, applying, looking up, keeping, starting.
//!
//! ```text
//! cargo bench --profile dist --bench state_size -- table 1000000
//! cargo bench --profile dist --bench state_size -- start 100000
//! ```
//!
//! `table` builds the state in this process; `start` writes a last-known-good, starts the real
//! `portreeve proxy` on it with no hub to be reached, and waits until `/readyz` says ready. Memory is
//! resident memory as the kernel counts it, under the allocator of the program.
//!
//! Identity `n` has a name of 14 bytes, one of 3 environments, 1 of 200 owners with a contact, a ticket
//! of its own, a review date, 2 labels (8 and 300 values), 3 entitlements of 500 with source and date,
//! a Kubernetes binding and, for every other one, a SPIFFE binding as well; and one credential with
//! three dates and a source.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::core::id::{Epoch, Name};
use portreeve::core::identity::{
    Batch, Binding, Change, Credential, CredentialKind, CredentialStatus, Entitlement, Identity,
    IdentityStatus, IdentityType, Keyer, Owner, Record, RecordKind, RiskLevel, Snapshot,
};
use portreeve::core::time::Timestamp;
use portreeve::state::LastKnownGood;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANT: &str = "demo";
const EPOCH: Epoch = Epoch::from_bytes([1; 16]);
const BATCH: usize = 1000;
const DAY: i64 = 86_400;
/// Monday, 1 December 2025.
const START: i64 = 1_764_547_200;

fn main() {
    let given: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let size = given.get(1).map_or(100_000, |size| size.parse().expect("a number of identities"));
    match given.first().map(String::as_str) {
        None | Some("table") => table(size),
        Some("start") => start(size),
        Some(other) => panic!("`{other}`: expected `table N` or `start N`"),
    }
}

fn table(size: usize) {
    let before = resident("self");
    let began = Instant::now();
    let mut state = build(size);
    println!("{size} identities, {} bindings, {size} credentials", state.stats().bindings);
    println!("  build, 1,000 a batch      {:>10.0} ms", ms(began.elapsed()));
    settle();
    let used = resident("self") - before;
    println!(
        "  resident                  {:>10.1} MiB, {:.0} B an identity with its bindings and credential",
        mib(used),
        used as f64 / size as f64
    );
    resolve(&state, size);
    state = apply(state, size);
    digest(&state);
    let folder = tempfile::tempdir().expect("a folder");
    keep(&state, folder.path());
    drop(state);
    settle();
    let before = resident("self");
    let began = Instant::now();
    let loaded = open(folder.path()).1;
    println!("  last-known-good, load     {:>10.0} ms", ms(began.elapsed()));
    println!("  resident at the peak      {:>10.1} MiB (of the process, ever)", mib(peak("self")));
    settle();
    let more = resident("self").saturating_sub(before);
    println!("  resident after the load   {:>10.1} MiB more than before it", mib(more));
    assert_eq!(loaded.stats().identities, size);
}

fn resolve(state: &Snapshot, size: usize) {
    let tenant = name(TENANT);
    let asked = |n: usize| (name(&format!("cluster-{}", n % 16)), subject(n));
    for (what, of) in [("cold, of all", size), ("hot, of 1,000", 1000.min(size))] {
        let questions: Vec<_> = spread(100_000.min(size), of).map(asked).collect();
        let began = Instant::now();
        for (issuer, subject) in &questions {
            assert!(black_box(state.identity_of(&tenant, issuer, subject)).is_some());
        }
        let each = began.elapsed().as_nanos() / questions.len() as u128;
        println!("  subject to identity, {what:<15}{each:>4} ns");
    }
}

fn apply(mut state: Snapshot, size: usize) -> Snapshot {
    let revision = |state: &Snapshot| state.cell(&name(TENANT)).expect("the cell").revision;
    for (what, in_batch, rounds) in [("1", 1, 20_000), ("100", 100, 400)] {
        let mut places = spread(in_batch * rounds, size);
        let mut times = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let at = revision(&state);
            let mut changed = places.by_ref().take(in_batch).map(|n| identity(n, at + 1)).collect::<Vec<_>>();
            changed.sort_by(|a, b| a.name.cmp(&b.name));
            changed.dedup_by(|a, b| a.name == b.name);
            let count = changed.len();
            let delta = batch(at, changed);
            let began = Instant::now();
            let next = state.apply(&delta).expect("it follows on");
            drop(std::mem::replace(&mut state, next));
            times.push(began.elapsed().as_nanos() as f64 / 1000.0 / count as f64);
        }
        times.sort_by(f64::total_cmp);
        let at = |of: usize| times[times.len() * of / 100];
        println!(
            "  apply, {what:>3} a batch        p50 {:>6.2} µs, p99 {:>6.2} µs a change, the old state freed",
            at(50),
            at(99)
        );
    }
    state
}

fn digest(state: &Snapshot) {
    let began = Instant::now();
    let found = state.recompute_digest(&name(TENANT));
    assert_eq!(found, state.cell(&name(TENANT)).map(|held| held.state_digest));
    println!("  looking through for drift {:>10.0} ms", ms(began.elapsed()));
}

fn keep(state: &Snapshot, folder: &Path) {
    let (mut lkg, _) = open(folder);
    let began = Instant::now();
    lkg.rewrite(&name(TENANT), state).expect("the folder takes it");
    let bytes = fs::metadata(folder.join(format!("{TENANT}.lkg"))).expect("the file").len();
    println!("  last-known-good, write    {:>10.0} ms, {:.1} MiB", ms(began.elapsed()), mib(bytes));
}

/// The real program on a last-known-good of its own, without a hub.
fn start(size: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let states = folder.path().join("data/state");
    fs::create_dir_all(&states).expect("a folder");
    keep(&build(size), &states);
    let health = free();
    let config = folder.path().join("proxy.yaml");
    fs::write(&config, configuration(health)).expect("the configuration");
    for round in 1..=5 {
        let began = Instant::now();
        let mut child = Running(
            Command::new(env!("CARGO_BIN_EXE_portreeve"))
                .arg("proxy")
                .arg("--config")
                .arg(&config)
                .current_dir(folder.path())
                .stderr(Stdio::null())
                .spawn()
                .expect("the program starts"),
        );
        while !ready(health) {
            assert!(child.0.try_wait().expect("its state").is_none(), "the program ended");
            assert!(began.elapsed() < Duration::from_secs(120), "never ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = began.elapsed();
        settle();
        let id = child.0.id().to_string();
        println!(
            "{size} identities, start {round}: ready after {:.0} ms; resident {:.1} MiB idle, {:.1} MiB at its peak",
            ms(took),
            mib(resident(&id)),
            mib(peak(&id))
        );
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ended");
    }
}

fn configuration(health: SocketAddr) -> String {
    format!(
        "enforcement_point: {{ id: p1, tenant: {TENANT}, data_dir: data }}\n\
         hub: {{ endpoints: [\"http://{}\"], insecure_cleartext_loopback: true }}\nlisteners:\n  - name: inbound\n    kind: proxy\n    \
         address: \"{}\"\n    routes: [{{ match: {{ path: \"/**\" }}, service: orders, upstream: app, \
         staleness: {{ deny_after: never }} }}]\nupstreams: {{ app: {{ url: \"http://{}\" }} }}\n\
         credentials: {{ audiences: [orders] }}\nevidence: {{ spool: {{ max_bytes: 64MiB, segment_bytes: 4MiB }} }}\n\
         admin: {{ address: \"127.0.0.1:0\" }}\nmetrics: {{ address: \"{health}\" }}\n",
        free(),
        free(),
        free()
    )
}

fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port")
}

fn ready(health: SocketAddr) -> bool {
    let mut said = String::new();
    TcpStream::connect(health)
        .and_then(|mut stream| {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n")?;
            stream.read_to_string(&mut said)
        })
        .is_ok()
        && said.starts_with("HTTP/1.1 200")
}

fn build(size: usize) -> Snapshot {
    let mut state = Snapshot::empty(Keyer::new(7));
    let mut at = 0;
    while at < size {
        let upto = (at + BATCH / 2).min(size);
        let pairs = (at..upto).flat_map(|n| [identity(n, upto as u64), credential(n, upto as u64)]);
        let mut delta = batch(at as u64, pairs.collect());
        delta.to_revision = upto as u64;
        state = state.apply(&delta).expect("it follows on");
        at = upto;
    }
    state
}

fn batch(from: u64, changes: Vec<Change>) -> Batch {
    Batch {
        cell: name(TENANT),
        epoch: EPOCH,
        from_revision: from,
        to_revision: from + 1,
        history_hash: [0; 32],
        state_digest: None,
        changes,
    }
}

fn identity(n: usize, revision: u64) -> Change {
    let day = |days: usize| Some(Timestamp::from_seconds(START + DAY * i64::try_from(days).unwrap_or(0)));
    let grant = |k: usize| Entitlement {
        name: format!("service-{}:{}", (n * 7 + k * 31) % 250, ["read", "write"][(n + k) % 2]).into(),
        source: Some(format!("source-{}", (n + k) % 20).into()),
        granted: day(n % 300),
        expires: None,
    };
    let kubernetes = Binding { issuer: name(&format!("cluster-{}", n % 16)), subject: subject(n).into() };
    let spiffe = (n % 2 == 1).then(|| Binding {
        issuer: name("corp"),
        subject: format!("spiffe://corp.example/ns/{}/sa/{}", space(n), called(n)).into(),
    });
    let labels = [
        ("region".into(), format!("region-{}", n % 8).into()),
        ("cost-centre".into(), format!("cc-{}", n % 300).into()),
    ];
    let value = Identity {
        kind: IdentityType::Workload,
        environment: ["production", "staging", "development"][n % 3].into(),
        status: IdentityStatus::Active,
        owner: Owner {
            team: Some(space(n).into()),
            person: None,
            contact: Some(format!("{}@example.com", space(n)).into()),
        },
        ticket: Some(format!("OPS-{}", n * 13 % 1_000_000).into()),
        end: None,
        review_due: day(400 + n % 90),
        third_party: n.is_multiple_of(50),
        risk: n.is_multiple_of(5).then_some(RiskLevel::High),
        labels: BTreeMap::from(labels),
        entitlements: (0..3).map(grant).collect(),
        bindings: std::iter::once(kubernetes).chain(spiffe).collect(),
        not_before: None,
    };
    change(RecordKind::Identity, name(&called(n)), revision, Record::Identity(Arc::new(value)))
}

fn credential(n: usize, revision: u64) -> Change {
    let day = |days: usize| Some(Timestamp::from_seconds(START + DAY * i64::try_from(days).unwrap_or(0)));
    let value = Credential {
        kind: CredentialKind::SigningKey,
        identity: Some(name(&called(n))),
        fingerprint: *blake3::hash(&n.to_le_bytes()).as_bytes(),
        digest: None,
        issued: day(n % 90),
        rotate_by: day(n % 90 + 90),
        expires: day(n % 90 + 120),
        status: CredentialStatus::Active,
        source: Some(format!("vault-{}", n % 4).into()),
    };
    let name = name(&format!("{}-key", called(n)));
    change(RecordKind::Credential, name, revision, Record::Credential(Arc::new(value)))
}

fn change(kind: RecordKind, name: Name, revision: u64, record: Record) -> Change {
    Change { kind, name, generation: 1, revision, record: Some(record), dropped: false }
}

fn called(n: usize) -> String {
    format!("{}-{n:07}", ["ledger", "orders", "search"][n / 3 % 3])
}

fn space(n: usize) -> String {
    format!("payments-{}", n % 200)
}

fn subject(n: usize) -> String {
    format!("system:serviceaccount:{}:{}", space(n), called(n))
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// `count` numbers below `of`, in no order, the same every time.
fn spread(count: usize, of: usize) -> impl Iterator<Item = usize> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count).map(move |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        usize::try_from(x % of as u64).unwrap_or(0)
    })
}

fn open(folder: &Path) -> (LastKnownGood, Snapshot) {
    let opened = LastKnownGood::open(folder, "", Keyer::new(7)).expect("the folder");
    assert!(opened.1.refused.is_empty(), "{:?}", opened.1.refused);
    (opened.0, opened.1.snapshot)
}

/// Time for an allocator to give back what it holds free.
fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}

fn resident(process: &str) -> u64 {
    kilobytes(process, "VmRSS:") * 1024
}

fn peak(process: &str) -> u64 {
    kilobytes(process, "VmHWM:") * 1024
}

fn kilobytes(process: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the kernel's account");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
