//! What a decision's record costs the request: reserve, encode, append and what the mode asks.
//!
//! `require` is measured with 64 decisions at a time, as group commit is its point.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portreeve::core::evidence::{Door, EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement};
use portreeve::core::id::{Name, Position};
use portreeve::core::policy::{Answer, Basis, Reason, Verdict};
use portreeve::core::time::{BootInstant, Clock, Now, Timestamp};
use portreeve::spool::{SpoolLog, SpoolOptions};

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let us = u64::try_from(self.0.elapsed().as_micros()).unwrap_or(0);
        let wall = Timestamp::from_micros(1_795_000_000_000_000 + us.cast_signed());
        Now { wall, boot: BootInstant::from_micros(us + 1) }
    }
}

fn open(dir: &std::path::Path) -> Arc<SpoolLog> {
    let clock = Arc::new(SystemClock(Instant::now()));
    let mut options = SpoolOptions::new(dir, "bench", [1; 16], 7, clock);
    options.refusals_per_second = u32::MAX;
    SpoolLog::open(options).expect("a directory that can be written").0
}

fn facts() -> ExchangeFacts {
    ExchangeFacts {
        listener: "main".into(),
        door: Door::Proxy,
        method: "GET".into(),
        peer: Some([192, 0, 2, 7].into()),
        trace_id: [0xab; 16],
        span_id: [0; 8],
    }
}

/// A verdict as full as one can be from outside the core.
fn verdict() -> Verdict {
    let basis = Basis {
        now: Now { wall: Timestamp::from_micros(1_795_000_000_123_456), boot: BootInstant::from_micros(5) },
        position: Position { revision: 4711, ..Default::default() },
        state_age: Some(Duration::from_millis(300)),
        lease_hub_us: 1_795_000_000_000_000,
        tenant: Name::parse("acme").ok(),
        resource: Name::parse("orders").ok(),
        route: Some("/orders/{id}".into()),
        answer: Some(Answer { determining: vec!["base/orders-read".into()], ..Default::default() }.into()),
        policy_digest: Some([2; 32]),
        ..Basis::default()
    };
    Verdict::refuse(Reason::PolicyDenied, basis)
}

/// One decision; spins while there is no room, so that a slow disk shows in the figure.
fn append(log: &SpoolLog, mode: EvidenceMode, facts: &ExchangeFacts, verdict: &Verdict) -> Settlement {
    loop {
        if let Reserved::Held(slot) = log.reserve(mode) {
            return log.decided(Some(slot), mode, facts, verdict).1;
        }
        std::thread::yield_now();
    }
}

fn wait(runtime: &tokio::runtime::Runtime, settlement: Settlement) {
    match settlement {
        Settlement::Settled => {}
        Settlement::Waiting(wait) => assert!(runtime.block_on(wait)),
        Settlement::Failed => panic!("not recorded"),
    }
}

fn run(log: &SpoolLog, mode: EvidenceMode, count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (facts, verdict) = (facts(), verdict());
    let group = if mode == EvidenceMode::Require { 64 } else { 1 };
    let mut left = count;
    while left > 0 {
        let now = group.min(left);
        let waits: Vec<_> = (0..now).map(|_| append(log, mode, &facts, black_box(&verdict))).collect();
        waits.into_iter().for_each(|settlement| wait(&runtime, settlement));
        left -= now;
    }
}

fn spool_append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path());
    let mut group = criterion.benchmark_group("spool_append");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for mode in [EvidenceMode::BestEffort, EvidenceMode::ProcessSafe, EvidenceMode::Require] {
        for threads in [1u64, 2] {
            group.bench_function(format!("{}/{threads}", mode.as_str()), |bencher| {
                bencher.iter_custom(|count| {
                    let each = count.div_ceil(threads);
                    let begin = Instant::now();
                    std::thread::scope(|scope| {
                        for _ in 0..threads {
                            scope.spawn(|| run(&log, mode, each));
                        }
                    });
                    begin.elapsed()
                });
            });
        }
    }
    group.finish();
    assert!(log.close());
}

criterion_group!(benches, spool_append);
criterion_main!(benches);
