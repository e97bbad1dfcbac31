//! What a change set comes to, given what is held: the same for every engine.
//!
//! An engine calls this inside the transaction that writes, once nobody else can write.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    BODY_BYTES_MAX, ChangeSet, Conflict, ConflictKind, Edit, EditName, Expect, RECORD_BYTES_MAX, StoreError,
    StoreFault, StoredRecord,
};
use crate::core::id::Name;
use crate::core::identity::{Change, Record, RecordKind};
use crate::wire::state::{encode_body, encode_record};

/// The record of a kind and name as the transaction sees it, tombstones included.
pub(super) type Held<'a> = dyn Fn(RecordKind, &Name) -> Result<Option<StoredRecord>, StoreError> + 'a;

/// What is to be written.
pub(super) struct Judged {
    /// The changes.
    pub(super) changes: Vec<Change>,
    /// They, encoded, as logged.
    pub(super) body: Bytes,
    /// Each one's value, encoded; `None`: a tombstone.
    pub(super) records: Vec<Option<Vec<u8>>>,
}

/// Judges change sets of one store.
pub(super) struct Judge<'a> {
    /// The store, for people.
    pub(super) place: &'a str,
    /// What it holds.
    pub(super) held: &'a Held<'a>,
}

impl Judge<'_> {
    /// What `changes` come to as commit `revision`.
    pub(super) fn judge(
        &self,
        changes: &ChangeSet,
        expect: &[Expect],
        revision: u64,
    ) -> Result<Judged, StoreError> {
        let tenant = &changes.tenant;
        expect.iter().try_for_each(|expected| self.expect(expected))?;
        let changes = self.changes(tenant, revision, &changes.edits)?;
        let body = encode_body(&changes);
        if body.len() > BODY_BYTES_MAX {
            let why = format!("it is {} bytes, at most {BODY_BYTES_MAX} fit one commit", body.len());
            return Err(StoreError::Malformed { tenant: tenant.clone(), why });
        }
        let records = changes.iter().map(|change| record(tenant, change)).collect::<Result<_, _>>()?;
        Ok(Judged { changes, body, records })
    }

    fn expect(&self, expected: &Expect) -> Result<(), StoreError> {
        let held = (self.held)(expected.kind, &expected.name)?;
        let why = match (expected.revision, held) {
            (None, None) => return Ok(()),
            (Some(revision), Some(held)) if held.revision == revision => return Ok(()),
            (None, Some(StoredRecord { body: None, .. })) => ConflictKind::Removed,
            (None, Some(_)) => ConflictKind::Exists,
            (Some(_), None) => ConflictKind::Missing,
            (Some(expected), Some(held)) => ConflictKind::Changed { expected, found: held.revision },
        };
        Err(Conflict { kind: expected.kind, name: expected.name.clone(), why }.into())
    }

    fn changes(&self, tenant: &Name, revision: u64, edits: &[Edit]) -> Result<Vec<Change>, StoreError> {
        let malformed = |why: String| StoreError::Malformed { tenant: tenant.clone(), why };
        if edits.is_empty() {
            return Err(malformed("it is empty".to_owned()));
        }
        let mut seen = BTreeSet::new();
        edits
            .iter()
            .map(|edit| {
                let change = self.change(tenant, revision, edit)?;
                if !seen.insert((change.kind, change.name.clone())) {
                    let (kind, name) = (change.kind.as_str(), &change.name);
                    return Err(malformed(format!("{kind} `{name}` is in it twice")));
                }
                Ok(change)
            })
            .collect()
    }

    fn change(&self, tenant: &Name, revision: u64, edit: &Edit) -> Result<Change, StoreError> {
        let name = name_of(edit, revision, tenant)?;
        if edit.drops {
            return self.drop(tenant, revision, edit.kind, name);
        }
        let generation = match (self.held)(edit.kind, &name)? {
            Some(StoredRecord { body: None, .. }) => {
                return Err(Conflict { kind: edit.kind, name, why: ConflictKind::Removed }.into());
            }
            None if edit.record.is_none() => {
                return Err(Conflict { kind: edit.kind, name, why: ConflictKind::Missing }.into());
            }
            None => 1,
            Some(held) => {
                let transition =
                    edit.reinstates || self.is_transition(tenant, &held, edit.record.as_ref())?;
                held.generation.saturating_add(u32::from(transition))
            }
        };
        let record = edit.record.clone();
        Ok(Change { kind: edit.kind, name, generation, revision, record, dropped: false })
    }

    /// Lets go of what is there: a tombstone, or a revocation.
    fn drop(&self, tenant: &Name, revision: u64, kind: RecordKind, name: Name) -> Result<Change, StoreError> {
        match (self.held)(kind, &name)? {
            Some(held) if held.dropped => Err(Conflict { kind, name, why: ConflictKind::Removed }.into()),
            Some(held) if held.body.is_none() || kind == RecordKind::Revocation => {
                let generation = held.generation;
                Ok(Change { kind, name, generation, revision, record: None, dropped: true })
            }
            None => Err(Conflict { kind, name, why: ConflictKind::Missing }.into()),
            Some(_) => {
                let why = format!("{} `{name}` is live, and cannot be let go of", kind.as_str());
                Err(StoreError::Malformed { tenant: tenant.clone(), why })
            }
        }
    }

    fn is_transition(
        &self,
        tenant: &Name,
        held: &StoredRecord,
        next: Option<&Record>,
    ) -> Result<bool, StoreFault> {
        let Some(Record::Identity(next)) = next else { return Ok(false) };
        let before = held.change().map_err(|e| {
            let record = format!("{} `{}` of tenant `{tenant}`", held.kind.as_str(), held.name);
            StoreFault::unreadable(self.place, record, &e)
        })?;
        Ok(matches!(before.record, Some(Record::Identity(before)) if before.status != next.status))
    }
}

/// The name an edit's record has as commit `revision`.
pub(super) fn name_of(edit: &Edit, revision: u64, tenant: &Name) -> Result<Name, StoreError> {
    match &edit.name {
        EditName::Given(name) => Ok(name.clone()),
        EditName::ByRevision => Name::parse(&format!("r{revision}"))
            .map_err(|e| StoreError::Malformed { tenant: tenant.clone(), why: e.to_string() }),
    }
}

fn record(tenant: &Name, change: &Change) -> Result<Option<Vec<u8>>, StoreError> {
    let body: Option<Vec<u8>> = change.record.as_ref().map(|record| encode_record(record).into());
    match &body {
        Some(long) if long.len() > RECORD_BYTES_MAX => {
            let (kind, name) = (change.kind.as_str(), &change.name);
            let why = format!("{kind} `{name}` is {} bytes, at most {RECORD_BYTES_MAX}", long.len());
            Err(StoreError::Malformed { tenant: tenant.clone(), why })
        }
        _ => Ok(body),
    }
}
