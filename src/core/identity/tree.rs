//! The persistent tree below every table: changing a leaf copies the path to it and nothing else.
//!
//! Three levels of fixed fan-out (32 × 32 × 16) by the top bits of a key. Fixed fan-out costs little
//! and saves resizing; keys must be uniformly spread, and are keyed hashes. A leaf of a million
//! entries holds about 61.

use std::sync::Arc;

const TOP_BITS: u32 = 5;
const MIDDLE_BITS: u32 = 5;
const LEAF_BITS: u32 = 4;

type Bottom<L> = Arc<[L]>;
type Middle<L> = Arc<[Bottom<L>]>;

/// The tree. Cloning it copies one pointer.
pub(super) struct Tree<L> {
    top: Arc<[Middle<L>]>,
    /// Where no leaf was ever changed, this is what lies at the top.
    blank: Middle<L>,
}

impl<L> Clone for Tree<L> {
    fn clone(&self) -> Self {
        Self { top: Arc::clone(&self.top), blank: Arc::clone(&self.blank) }
    }
}

impl<L: Clone> Tree<L> {
    /// Every leaf is this one.
    pub(super) fn new(leaf: &L) -> Self {
        let bottom: Bottom<L> = (0..1usize << LEAF_BITS).map(|_| leaf.clone()).collect();
        let blank: Middle<L> = (0..1usize << MIDDLE_BITS).map(|_| Arc::clone(&bottom)).collect();
        Self { top: (0..1usize << TOP_BITS).map(|_| Arc::clone(&blank)).collect(), blank }
    }

    /// The leaf of the keys that begin with these 32 bits.
    pub(super) fn leaf(&self, key: u32) -> Option<&L> {
        let (top, middle, bottom) = places(key);
        self.top.get(top)?.get(middle)?.get(bottom)
    }

    /// The same leaf, to be changed; what other trees share of the path is copied.
    pub(super) fn leaf_mut(&mut self, key: u32) -> Option<&mut L> {
        let (top, middle, bottom) = places(key);
        let middles = Arc::make_mut(&mut self.top).get_mut(top)?;
        let bottoms = Arc::make_mut(middles).get_mut(middle)?;
        Arc::make_mut(bottoms).get_mut(bottom)
    }

    /// Every leaf that was ever changed, and some that were not, in key order. A tree of few leaves is
    /// walked in few steps.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &L> {
        let blank = &self.blank;
        let middles = self.top.iter().filter(move |middle| !Arc::ptr_eq(middle, blank));
        let bottoms = middles.flat_map(|middle| middle.iter());
        let bottoms = bottoms.filter(move |bottom| !blank.first().is_some_and(|it| Arc::ptr_eq(bottom, it)));
        bottoms.flat_map(|bottom| bottom.iter())
    }
}

/// Which leaf the keys that begin with these 32 bits are in, as a number that orders leaves.
pub(super) const fn leaf_of(key: u32) -> u32 {
    key >> (u32::BITS - TOP_BITS - MIDDLE_BITS - LEAF_BITS)
}

const fn places(key: u32) -> (usize, usize, usize) {
    let leaf = leaf_of(key) as usize;
    let bottom = leaf & ((1 << LEAF_BITS) - 1);
    let middle = (leaf >> LEAF_BITS) & ((1 << MIDDLE_BITS) - 1);
    (leaf >> (LEAF_BITS + MIDDLE_BITS), middle, bottom)
}
