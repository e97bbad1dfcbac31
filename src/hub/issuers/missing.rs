//! Keys that enforcement points report missing.

use std::sync::atomic::Ordering;

use super::{Issuers, Key};

impl Issuers {
    /// A token that nobody verified names this key. Never waits.
    pub(crate) fn missing(&self, key: &Key, key_id: &str) {
        self.counts.reports.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now().wall;
        let mut watch = self.watch.lock();
        if watch.looked.is_news(key, key_id, now, now.after(self.pace.refetch * LOOKED_FOR))
            && watch.wanted(key, now)
        {
            drop(watch);
            self.wake.notify_one();
        }
    }
}

/// How many refetch intervals a key is not looked for again.
const LOOKED_FOR: u32 = 2;
