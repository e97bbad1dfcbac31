//! Revocations that are in force without being in the table: those ahead of the order, and those
//! carried from a lineage whose restored store does not know them.
//!
//! A revocation lies in the index that decisions ask, like those of the table; what a suspended
//! identity or a revoked credential takes away is asked for here. Nothing here is part of a digest.
//!
//! INVARIANT: an entry only ever denies. It leaves in the swap that makes the table deny the same, or
//! hold a higher generation. One ahead of the order that the table does not restate once the cell has
//! come to its revision is of a commit that the store has lost: it is carried from there on.

use super::*;

/// One record that denies beside the table.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Overlaid {
    cell: Name,
    change: Change,
    carried: bool,
    /// Whether it lies where a credential's fingerprint is looked for: the same once more, for a record
    /// that is not in the table yet.
    by_print: bool,
}

impl Overlaid {
    pub(super) fn new(cell: &Name, change: &Change, carried: bool) -> Self {
        Self { cell: cell.clone(), change: change.clone(), carried, by_print: false }
    }
}

pub(super) type Overlay = Table<Arc<[Overlaid]>>;

impl Snapshot {
    /// The revocations of a cell that are carried from an older lineage.
    pub fn carried(&self, cell: &Name) -> Vec<Change> {
        let entries = self.overlay.iter().flat_map(|(_, entries)| entries.iter());
        let carried = entries.filter(|entry| entry.carried && !entry.by_print && entry.cell == *cell);
        carried.map(|entry| entry.change.clone()).collect()
    }

    /// Every revocation of a cell that is in force beside its table, carried or ahead of the order.
    pub fn beside(&self, cell: &Name) -> Vec<Change> {
        self.overlay_of(cell)
    }

    /// The state with what [`Self::beside`] gave, and every revocation up to `kill_revision` in force.
    ///
    /// Which of them were carried is not told: one that is not is kept until the table restates it, too.
    pub fn put_beside(&self, cell: &Name, kills: &[Change], kill_revision: u64) -> Self {
        let entries = kills.iter().map(|change| Overlaid::new(cell, change, true)).collect();
        let mut next = self.overlaid(entries).folded(cell);
        next.in_cell(cell, |held| held.kill_revision = held.kill_revision.max(kill_revision));
        next.root = self.root + 1;
        next
    }

    /// What denies an identity beside the table: what it is there, and under which generation.
    pub(in crate::core::identity) fn overlaid_identity(
        &self,
        tenant: &Name,
        name: &str,
    ) -> impl Iterator<Item = (u32, &Identity)> {
        self.overlaid_at(Space::Identity, tenant, name).filter_map(|change| match &change.record {
            Some(Record::Identity(identity)) => Some((change.generation, &**identity)),
            _ => None,
        })
    }

    /// Whether a credential is revoked beside the table.
    pub(in crate::core::identity) fn overlaid_credential(&self, tenant: &Name, name: &str) -> bool {
        self.overlaid_at(Space::Credential, tenant, name).next().is_some()
    }

    /// Whether a credential with this fingerprint is revoked beside the table, its record being there or not.
    pub(in crate::core::identity) fn overlaid_print(&self, tenant: &Name, fingerprint: &[u8; 32]) -> bool {
        let is_it = |entry: &Overlaid| {
            entry.cell == *tenant
                && matches!(&entry.change.record, Some(Record::Credential(it)) if it.fingerprint == *fingerprint)
        };
        !self.overlay.is_empty()
            && self
                .overlay
                .at(self.fingerprint_key(tenant, fingerprint))
                .is_some_and(|held| held.iter().any(is_it))
    }

    fn overlaid_at(&self, space: Space, tenant: &Name, name: &str) -> impl Iterator<Item = &Change> {
        let entries: &[_] = if self.overlay.is_empty() {
            &[]
        } else {
            self.overlay.at(self.named(space, tenant, name)).map_or(&[], |entries| entries)
        };
        entries.iter().map(|entry| &entry.change)
    }

