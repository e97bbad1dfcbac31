//! Time as data: two readings, taken once a request and passed down.

use std::fmt;
use std::time::Duration;

/// Wall-clock time in whole microseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Takes microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Takes whole seconds since the Unix epoch; saturates at the ends of the range.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time moved later by `span`; saturates.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros_i64(span)))
    }

    /// This time moved earlier by `span`; saturates.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros_i64(span)))
    }

    /// How long after `earlier` this time is; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

/// A reading of the clock that also runs while the machine is suspended, in microseconds.
///
/// Comparable only with readings of the same kernel boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BootInstant(u64);

impl BootInstant {
    /// Takes microseconds since the kernel's boot.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the kernel's boot.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, or `None` when `earlier` lies in the future.
    ///
    /// A lease granted "in the future" is not a fresh one: the caller treats `None` as stale.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_micros)
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Wall clock.
    pub wall: Timestamp,
    /// Clock that runs during suspend.
    pub boot: BootInstant,
}

/// Where a time reading comes from; implemented outside this room.
pub trait Clock: Send + Sync {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

fn micros_i64(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_from_the_future_has_no_age() {
        let now = BootInstant::from_micros(10);
        assert_eq!(now.since(BootInstant::from_micros(10)), Some(Duration::ZERO));
        assert_eq!(now.since(BootInstant::from_micros(11)), None);
    }

    #[test]
    fn arithmetic_saturates() {
        let end = Timestamp::from_micros(i64::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end);
        assert_eq!(Timestamp::from_seconds(i64::MAX), end);
        assert_eq!(Timestamp::from_micros(-1).as_seconds(), -1);
        assert_eq!(Timestamp::from_micros(0).since(end), Duration::ZERO);
    }
}
