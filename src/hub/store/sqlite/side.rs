//! Items, receipts, the log's beginning, and new epochs.

use bytes::Bytes;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::fault::FileFaults;
use super::read::{self, rows, signed, unsigned};
use crate::core::id::Position;
use crate::core::time::Timestamp;
use crate::hub::store::side::{compare_item, epoch_hash, next_epoch};
use crate::hub::store::{FaultKind, Item, Minted, StoreError, StoreFault, StoredReceipt};

pub(super) fn items(
    connection: &Connection,
    file: &FileFaults,
    space: &str,
) -> Result<Vec<Item>, StoreFault> {
    let sql = "SELECT key, value, version FROM item WHERE space = ?1 ORDER BY key";
    let found = rows(connection, file, sql, params![space], raw_item)?;
    found.into_iter().map(|raw| checked_item(file, raw)).collect()
}

pub(super) fn item(
    connection: &Connection,
    file: &FileFaults,
    space: &str,
    key: &str,
) -> Result<Option<Item>, StoreFault> {
    let sql = "SELECT key, value, version FROM item WHERE space = ?1 AND key = ?2";
    let found = rows(connection, file, sql, params![space, key], raw_item)?;
    found.into_iter().next().map(|raw| checked_item(file, raw)).transpose()
}

pub(super) fn put_item(
    file: &FileFaults,
    connection: &mut Connection,
    (space, key): (&str, &str),
    value: &[u8],
    expected: Option<u64>,
) -> Result<u64, StoreError> {
    let sql = |e: rusqlite::Error| file.sql("write an item", &e);
    let transaction = begin(file, connection)?;
    let found = item(&transaction, file, space, key)?.map(|item| item.version);
    compare_item(space, key, expected, found)?;
    let version: i64 = transaction
        .query_row("UPDATE meta SET item_version = item_version + 1 RETURNING item_version", [], |row| {
            row.get(0)
        })
        .map_err(sql)?;
    transaction
        .execute(
            "INSERT OR REPLACE INTO item (space, key, value, version) VALUES (?1, ?2, ?3, ?4)",
            params![space, key, value, version],
        )
        .map_err(sql)?;
    transaction.commit().map_err(sql)?;
    Ok(unsigned(file, version)?)
}

pub(super) fn remove_item(
    file: &FileFaults,
    connection: &mut Connection,
    (space, key): (&str, &str),
    expected: u64,
) -> Result<(), StoreError> {
    let sql = |e: rusqlite::Error| file.sql("remove an item", &e);
    let transaction = begin(file, connection)?;
    let found = item(&transaction, file, space, key)?.map(|item| item.version);
    compare_item(space, key, Some(expected), found)?;
    transaction
        .execute("DELETE FROM item WHERE space = ?1 AND key = ?2", params![space, key])
        .map_err(sql)?;
    Ok(transaction.commit().map_err(sql)?)
}

pub(super) fn save_receipts(
    file: &FileFaults,
    connection: &mut Connection,
    receipts: &[StoredReceipt],
) -> Result<(), StoreError> {
    let sql = |e: rusqlite::Error| file.sql("save receipts", &e);
    let transaction = begin(file, connection)?;
    let mut statement = transaction
        .prepare(
            "INSERT INTO receipt (revision, spoke_id, incarnation, at_us, in_force, purged, ended_streams,
               ack, signature, key, voided)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (revision, spoke_id, incarnation) DO NOTHING",
        )
        .map_err(sql)?;
    for receipt in receipts {
        let number = |value| signed(file, value);
        statement
            .execute(params![
                number(receipt.revision)?,
                receipt.spoke_id,
                receipt.incarnation,
                receipt.at.as_micros(),
                number(receipt.in_force)?,
                number(receipt.purged)?,
                number(receipt.ended_streams)?,
                &receipt.ack[..],
                &receipt.signature[..],
                receipt.key,
                receipt.voided
            ])
            .map_err(sql)?;
    }
    drop(statement);
    Ok(transaction.commit().map_err(sql)?)
}

