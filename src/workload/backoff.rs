//! How long is waited before a stream is opened again.

use std::time::Duration;

/// Doubles with each failure, and is less by up to a half by chance, so that a fleet does not come at one instant.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    seed: u64,
}

impl Backoff {
    pub(super) const fn new(seed: u64) -> Self {
        Self { failures: 0, seed }
    }

    /// Begins anew: it worked.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // xorshift64: chance enough for a wait.
        let mut seed = self.seed | 1;
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        self.seed = seed;
        let less = u32::try_from(seed % 1000).unwrap_or(0);
        whole - whole * less / 2000
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        for seed in [0, 1, 7, u64::MAX] {
            let mut backoff = Backoff::new(seed);
            let mut seen = Vec::new();
            for whole in [1, 2, 4, 8, 16, 30, 30, 30].map(Duration::from_secs) {
                let wait = backoff.next();
                assert!(wait <= whole && wait * 2 > whole, "{wait:?} of {whole:?}");
                seen.push(wait.as_secs_f64() / whole.as_secs_f64());
            }
            assert!(seen.iter().any(|share| (share - seen[0]).abs() > 0.01), "chance: {seen:?}");
            backoff.reset();
            assert!(backoff.next() <= FIRST);
        }
    }
}
