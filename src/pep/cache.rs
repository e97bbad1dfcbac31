//! Two bounded memories: of verified tokens, and of what policies answered.
//!
//! The first spares cryptography and nothing else: what is found there is judged again each
//! time. The second spares asking the same question of the same policies twice.

use std::fmt;
use std::sync::Arc;

use moka::sync::Cache;

use crate::core::credential::{TokenCache, Verified};
use crate::core::policy::{PolicyMemory, Remembered};
use crate::telemetry::metrics::CacheMetrics;

/// Entries kept by default.
pub const ENTRIES_MAX: u64 = 100_000;

/// A bounded cache of verified tokens, keyed by their digest.
pub struct VerifiedTokens {
    entries: Cache<[u8; 32], Arc<Verified>>,
    metrics: CacheMetrics,
}

impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTokens").field("entries", &self.entries.entry_count()).finish()
    }
}

impl VerifiedTokens {
    /// Begins empty; keeps at most `entries_max`.
    pub fn new(entries_max: u64, metrics: CacheMetrics) -> Self {
        Self { entries: Cache::new(entries_max), metrics }
    }

    /// How many are kept.
    pub fn len(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.entry_count()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all.
    pub fn invalidate_all(&self) {
        self.entries.invalidate_all();
    }

    /// Forgets those that `gone` names, and says how many.
    pub fn purge(&self, gone: impl Fn(&Verified) -> bool) -> usize {
        let keys: Vec<_> =
            self.entries.iter().filter(|(_, verified)| gone(verified)).map(|(key, _)| key).collect();
        for key in &keys {
            self.entries.invalidate(&**key);
        }
        keys.len()
    }
}

impl TokenCache for VerifiedTokens {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Verified>> {
        let found = self.entries.get(key);
        if found.is_some() {
            self.metrics.hits.inc()
        } else {
            self.metrics.misses.inc()
        }
        found
    }

    fn store(&self, key: [u8; 32], verified: Arc<Verified>) {
        self.entries.insert(key, verified);
    }
}

/// Answers kept by default.
pub const ANSWERS_MAX: u64 = 50_000;

/// A bounded cache of policy answers, keyed by everything the policies could read.
pub struct PolicyAnswers(Cache<[u8; 32], Arc<Remembered>>);

impl fmt::Debug for PolicyAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyAnswers").field("entries", &self.0.entry_count()).finish()
    }
}

impl PolicyAnswers {
    /// Begins empty; keeps at most `entries_max`.
    pub fn new(entries_max: u64) -> Self {
        Self(Cache::new(entries_max))
    }
}

impl PolicyMemory for PolicyAnswers {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Remembered>> {
        self.0.get(key)
    }

    fn store(&self, key: [u8; 32], answer: Arc<Remembered>) {
        self.0.insert(key, answer);
    }
}
