//! Whether a server that failed is asked at all.

use std::time::Duration;

use crate::core::time::BootInstant;

/// When a server is left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PauseRule {
    /// After so many failures in a row; at least 1.
    pub after: u32,
    /// For so long; then one question tries whether it answers again.
    pub pause: Duration,
}

/// A circuit breaker.
#[derive(Debug, Default)]
pub(super) enum Breaker {
    /// It is asked. So many failures came since it last answered.
    #[default]
    Closed,
    /// The same, after failures.
    Failing(u32),
    /// It is not asked until then.
    Open(BootInstant),
    /// One question is under way that tries it.
    Trying,
}

impl Breaker {
    /// Whether a question may go out now.
    pub(super) fn admits(&mut self, now: BootInstant) -> bool {
        match *self {
            Self::Closed | Self::Failing(_) => true,
            Self::Open(until) if now < until => false,
            Self::Open(_) => {
                *self = Self::Trying;
                true
            }
            Self::Trying => false,
        }
    }

    /// Notes how a question ended.
    pub(super) fn ended(&mut self, answered: bool, now: BootInstant, rule: PauseRule) {
        let failures = match *self {
            _ if answered => {
                *self = Self::Closed;
                return;
            }
            Self::Closed => 1,
            Self::Failing(failures) => failures.saturating_add(1),
            // A question that went out before.
            Self::Open(_) => return,
            Self::Trying => rule.after,
        };
        let open = failures >= rule.after;
        *self = if open { Self::Open(now.after(rule.pause)) } else { Self::Failing(failures) };
    }

    /// Whether questions are held back.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Trying)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PauseRule = PauseRule { after: 3, pause: Duration::from_secs(10) };

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_micros(seconds * 1_000_000)
    }

    fn opened(at_s: u64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert!(breaker.admits(at(at_s)));
            breaker.ended(false, at(at_s), RULE);
        }
        breaker
    }

    #[test]
    fn it_opens_at_the_last_failure_and_not_before() {
        let mut breaker = Breaker::default();
        for failures in 1..=3 {
            assert!(breaker.admits(at(0)) && !breaker.is_open(), "before failure {failures}");
            breaker.ended(false, at(0), RULE);
        }
        assert!(breaker.is_open() && !breaker.admits(at(0)));
        // An answer in between begins the count anew.
        let mut breaker = Breaker::default();
        for answered in [false, false, true, false, false] {
            breaker.ended(answered, at(0), RULE);
        }
        assert!(!breaker.is_open() && breaker.admits(at(0)));
    }

    #[test]
    fn one_question_tries_it_once_the_pause_is_over() {
        let mut breaker = opened(0);
        let last = BootInstant::from_micros(9_999_999);
        assert!(!breaker.admits(last) && breaker.admits(at(10)) && !breaker.admits(at(10)));
        breaker.ended(true, at(11), RULE);
        assert!(breaker.admits(at(11)) && breaker.admits(at(11)) && !breaker.is_open());
    }

    #[test]
    fn a_trial_that_fails_pauses_it_for_as_long_again() {
        let mut breaker = opened(0);
        assert!(breaker.admits(at(12)));
        breaker.ended(false, at(12), RULE);
        assert!(!breaker.admits(at(21)) && breaker.admits(at(22)));
    }

    #[test]
    fn a_question_of_before_neither_prolongs_the_pause_nor_tries() {
        let mut breaker = opened(0);
        breaker.ended(false, at(9), RULE);
        assert!(breaker.admits(at(10)));
        let mut breaker = opened(0);
        breaker.ended(true, at(5), RULE);
        assert!(breaker.admits(at(5)), "it answers");
    }
}
