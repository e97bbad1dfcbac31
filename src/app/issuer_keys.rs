//! How long the keys count that tokens are verified by, as operators see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Gauge, IntGauge, Registry};

use crate::core::id::Name;
use crate::core::identity::{LocalTrust, SnapshotCell};
use crate::core::time::{Clock, Timestamp};

/// An issuer: its tenant and its name.
type Key = (Name, Name);

/// The keys of every issuer, and until when they count.
pub(super) struct IssuerKeys {
    state: Arc<SnapshotCell>,
    trust: Arc<LocalTrust>,
    clock: Arc<dyn Clock>,
    /// Whose keys were told of: past their bound.
    told: Mutex<BTreeSet<Key>>,
}

/// How the keys stand.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Standing {
    /// When those that end first count no more; `None`: none have a bound.
    pub(super) first_end: Option<Timestamp>,
    /// The issuers whose keys count no more.
    pub(super) overdue: BTreeSet<Key>,
}

impl IssuerKeys {
    pub(super) fn new(state: Arc<SnapshotCell>, trust: Arc<LocalTrust>, clock: Arc<dyn Clock>) -> Self {
        Self { state, trust, clock, told: Mutex::default() }
    }

    /// How they stand now.
    pub(super) fn standing(&self) -> Standing {
        let now = self.clock.now().wall;
        let keys = self.trust.keys();
        let snapshot = self.state.load();
        let mut standing = Standing::default();
        for (held, issuer) in snapshot.issuers() {
            let local = keys.of(&held.tenant, issuer);
            let Some(until) = local.and_then(|issuer| issuer.keys_until) else { continue };
            standing.first_end = Some(standing.first_end.map_or(until, |first| first.min(until)));
            if until <= now {
                standing.overdue.insert((held.tenant.clone(), held.name.clone()));
            }
        }
        standing
    }

    /// Logs what has changed since it was last asked.
    pub(super) fn tell(&self) {
        let overdue = self.standing().overdue;
        let mut told = self.told.lock();
        for (tenant, issuer) in overdue.difference(&told) {
            tracing::warn!(%tenant, %issuer,
                "an issuer's keys have not been fetched for too long: its tokens are refused");
        }
        for (tenant, issuer) in told.difference(&overdue) {
            tracing::info!(%tenant, %issuer, "an issuer's keys count again, or it is gone");
        }
        *told = overdue;
    }
}

/// What is wrong, a line each.
pub(super) fn troubles(overdue: &BTreeSet<Key>) -> Vec<String> {
    let line = |(tenant, issuer): &Key| {
        format!("keys of `{tenant}/{issuer}`: not fetched for too long, its tokens are refused")
    };
    let mut lines: Vec<String> = overdue.iter().take(SHOWN_MAX).map(line).collect();
    if overdue.len() > SHOWN_MAX {
        lines.push(format!("keys of {} more issuers: likewise", overdue.len() - SHOWN_MAX));
    }
    lines
}

/// The families.
pub(super) struct KeyGauges {
    first_end: Gauge,
    overdue: IntGauge,
}

impl KeyGauges {
    /// Registers them.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let first_end = Gauge::new(
            "portreeve_issuer_keys_expiry_timestamp_seconds",
            "When the keys of an issuer count no more that end first, unless they are fetched again, in Unix time; +Inf: none end.",
        )?;
        let overdue = IntGauge::new(
            "portreeve_issuer_keys_overdue",
            "Issuers whose keys have not been fetched for too long: every token of theirs is refused.",
        )?;
        registry.register(Box::new(first_end.clone()))?;
        registry.register(Box::new(overdue.clone()))?;
        Ok(Self { first_end, overdue })
    }

    /// Brings them up to date.
    pub(super) fn set(&self, standing: &Standing) {
        let seconds =
            |at: Timestamp| std::time::Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(0));
        self.first_end.set(standing.first_end.map_or(f64::INFINITY, |at| seconds(at).as_secs_f64()));
        self.overdue.set(i64::try_from(standing.overdue.len()).unwrap_or(i64::MAX));
    }
}

