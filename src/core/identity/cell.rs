//! The one place where the current state is published and read.
//!
//! Readers never wait: they load a pointer. One writer publishes. The state's age rests
//! on a [`Lease`]; a decision loads the lease first and the state second, so the state
//! it reads is never older than what the lease vouches for.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use crate::core::identity::snapshot::Snapshot;
use crate::core::policy::Staleness;
use crate::core::time::{Anchor, BootInstant, Now, STEP_US, Timestamp};

/// What freshness rests on: our own ping, answered with a head that has been applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// When that ping was sent; `None`: no hub has confirmed the state in this boot.
    pub fresh_at: Option<BootInstant>,
    /// The wall clock then.
    pub wall_at: Timestamp,
    /// What related both to the kernel's clocks then.
    pub anchor: Anchor,
    /// The hub's time when it read that head, microseconds since the Unix epoch.
    pub hub_time_us: u64,
    /// The longest `deny_after` that the answer granted: the hub's receipts count on no route's being
    /// longer. Zero: it granted none.
    pub deny_after_max: Duration,
}

/// How a state's age compares with what a route allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freshness {
    /// The age; `None`: unknown, which is stale.
    pub age: Option<Duration>,
    /// Older than `warn_after`.
    pub warn: bool,
    /// Older than `deny_after`.
    pub stale: bool,
}

impl Lease {
    /// The state's age at `now`; `None`: it cannot be told. A wall clock that went further than the time
    /// that has passed says that time stood still here: the machine was paused, or moved.
    pub fn age(&self, now: Now) -> Option<Duration> {
        let passed = now.boot.since(self.fresh_at?)?;
        let stepped = now.wall.since(self.wall_at) > passed.saturating_add(Duration::from_micros(STEP_US));
        (!stepped).then_some(passed)
    }

    /// The state's age at `now` under a route's limits.
    ///
    /// At exactly `deny_after` the state is still fresh; an age that cannot be told is stale
    /// unless the route is waived.
    ///
    /// INVARIANT (I11): a route that asks for longer than was granted has what was granted.
    pub fn freshness(&self, now: Now, limits: &Staleness) -> Freshness {
        let age = self.age(now);
        let over = |limit: Duration| age.is_none_or(|age| age > limit);
        let stale = limits.deny_after.is_some_and(|limit| over(limit.min(self.deny_after_max)));
        Freshness { age, warn: over(limits.warn_after), stale }
    }
}

/// Holds the current state and its lease.
#[derive(Debug)]
pub struct SnapshotCell {
    snapshot: ArcSwap<Snapshot>,
    lease: ArcSwap<Lease>,
}

impl SnapshotCell {
    /// Begins with a state and no lease.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot: ArcSwap::from_pointee(snapshot), lease: ArcSwap::from_pointee(Lease::default()) }
    }

    /// The current state. Hold the guard for one decision, never across a wait.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The current lease.
    pub fn lease(&self) -> Lease {
        **self.lease.load()
    }

    /// Publishes the next state and returns the one it replaces.
    ///
    /// The new one is in force once the returned one is held by nobody else:
    /// `Arc::get_mut` on it succeeds.
    pub fn publish(&self, next: Snapshot) -> Arc<Snapshot> {
        self.snapshot.swap(Arc::new(next))
    }

    /// Renews, or with a default ends, the lease.
    pub fn set_lease(&self, lease: Lease) {
        self.lease.store(Arc::new(lease));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lapses_just_after_its_limit() {
        let limits =
            Staleness { warn_after: Duration::from_micros(10), deny_after: Some(Duration::from_micros(20)) };
        let lease = Lease {
            fresh_at: Some(BootInstant::from_micros(100)),
            deny_after_max: Duration::from_micros(20),
            ..Lease::default()
        };
        let now = |us| Now { boot: BootInstant::from_micros(us), wall: Timestamp::default() };
        let at = |us| lease.freshness(now(us), &limits);
        assert_eq!((at(110).warn, at(110).stale), (false, false));
        assert_eq!((at(111).warn, at(111).stale), (true, false));
        assert!(!at(120).stale);
        assert!(at(121).stale);
        assert!(at(99).stale, "a lease from the future is none");
        let waived = Staleness { deny_after: None, ..limits };
        assert!(!lease.freshness(now(u64::MAX), &waived).stale);
        assert!(Lease::default().freshness(now(0), &limits).stale);
        // What a route asks for beyond what was granted, it does not have; less it has at once.
        for (granted, stale_from) in [(20, 121), (30, 121), (15, 116), (0, 101)] {
            let lease = Lease { deny_after_max: Duration::from_micros(granted), ..lease };
            let at = |us| lease.freshness(now(us), &limits).stale;
            assert!(!at(stale_from - 1) && at(stale_from), "granted {granted}");
        }
    }
    #[test]
    fn a_wall_clock_that_went_further_than_time_ends_a_lease() {
        let limits = Staleness { warn_after: Duration::MAX, deny_after: Some(Duration::from_secs(60)) };
        let s = |seconds: i64| Timestamp::from_seconds(seconds);
        let lease = Lease {
            fresh_at: Some(BootInstant::from_micros(0)),
            wall_at: s(1000),
            deny_after_max: Duration::from_secs(60),
            ..Lease::default()
        };
        for (passed, wall, stale) in [
            (10, s(1010), false),
            (10, s(1015), false),
            (10, s(1015).after(Duration::from_micros(1)), true),
            (10, s(400), false),
            (61, s(1061), true),
        ] {
            let now = Now { boot: BootInstant::from_micros(passed * 1_000_000), wall };
            assert_eq!(lease.freshness(now, &limits).stale, stale, "{passed} s, wall {wall:?}");
        }
    }
}
