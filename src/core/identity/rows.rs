//! A persistent table of packed records: each leaf one run of bytes.
//!
//! A [`Tree`] by the top 14 bits of a record's 32-bit place, which is the beginning of the keyed hash
//! of its kind, tenant and name. A leaf, little-endian:
//!
//! ```text
//! count u16 | count × tag u16 | count × end u32 | rows
//! ```
//!
//! A tag is the low half of the place; a row ends `end` bytes into the rows and begins where the one
//! before it ends. A row begins with its *head*, which says whose row it is and differs between any
//! two records. Rows of a leaf are in no order.
//!
//! Whatever cannot be read is not there: bytes damaged in memory may hide a record, and hidden means
//! refused; the look for drift finds it.

use std::fmt;
use std::sync::Arc;

use crate::core::identity::tree::{Tree, leaf_of};

/// Most rows of a leaf: their count is 16 bits. A billion records make 61,000.
const ROWS_MAX: usize = u16::MAX as usize;

/// The table. Cloning it copies one pointer.
#[derive(Clone)]
pub(super) struct Rows {
    tree: Tree<Arc<[u8]>>,
    len: usize,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self { tree: Tree::new(&Arc::from([0u8, 0])), len: 0 }
    }
}

/// One record's row, to be put or taken out.
#[derive(Debug)]
pub(super) struct RowEdit {
    pub(super) place: u32,
    /// The row; of one that goes, its head.
    pub(super) row: Vec<u8>,
    /// Bytes of the row's head.
    pub(super) head: usize,
    /// Whether the row is put.
    pub(super) comes: bool,
}

impl RowEdit {
    fn is_of(&self, row: &[u8]) -> bool {
        self.row.get(..self.head).is_some_and(|head| row.starts_with(head))
    }
}

impl Rows {
    /// How many rows there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The rows at a place: nearly always one at most.
    pub(super) fn at(&self, place: u32) -> impl Iterator<Item = &[u8]> {
        let leaf = self.tree.leaf(place).and_then(|leaf| Leaf::of(leaf)).unwrap_or_default();
        let tag = tag_of(place).to_le_bytes();
        let tags = leaf.tags.chunks_exact(2).enumerate();
        tags.filter(move |(_, held)| *held == tag).filter_map(move |(index, _)| leaf.row(index))
    }

    /// Every row that can be read, leaf by leaf, with what its place ends in.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.tree.leaves().filter_map(|leaf| Leaf::of(leaf)).flat_map(Leaf::rows).map(|(_, row)| row)
    }

    /// Makes edits, at most one of each record. Each touched leaf is copied once.
    pub(super) fn edit(&mut self, mut edits: Vec<RowEdit>) {
        edits.sort_by_key(|edit| leaf_of(edit.place));
        for here in edits.chunk_by(|a, b| leaf_of(a.place) == leaf_of(b.place)) {
            let leaf = here.first().and_then(|edit| self.tree.leaf_mut(edit.place));
            if let Some(leaf) = leaf {
                self.len = self.len.saturating_sub(count(leaf));
                *leaf = merged(leaf, here);
                self.len = self.len.saturating_add(count(leaf));
            }
        }
    }
}