    /// The state with more entries. Its root is as before.
    pub(super) fn overlaid(&self, entries: Vec<Overlaid>) -> Self {
        let mut lists: BTreeMap<u128, Vec<Overlaid>> = BTreeMap::new();
        let mut kills: BTreeMap<u128, Vec<Arc<Held<Revocation>>>> = BTreeMap::new();
        let prints =
            entries.iter().filter(|entry| matches!(entry.change.record, Some(Record::Credential(_))));
        let prints: Vec<_> = prints.map(|entry| Overlaid { by_print: true, ..entry.clone() }).collect();
        for entry in entries.into_iter().chain(prints) {
            let key = match &entry.change.record {
                Some(Record::Credential(it)) if entry.by_print => {
                    self.fingerprint_key(&entry.cell, &it.fingerprint)
                }
                _ => self.named(entry.change.kind.into(), &entry.cell, entry.change.name.as_str()),
            };
            let list = lists
                .entry(key)
                .or_insert_with(|| self.overlay.at(key).map(|held| held.to_vec()).unwrap_or_default());
            if list.iter().any(|held| held.change == entry.change) {
                continue;
            }
            if let Some(Record::Revocation(value)) = &entry.change.record {
                let place = self.kill_key(&entry.cell, &value.target);
                let held = kills.entry(place).or_insert_with(|| self.kills_at(place).to_vec());
                if !held
                    .iter()
                    .any(|kill| kill.name == entry.change.name && kill.value.as_ref() == Some(value))
                {
                    held.push(Arc::new(Held {
                        tenant: entry.cell.clone(),
                        name: entry.change.name.clone(),
                        generation: entry.change.generation,
                        revision: entry.change.revision,
                        value: Some(Arc::clone(value)),
                    }));
                }
            }
            list.push(entry);
        }
        let lists = lists.into_iter().map(|(key, list)| (key, Some(Arc::from(list))));
        let kills = kills.into_iter().map(|(key, list)| (key, Some(Arc::from(list))));
        Self {
            overlay: self.overlay.with(lists.collect()),
            kills: self.kills.with(kills.collect()),
            ..self.clone()
        }
    }

    /// The state without the entries of a cell that its table makes superfluous. Its root is as before.
    pub(super) fn folded(self, cell: &Name) -> Self {
        let at = self.cell(cell).map_or(0, |held| held.revision);
        let reached =
            |entry: &Overlaid| entry.cell == *cell && (entry.carried || entry.change.revision <= at);
        self.without_overlaid(|state, entry| reached(entry) && state.restates(entry)).carrying(reached)
    }

    /// The state with some entries carried from here on.
    fn carrying(self, which: impl Fn(&Overlaid) -> bool) -> Self {
        let late = |entry: &Overlaid| !entry.carried && which(entry);
        let lists =
            self.overlay.iter().filter(|(_, entries)| entries.iter().any(&late)).map(|(key, entries)| {
                let carried =
                    |entry: &Overlaid| Overlaid { carried: entry.carried || late(entry), ..entry.clone() };
                (key, Some(entries.iter().map(carried).collect()))
            });
        let lists: Vec<_> = lists.collect();
        if lists.is_empty() { self } else { Self { overlay: self.overlay.with(lists), ..self } }
    }

    /// The state without any entry of a cell. Its root is as before.
    pub(super) fn without_overlay_of(self, cell: &Name) -> Self {
        self.without_overlaid(|_, entry| entry.cell == *cell)
    }

    /// All entries of a cell.
    pub(super) fn overlay_of(&self, cell: &Name) -> Vec<Change> {
        let entries = self.overlay.iter().flat_map(|(_, entries)| entries.iter());
        let of_it = entries.filter(|entry| !entry.by_print && entry.cell == *cell);
        of_it.map(|entry| entry.change.clone()).collect()
    }

