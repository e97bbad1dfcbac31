//! A persistent table from 128-bit keys to values: changing it copies only what changes.
//!
//! A [`Tree`] of leaves sorted by key and searched by bisection. For the kinds of which there are
//! few; identities and credentials are packed, see [`super::rows`].
//!
//! INVARIANT: a leaf is sorted by key and holds each key once.

use std::fmt;
use std::sync::Arc;

use crate::core::identity::tree::{Tree, leaf_of};

type Leaf<V> = Arc<[(u128, V)]>;

/// The table. Cloning it copies one pointer.
pub struct Table<V> {
    tree: Tree<Leaf<V>>,
    len: usize,
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Self { tree: self.tree.clone(), len: self.len }
    }
}

impl<V> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { tree: Tree::new(&Arc::from(Vec::new())), len: 0 }
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
        let entries = self.tree.leaf(place(key))?;
        let found = entries.binary_search_by(|(held, _)| held.cmp(&key)).ok()?;
        entries.get(found).map(|(_, value)| value)
    }

    /// All entries, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        self.tree.leaves().flat_map(|leaf| leaf.iter()).map(|(key, value)| (*key, value))
    }

    /// Makes `edits`; `None` removes. The last edit of a key wins.
    ///
    /// Each touched leaf is copied once, whatever the number of edits in it.
    pub fn edit(&mut self, mut edits: Vec<(u128, Option<V>)>) {
        edits.sort_by_key(|(key, _)| *key);
        for here in edits.chunk_by(|(a, _), (b, _)| leaf_of(place(*a)) == leaf_of(place(*b))) {
            let leaf = here.first().and_then(|(key, _)| self.tree.leaf_mut(place(*key)));
            let Some(leaf) = leaf else { continue };
            let before = leaf.len();
            let after = merge(leaf, here);
            self.len = self.len.saturating_sub(before).saturating_add(after.len());
            *leaf = Arc::from(after);
        }
    }

    /// The table after `edits`, beside this one.
    pub fn with(&self, edits: Vec<(u128, Option<V>)>) -> Self {
        let mut next = self.clone();
        next.edit(edits);
        next
    }
}

fn place(key: u128) -> u32 {
    u32::try_from(key >> 96).unwrap_or(0)
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
