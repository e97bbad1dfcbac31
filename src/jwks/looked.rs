//! What was looked for a moment ago.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::core::time::Timestamp;

/// What was looked for and not found, or is being looked for, by whose it is: not looked for again until then.
#[derive(Debug)]
pub struct Looked<K>(HashMap<(K, Arc<str>), Timestamp>);

impl<K> Default for Looked<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Looked<K> {
    /// Whether it is to be looked for now; notes it until `again`.
    pub fn is_news(&mut self, of: &K, what: &str, now: Timestamp, again: Timestamp) -> bool {
        let asked = (of.clone(), Arc::from(what));
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

const LOOKED_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_looked_for_once_in_a_while_and_the_memory_is_bounded() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut looked = Looked::default();
        assert!(looked.is_news(&"main", "a", at(0), at(60)));
        assert!(!looked.is_news(&"main", "a", at(59), at(119)));
        assert!(looked.is_news(&"other", "a", at(59), at(119)), "another issuer's");
        assert!(looked.is_news(&"main", "a", at(60), at(120)));
        for n in 0..3 * LOOKED_MAX {
            assert!(looked.is_news(&"main", &format!("made-up-{n}"), at(61), at(121)));
            assert!(looked.0.len() <= LOOKED_MAX);
        }
    }
}
