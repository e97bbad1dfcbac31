//! Keys that enforcement points report missing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Issuers, Key};
use crate::core::time::Timestamp;

/// Keys that were looked for and not found, or are being looked for: not looked for again until then.
#[derive(Default)]
pub(super) struct Looked(HashMap<(Key, Arc<str>), Timestamp>);

impl Looked {
    /// Whether a key is to be looked for now; notes it until `again`.
    pub(super) fn is_news(&mut self, key: &Key, key_id: &str, now: Timestamp, again: Timestamp) -> bool {
        let asked = (key.clone(), Arc::from(key_id));
        if self.0.get(&asked).is_some_and(|until| now < *until) {
            return false;
        }
        if self.0.len() >= LOOKED_MAX {
            self.0.retain(|_, until| now < *until);
        }
        if self.0.len() >= LOOKED_MAX {
            // Whoever makes up so many keys must not keep a new one from being found.
            self.0.clear();
        }
        self.0.insert(asked, again);
        true
    }
}

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

const LOOKED_MAX: usize = 4096;
/// How many refetch intervals a key is not looked for again.
const LOOKED_FOR: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Name;

    #[test]
    fn a_key_is_looked_for_once_in_a_while_and_the_memory_is_bounded() {
        let name = |text: &str| Name::parse(text).unwrap();
        let (main, other) = ((name("demo"), name("main")), (name("demo"), name("other")));
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut looked = Looked::default();
        assert!(looked.is_news(&main, "a", at(0), at(60)));
        assert!(!looked.is_news(&main, "a", at(59), at(119)));
        assert!(looked.is_news(&other, "a", at(59), at(119)), "another issuer's");
        assert!(looked.is_news(&main, "a", at(60), at(120)));
        for n in 0..3 * LOOKED_MAX {
            assert!(looked.is_news(&main, &format!("made-up-{n}"), at(61), at(121)));
            assert!(looked.0.len() <= LOOKED_MAX);
        }
    }
}
