//! A persistent multiset of links: from the hash of what is asked for to where a record lies.
//!
//! A link is 8 bytes: 32 bits of the asked-for hash beside those that choose the leaf, and the 32
//! bits that place a record in its [`super::rows::Rows`]. It only narrows down; the record itself
//! says whether it is the one asked for, so two hashes that collide cost a comparison, no more.
//!
//! INVARIANT: a leaf is sorted.

use std::fmt;
use std::sync::Arc;

use crate::core::identity::tree::{Tree, leaf_of};

/// One link: the hash of what is asked for, and the record's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) from: u128,
    pub(super) to: u32,
}

impl Link {
    fn leaf(self) -> u32 {
        u32::try_from(self.from >> 96).unwrap_or(0)
    }

    fn packed(self) -> u64 {
        (u64::from(middle(self.from)) << 32) | u64::from(self.to)
    }
}

/// The links. Cloning them copies one pointer.
#[derive(Clone)]
pub(super) struct Links {
    tree: Tree<Arc<[u64]>>,
    len: usize,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Default for Links {
    fn default() -> Self {
        Self { tree: Tree::new(&Arc::from(Vec::new())), len: 0 }
    }
}

/// Edits of links: first all that go, then all that come, one of each for one each.
#[derive(Default)]
pub(super) struct LinkEdits {
    pub(super) gone: Vec<Link>,
    pub(super) come: Vec<Link>,
}

impl Links {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Where records lie that may be asked for under `from`, each place once.
    pub(super) fn places(&self, from: u128) -> impl Iterator<Item = u32> {
        let wanted = middle(from);
        let leaf = self.tree.leaf(Link { from, to: 0 }.leaf()).map_or(&[][..], |leaf| leaf);
        let first = leaf.partition_point(|link| high(*link) < wanted);
        let found = leaf.iter().skip(first).take_while(move |link| high(**link) == wanted);
        let mut last = None;
        found.map(|link| low(*link)).filter(move |place| last.replace(*place) != Some(*place))
    }

    pub(super) fn edit(&mut self, edits: LinkEdits) {
        let gone = edits.gone.into_iter().map(|link| (link, false));
        let mut all: Vec<_> = gone.chain(edits.come.into_iter().map(|link| (link, true))).collect();
        // Stable: within a leaf, what goes stays before what comes.
        all.sort_by_key(|(link, _)| leaf_of(link.leaf()));
        for here in all.chunk_by(|(a, _), (b, _)| leaf_of(a.leaf()) == leaf_of(b.leaf())) {
            let leaf = here.first().and_then(|(link, _)| self.tree.leaf_mut(link.leaf()));
            let Some(leaf) = leaf else { continue };
            let mut links = leaf.to_vec();
            for (link, comes) in here {
                match (links.binary_search(&link.packed()), comes) {
                    (Ok(at) | Err(at), true) => links.insert(at, link.packed()),
                    (Ok(at), false) => {
                        links.remove(at);
                    }
                    (Err(_), false) => {}
                }
            }
            self.len = self.len.saturating_sub(leaf.len()).saturating_add(links.len());
            *leaf = Arc::from(links);
        }
    }
}

fn middle(hash: u128) -> u32 {
    u32::try_from((hash >> 64) & u128::from(u32::MAX)).unwrap_or(0)
}

fn high(link: u64) -> u32 {
    u32::try_from(link >> 32).unwrap_or(0)
}

fn low(link: u64) -> u32 {
    u32::try_from(link & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_multiset(
            rounds in prop::collection::vec(prop::collection::vec((any::<bool>(), 0u8..12, 0u32..4), 0..20), 0..6),
        ) {
            let link = |from: u8, to| Link { from: u128::from(from % 3) << 110 | u128::from(from) << 64, to };
            let mut links = Links::default();
            let mut model: Vec<(u8, u32)> = Vec::new();
            for round in rounds {
                let mut edits = LinkEdits::default();
                for (_, from, to) in round.iter().filter(|(comes, ..)| !comes) {
                    edits.gone.push(link(*from, *to));
                    model.iter().position(|held| *held == (*from, *to)).map(|at| model.remove(at));
                }
                for (_, from, to) in round.iter().filter(|(comes, ..)| *comes) {
                    edits.come.push(link(*from, *to));
                    model.push((*from, *to));
                }
                links.edit(edits);
                prop_assert_eq!(links.len(), model.len());
                for from in 0..12 {
                    let mut expected: Vec<_> =
                        model.iter().filter(|(held, _)| *held == from).map(|(_, to)| *to).collect();
                    expected.sort_unstable();
                    expected.dedup();
                    prop_assert_eq!(links.places(link(from, 0).from).collect::<Vec<_>>(), expected);
                }
            }
        }
    }
}
