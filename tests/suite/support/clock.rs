//! A clock that moves when told.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use portreeve::core::time::{BootInstant, Clock, Now, Timestamp};

/// Both clocks, set by hand.
pub(crate) struct ManualClock {
    wall_us: AtomicI64,
    boot_us: AtomicU64,
}

impl ManualClock {
    /// 2026-11-22T12:00:00Z, an hour after boot.
    pub(crate) const START: Timestamp = Timestamp::from_seconds(1_795_348_800);

    /// Begins at [`Self::START`].
    pub(crate) fn new() -> Self {
        Self { wall_us: AtomicI64::new(Self::START.as_micros()), boot_us: AtomicU64::new(3_600_000_000) }
    }

    /// Moves both clocks.
    pub(crate) fn advance(&self, span: Duration) {
        self.wall_us.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
        self.boot_us.fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }

    /// Sets the wall clock back, as an operator or a time server may.
    pub(crate) fn step_wall_back(&self, span: Duration) {
        self.wall_us.fetch_sub(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        Now {
            wall: Timestamp::from_micros(self.wall_us.load(Ordering::SeqCst)),
            boot: BootInstant::from_micros(self.boot_us.load(Ordering::SeqCst)),
        }
    }
}
