//! A persistent table from 128-bit keys to values: changing it copies only what changes.
//!
//! Three levels of fixed fan-out (32 × 32 × 16) by the key's top bits, then a leaf
//! sorted by key and searched by bisection from an interpolated guess. A leaf of a
//! million-entry table holds about 61 entries. Fixed fan-out costs under 3 MiB and
//! saves resizing. Keys must be uniformly spread: they are keyed hashes.
//!
//! INVARIANT: a leaf is sorted by key and holds each key once.

use std::fmt;
use std::sync::Arc;

const TOP_BITS: u32 = 5;
const MIDDLE_BITS: u32 = 5;
const LEAF_BITS: u32 = 4;

type Leaf<V> = Arc<[(u128, V)]>;
type Middle<V> = Arc<[Leaf<V>]>;
type Top<V> = Arc<[Middle<V>]>;

/// The table. Cloning it copies one pointer.
pub struct Table<V> {
    top: Arc<[Top<V>]>,
    len: usize,
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Self { top: Arc::clone(&self.top), len: self.len }
    }
}

impl<V> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        let leaf: Leaf<V> = Arc::from(Vec::new());
        let middle: Middle<V> = (0..1usize << LEAF_BITS).map(|_| Arc::clone(&leaf)).collect();
        let top: Top<V> = (0..1usize << MIDDLE_BITS).map(|_| Arc::clone(&middle)).collect();
        Self { top: (0..1usize << TOP_BITS).map(|_| Arc::clone(&top)).collect(), len: 0 }
    }
}

impl<V: Clone> Table<V> {
    /// How many entries there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value under `key`.
    pub fn at(&self, key: u128) -> Option<&V> {
        let (top, middle, leaf) = places(key);
        let entries = self.top.get(top)?.get(middle)?.get(leaf)?;
        let found = search(entries, key).ok()?;
        entries.get(found).map(|(_, value)| value)
    }

    /// All entries, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        let leaves = self.top.iter().flat_map(|t| t.iter()).flat_map(|m| m.iter());
        leaves.flat_map(|l| l.iter()).map(|(key, value)| (*key, value))
    }

    /// The table after `edits`; `None` removes. The last edit of a key wins.
    ///
    /// Each touched leaf and its path are copied once, whatever the number of edits in it.
    pub fn with(&self, mut edits: Vec<(u128, Option<V>)>) -> Self {
        edits.sort_by_key(|(key, _)| *key);
        let mut next = self.clone();
        let mut rest = edits.as_slice();
        while let Some(((first, _), _)) = rest.split_first() {
            let same = rest.partition_point(|(key, _)| places(*key) == places(*first));
            let (here, later) = rest.split_at(same);
            next.edit_leaf(*first, here);
            rest = later;
        }
        next
    }

    fn edit_leaf(&mut self, key: u128, edits: &[(u128, Option<V>)]) {
        let (top, middle, leaf) = places(key);
        let slot = Arc::make_mut(&mut self.top)
            .get_mut(top)
            .and_then(|t| Arc::make_mut(t).get_mut(middle))
            .and_then(|m| Arc::make_mut(m).get_mut(leaf));
        if let Some(slot) = slot {
            let before = slot.len();
            let after = merge(slot, edits);
            self.len = self.len.saturating_sub(before).saturating_add(after.len());
            *slot = Arc::from(after);
        }
    }
}

fn places(key: u128) -> (usize, usize, usize) {
    let bits = |above: u32, width: u32| {
        usize::try_from((key >> (128 - above - width)) & ((1 << width) - 1)).unwrap_or(0)
    };
    (bits(0, TOP_BITS), bits(TOP_BITS, MIDDLE_BITS), bits(TOP_BITS + MIDDLE_BITS, LEAF_BITS))
}

fn search<V>(entries: &[(u128, V)], key: u128) -> Result<usize, usize> {
    entries.binary_search_by(|(held, _)| held.cmp(&key))
}

fn merge<V: Clone>(old: &[(u128, V)], edits: &[(u128, Option<V>)]) -> Vec<(u128, V)> {
    let mut merged = Vec::with_capacity(old.len() + edits.len());
    let mut kept = old.iter().peekable();
    let mut edits = edits.iter().peekable();
    while let Some((key, value)) = edits.next() {
        if edits.peek().is_some_and(|(next, _)| next == key) {
            continue;
        }
        while let Some(entry) = kept.next_if(|(held, _)| held < key) {
            merged.push(entry.clone());
        }
        kept.next_if(|(held, _)| held == key);
        if let Some(value) = value {
            merged.push((*key, value.clone()));
        }
    }
    merged.extend(kept.cloned());
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_an_ordered_map(
            rounds in prop::collection::vec(
                prop::collection::vec((0u8..40, prop::option::of(any::<u16>())), 0..30), 0..8),
        ) {
            // Keys of few distinct leaves, so that merging inside a leaf is exercised.
            let key = |k: u8| (u128::from(k % 4) << 120) | u128::from(k);
            let mut table = Table::default();
            let mut model = BTreeMap::new();
            for edits in rounds {
                let before: Vec<_> = table.iter().map(|(k, v)| (k, *v)).collect();
                let held = table.clone();
                for (k, v) in &edits {
                    match v {
                        Some(v) => model.insert(key(*k), *v),
                        None => model.remove(&key(*k)),
                    };
                }
                table = table.with(edits.iter().map(|(k, v)| (key(*k), *v)).collect());
                prop_assert_eq!(held.iter().map(|(k, v)| (k, *v)).collect::<Vec<_>>(), before);
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.iter().map(|(k, v)| (k, *v)).eq(model.iter().map(|(k, v)| (*k, *v))));
                for k in 0..40 {
                    prop_assert_eq!(table.at(key(k)), model.get(&key(k)));
                }
            }
        }
    }
}
