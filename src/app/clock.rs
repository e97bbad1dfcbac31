//! The machine's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::core::time::{BootInstant, Clock, Now, Timestamp};

/// Reads the wall clock and the clock that runs during suspend.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        Now { wall: Timestamp::from_micros(wall), boot: boot_time() }
    }
}

fn boot_time() -> BootInstant {
    let reading = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(reading.tv_sec).unwrap_or(0);
    let micros = u64::try_from(reading.tv_nsec / 1000).unwrap_or(0);
    BootInstant::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros))
}

/// The name of the kernel's current boot; empty when it cannot be told, and then no lease survives a restart.
pub fn kernel_boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The same as sixteen bytes; all zero when it cannot be told.
pub(super) fn kernel_boot_bytes() -> [u8; 16] {
    let digits = kernel_boot_id().replace('-', "");
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}
