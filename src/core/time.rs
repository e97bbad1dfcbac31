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

/// Time that has passed, in microseconds: runs while the machine is suspended, and is never slewed down.
///
/// Comparable only with readings of the same process, or of one that took over its [`Anchor`].
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

    /// This instant moved later by `span`; saturates.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
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
    /// Time that has passed.
    pub boot: BootInstant,
}

/// Where a time reading comes from; implemented outside this room.
pub trait Clock: Send + Sync {
    /// Reads both clocks.
    fn now(&self) -> Now;

    /// What relates its readings to the kernel's clocks, for a reading that outlives the process.
    fn anchor(&self) -> Anchor {
        Anchor::default()
    }
}

/// One reading of the kernel's three clocks, in microseconds: in the order of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reading {
    /// Monotonic and never slewed; stands still during suspend.
    pub raw_us: u64,
    /// Since 1970-01-01T00:00:00Z; slewed and stepped.
    pub wall_us: i64,
    /// Monotonic; slewed with the wall clock, and runs during suspend.
    pub boot_us: u64,
}

/// What makes one monotone time of the kernel's clocks.
///
/// Elapsed time is that of the boot clock, plus whatever the raw clock gained on it: so between any two
/// readings it is at least what either of them says, up to [`SLACK_US`]. The wall clock only ever goes
/// forward against the boot clock, which is slewed alike: what differs between them is a step.
///
/// INVARIANT: elapsed time never falls, nor does the wall-clock time, from one reading to a later one.
/// It takes a new anchor only where a reading leaves the old one's slack: see [`Self::covers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Anchor {
    /// What the raw clock has gained on the boot clock in all, in microseconds.
    pub ahead_us: u64,
    /// Raw less boot, at the last move.
    pub lead_us: i64,
    /// Wall less boot, at the last move.
    pub offset_us: i64,
    /// The highest that was.
    pub offset_max_us: i64,
    /// How often the wall clock was stepped by more than [`STEP_US`], either way.
    pub steps: u64,
}

impl Anchor {
    /// Begins at a reading: nothing has been gained yet.
    pub fn begin(reading: &Reading) -> Self {
        let (lead_us, offset_us) = reading.differences();
        Self { ahead_us: 0, lead_us, offset_us, offset_max_us: offset_us, steps: 0 }
    }

    /// Whether a reading is within the slack, so that this anchor goes on.
    pub fn covers(&self, reading: &Reading) -> bool {
        let (lead, offset) = reading.differences();
        lead.abs_diff(self.lead_us) <= SLACK_US && offset.abs_diff(self.offset_us) <= SLACK_US
    }

    /// The anchor from a reading on.
    #[must_use]
    pub fn moved(&self, reading: &Reading) -> Self {
        let (lead_us, offset_us) = reading.differences();
        let gained = u64::try_from(lead_us.saturating_sub(self.lead_us)).unwrap_or(0);
        let stepped = offset_us.abs_diff(self.offset_us) > STEP_US;
        Self {
            ahead_us: self.ahead_us.saturating_add(gained),
            lead_us,
            offset_us,
            offset_max_us: self.offset_max_us.max(offset_us),
            steps: self.steps + u64::from(stepped),
        }
    }

    /// The time at a reading.
    pub fn time(&self, reading: &Reading) -> Now {
        let floor = signed(reading.boot_us).saturating_add(self.offset_max_us);
        Now {
            wall: Timestamp::from_micros(reading.wall_us.max(floor)),
            boot: BootInstant::from_micros(reading.boot_us.saturating_add(self.ahead_us)),
        }
    }
}

impl Reading {
    /// Raw less boot, and wall less boot.
    fn differences(&self) -> (i64, i64) {
        let boot = signed(self.boot_us);
        (signed(self.raw_us).saturating_sub(boot), self.wall_us.saturating_sub(boot))
    }
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// How far two clocks may differ from an anchor before it moves: their readings are not of one instant.
pub const SLACK_US: u64 = 1_000;

/// A step of the wall clock beyond which it ends every lease, and is an alarm.
pub const STEP_US: u64 = 5_000_000;

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

    /// A machine whose clocks are moved by hand: raw, wall and boot, each by its own span.
    struct Machine {
        at: Reading,
        anchor: Anchor,
    }

    const S: i64 = 1_000_000;