pub(super) fn receipts(
    connection: &Connection,
    file: &FileFaults,
    revision: u64,
) -> Result<Vec<StoredReceipt>, StoreFault> {
    let sql =
        "SELECT spoke_id, incarnation, at_us, in_force, purged, ended_streams, ack, signature, key, voided
               FROM receipt WHERE revision = ?1 ORDER BY spoke_id, incarnation";
    let found = rows(connection, file, sql, params![signed(file, revision)?], |row| {
        let counts: [i64; 3] = [row.get(3)?, row.get(4)?, row.get(5)?];
        let receipt = StoredReceipt {
            revision,
            spoke_id: row.get(0)?,
            incarnation: row.get(1)?,
            at: Timestamp::from_micros(row.get(2)?),
            in_force: 0,
            purged: 0,
            ended_streams: 0,
            ack: Bytes::from(row.get::<_, Vec<u8>>(6)?),
            signature: Bytes::from(row.get::<_, Vec<u8>>(7)?),
            key: row.get(8)?,
            voided: row.get(9)?,
        };
        Ok((receipt, counts))
    })?;
    found
        .into_iter()
        .map(|(receipt, [in_force, purged, ended_streams])| {
            Ok(StoredReceipt {
                in_force: unsigned(file, in_force)?,
                purged: unsigned(file, purged)?,
                ended_streams: unsigned(file, ended_streams)?,
                ..receipt
            })
        })
        .collect()
}

pub(super) fn trim(file: &FileFaults, connection: &mut Connection, before: u64) -> Result<(), StoreError> {
    let sql = |e: rusqlite::Error| file.sql("trim the change log", &e);
    let transaction = begin(file, connection)?;
    let meta = read::meta(&transaction, file)?;
    let oldest = signed(file, before.min(meta.revision + 1).max(meta.oldest))?;
    transaction.execute("DELETE FROM change WHERE revision < ?1", params![oldest]).map_err(sql)?;
    transaction.execute("UPDATE meta SET oldest = ?1", params![oldest]).map_err(sql)?;
    Ok(transaction.commit().map_err(sql)?)
}

pub(super) fn mint_epoch(
    file: &FileFaults,
    connection: &mut Connection,
    witnessed: Option<Position>,
) -> Result<Minted, StoreError> {
    let sql = |e: rusqlite::Error| file.sql("begin a new epoch", &e);
    let transaction = begin(file, connection)?;
    let head = read::head(&transaction, file)?;
    let parent = head.position;
    let above = witnessed.map_or(parent.epoch, |seen| seen.epoch.max(parent.epoch));
    let epoch = next_epoch(Some(above)).ok_or_else(|| file.fault(FaultKind::Io, "no random bytes"))?;
    let revision = witnessed.map_or(0, |seen| seen.revision).max(parent.revision);
    let position = Position { epoch, revision };
    transaction
        .execute(
            "UPDATE meta SET epoch = ?1, revision = ?2, oldest = ?2 + 1, global_hash = ?3,
               parent_epoch = ?4, parent_revision = ?5",
            params![
                epoch.as_bytes(),
                signed(file, revision)?,
                epoch_hash(&head.global_hash, position),
                parent.epoch.as_bytes(),
                signed(file, parent.revision)?
            ],
        )
        .map_err(sql)?;
    transaction.execute("DELETE FROM change", []).map_err(sql)?;
    let voided = transaction.execute("UPDATE receipt SET voided = 1 WHERE voided = 0", []).map_err(sql)?;
    transaction.commit().map_err(sql)?;
    Ok(Minted { position, parent, voided: voided as u64 })
}

fn begin<'c>(file: &FileFaults, connection: &'c mut Connection) -> Result<Transaction<'c>, StoreFault> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| file.sql("begin writing", &e))
}

fn raw_item(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, Vec<u8>, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn checked_item(
    file: &FileFaults,
    (key, value, version): (String, Vec<u8>, i64),
) -> Result<Item, StoreFault> {
    Ok(Item { key, value: Bytes::from(value), version: unsigned(file, version)? })
}
