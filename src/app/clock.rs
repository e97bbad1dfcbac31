//! The machine's clocks.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::core::time::{Anchor, BootInstant, Clock, Now, Reading, SLACK_US};

/// An enforcement point's time: see [`Anchor`]. Reading it takes no lock unless a clock was stepped,
/// slewed or stopped since.
#[derive(Debug)]
pub struct SystemClock {
    anchor: ArcSwap<Anchor>,
    /// Held while the anchor moves.
    moving: Mutex<()>,
}

impl SystemClock {
    /// Begins now.
    pub fn new() -> Self {
        let anchor = Anchor::begin(&at_one_instant().unwrap_or_else(read));
        Self { anchor: ArcSwap::from_pointee(anchor), moving: Mutex::new(()) }
    }

    /// Goes on from another process of this boot.
    pub fn resume(&self, anchor: Anchor) {
        let _moving = self.moving.lock();
        self.anchor.store(Arc::new(anchor));
    }

    /// Moves the anchor to where the clocks are, if they can be read at one instant.
    fn settle(&self) -> Now {
        let _moving = self.moving.lock();
        let held = **self.anchor.load();
        let Some(reading) = at_one_instant() else { return held.time(&read()) };
        if held.covers(&reading) {
            return held.time(&reading);
        }
        let moved = held.moved(&reading);
        if moved.steps > held.steps {
            let by = Duration::from_micros(moved.offset_us.abs_diff(held.offset_us));
            let forward = moved.offset_us > held.offset_us;
            tracing::error!(
                ?by,
                forward,
                "the wall clock was stepped; forward, it ends the lease of the state"
            );
        }
        self.anchor.store(Arc::new(moved));
        moved.time(&reading)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let reading = read();
        let anchor = **self.anchor.load();
        if anchor.covers(&reading) { anchor.time(&reading) } else { self.settle() }
    }

    fn anchor(&self) -> Anchor {
        **self.anchor.load()
    }
}

/// A hub's time: what it takes for passed, at least has. It waits for the leases of others, so its
/// clock neither runs during its own suspend nor can be slewed up.
#[derive(Debug, Default)]
pub struct HubClock(SystemClock);

impl Clock for HubClock {
    fn now(&self) -> Now {
        Now { wall: self.0.now().wall, boot: BootInstant::from_micros(micros(ClockId::MonotonicRaw)) }
    }
}

/// Reads the clocks in an order in which being suspended in between never looks like a step forward.
fn read() -> Reading {
    let raw_us = micros(ClockId::MonotonicRaw);
    let wall_us = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Reading { raw_us, wall_us, boot_us: micros(ClockId::Boottime) }
}

/// A reading during which hardly any time passed; `None`: the machine is too busy for one.
fn at_one_instant() -> Option<Reading> {
    (0..READINGS_MAX)
        .map(|_| read())
        .find(|reading| micros(ClockId::MonotonicRaw).saturating_sub(reading.raw_us) <= SLACK_US / 4)
}

fn micros(clock: ClockId) -> u64 {
    let reading = clock_gettime(clock);
    let seconds = u64::try_from(reading.tv_sec).unwrap_or(0);
    let micros = u64::try_from(reading.tv_nsec / 1000).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(micros)
}

const READINGS_MAX: usize = 16;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_many_threads_never_fall() {
        let clock = SystemClock::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = clock.now();
                    for turn in 0..20_000 {
                        let now = clock.now();
                        assert!(now.boot >= last.boot && now.wall >= last.wall, "{last:?} {now:?}");
                        last = now;
                        if turn % 1000 == 0 {
                            assert!(clock.settle().boot >= now.boot);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn what_another_process_had_gained_is_gone_on_from() {
        let clock = SystemClock::new();
        let before = clock.now();
        let gained = 5_000_000;
        clock.resume(Anchor { ahead_us: clock.anchor().ahead_us + gained, ..clock.anchor() });
        assert!(clock.now().boot.as_micros() >= before.boot.as_micros() + gained);
        // One whose clocks were elsewhere: what the raw clock gained since counts as well.
        let lead_us = clock.anchor().lead_us - 7_000_000;
        clock.resume(Anchor { lead_us, ..clock.anchor() });
        assert!(clock.now().boot.as_micros() >= before.boot.as_micros() + gained + 6_900_000);
        assert_eq!(clock.anchor().steps, 0);
    }
}