/// Most issuers that are named one by one.
const SHOWN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::core::credential::{Algorithm, NO_KEYS};
    use crate::core::id::Epoch;
    use crate::core::identity::{
        Batch, Change, Issuer, Keyer, Record, RecordKind, Snapshot, SourceKeys, TokenProfile,
    };
    use crate::core::time::Now;

    #[test]
    fn few_issuers_are_named_and_many_are_counted() {
        let name = |text: &str| Name::parse(text).unwrap();
        let some = |count: usize| (0..count).map(|n| (name("demo"), name(&format!("i{n:02}")))).collect();
        assert!(troubles(&some(0)).is_empty());
        let lines = troubles(&some(SHOWN_MAX));
        assert!(lines.len() == SHOWN_MAX && lines[0].contains("`demo/i00`"), "{lines:?}");
        assert_eq!(troubles(&some(SHOWN_MAX + 2)).last().unwrap(), "keys of 2 more issuers: likewise");
    }

    #[test]
    fn keys_are_overdue_from_their_bound_on() {
        let clock = Arc::new(HandClock(AtomicI64::new(0)));
        let trust = Arc::<LocalTrust>::default();
        let keys = IssuerKeys::new(Arc::new(SnapshotCell::new(held(Some(10)))), trust.clone(), clock.clone());
        for (now, overdue) in [(0, false), (9, false), (10, true), (11, true)] {
            clock.0.store(now, Ordering::Relaxed);
            let standing = keys.standing();
            assert_eq!(!standing.overdue.is_empty(), overdue, "{now}");
            assert_eq!(standing.first_end, Some(Timestamp::from_seconds(10)));
        }
        // Keys from elsewhere have a bound of their own.
        let state = held(Some(10));
        let issuer = state.issuers().next().unwrap().1.clone();
        let mut fetched = SourceKeys::of_issuers([(Name::parse("demo").unwrap(), Arc::clone(&issuer.iss))]);
        let later =
            issuer.with_jwks(Arc::from(&b"{}"[..])).with_keys_until(Some(Timestamp::from_seconds(12)));
        fetched.put(&Name::parse("demo").unwrap(), &issuer, later);
        trust.publish_fetched(fetched);
        for (now, overdue) in [(11, false), (12, true)] {
            clock.0.store(now, Ordering::Relaxed);
            assert_eq!(!keys.standing().overdue.is_empty(), overdue, "{now}");
        }
        let unbounded = IssuerKeys::new(Arc::new(SnapshotCell::new(held(None))), Arc::default(), clock);
        assert_eq!(unbounded.standing(), Standing::default());
    }

    /// A state with one issuer, whose keys count until then.
    fn held(until: Option<i64>) -> Snapshot {
        let name = |text: &str| Name::parse(text).unwrap();
        let (iss, algorithms) = ("https://issuer.test".into(), vec![Algorithm::Es256]);
        let issuer = Issuer::new(iss, TokenProfile::Generic, algorithms, vec![], 60, Arc::from(NO_KEYS));
        let issuer = issuer.with_keys_until(until.map(Timestamp::from_seconds));
        let change = Change {
            kind: RecordKind::Issuer,
            name: name("main"),
            generation: 1,
            revision: 1,
            record: Some(Record::Issuer(Arc::new(issuer))),
            dropped: false,
        };
        let batch = Batch {
            cell: name("demo"),
            epoch: Epoch::from_bytes([1; 16]),
            from_revision: 0,
            to_revision: 1,
            history_hash: [0; 32],
            state_digest: None,
            changes: vec![change],
        };
        Snapshot::empty(Keyer::new(1)).apply(&batch).unwrap()
    }

    /// The wall clock, in seconds.
    struct HandClock(AtomicI64);

    impl Clock for HandClock {
        fn now(&self) -> Now {
            Now { wall: Timestamp::from_seconds(self.0.load(Ordering::Relaxed)), ..Now::default() }
        }
    }

    #[test]
    fn the_families_say_when_and_how_many() {
        let registry = Registry::new();
        let gauges = KeyGauges::register(&registry).unwrap();
        let shown = |standing: &Standing| {
            gauges.set(standing);
            prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
        };
        let none = shown(&Standing::default());
        assert!(none.contains("portreeve_issuer_keys_expiry_timestamp_seconds inf\n"), "{none}");
        assert!(none.contains("portreeve_issuer_keys_overdue 0\n"), "{none}");
        let overdue = BTreeSet::from([(Name::parse("demo").unwrap(), Name::parse("main").unwrap())]);
        let one = shown(&Standing { first_end: Some(Timestamp::from_seconds(1_795_348_800)), overdue });
        assert!(one.contains("portreeve_issuer_keys_expiry_timestamp_seconds 1795348800\n"), "{one}");
        assert!(one.contains("portreeve_issuer_keys_overdue 1\n"), "{one}");
    }
}