    fn without_overlaid(self, goes: impl Fn(&Self, &Overlaid) -> bool) -> Self {
        if self.overlay.is_empty() {
            return self;
        }
        let mut lists = Vec::new();
        let mut kills: BTreeMap<u128, Kills> = BTreeMap::new();
        for (key, entries) in self.overlay.iter() {
            let (gone, kept): (Vec<_>, Vec<_>) =
                entries.iter().cloned().partition(|entry| goes(&self, entry));
            if gone.is_empty() {
                continue;
            }
            for entry in &gone {
                let Some(Record::Revocation(value)) = &entry.change.record else { continue };
                let twice = kept.iter().any(|other| other.change.record == entry.change.record);
                if twice || self.records_kill(&entry.cell, &entry.change.name, value) {
                    continue;
                }
                let place = self.kill_key(&entry.cell, &value.target);
                let before = kills.get(&place).cloned().unwrap_or_else(|| Arc::from(self.kills_at(place)));
                let same = |kill: &Held<Revocation>| {
                    kill.name == entry.change.name && kill.value.as_ref() == Some(value)
                };
                kills.insert(place, before.iter().filter(|kill| !same(kill)).cloned().collect());
            }
            lists.push((key, (!kept.is_empty()).then(|| Arc::from(kept))));
        }
        let kills = kills.into_iter().map(|(key, list)| (key, (!list.is_empty()).then_some(list)));
        let kills = self.kills.with(kills.collect());
        Self { overlay: self.overlay.with(lists), kills, ..self }
    }

    /// Whether the table itself holds this very revocation.
    fn records_kill(&self, cell: &Name, name: &Name, value: &Arc<Revocation>) -> bool {
        let held = self.records.revocations.at(self.named(Space::Revocation, cell, name.as_str()));
        held.is_some_and(|held| held.value.as_ref() == Some(value))
    }

    /// Whether the table denies what a carried entry denies, or holds a higher generation.
    fn restates(&self, entry: &Overlaid) -> bool {
        let (cell, change) = (&entry.cell, &entry.change);
        match &change.record {
            Some(Record::Identity(was)) => self.identity(cell, &change.name).is_some_and(|held| {
                let is = held.value;
                let denies = was.status == IdentityStatus::Active
                    || is.is_none_or(|is| is.status != IdentityStatus::Active);
                let cut = is.and_then(|is| is.not_before) >= was.not_before;
                held.generation > change.generation || (held.generation == change.generation && denies && cut)
            }),
            Some(Record::Credential(_)) => self.credential(cell, &change.name).is_some_and(|held| {
                let revoked = |is: CredentialView<'_>| is.status == CredentialStatus::Revoked;
                held.generation > change.generation || held.value.is_some_and(revoked)
            }),
            Some(Record::Revocation(was)) => self.restates_revocation(cell, was),
            _ => true,
        }
    }

    fn restates_revocation(&self, cell: &Name, was: &Revocation) -> bool {
        let recorded = self.kills_at(self.kill_key(cell, &was.target)).iter().any(|kill| {
            let target = kill.value.as_ref().filter(|value| self.records_kill(cell, &kill.name, value));
            target.is_some_and(|is| is.target.covers(&was.target))
        });
        recorded
            || match &was.target {
                RevocationTarget::Identity { identity, .. } => {
                    self.identity(cell, identity).is_some_and(|held| {
                        was.is_lifted(held.generation, held.value.and_then(|is| is.not_before))
                    })
                }
                RevocationTarget::IssuedBefore { identity, not_before } => {
                    let held = self.identity(cell, identity).and_then(|held| held.value);
                    held.and_then(|is| is.not_before).is_some_and(|cut| cut >= *not_before)
                }
                RevocationTarget::Credential(name) => {
                    let held = self.credential(cell, name).and_then(|held| held.value);
                    held.is_some_and(|is| is.status == CredentialStatus::Revoked)
                }
                RevocationTarget::TokenId { .. } | RevocationTarget::TokenDigest { .. } => false,
            }
    }
}
