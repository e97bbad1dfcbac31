//! Upstreams that are slow, gone, or talk nonsense.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portreeve::core::credential::{FingerprintKey, TokenCache};
use portreeve::core::identity::{IdentityStatus, Snapshot, SnapshotCell};
use portreeve::core::policy::Reason;
use portreeve::core::time::{Clock, Now};
use portreeve::pep::{ENTRIES_MAX, VerifiedTokens};
use portreeve::pipeline::Pipeline;
use portreeve::telemetry::metrics::Metrics;

use crate::support::clock::ManualClock;
use crate::support::evidence::Entry;
use crate::support::front::{Gate, Parts};
use crate::support::upstream::{Reply, Upstream, ok};
use crate::support::world::{MapMemory, World, identity};

#[test]
fn a_connection_is_used_again() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    for _ in 0..5 {
        assert_eq!(gate.order(&mut caller, "").status, 200);
        assert_eq!(upstream.next().connection, 0);
    }
}

#[test]
fn a_dead_connection_costs_a_retry_and_nothing_else() {
    let upstream = Upstream::new(|_| Reply::ThenClose(ok("", "hello")));
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    for connection in 0..5 {
        assert_eq!(gate.order(&mut caller, "").status, 200);
        assert_eq!(upstream.next().connection, connection);
        upstream.wait_closed();
    }
    assert_eq!(gate.world.log.entries().len(), 5, "a retry is no second decision");
}

#[test]
fn a_revocation_between_two_requests_counts_on_an_open_connection() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    assert_eq!(gate.order(&mut caller, "").status, 200);
    suspend(&gate.world);
    assert_eq!(gate.order(&mut caller, "").status, 401);
    assert_eq!(gate.world.log.last_verdict().reason(), Some(Reason::IdentitySuspended));
}

/// Each try is preceded by a last look: one made before connecting is not enough.
#[test]
fn what_turns_before_the_effect_is_withdrawn() {
    // Reading 0 judges; 1 is the look before a connection is sought, 2 the one before the effect.
    for reading in [0, 1] {
        let world = World::new();
        let turning = Arc::new(TurningClock {
            clock: Arc::clone(&world.clock),
            state: Arc::clone(&world.state),
            next: suspended(&world),
            left: AtomicUsize::new(usize::MAX),
        });
        let parts = Parts { clock: Arc::clone(&turning) as Arc<dyn Clock>, ..Parts::of(&world) };
        let upstream = Upstream::hello();
        let gate = Gate::over(world, parts, upstream.address(), |_, _| {});
        // What is read while it is made does not count.
        turning.left.store(reading, Ordering::SeqCst);
        assert_eq!(gate.order(&mut gate.caller(), "").status, 401, "reading {reading}");
        let entries = gate.world.log.entries();
        let [Entry::Decided(verdict), Entry::Withdrawn(reason)] = entries.as_slice() else {
            panic!("reading {reading}: {entries:?}")
        };
        assert_eq!((verdict.reason(), *reason), (None, Reason::IdentitySuspended));
        assert!(upstream.is_untouched(), "reading {reading}");
    }
}

fn suspend(world: &World) {
    let mut suspended = identity("ledger");
    suspended.status = IdentityStatus::Suspended;
    world.put_identity("ledger", 1, suspended);
}

/// The state in which `ledger` is suspended; the one in force stays.
fn suspended(world: &World) -> Snapshot {
    let held = world.state.load().clone();
    suspend(world);
    let next = world.state.publish((*held).clone());
    (*next).clone()
}

/// Publishes another state at a reading of the clock.
struct TurningClock {
    clock: Arc<ManualClock>,
    state: Arc<SnapshotCell>,
    next: Snapshot,
    left: AtomicUsize,
}

impl Clock for TurningClock {
    fn now(&self) -> Now {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.state.publish(self.next.clone());
        }
        self.clock.now()
    }
}

#[test]
fn failures_have_their_status_and_count() {
    // Bound and dropped: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::new(nobody);
    let answer = gate.order(&mut gate.caller(), "");
    assert_eq!((answer.status, answer.one("retry-after")), (503, Some("1")));
    assert!(answer.one("x-portreeve-decision").is_some());
    assert_eq!(answer.one("x-portreeve-reason"), None, "it was allowed");
    assert!(matches!(gate.world.log.entries().as_slice(), [Entry::Decided(v)] if v.reason().is_none()));
    assert!(gate.metrics.render().contains("{kind=\"connect\",upstream=\"app\"} 1\n"));

    let silent = Upstream::new(|_| Reply::Silence);
    let gate = Gate::with(silent.address(), |settings, _| {
        let app = settings.upstreams.get_mut("app").unwrap();
        app.response_timeout = Duration::from_millis(50);
    });
    assert_eq!(gate.order(&mut gate.caller(), "").status, 504);
    assert!(gate.metrics.render().contains("{kind=\"timeout\",upstream=\"app\"} 1\n"));
}

#[test]
fn nonsense_is_a_bad_gateway_and_its_connection_is_not_used_again() {
    let rows: [&[u8]; 8] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ];
    let at = AtomicUsize::new(0);
    let upstream = Upstream::new(move |arrived| {
        if arrived.line().starts_with("GET /open/good") {
            return Reply::Bytes(ok("", "hello"));
        }
        Reply::ThenClose(rows[at.fetch_add(1, Ordering::SeqCst)].to_vec())
    });
    let gate = Gate::new(upstream.address());
    let mut caller = gate.caller();
    for row in rows {
        let answer = caller.ask("GET /open/bad HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(answer.status, 502, "{}", row.escape_ascii());
        upstream.next();
        let answer = caller.ask("GET /open/good HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(answer.body, "hello", "after {}", row.escape_ascii());
        upstream.next();
        upstream.wait_closed();
    }
}

#[test]
fn an_informational_answer_is_not_the_answer() {
    let upstream = Upstream::new(|_| {
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec();
        bytes.extend(ok("", "hello"));
        Reply::Bytes(bytes)
    });
    let gate = Gate::new(upstream.address());
    assert_eq!(gate.order(&mut gate.caller(), "").body, "hello");
}

#[test]
fn remembered_verifications_are_counted_and_purged() {
    let world = World::new();
    let metrics = Metrics::new();
    let cache = Arc::new(VerifiedTokens::new(ENTRIES_MAX, metrics.cache()));
    let pipeline = Pipeline::new(
        Arc::clone(&world.state),
        world.clock.clone(),
        Parts::of(&world).log,
        Arc::clone(&cache) as Arc<dyn TokenCache>,
        Arc::new(MapMemory::default()),
        FingerprintKey::new([9; 32]),
    );
    let token = world.token(&world.claims("ledger"));
    let ask = || {
        let exchange = world.exchange(Some(&token), "GET", "/orders/1");
        pipeline.explain(&exchange).0.basis().verification_cached
    };
    assert_eq!([ask(), ask(), ask()], [false, true, true]);
    assert_eq!((metrics.cache().hits.get(), metrics.cache().misses.get()), (2, 1));
    assert_eq!(cache.len(), 1);
    assert_eq!(cache.purge(|verified| &**verified.subject() == "other"), 0);
    assert_eq!(cache.purge(|verified| &**verified.subject() == "ledger"), 1);
    assert!(cache.is_empty());
    assert!(!ask());
    cache.invalidate_all();
    assert!(!ask());
}
