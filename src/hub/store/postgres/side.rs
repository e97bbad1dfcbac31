//! Items, receipts, heads, the log's beginning, new epochs, and what the database promises.

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::read::{self, Columns, head_of, signed};
use super::session::Session;
use super::{Ended, Engine, Given};
use crate::core::id::Position;
use crate::hub::store::side::{epoch_hash, next_epoch};
use crate::hub::store::{
    FaultKind, Guarantee, Head, Item, ItemConflict, Minted, StoreError, StoreFault, StoredReceipt,
};

/// The head, proven by a write of this process that was confirmed like a commit is.
///
/// The head is of the instant at which the statement began, within this call; the write is of a
/// row of this process alone, so it waits for no commit.
pub(super) fn heartbeat(engine: &Engine) -> Result<Head, StoreError> {
    let sql = "UPDATE portreeve_replica AS mine SET beats = beats + 1 FROM portreeve_store AS store
               WHERE mine.id = $1 RETURNING store.epoch, store.revision, store.global_hash";
    let mut session = engine.session()?;
    let beaten = session.confirmed(sql, &[(&&engine.id[..], Type::BYTEA)]);
    let (rows, confirmed) = beaten.map_err(|e| engine.faults.sql("beat", &e))?;
    session.clean = true;
    drop(session);
    let row = rows.first().ok_or_else(|| engine.supersede())?;
    let head = head_of(&Columns::of(&engine.faults, row))?;
    engine.is_ours(head.position.epoch)?;
    if !confirmed {
        let what = "no standby confirmed a write: it may no longer be the primary";
        return Err(engine.faults.fault(FaultKind::Unreachable, what).into());
    }
    Ok(head)
}

