//! The memory of verified tokens.
//!
//! It spares cryptography and nothing else: what is found here is judged again each time.

use std::fmt;
use std::sync::Arc;

use moka::sync::Cache;

use crate::core::credential::{TokenCache, Verified};
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
