//! What was said of tokens a moment ago.
//!
//! Two memories: tokens that are made up, however many, push out no token that is good.

use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::core::credential::{Introspected, Verified};
use crate::core::time::BootInstant;

/// Longer than any answer counts, for a request or an open exchange.
const KEPT: Duration = Duration::from_secs(60);

/// Answers, each until it counts no more.
pub(super) struct Answers {
    active: Cache<[u8; 32], Introspected>,
    refused: Cache<[u8; 32], Introspected>,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("active", &self.active.entry_count()).finish_non_exhaustive()
    }
}

impl Answers {
    /// Begins empty; keeps at most `entries_max` of each kind.
    pub(super) fn new(entries_max: u64) -> Self {
        // The newest stay, however often those before were asked for: what was said last counts.
        let cache = || {
            Cache::builder()
                .max_capacity(entries_max)
                .time_to_live(KEPT)
                .eviction_policy(EvictionPolicy::lru())
                .build()
        };
        Self { active: cache(), refused: cache() }
    }

    /// What was said under this key, if it counts at `now`.
    pub(super) fn lookup(&self, key: &[u8; 32], now: BootInstant) -> Option<Introspected> {
        self.last(key).filter(|found| now < found.until())
    }

    /// What was last said under this key, as far as it is remembered.
    pub(super) fn last(&self, key: &[u8; 32]) -> Option<Introspected> {
        self.active.get(key).or_else(|| self.refused.get(key)).map(|found| found.again())
    }

    /// Remembers an answer in place of any before.
    pub(super) fn store(&self, answer: &Introspected) {
        let (kept, other) = match answer.said() {
            Ok(_) => (&self.active, &self.refused),
            Err(_) => (&self.refused, &self.active),
        };
        other.invalidate(answer.key());
        kept.insert(*answer.key(), answer.clone());
    }

    /// Forgets the good ones that `gone` names, and says how many.
    pub(super) fn purge(&self, gone: impl Fn(&Verified) -> bool) -> usize {
        let named = |answer: &Introspected| answer.said().is_ok_and(|verified| gone(verified));
        let keys: Vec<_> =
            self.active.iter().filter(|(_, answer)| named(answer)).map(|(key, _)| key).collect();
        keys.iter().for_each(|key| self.active.invalidate(&**key));
        keys.len()
    }
}