/// Whether an acknowledged commit survives the loss of the database's machine, as it is set up now.
pub(super) fn guarantee(engine: &Engine, session: &Session) -> Result<Guarantee, StoreError> {
    let sql = |e: super::SqlError| engine.faults.sql("read how it replicates", &e);
    let settings = "SELECT current_setting('synchronous_commit', true), current_setting('fsync', true),
                    current_setting('synchronous_standby_names', true)";
    let found = session.rows(settings, &[]).map_err(sql)?;
    let row = found.first().ok_or_else(|| engine.faults.damaged("it has no settings"))?;
    let columns = Columns::of(&engine.faults, row);
    let setting = |at| columns.get::<Option<&str>>(at).map(|it| it.unwrap_or_default().to_owned());
    let (commit, fsync, names) = (setting(0)?, setting(1)?, setting(2)?);
    let lacks = |why: &str| Ok(Guarantee::NotGuaranteed(why.to_owned()));
    if !matches!(&*commit, "on" | "remote_apply" | "remote_write") {
        return lacks("the database's `synchronous_commit` does not wait for a standby");
    }
    if fsync == "off" {
        return lacks("the database's `fsync` is off: a crash loses acknowledged changes");
    }
    if names.trim().is_empty() {
        return lacks("the database's `synchronous_standby_names` is empty: it has no synchronous standby");
    }
    let standbys = "SELECT count(*), count(sync_state),
                      count(*) FILTER (WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming')
                    FROM pg_stat_replication";
    let found = session.rows(standbys, &[]).map_err(sql)?;
    let row = found.first().ok_or_else(|| engine.faults.damaged("it counts no standbys"))?;
    let columns = Columns::of(&engine.faults, row);
    match (columns.number(0)?, columns.number(1)?, columns.number(2)?) {
        (_, _, 1..) => Ok(Guarantee::Holds),
        (1.., 0, _) => lacks("the hub's role may not see the standbys' state: grant it `pg_monitor`"),
        _ => lacks("no synchronous standby is streaming from the database"),
    }
}

pub(super) fn items(engine: &Engine, session: &Session, space: &str) -> Result<Vec<Item>, StoreFault> {
    let sql = "SELECT key, value, version FROM portreeve_item WHERE space = $1 ORDER BY key";
    let found =
        session.rows(sql, &[(&space, Type::TEXT)]).map_err(|e| engine.faults.sql("read items", &e))?;
    found.iter().map(|row| item_of(&Columns::of(&engine.faults, row))).collect()
}

pub(super) fn item(
    engine: &Engine,
    session: &Session,
    space: &str,
    key: &str,
) -> Result<Option<Item>, StoreFault> {
    let sql = "SELECT key, value, version FROM portreeve_item WHERE space = $1 AND key = $2";
    let given: [Given<'_>; 2] = [(&space, Type::TEXT), (&key, Type::TEXT)];
    let found = session.rows(sql, &given).map_err(|e| engine.faults.sql("read an item", &e))?;
    found.first().map(|row| item_of(&Columns::of(&engine.faults, row))).transpose()
}

fn item_of(columns: &Columns<'_>) -> Result<Item, StoreFault> {
    Ok(Item { key: columns.get(0)?, value: columns.bytes(1)?, version: columns.number(2)? })
}

/// Writes or removes one item: the statement compares and sets at once.
pub(super) fn set_item(
    engine: &Engine,
    (space, key): (&str, &str),
    value: Option<&[u8]>,
    expected: Option<u64>,
) -> Result<u64, StoreError> {
    let version = expected.map(|version| signed(&engine.faults, version)).transpose()?;
    let epoch = engine.epoch();
    let value = value.map(Bytes::copy_from_slice);
    let sql = match (&value, expected) {
        (Some(_), None) => INSERT_ITEM,
        (Some(_), Some(_)) => UPDATE_ITEM,
        (None, _) => REMOVE_ITEM,
    };
    let value = value.as_deref().unwrap_or_default();
    let given: [Given<'_>; 5] = [
        (&space, Type::TEXT),
        (&key, Type::TEXT),
        (&&epoch[..], Type::BYTEA),
        (&value, Type::BYTEA),
        (&version, Type::INT8),
    ];
    engine.write("write an item", |session| {
        let found = session.rows(sql, &given).map_err(|e| engine.faults.sql("write an item", &e))?;
        if let Some(row) = found.first() {
            return Ok(Columns::of(&engine.faults, row).number(0)?);
        }
        let meta = read::meta(engine, session)?;
        engine.is_ours(meta.head.position.epoch)?;
        let found = item(engine, session, space, key)?.map(|item| item.version);
        Err(ItemConflict { space: space.to_owned(), key: key.to_owned(), expected, found }.into())
    })
}

const INSERT_ITEM: &str = "INSERT INTO portreeve_item (space, key, value, version)
    SELECT $1::text, $2::text, $4::bytea, nextval('portreeve_number')
    FROM portreeve_store WHERE epoch = $3 AND $5::bigint IS NULL
    ON CONFLICT (space, key) DO NOTHING RETURNING version";
const UPDATE_ITEM: &str = "UPDATE portreeve_item SET value = $4, version = nextval('portreeve_number')
    WHERE space = $1 AND key = $2 AND version = $5
      AND EXISTS (SELECT 1 FROM portreeve_store WHERE epoch = $3) RETURNING version";
const REMOVE_ITEM: &str = "DELETE FROM portreeve_item
    WHERE space = $1 AND key = $2 AND version = $5 AND length($4::bytea) = 0
      AND EXISTS (SELECT 1 FROM portreeve_store WHERE epoch = $3) RETURNING version";

pub(super) fn save_receipts(
    engine: &Engine,
    session: &Session,
    receipts: &[StoredReceipt],
) -> Result<(), StoreError> {
    for part in receipts.chunks(AT_ONCE) {
        let number = |value| signed(&engine.faults, value);
        let numbers = |read: fn(&StoredReceipt) -> u64| {
            part.iter().map(|receipt| number(read(receipt))).collect::<Result<Vec<_>, _>>()
        };
        let (revisions, in_force) = (numbers(|it| it.revision)?, numbers(|it| it.in_force)?);
        let (purged, ended) = (numbers(|it| it.purged)?, numbers(|it| it.ended_streams)?);
        let spokes: Vec<&str> = part.iter().map(|it| &*it.spoke_id).collect();
        let incarnations: Vec<&[u8]> = part.iter().map(|it| &it.incarnation[..]).collect();
        let times: Vec<i64> = part.iter().map(|it| it.at.as_micros()).collect();
        let acks: Vec<&[u8]> = part.iter().map(|it| &it.ack[..]).collect();
        let signatures: Vec<&[u8]> = part.iter().map(|it| &it.signature[..]).collect();
        let keys: Vec<&[u8]> = part.iter().map(|it| &it.key[..]).collect();
        let voided: Vec<bool> = part.iter().map(|it| it.voided).collect();
        let given: [Given<'_>; 11] = [
            (&revisions, Type::INT8_ARRAY),
            (&spokes, Type::TEXT_ARRAY),
            (&incarnations, Type::BYTEA_ARRAY),
            (&times, Type::INT8_ARRAY),
            (&in_force, Type::INT8_ARRAY),
            (&purged, Type::INT8_ARRAY),
            (&ended, Type::INT8_ARRAY),
            (&acks, Type::BYTEA_ARRAY),
            (&signatures, Type::BYTEA_ARRAY),
            (&keys, Type::BYTEA_ARRAY),
            (&voided, Type::BOOL_ARRAY),
        ];
        session.rows(SAVE_RECEIPTS, &given).map_err(|e| engine.faults.sql("save receipts", &e))?;
    }
    Ok(())
}

const SAVE_RECEIPTS: &str = "INSERT INTO portreeve_receipt (revision, spoke_id, incarnation, at_us,
      in_force, purged, ended_streams, ack, signature, key, voided)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[],
      $7::bigint[], $8::bytea[], $9::bytea[], $10::bytea[], $11::boolean[])
    ON CONFLICT (revision, spoke_id, incarnation) DO NOTHING";
