//! One commit: everything is read and compared inside the transaction that writes it.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::fault::FileFaults;
use super::read;
use crate::core::id::Name;
use crate::core::identity::{Change, RecordKind};
use crate::core::time::{Clock, Timestamp};
use crate::hub::store::judge::Judge;
use crate::hub::store::{
    ChangeSet, Committed, Expect, StoreError, StoreFault, StoredMember, StoredRecord, global_hash,
};
use crate::wire::state::{history_hash, kind_to_wire};

pub(super) fn commit(
    file: &FileFaults,
    writer: &mut super::Writer,
    clock: &dyn Clock,
    changes: &ChangeSet,
    expect: &[Expect],
) -> Result<Committed, StoreError> {
    let sql = |e: rusqlite::Error| StoreError::Fault(file.sql("commit", &e));
    let super::Writer { connection, acknowledged } = writer;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let writer = Writer { file, transaction: &transaction, tenant: &changes.tenant };
    let cell = writer.cell(changes.stands_at)?;
    let head = read::meta(&transaction, file)?;
    let revision = head.revision + 1;
    let place = file.path().display().to_string();
    let held = |kind, name: &Name| Ok(writer.held(kind, name)?);
    let judged = Judge { place: &place, held: &held }.judge(changes, expect, revision)?;
    let at = clock.now().wall;
    writer.acknowledge(*acknowledged)?;
    writer.log(cell, &head.global_hash, revision, &judged.body, at)?;
    for (change, record) in judged.changes.iter().zip(&judged.records) {
        match change.dropped {
            true => writer.drop(change)?,
            false => writer.put(change, record.as_deref(), at)?,
        }
    }
    transaction.commit().map_err(sql)?;
    // Read after the store has acknowledged: this is the time a promise may begin at.
    let at = clock.now().wall.max(at);
    *acknowledged = Some((revision, at));
    Ok(Committed { revision, at, changes: judged.changes })
}

/// Notes when the last commit was acknowledged, if nothing followed it.
pub(super) fn acknowledge_last(writer: &mut super::Writer) {
    let Some((revision, at)) = writer.acknowledged else { return };
    let noted = writer.connection.execute(ACKNOWLEDGE, params![at.as_micros(), revision.cast_signed()]);
    if let Err(error) = noted {
        tracing::debug!(%error, "the last commit's acknowledgement was not noted; the next start notes it");
    }
}

pub(super) fn save_member(
    file: &FileFaults,
    connection: &Connection,
    member: &StoredMember,
) -> Result<(), StoreError> {
    let deny_after_us = member.deny_after_max.map(|span| i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
    connection
        .execute(
            "INSERT OR REPLACE INTO member (spoke_id, incarnation, deny_after_us, waived, build)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                member.spoke_id,
                member.incarnation,
                deny_after_us,
                member.waived.join("\n"),
                member.build
            ],
        )
        .map_err(|e| file.sql("save a member", &e))?;
    Ok(())
}

pub(super) fn forget_member(
    file: &FileFaults,
    connection: &Connection,
    spoke_id: &str,
    incarnation: &[u8; 16],
) -> Result<(), StoreError> {
    connection
        .execute(
            "DELETE FROM member WHERE spoke_id = ?1 AND incarnation = ?2",
            params![spoke_id, incarnation],
        )
        .map_err(|e| file.sql("forget a member", &e))?;
    Ok(())
}

/// Where a cell stands before the commit.
struct Before {
    revision: u64,
    history_hash: [u8; 32],
}

struct Writer<'a> {
    file: &'a FileFaults,
    transaction: &'a Transaction<'a>,
    tenant: &'a Name,
}

