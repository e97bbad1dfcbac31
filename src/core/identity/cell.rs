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
use crate::core::time::BootInstant;

/// What freshness rests on: our own ping, answered with a head that has been applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// When that ping was sent; `None`: no hub has confirmed the state in this boot.
    pub fresh_at: Option<BootInstant>,
    /// The hub's time when it read that head, microseconds since the Unix epoch.
    pub hub_time_us: u64,
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
    /// The state's age at `now` under a route's limits.
    ///
    /// At exactly `deny_after` the state is still fresh; an age that cannot be told is stale
    /// unless the route is waived.
    pub fn freshness(&self, now: BootInstant, limits: &Staleness) -> Freshness {
        let age = self.fresh_at.and_then(|at| now.since(at));
        let over = |limit: Duration| age.is_none_or(|age| age > limit);
        Freshness { age, warn: over(limits.warn_after), stale: limits.deny_after.is_some_and(over) }
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
        let lease = Lease { fresh_at: Some(BootInstant::from_micros(100)), hub_time_us: 1 };
        let at = |us| lease.freshness(BootInstant::from_micros(us), &limits);
        assert_eq!((at(110).warn, at(110).stale), (false, false));
        assert_eq!((at(111).warn, at(111).stale), (true, false));
        assert!(!at(120).stale);
        assert!(at(121).stale);
        assert!(at(99).stale, "a lease from the future is none");
        let waived = Staleness { deny_after: None, ..limits };
        assert!(!lease.freshness(BootInstant::from_micros(u64::MAX), &waived).stale);
        assert!(Lease::default().freshness(BootInstant::default(), &limits).stale);
    }
}
