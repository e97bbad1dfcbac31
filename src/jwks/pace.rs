//! How often a set is fetched.

use std::time::Duration;

/// How often a set is fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// When nobody says how long a set is good.
    pub refresh: Duration,
    /// Shortest time between fetches of one issuer because a key is missing.
    pub refetch: Duration,
    /// How long keys are kept without being fetched.
    pub keep: Duration,
}

impl Pace {
    /// How long until it is fetched again, once it worked; `said`: how long its server says that it is good.
    pub fn after_success(&self, said: Option<Duration>, spread: u8) -> Duration {
        // Bounds of its own for what servers say, but never seldomer than the operator wants.
        let shortest = REFRESH_MIN.min(self.refresh);
        let wait = said.map_or(self.refresh, |said| said.clamp(shortest, REFRESH_MAX.max(self.refresh)));
        jitter(wait, spread)
    }

    /// How long until it is tried again, after so many failures in a row; at least one.
    pub fn after_failure(&self, failures: u32, spread: u8) -> Duration {
        let doubled = RETRY_MIN.saturating_mul(1 << failures.min(10).saturating_sub(1));
        jitter(doubled.min(RETRY_MAX).min(self.refresh), spread)
    }
}

/// A wait between nine tenths and all of `wait`.
pub fn jitter(wait: Duration, spread: u8) -> Duration {
    wait - wait / 10 * u32::from(spread) / 255
}

const REFRESH_MIN: Duration = Duration::from_secs(60);
const REFRESH_MAX: Duration = Duration::from_secs(3600);
/// How soon a failure is tried again.
pub const RETRY_MIN: Duration = Duration::from_secs(5);
/// How long it is waited at most after failures.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
