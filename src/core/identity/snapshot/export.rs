//! Reading records back out: as changes to be kept on disk or streamed on, and as what they add to
//! a digest.

use super::draft::element;
use super::*;
use crate::core::identity::digest::{Element, bucket};
use crate::core::identity::packed::head;

/// What there is to know of a packed record besides its fields.
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    /// What it is asked for by, besides its name.
    pub(super) keys: Vec<u128>,
    pub(super) element: Element,
}

/// A record as it lies in the table.
#[derive(Clone, Copy)]
pub(super) enum Lying<'a> {
    Packed(RecordKind, &'a [u8]),
    Issuer(&'a Arc<Held<Issuer>>),
    Revocation(&'a Arc<Held<Revocation>>),
    PolicySet(&'a Arc<Held<PolicySet>>),
    Exception(&'a Arc<Held<Exception>>),
    Resource(&'a Arc<Held<Resource>>),
    StatusList(&'a Arc<Held<StatusList>>),
}

impl Snapshot {
    /// Every record of a cell, tombstones included, in no particular order.
    ///
    /// Many times the memory of the table: [`Self::each`] shows them one at a time.
    pub fn export(&self, cell: &Name) -> Vec<Change> {
        let mut out = Vec::new();
        self.each(cell, |change| out.push(change));
        out
    }

    /// Shows every record of a cell, tombstones included, in the order of the table. What is damaged
    /// is left out.
    pub fn each(&self, cell: &Name, show: impl FnMut(Change)) {
        self.lying(cell).filter_map(|record| self.change(record)).for_each(show);
    }

    /// The same, by bucket, and within a bucket by kind and name.
    pub fn each_by_bucket(&self, cell: &Name, show: impl FnMut(Change)) {
        let place =
            |record: Lying<'_>| self.kind_and_name(record).map(|(kind, name)| (bucket(kind, name), kind));
        let mut all: Vec<_> = self.lying(cell).filter_map(|record| Some((place(record)?, record))).collect();
        let name = |record| self.kind_and_name(record).map(|(_, name)| name);
        all.sort_unstable_by(|(at, a), (bt, b)| at.cmp(bt).then_with(|| name(*a).cmp(&name(*b))));
        all.into_iter().filter_map(|(_, record)| self.change(record)).for_each(show);
    }

    /// What denies in a cell: revocations, identities that are not active or have a cut-off, revoked
    /// credentials; of these, what changed after `revision`.
    pub fn denying(&self, cell: &Name, revision: u64) -> Vec<Change> {
        let denies = |record: &Lying<'_>| match record {
            Lying::Packed(RecordKind::Identity, row) => {
                self.read::<IdentityView<'_>>(row).is_some_and(|row| {
                    row.value.is_some_and(|v| v.status != IdentityStatus::Active || v.not_before.is_some())
                })
            }
            Lying::Packed(_, row) => self
                .read::<CredentialView<'_>>(row)
                .is_some_and(|row| row.value.is_some_and(|v| v.status == CredentialStatus::Revoked)),
            Lying::Revocation(held) => held.value.is_some(),
            _ => false,
        };
        let changes = self.lying(cell).filter(denies).filter_map(|record| self.change(record));
        changes.filter(|change| change.revision > revision).collect()
    }

    /// Every record of a cell.
    pub(super) fn lying(&self, cell: &Name) -> impl Iterator<Item = Lying<'_>> {
        let tables = &self.records;
        let identities = tables.identities.iter().map(|row| Lying::Packed(RecordKind::Identity, row));
        let credentials = tables.credentials.iter().map(|row| Lying::Packed(RecordKind::Credential, row));
        let of_cell = |record: &Lying<'_>| match record {
            Lying::Packed(_, row) => {
                head(row, &self.texts).is_some_and(|(tenant, _)| tenant == cell.as_str())
            }
            _ => true,
        };
        identities
            .chain(credentials)
            .filter(of_cell)
            .chain(of(cell, &tables.issuers).map(Lying::Issuer))
            .chain(of(cell, &tables.revocations).map(Lying::Revocation))
            .chain(of(cell, &tables.policy_sets).map(Lying::PolicySet))
            .chain(of(cell, &tables.exceptions).map(Lying::Exception))
            .chain(of(cell, &tables.resources).map(Lying::Resource))
            .chain(of(cell, &tables.status_lists).map(Lying::StatusList))
    }

    /// The kind and name of a record; `None`: it is damaged.
    pub(super) fn kind_and_name<'a>(&'a self, record: Lying<'a>) -> Option<(RecordKind, &'a str)> {
        Some(match record {
            Lying::Packed(kind, row) => (kind, head(row, &self.texts)?.1),
            Lying::Issuer(held) => (RecordKind::Issuer, held.name.as_str()),
            Lying::Revocation(held) => (RecordKind::Revocation, held.name.as_str()),
            Lying::PolicySet(held) => (RecordKind::PolicySet, held.name.as_str()),
            Lying::Exception(held) => (RecordKind::Exception, held.name.as_str()),
            Lying::Resource(held) => (RecordKind::Resource, held.name.as_str()),
            Lying::StatusList(held) => (RecordKind::StatusList, held.name.as_str()),
        })
    }

    /// What a record adds to its cell's digest; `None`: it is damaged, or is not found where it would
    /// be looked for.
    pub(super) fn element_of(&self, cell: &Name, record: Lying<'_>) -> Option<Element> {
        Some(match record {
            Lying::Packed(kind, row) => {
                let reading = self.reading(kind, cell, row)?;
                let at = place(self.named(kind.into(), cell, reading.name));
                let (rows, links) = match kind {
                    RecordKind::Identity => (&self.records.identities, &self.subjects),
                    _ => (&self.records.credentials, &self.fingerprints),
                };
                let found = rows.at(at).any(|held| std::ptr::eq(held, row));
                let linked = reading.keys.iter().all(|key| links.places(*key).any(|to| to == at));
                return (found && linked).then_some(reading.element);
            }
            Lying::Issuer(held) => element(RecordKind::Issuer, held),
            Lying::Revocation(held) => element(RecordKind::Revocation, held),
            Lying::PolicySet(held) => element(RecordKind::PolicySet, held),
            Lying::Exception(held) => element(RecordKind::Exception, held),
            Lying::Resource(held) => element(RecordKind::Resource, held),
            Lying::StatusList(held) => element(RecordKind::StatusList, held),
        })
    }

    /// A record as the change that made it; `None`: it is damaged.
    pub(super) fn change(&self, record: Lying<'_>) -> Option<Change> {
        Some(match record {
            Lying::Packed(RecordKind::Identity, row) => {
                let row = self.read::<IdentityView<'_>>(row)?;
                let value = match &row.value {
                    Some(value) => Some(Record::Identity(Arc::new(value.record()?))),
                    None => None,
                };
                row_change(RecordKind::Identity, &row, value)?
            }
            Lying::Packed(kind, row) => {
                let row = self.read::<CredentialView<'_>>(row)?;
                let value = match &row.value {
                    Some(value) => Some(Record::Credential(Arc::new(value.record()?))),
                    None => None,
                };
                row_change(kind, &row, value)?
            }
            Lying::Issuer(held) => as_change(RecordKind::Issuer, held, Record::Issuer),
            Lying::Revocation(held) => as_change(RecordKind::Revocation, held, Record::Revocation),
            Lying::PolicySet(held) => as_change(RecordKind::PolicySet, held, Record::PolicySet),
            Lying::Exception(held) => as_change(RecordKind::Exception, held, Record::Exception),
            Lying::Resource(held) => as_change(RecordKind::Resource, held, Record::Resource),
            Lying::StatusList(held) => as_change(RecordKind::StatusList, held, Record::StatusList),
        })
    }

    fn read<'a, V: View<'a>>(&'a self, row: &'a [u8]) -> Option<Row<'a, V>> {
        read(row, &self.texts)
    }

    /// The generation of a record; `None`: its name was never used.
    pub(super) fn generation(&self, cell: &Name, kind: RecordKind, name: &Name) -> Option<u32> {
        let tables = &self.records;
        let key = self.named(kind.into(), cell, name.as_str());
        match kind {
            RecordKind::Identity => self.identity(cell, name).map(|row| row.generation),
            RecordKind::Credential => self.credential(cell, name).map(|row| row.generation),
            RecordKind::Issuer => tables.issuers.at(key).map(|held| held.generation),
            RecordKind::Revocation => tables.revocations.at(key).map(|held| held.generation),
            RecordKind::PolicySet => tables.policy_sets.at(key).map(|held| held.generation),
            RecordKind::Exception => tables.exceptions.at(key).map(|held| held.generation),
            RecordKind::Resource => tables.resources.at(key).map(|held| held.generation),
            RecordKind::StatusList => tables.status_lists.at(key).map(|held| held.generation),
        }
    }

    /// The row of an identity or a credential.
    pub(super) fn packed_row(&self, kind: RecordKind, cell: &Name, name: &str) -> Option<&[u8]> {
        let rows = match kind {
            RecordKind::Identity => &self.records.identities,
            _ => &self.records.credentials,
        };
        let is_it = |row: &&[u8]| head(row, &self.texts) == Some((cell.as_str(), name));
        rows.at(place(self.named(kind.into(), cell, name))).find(is_it)
    }

    /// Reads the row of an identity or a credential, wherever it lies.
    pub(super) fn reading<'a>(&'a self, kind: RecordKind, cell: &Name, row: &'a [u8]) -> Option<Reading<'a>> {
        if kind == RecordKind::Identity {
            let row = self.read::<IdentityView<'_>>(row)?;
            let bindings = row.value.iter().flat_map(|value| value.bindings.iter());
            let keys = bindings.map(|binding| self.subject_key(cell, binding.issuer, binding.subject));
            let element = Element::new(kind, row.name, row.generation, row.revision, row.value.as_ref());
            Some(Reading { name: row.name, keys: keys.collect(), element })
        } else {
            let row = self.read::<CredentialView<'_>>(row)?;
            let keys = row.value.iter().map(|value| self.fingerprint_key(cell, value.fingerprint));
            let element = Element::new(kind, row.name, row.generation, row.revision, row.value.as_ref());
            Some(Reading { name: row.name, keys: keys.collect(), element })
        }
    }
}

fn of<'a, T>(cell: &Name, table: &'a Table<Arc<Held<T>>>) -> impl Iterator<Item = &'a Arc<Held<T>>> {
    let cell = cell.clone();
    table.iter().map(|(_, held)| held).filter(move |held| held.tenant == cell)
}

fn row_change<V>(kind: RecordKind, row: &Row<'_, V>, record: Option<Record>) -> Option<Change> {
    let name = Name::parse(row.name).ok()?;
    Some(Change { kind, name, generation: row.generation, revision: row.revision, record, dropped: false })
}

fn as_change<T>(kind: RecordKind, held: &Held<T>, wrap: fn(Arc<T>) -> Record) -> Change {
    Change {
        kind,
        name: held.name.clone(),
        generation: held.generation,
        revision: held.revision,
        record: held.value.clone().map(wrap),
        dropped: false,
    }
}