/// Rows of one statement.
pub(super) const AT_ONCE: usize = 1000;

pub(super) fn receipts(
    engine: &Engine,
    session: &Session,
    revision: u64,
) -> Result<Vec<StoredReceipt>, StoreFault> {
    let sql =
        "SELECT spoke_id, incarnation, at_us, in_force, purged, ended_streams, ack, signature, key, voided
               FROM portreeve_receipt WHERE revision = $1 ORDER BY spoke_id, incarnation";
    let number = signed(&engine.faults, revision)?;
    let found =
        session.rows(sql, &[(&number, Type::INT8)]).map_err(|e| engine.faults.sql("read receipts", &e))?;
    let receipts = found.iter().map(|row| {
        let columns = Columns::of(&engine.faults, row);
        Ok(StoredReceipt {
            revision,
            spoke_id: columns.get(0)?,
            incarnation: columns.array16(1)?,
            at: columns.time(2)?,
            in_force: columns.number(3)?,
            purged: columns.number(4)?,
            ended_streams: columns.number(5)?,
            ack: columns.bytes(6)?,
            signature: columns.bytes(7)?,
            key: columns.array32(8)?,
            voided: columns.get(9)?,
        })
    });
    receipts.collect()
}

pub(super) fn trim(engine: &Engine, session: &Session, before: u64) -> Result<(), StoreError> {
    let sql = |e: super::SqlError| engine.faults.sql("trim the change log", &e);
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    let given: [Given<'_>; 2] = [(&before, Type::INT8), (&&engine.epoch()[..], Type::BYTEA)];
    let begins = "UPDATE portreeve_store SET oldest = greatest(oldest, least($1::bigint, revision + 1))
                  WHERE epoch = $2 RETURNING oldest";
    let found = session.rows(begins, &given).map_err(sql)?;
    let row = found.first().ok_or_else(|| engine.supersede())?;
    let oldest: i64 = Columns::of(&engine.faults, row).get(0)?;
    session
        .rows("DELETE FROM portreeve_change WHERE revision < $1", &[(&oldest, Type::INT8)])
        .map_err(sql)?;
    Ok(())
}

pub(super) fn mint_epoch(engine: &Engine, witnessed: Option<Position>) -> Result<Minted, StoreError> {
    let ended = engine.transact("begin a new epoch", |session| mint(engine, session, witnessed))?;
    match ended {
        Ended::Confirmed(minted) => Ok(minted),
        Ended::Unconfirmed(_) => {
            let what = "no standby confirmed the new epoch: it is begun here";
            Err(engine.faults.fault(FaultKind::Unknown, what).into())
        }
        Ended::Unknown(_, why) => Err(engine.faults.fault(FaultKind::Unknown, why).into()),
    }
}

fn mint(engine: &Engine, session: &Session, witnessed: Option<Position>) -> Result<Minted, StoreError> {
    let sql = |e: super::SqlError| engine.faults.sql("begin a new epoch", &e);
    // Takes the row that orders commits, by writing what is there.
    let hold = "UPDATE portreeve_store SET revision = revision WHERE epoch = $1
                RETURNING epoch, revision, global_hash";
    let found = session.rows(hold, &[(&&engine.epoch()[..], Type::BYTEA)]).map_err(sql)?;
    let row = found.first().ok_or_else(|| engine.supersede())?;
    let head = head_of(&Columns::of(&engine.faults, row))?;
    let parent = head.position;
    let above = witnessed.map_or(parent.epoch, |seen| seen.epoch.max(parent.epoch));
    let epoch =
        next_epoch(Some(above)).ok_or_else(|| engine.faults.fault(FaultKind::Io, "no random bytes"))?;
    let revision = witnessed.map_or(0, |seen| seen.revision).max(parent.revision);
    let position = Position { epoch, revision };
    let hash = epoch_hash(&head.global_hash, position);
    let (revision, left) = (signed(&engine.faults, revision)?, signed(&engine.faults, parent.revision)?);
    let void = "UPDATE portreeve_receipt SET voided = true WHERE NOT voided RETURNING revision";
    let done = session
        .all(&[
            (
                "UPDATE portreeve_store SET epoch = $1, revision = $2, oldest = $2 + 1, global_hash = $3,
                   parent_epoch = $4, parent_revision = $5",
                &[
                    (&&epoch.as_bytes()[..], Type::BYTEA),
                    (&revision, Type::INT8),
                    (&&hash[..], Type::BYTEA),
                    (&&parent.epoch.as_bytes()[..], Type::BYTEA),
                    (&left, Type::INT8),
                ],
            ),
            ("DELETE FROM portreeve_change", &[]),
            (void, &[]),
        ])
        .map_err(sql)?;
    let voided = done.last().map_or(0, |rows| rows.len() as u64);
    Ok(Minted { position, parent, voided })
}
