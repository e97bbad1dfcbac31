//! Applying one change to a state of 10,000 and of 100,000 identities, and freeing the old one.
//!
//! `cargo bench --profile dist --bench apply_delta`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use portreeve::core::id::Epoch;
use portreeve::core::identity::{Batch, Change, Keyer, Record, RecordKind, Snapshot};

use support::world::{TENANT, identity, name};

#[path = "../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

fn change(n: usize, revision: u64) -> Change {
    let subject = format!("identity-{n}");
    Change {
        kind: RecordKind::Identity,
        name: name(&subject),
        generation: 1,
        revision,
        record: Some(Record::Identity(Arc::new(identity(&subject)))),
        dropped: false,
    }
}

fn batch(from: u64, to: u64, changes: Vec<Change>) -> Batch {
    Batch {
        cell: name(TENANT),
        epoch: Epoch::from_bytes([1; 16]),
        from_revision: from,
        to_revision: to,
        history_hash: [0; 32],
        state_digest: None,
        changes,
    }
}

fn apply(criterion: &mut Criterion) {
    for size in [10_000usize, 100_000] {
        let all = (0..size).map(|n| change(n, 1)).collect();
        let mut state = Snapshot::empty(Keyer::new(7)).apply(&batch(0, 1, all)).unwrap();
        let mut revision = 1;
        // Changes to many identities in turn, made beforehand: what is measured is applying.
        let changes: Vec<_> = (0..1024).map(|n| change(n * 97 % size, 0)).collect();
        let mut turn = 0;
        criterion.bench_function(&format!("apply one change/{size} identities"), |b| {
            b.iter(|| {
                let mut next = changes[turn % changes.len()].clone();
                next.revision = revision + 1;
                let delta = batch(revision, revision + 1, vec![next]);
                state = black_box(state.apply(&delta).unwrap());
                revision += 1;
                turn += 1;
            });
        });
    }
}

criterion_group!(benches, apply);
criterion_main!(benches);