impl Writer<'_> {
    fn sql(&self, error: &rusqlite::Error) -> StoreFault {
        self.file.sql("commit", error)
    }

    fn cell(&self, stands_at: Option<u64>) -> Result<Before, StoreError> {
        let held = self
            .transaction
            .query_row(
                "SELECT revision, history_hash FROM cell WHERE tenant = ?1",
                params![self.tenant.as_str()],
                |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(|e| self.sql(&e))?;
        let before = match held {
            Some((revision, history_hash)) => {
                Before { revision: read::unsigned(self.file, revision)?, history_hash }
            }
            None => {
                self.transaction
                    .execute(
                        "INSERT INTO cell (tenant, revision, history_hash) VALUES (?1, 0, zeroblob(32))",
                        params![self.tenant.as_str()],
                    )
                    .map_err(|e| self.sql(&e))?;
                Before { revision: 0, history_hash: [0; 32] }
            }
        };
        match stands_at {
            Some(expected) if expected != before.revision => {
                Err(StoreError::Moved { tenant: self.tenant.clone(), expected, found: before.revision })
            }
            _ => Ok(before),
        }
    }

    fn held(&self, kind: RecordKind, name: &Name) -> Result<Option<StoredRecord>, StoreFault> {
        read::record(self.transaction, self.file, self.tenant, kind, name)
    }

    /// Notes when the commit before this one was acknowledged.
    fn acknowledge(&self, last: Option<(u64, Timestamp)>) -> Result<(), StoreError> {
        let Some((revision, at)) = last else { return Ok(()) };
        let given = params![at.as_micros(), read::signed(self.file, revision)?];
        self.transaction.execute(ACKNOWLEDGE, given).map_err(|e| self.sql(&e))?;
        Ok(())
    }

    fn log(
        &self,
        before: Before,
        global: &[u8; 32],
        revision: u64,
        body: &[u8],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let hash = history_hash(&before.history_hash, revision, body);
        let global = global_hash(global, self.tenant.as_str(), &hash);
        let sql = |e: rusqlite::Error| self.sql(&e);
        let number = |value: u64| read::signed(self.file, value);
        self.transaction
            .execute(
                "INSERT INTO change (revision, tenant, from_revision, body, history_hash, at_us, global_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    number(revision)?,
                    self.tenant.as_str(),
                    number(before.revision)?,
                    body,
                    hash,
                    at.as_micros(),
                    global
                ],
            )
            .map_err(sql)?;
        self.transaction
            .execute(
                "UPDATE cell SET revision = ?2, history_hash = ?3 WHERE tenant = ?1",
                params![self.tenant.as_str(), number(revision)?, hash],
            )
            .map_err(sql)?;
        self.transaction
            .execute("UPDATE meta SET revision = ?1, global_hash = ?2", params![number(revision)?, global])
            .map_err(sql)?;
        Ok(())
    }

    /// Takes a record out; of all but a revocation the name is kept.
    fn drop(&self, change: &Change) -> Result<(), StoreError> {
        let sql = |e: rusqlite::Error| self.sql(&e);
        let kind = kind_to_wire(change.kind) as i32;
        let (tenant, name) = (self.tenant.as_str(), change.name.as_str());
        self.transaction
            .execute(
                "DELETE FROM record WHERE tenant = ?1 AND kind = ?2 AND name = ?3",
                params![tenant, kind, name],
            )
            .map_err(sql)?;
        if change.kind == RecordKind::Revocation {
            return Ok(());
        }
        let revision = read::signed(self.file, change.revision)?;
        self.transaction
            .execute(
                "INSERT INTO dropped (tenant, kind, name, generation, revision) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![tenant, kind, name, change.generation, revision],
            )
            .map_err(sql)?;
        Ok(())
    }

    fn put(&self, change: &Change, body: Option<&[u8]>, at: Timestamp) -> Result<(), StoreError> {
        self.transaction
            .execute(
                "INSERT INTO record (tenant, kind, name, generation, revision, body, at_us)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (tenant, kind, name) DO UPDATE SET
                   generation = excluded.generation, revision = excluded.revision, body = excluded.body,
                   at_us = excluded.at_us",
                params![
                    self.tenant.as_str(),
                    kind_to_wire(change.kind) as i32,
                    change.name.as_str(),
                    change.generation,
                    read::signed(self.file, change.revision)?,
                    body,
                    at.as_micros()
                ],
            )
            .map_err(|e| self.sql(&e))?;
        Ok(())
    }
}

const ACKNOWLEDGE: &str =
    "UPDATE change SET acknowledged_us = max(at_us, ?1) WHERE revision = ?2 AND acknowledged_us IS NULL";
