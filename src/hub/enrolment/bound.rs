//! How often one address may present a join token that is not taken.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::time::BootInstant;

/// Counts failures of the last minute for each address; an IPv6 one by its /64.
#[derive(Debug, Default)]
pub(super) struct FailureBound(Mutex<HashMap<Option<IpAddr>, Failures>>);

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: BootInstant,
    count: u32,
}

impl FailureBound {
    /// Whether another try may be made from `address` now.
    pub(super) fn allows(&self, address: Option<IpAddr>, now: BootInstant) -> bool {
        let counts = self.0.lock();
        let running = |key| counts.get(&key).filter(|failures| failures.is_running(now));
        let key = address.map(network);
        // Whoever found no room is counted with all others who did not.
        let held = running(key).or_else(|| if counts.len() < ADDRESSES_MAX { None } else { running(None) });
        held.is_none_or(|failures| failures.count < FAILURES_MAX)
    }

    /// Counts a failure.
    pub(super) fn failed(&self, address: Option<IpAddr>, now: BootInstant) {
        let mut counts = self.0.lock();
        if counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, failures| failures.is_running(now));
        }
        let mut key = address.map(network);
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&key) {
            key = None;
        }
        let held = counts.entry(key).or_insert(Failures { since: now, count: 0 });
        if !held.is_running(now) {
            *held = Failures { since: now, count: 0 };
        }
        held.count = held.count.saturating_add(1);
    }
}

impl Failures {
    fn is_running(&self, now: BootInstant) -> bool {
        now.since(self.since).is_none_or(|passed| passed < WINDOW)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// Failures of one address in [`WINDOW`].
const FAILURES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
const ADDRESSES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn an_address_that_fails_too_often_waits_a_minute_and_others_do_not() {
        let bound = FailureBound::default();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let (guilty, neighbour) = (address("2001:db8::1"), address("2001:db8::ffff"));
        for _ in 0..FAILURES_MAX {
            assert!(bound.allows(guilty, at(1)));
            bound.failed(guilty, at(1));
        }
        assert!(!bound.allows(guilty, at(60)) && !bound.allows(neighbour, at(60)), "one network");
        assert!(bound.allows(address("192.0.2.1"), at(60)));
        assert!(bound.allows(guilty, at(61)));
    }

    #[test]
    fn more_addresses_than_are_counted_share_one_count() {
        let bound = FailureBound::default();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for n in 0..u32::try_from(ADDRESSES_MAX).unwrap() + FAILURES_MAX {
            bound.failed(address(n), at(1));
        }
        assert!(bound.0.lock().len() <= ADDRESSES_MAX + 1);
        assert!(!bound.allows(address(u32::MAX), at(1)));
        assert!(bound.allows(address(u32::MAX), at(62)));
    }
}
