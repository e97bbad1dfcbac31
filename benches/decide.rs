//! One decision: reserve, verify from memory, resolve, standing, hygiene, policy, commit, last look.
//!
//! `cargo bench --profile dist --bench decide`

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{Criterion, criterion_group, criterion_main};
use portreeve::core::credential::FingerprintKey;
use portreeve::core::evidence::{
    Decision, EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use portreeve::core::id::{DecisionId, LogId, Place};
use portreeve::core::policy::{Exchange, Verdict};
use portreeve::pipeline::Pipeline;

use support::world::{MapCache, MapMemory, World, facts, identity};

#[path = "../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

/// Takes records and forgets them: what is measured is the decision.
struct NullLog;

impl EvidenceLog for NullLog {
    fn reserve(&self, _mode: EvidenceMode) -> Reserved {
        Reserved::Held(Slot::new())
    }

    fn decided(
        &self,
        _slot: Option<Slot>,
        _mode: EvidenceMode,
        _facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        black_box(verdict);
        (DecisionId { log: LogId::new(1, 1), place: Place::Recorded(1) }, Settlement::Settled)
    }

    fn abandoned(&self, _slot: Option<Slot>, _facts: &ExchangeFacts) {}

    fn withdrawn(&self, _withdrawal: &Withdrawal) {}

    fn severed(&self, _severance: &Severance) {}
}

fn once(pipeline: &Pipeline, exchange: &Exchange) -> bool {
    let Ok(pending) = pipeline.reserve(exchange.rules.evidence, facts(exchange)) else { return false };
    let committed = pin!(pipeline.check(pending, exchange));
    match committed.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Decision::Allow(allowed)) => pipeline.release(allowed, exchange).is_ok(),
        _ => false,
    }
}

fn decide(criterion: &mut Criterion) {
    let world = World::new();
    let others: Vec<_> =
        (0..10_000).map(|n| (format!("other-{n}"), identity(&format!("other-{n}")))).collect();
    for (name, value) in others {
        world.put_identity(&name, 1, value);
    }
    let pipeline = Pipeline::new(
        Arc::clone(&world.state),
        world.clock.clone(),
        Arc::new(NullLog),
        Arc::new(MapCache::default()),
        Arc::new(MapMemory::default()),
        FingerprintKey::new([9; 32]),
    );
    let token = world.token(&world.claims("ledger"));
    let allowed = world.exchange(Some(&token), "GET", "/orders/1");
    let denied = world.exchange(Some(&token), "POST", "/orders");
    let unknown = world.exchange(None, "GET", "/orders/1");
    assert!(once(&pipeline, &allowed) && !once(&pipeline, &denied));
    criterion.bench_function("decide/cached verification, allowed", |b| {
        b.iter(|| once(&pipeline, black_box(&allowed)))
    });
    criterion.bench_function("decide/cached verification, denied", |b| {
        b.iter(|| once(&pipeline, black_box(&denied)))
    });
    criterion.bench_function("decide/no credential", |b| b.iter(|| once(&pipeline, black_box(&unknown))));
}

criterion_group!(benches, decide);
criterion_main!(benches);
