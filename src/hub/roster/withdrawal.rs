//! What an enforcement point was told to drop, and has not yet said that it did.
//!
//! INVARIANT (I10): a tenant that left a member's scope stays the member's, for receipts, until the
//! member acknowledged the new scope while it held nothing outside it, or until the last lease it
//! was granted under the old one is over.

use std::collections::BTreeSet;

use crate::core::id::Name;
use crate::core::time::BootInstant;
use crate::hub::admission::Scope;

/// The scope of one member, and what it still may hold beside it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Holdings {
    scope: Scope,
    version: u64,
    /// Scopes of before, each with the last instant at which a lease may have been granted under it.
    leaving: Vec<(Scope, BootInstant)>,
}

impl Holdings {
    /// What is known of a member from before the hub started: nothing, so that it may hold anything.
    pub(super) fn unknown() -> Self {
        Self::default()
    }

    /// The scope told last.
    pub(super) const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Its version.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Begins with a scope.
    pub(super) fn begin(&mut self, scope: Scope, version: u64) {
        *self = Self { scope, version, leaving: Vec::new() };
    }

    /// Takes another scope.
    pub(super) fn rescope(&mut self, scope: Scope, version: u64, now: BootInstant) {
        let before = std::mem::replace(&mut self.scope, scope);
        self.version = version;
        if self.scope != Scope::All && before != self.scope {
            self.leave(before, now);
        }
    }

    /// Notes what a stream came with: what of it is out of the scope is told to go.
    pub(super) fn came_with(&mut self, held: BTreeSet<Name>, now: BootInstant) {
        let outside: BTreeSet<_> = held.into_iter().filter(|cell| !self.scope.holds(cell)).collect();
        if !outside.is_empty() {
            self.leave(Scope::Tenants(outside), now);
        }
    }

    fn leave(&mut self, scope: Scope, now: BootInstant) {
        if self.leaving.len() >= LEAVING_MAX {
            self.leaving = vec![(Scope::All, now)];
        }
        self.leaving.push((scope, now));
    }

    /// Takes an acknowledgement of a member that speaks for all of its process.
    pub(super) fn acknowledged<'a>(&mut self, version: u64, mut held: impl Iterator<Item = &'a Name>) {
        if version == self.version && held.all(|cell| self.scope.holds(cell)) {
            self.leaving.clear();
        }
    }

    /// Whether a cell may be held: by the scope, or from before until its lease from then is over.
    pub(super) fn of(&self, cell: &Name) -> Option<Held> {
        if self.scope.holds(cell) {
            return Some(Held::InScope);
        }
        let left = self.leaving.iter().filter(|(scope, _)| scope.holds(cell));
        left.map(|(_, last)| *last).max().map(Held::Leaving)
    }

    /// Every tenant that may be held; `None`: any.
    pub(super) fn named(&self) -> Option<Vec<Name>> {
        let scopes = self.leaving.iter().map(|(scope, _)| scope).chain([&self.scope]);
        let mut named = BTreeSet::new();
        for scope in scopes {
            match scope {
                Scope::All => return None,
                Scope::Tenants(cells) => named.extend(cells.iter().cloned()),
            }
        }
        Some(named.into_iter().collect())
    }

    /// Tenants that were told to go, where they are known by name.
    pub(super) fn leaving(&self) -> Vec<String> {
        let named = self.leaving.iter().flat_map(|(scope, _)| match scope {
            Scope::All => vec!["*".to_owned()],
            Scope::Tenants(cells) => {
                cells.iter().filter(|cell| !self.scope.holds(cell)).map(Name::to_string).collect()
            }
        });
        named.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Why a member is in the roster of a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// The cell is in its scope.
    InScope,
    /// It was told to drop it; no lease on it was granted after this.
    Leaving(BootInstant),
}

/// Scopes of before that are told apart.
const LEAVING_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<Name> {
        all.iter().map(|name| Name::parse(name).unwrap()).collect()
    }

    fn scope(all: &[&str]) -> Scope {
        Scope::Tenants(names(all))
    }

    fn at(us: u64) -> BootInstant {
        BootInstant::from_micros(us)
    }

    #[test]
    fn what_left_the_scope_stays_until_it_is_acknowledged_gone() {
        let (a, b) = (Name::parse("a").unwrap(), Name::parse("b").unwrap());
        let mut held = Holdings::default();
        held.rescope(scope(&["a", "b"]), 2, at(5));
        held.rescope(scope(&["a"]), 3, at(7));
        assert_eq!((held.of(&a), held.of(&b)), (Some(Held::InScope), Some(Held::Leaving(at(7)))));
        // Another version, or a word that still names it, ends nothing.
        held.acknowledged(2, [&a].into_iter());
        held.acknowledged(3, [&a, &b].into_iter());
        assert_eq!(held.of(&b), Some(Held::Leaving(at(7))));
        held.acknowledged(3, [&a].into_iter());
        assert_eq!((held.of(&b), held.leaving().len()), (None, 0));
        held.came_with(names(&["a", "b"]), at(9));
        assert_eq!(held.of(&b), Some(Held::Leaving(at(9))));
    }

    #[test]
    fn nothing_leaves_a_wider_scope_and_many_changes_are_kept_as_one() {
        let a = Name::parse("a").unwrap();
        let mut held = Holdings::default();
        held.rescope(scope(&["b"]), 1, at(1));
        held.rescope(Scope::All, 2, at(2));
        assert_eq!(held.of(&a), Some(Held::InScope));
        for n in 0..50 {
            held.rescope(scope(&[&format!("t{n}")]), n + 3, at(n + 3));
        }
        assert!(held.leaving.len() <= LEAVING_MAX + 1);
        assert!(matches!(held.of(&a), Some(Held::Leaving(_))), "forgotten while it may be held");
    }
}
