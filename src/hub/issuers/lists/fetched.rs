//! How fetching a list went, as it lies in the store, and when it is due again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::time::Timestamp;
use crate::hub::issuers::fetched::{ERROR_CHARS_MAX, micros, micros_now};
use crate::jwks::{RETRY_MAX, RETRY_MIN, jitter};

/// How fetching a list went.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Fetched {
    /// When it was last tried.
    #[serde(with = "micros")]
    pub(super) attempted: Option<Timestamp>,
    /// When it last worked.
    #[serde(with = "micros")]
    pub(super) fetched: Option<Timestamp>,
    /// When it is due again.
    #[serde(with = "micros_now")]
    pub(super) next: Timestamp,
    /// Until then it is somebody's turn.
    #[serde(with = "micros_now")]
    pub(super) claimed_until: Timestamp,
    /// Failures since it last worked.
    pub(super) failures: u32,
    /// What went wrong the last time.
    pub(super) error: Option<String>,
}

impl Fetched {
    /// As stored.
    pub(super) fn read(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_default()
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Notes that it worked, and is good for `said`; what is held now counts until `valid_until`.
    pub(super) fn succeeded(
        &mut self,
        said: Option<Duration>,
        valid_until: Timestamp,
        now: Timestamp,
        spread: u8,
    ) {
        let wait = said.unwrap_or(REFRESH).clamp(REFRESH_MIN, REFRESH_MAX);
        // Half of its time is left for failures.
        let half = valid_until.since(now) / 2;
        let wait = wait.min(half).max(RETRY_MIN);
        *self = Self {
            attempted: self.attempted,
            fetched: Some(now),
            next: now.after(jitter(wait, spread)),
            ..Self::default()
        };
    }

    /// Notes that it failed.
    pub(super) fn failed(&mut self, error: &str, now: Timestamp, spread: u8) {
        self.failures = self.failures.saturating_add(1);
        let doubled = RETRY_MIN.saturating_mul(1 << self.failures.min(10).saturating_sub(1));
        self.error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
        self.claimed_until = Timestamp::from_micros(0);
        self.next = now.after(jitter(doubled.min(RETRY_MAX), spread));
    }
}

/// How often a list is fetched of which nobody says how long it is good.
const REFRESH: Duration = Duration::from_secs(300);
const REFRESH_MIN: Duration = Duration::from_secs(15);
const REFRESH_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn what_a_list_says_is_heard_within_bounds_and_half_of_its_time_is_left() {
        for (said, counts, wait) in [
            (None, 3600, 300),
            (Some(1), 3600, 15),
            (Some(14), 3600, 15),
            (Some(16), 3600, 16),
            (Some(1800), 3600, 1800),
            (Some(1801), 3600, 1800),
            (Some(43_200), 3600, 1800),
            (Some(43_200), 86_400, 3600),
            (None, 100, 50),
            (Some(15), 20, 10),
            (Some(15), 4, 5),
            (None, -7, 5),
        ] {
            let mut state = Fetched { failures: 3, ..Fetched::default() };
            state.succeeded(said.map(Duration::from_secs), at(1000 + counts), at(1000), 0);
            assert_eq!((state.next, state.failures), (at(1000 + wait), 0), "{said:?} {counts}");
            state.succeeded(said.map(Duration::from_secs), at(1000 + counts), at(1000), 255);
            assert!(state.next < at(1000 + wait) && state.next >= at(1000 + wait * 9 / 10), "{said:?}");
        }
    }

    #[test]
    fn failures_are_tried_again_ever_later() {
        let mut state = Fetched::default();
        let mut waits = Vec::new();
        for _ in 0..6 {
            state.failed("no", at(1000), 0);
            waits.push(state.next.as_micros() / 1_000_000 - 1000);
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!(Fetched::read(&state.write()), state);
        assert_eq!(Fetched::read(b"nonsense"), Fetched::default());
    }
}