fn merged(leaf: &[u8], edits: &[RowEdit]) -> Arc<[u8]> {
    let old = Leaf::of(leaf).unwrap_or_default();
    let edited = |tag: u16, row: &[u8]| edits.iter().any(|edit| tag_of(edit.place) == tag && edit.is_of(row));
    let kept = old.rows().filter(|(tag, row)| !edited(*tag, row));
    let come = edits.iter().filter(|edit| edit.comes).map(|edit| (tag_of(edit.place), &*edit.row));
    let rows: Vec<_> = kept.chain(come).take(ROWS_MAX).collect();
    let bytes = rows.iter().map(|(_, row)| row.len()).sum::<usize>();
    let mut out = Vec::with_capacity(2 + rows.len() * 6 + bytes);
    out.extend_from_slice(&u16::try_from(rows.len()).unwrap_or(u16::MAX).to_le_bytes());
    rows.iter().for_each(|(tag, _)| out.extend_from_slice(&tag.to_le_bytes()));
    let mut end = 0u32;
    for (_, row) in &rows {
        end = end.saturating_add(u32::try_from(row.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(&end.to_le_bytes());
    }
    rows.iter().for_each(|(_, row)| out.extend_from_slice(row));
    Arc::from(out)
}

/// A leaf taken apart.
#[derive(Clone, Copy, Default)]
struct Leaf<'a> {
    tags: &'a [u8],
    ends: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Leaf<'a> {
    fn of(leaf: &'a [u8]) -> Option<Self> {
        let count = count(leaf);
        let (tags, rest) = leaf.get(2..)?.split_at_checked(count * 2)?;
        let (ends, bytes) = rest.split_at_checked(count * 4)?;
        Some(Self { tags, ends, bytes })
    }

    fn row(self, index: usize) -> Option<&'a [u8]> {
        let begin = index.checked_sub(1).map_or(Some(0), |before| self.end(before))?;
        self.bytes.get(begin..self.end(index)?)
    }

    fn end(self, index: usize) -> Option<usize> {
        let four = self.ends.get(index * 4..index * 4 + 4)?;
        usize::try_from(u32::from_le_bytes(four.try_into().ok()?)).ok()
    }

    fn rows(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let tags = self.tags.chunks_exact(2).enumerate();
        tags.filter_map(move |(index, tag)| {
            Some((u16::from_le_bytes(tag.try_into().ok()?), self.row(index)?))
        })
    }
}

fn count(leaf: &[u8]) -> usize {
    leaf.first_chunk::<2>().map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
}

fn tag_of(place: u32) -> u16 {
    u16::try_from(place & u32::from(u16::MAX)).unwrap_or(0)
}

#[cfg(test)]
impl Rows {
    /// These rows with one bit of memory flipped, `at` counting from the first bit of the first leaf.
    pub(super) fn flipped(&self, at: usize) -> Self {
        let mut next = self.clone();
        let mut before = 0;
        for leaf in 0..1u32 << 14 {
            let Some(bytes) = next.tree.leaf_mut(leaf << 18) else { continue };
            if count(bytes) > 0 && (before..before + bytes.len() * 8).contains(&at) {
                let mut damaged = bytes.to_vec();
                damaged[(at - before) / 8] ^= 1 << (at % 8);
                *bytes = Arc::from(damaged);
                return next;
            }
            before += if count(bytes) > 0 { bytes.len() * 8 } else { 0 };
        }
        next
    }

    /// How many bits of memory the leaves with rows take.
    pub(super) fn bits(&self) -> usize {
        self.tree.leaves().filter(|leaf| count(leaf) > 0).map(|leaf| leaf.len() * 8).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_map(
            rounds in prop::collection::vec(
                prop::collection::btree_map(0u8..30, prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 0..20),
                0..6),
        ) {
            // Few leaves and fewer tags, so that both are shared.
            let place = |key: u8| u32::from(key % 4) << 18 | u32::from(key % 5);
            let mut rows = Rows::default();
            let mut model = BTreeMap::new();
            for round in rounds {
                let held = rows.clone();
                let before: Vec<_> = held.iter().map(<[u8]>::to_vec).collect();
                let edits = round.into_iter().map(|(key, value)| {
                    let row: Vec<u8> = [key].into_iter().chain(value.clone().unwrap_or_default()).collect();
                    let comes = value.is_some();
                    match value {
                        Some(_) => model.insert(key, row.clone()),
                        None => model.remove(&key),
                    };
                    RowEdit { place: place(key), row, head: 1, comes }
                });
                rows.edit(edits.collect());
                prop_assert_eq!(held.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), before);
                prop_assert_eq!(rows.len(), model.len());
                let mut all: Vec<_> = rows.iter().map(<[u8]>::to_vec).collect();
                all.sort();
                prop_assert_eq!(all, model.values().cloned().collect::<Vec<_>>());
                for key in 0..30 {
                    let found = rows.at(place(key)).find(|row| row.first() == Some(&key));
                    prop_assert_eq!(found.map(<[u8]>::to_vec), model.get(&key).cloned());
                }
            }
        }
    }
}
