//! Reading a whole cell back out, to be kept on disk.

use super::{Change, Held, Name, Record, RecordKind, Snapshot};

impl Snapshot {
    /// Every record of a cell, tombstones included, in no particular order.
    pub fn export(&self, cell: &Name) -> Vec<Change> {
        let mut out = Vec::new();
        let tables = &self.records;
        collect(&mut out, cell, RecordKind::Identity, tables.identities.iter(), Record::Identity);
        collect(&mut out, cell, RecordKind::Credential, tables.credentials.iter(), Record::Credential);
        collect(&mut out, cell, RecordKind::Issuer, tables.issuers.iter(), Record::Issuer);
        collect(&mut out, cell, RecordKind::Revocation, tables.revocations.iter(), Record::Revocation);
        collect(&mut out, cell, RecordKind::PolicySet, tables.policy_sets.iter(), Record::PolicySet);
        collect(&mut out, cell, RecordKind::Exception, tables.exceptions.iter(), Record::Exception);
        collect(&mut out, cell, RecordKind::Resource, tables.resources.iter(), Record::Resource);
        out
    }
}

fn collect<'a, T: 'a>(
    out: &mut Vec<Change>,
    cell: &Name,
    kind: RecordKind,
    held: impl Iterator<Item = (u128, &'a std::sync::Arc<Held<T>>)>,
    wrap: fn(std::sync::Arc<T>) -> Record,
) {
    out.extend(held.filter(|(_, h)| h.tenant == *cell).map(|(_, h)| Change {
        kind,
        name: h.name.clone(),
        generation: h.generation,
        revision: h.revision,
        record: h.value.clone().map(wrap),
    }));
}
