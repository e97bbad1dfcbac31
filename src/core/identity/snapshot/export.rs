//! Reading records back out as changes: to be kept on disk, streamed on, or digested.

use super::{Arc, Change, Held, Name, Record, RecordKind, Snapshot, Table};

impl Snapshot {
    /// Every record of a cell, tombstones included, in no particular order.
    pub fn export(&self, cell: &Name) -> Vec<Change> {
        let mut out = Vec::new();
        self.each(cell, |change| out.push(change));
        out
    }

    /// Shows every record of a cell, tombstones included.
    pub(super) fn each(&self, cell: &Name, mut show: impl FnMut(Change)) {
        let tables = &self.records;
        pass(&mut show, cell, RecordKind::Identity, &tables.identities, Record::Identity);
        pass(&mut show, cell, RecordKind::Credential, &tables.credentials, Record::Credential);
        pass(&mut show, cell, RecordKind::Issuer, &tables.issuers, Record::Issuer);
        pass(&mut show, cell, RecordKind::Revocation, &tables.revocations, Record::Revocation);
        pass(&mut show, cell, RecordKind::PolicySet, &tables.policy_sets, Record::PolicySet);
        pass(&mut show, cell, RecordKind::Exception, &tables.exceptions, Record::Exception);
        pass(&mut show, cell, RecordKind::Resource, &tables.resources, Record::Resource);
    }

    /// One record as held, as the change that made it; `None`: its name was never used.
    pub(super) fn held_as_change(&self, cell: &Name, kind: RecordKind, name: &Name) -> Option<Change> {
        let key = self.named(kind.into(), cell, name);
        let tables = &self.records;
        match kind {
            RecordKind::Identity => tables.identities.at(key).map(|h| as_change(kind, h, Record::Identity)),
            RecordKind::Credential => {
                tables.credentials.at(key).map(|h| as_change(kind, h, Record::Credential))
            }
            RecordKind::Issuer => tables.issuers.at(key).map(|h| as_change(kind, h, Record::Issuer)),
            RecordKind::Revocation => {
                tables.revocations.at(key).map(|h| as_change(kind, h, Record::Revocation))
            }
            RecordKind::PolicySet => {
                tables.policy_sets.at(key).map(|h| as_change(kind, h, Record::PolicySet))
            }
            RecordKind::Exception => tables.exceptions.at(key).map(|h| as_change(kind, h, Record::Exception)),
            RecordKind::Resource => tables.resources.at(key).map(|h| as_change(kind, h, Record::Resource)),
        }
    }
}

fn pass<T>(
    show: &mut impl FnMut(Change),
    cell: &Name,
    kind: RecordKind,
    table: &Table<Arc<Held<T>>>,
    wrap: fn(Arc<T>) -> Record,
) {
    let held = table.iter().map(|(_, held)| held);
    held.filter(|held| held.tenant == *cell).for_each(|held| show(as_change(kind, held, wrap)));
}

fn as_change<T>(kind: RecordKind, held: &Held<T>, wrap: fn(Arc<T>) -> Record) -> Change {
    Change {
        kind,
        name: held.name.clone(),
        generation: held.generation,
        revision: held.revision,
        record: held.value.clone().map(wrap),
    }
}