    impl Machine {
        fn new() -> Self {
            let at =
                Reading { raw_us: 500 * 1_000_000, wall_us: 1_800_000_000 * S, boot_us: 900 * 1_000_000 };
            Self { anchor: Anchor::begin(&at), at }
        }

        /// Lets the clocks pass, in small readings, as a busy process takes them.
        fn pass(&mut self, raw: i64, wall: i64, boot: i64, readings: i64) -> Now {
            for _ in 0..readings {
                self.at.raw_us = self.at.raw_us.saturating_add_signed(raw / readings);
                self.at.wall_us += wall / readings;
                self.at.boot_us = self.at.boot_us.saturating_add_signed(boot / readings);
                self.read();
            }
            self.read()
        }

        fn read(&mut self) -> Now {
            if !self.anchor.covers(&self.at) {
                self.anchor = self.anchor.moved(&self.at);
            }
            self.anchor.time(&self.at)
        }
    }

    /// What passed, and at least and at most what is said to have passed, by elapsed time and by the wall.
    #[test]
    fn time_that_has_passed_is_the_larger_of_both_clocks() {
        let rows: [(&str, [i64; 3], i64, i64, u64); 8] = [
            ("nothing special", [60 * S, 60 * S, 60 * S], 60 * S, 60 * S, 0),
            ("suspended", [0, 600 * S, 600 * S], 600 * S, 600 * S, 0),
            ("slewed down by 8 %", [100 * S, 92 * S, 92 * S], 100 * S, 92 * S, 0),
            ("slewed up by 8 %", [100 * S, 108 * S, 108 * S], 108 * S, 108 * S, 0),
            ("stepped forward", [S, 3601 * S, S], S, 3601 * S, 1),
            ("stepped forward a little", [S, 4 * S, S], S, 4 * S, 0),
            ("stepped back", [S, -3600 * S, S], S, S, 1),
            ("stopped whole, and stepped when woken", [0, 60 * S, 0], 0, 60 * S, 1),
        ];
        for (what, [raw, wall, boot], elapsed, by_wall, steps) in rows {
            for readings in [1, 7, 1000] {
                if steps > 0 && readings > 1 {
                    continue; // A step is one.
                }
                let mut machine = Machine::new();
                let before = machine.read();
                let after = machine.pass(raw, wall, boot, readings);
                let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap();
                let passed = micros(after.boot.since(before.boot).unwrap());
                let slack = 2 * signed(SLACK_US);
                assert!(
                    (elapsed - slack..=elapsed + slack).contains(&passed),
                    "{what}, {readings}: {passed}"
                );
                let said = micros(after.wall.since(before.wall));
                assert!((by_wall - slack..=by_wall + slack).contains(&said), "{what}, {readings}: {said}");
                assert_eq!(machine.anchor.steps, steps, "{what}");
            }
        }
    }

    #[test]
    fn neither_time_ever_falls() {
        let mut machine = Machine::new();
        let mut last = machine.read();
        // Back and forth by amounts that a small generator draws.
        let mut drawn = 7_u64;
        for _ in 0..10_000 {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let up_to = |n: u64, of: i64| i64::try_from((drawn >> n) % 1000).unwrap() * of;
            let wall = if drawn >> 60 == 0 { -up_to(10, 10_000) } else { up_to(20, 10) };
            let now = machine.pass(up_to(30, 10), wall, up_to(40, 10), 1);
            assert!(now.boot >= last.boot && now.wall >= last.wall, "{last:?} {now:?}");
            last = now;
        }
    }

    /// A process that takes over another's anchor goes on from its time, whatever happened in between.
    #[test]
    fn an_anchor_outlives_its_process() {
        let mut machine = Machine::new();
        machine.pass(100 * S, 92 * S, 92 * S, 1000);
        let before = machine.read();
        let kept = machine.anchor;
        machine.at.raw_us += 50 * 1_000_000;
        machine.at.boot_us += 46 * 1_000_000;
        machine.at.wall_us -= 3600 * S;
        let mut next = Machine { at: machine.at, anchor: kept };
        let after = next.read();
        assert!(after.boot.since(before.boot).unwrap() >= Duration::from_millis(49_990));
        assert!(after.wall >= before.wall, "a clock set back revives nothing across a restart either");
        // Begun anew it would have lost what the raw clock had gained.
        let anew = Anchor::begin(&machine.at).time(&machine.at);
        assert!(anew.boot < after.boot);
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
