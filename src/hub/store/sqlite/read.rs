//! Reading: every row is checked on its way out.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};

use super::fault::FileFaults;
use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::RecordKind;
use crate::core::time::Timestamp;
use crate::hub::store::{
    CellImage, CellPosition, Head, Logged, Page, StoreError, StoreFault, StoredMember, StoredRecord,
};
use crate::wire::state::{kind_from_wire, kind_to_wire};

const LOGGED: &str =
    "SELECT revision, tenant, from_revision, body, history_hash, at_us, acknowledged_us, global_hash
     FROM change";
const RECORD: &str = "SELECT kind, name, generation, revision, body FROM record";
const DROPPED: &str = "SELECT kind, name, generation, revision, NULL FROM dropped";

/// A revision as SQLite holds it.
pub(super) fn signed(file: &FileFaults, value: u64) -> Result<i64, StoreFault> {
    i64::try_from(value).map_err(|_| file.damaged("a revision is out of range"))
}

/// A revision from SQLite.
pub(super) fn unsigned(file: &FileFaults, value: i64) -> Result<u64, StoreFault> {
    u64::try_from(value).map_err(|_| file.damaged("a revision is negative"))
}

/// The row that says where the store stands.
pub(super) struct Meta {
    pub(super) epoch: Epoch,
    pub(super) revision: u64,
    pub(super) global_hash: [u8; 32],
    pub(super) oldest: u64,
}

pub(super) fn meta(connection: &Connection, file: &FileFaults) -> Result<Meta, StoreFault> {
    let (epoch, revision, global_hash, oldest) = connection
        .query_row("SELECT epoch, revision, global_hash, oldest FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .map_err(|e| file.sql("read the head", &e))?;
    let (revision, oldest) = (unsigned(file, revision)?, unsigned(file, oldest)?);
    Ok(Meta { epoch: Epoch::from_bytes(epoch), revision, global_hash, oldest })
}

pub(super) fn head(connection: &Connection, file: &FileFaults) -> Result<Head, StoreFault> {
    let Meta { epoch, revision, global_hash, .. } = meta(connection, file)?;
    Ok(Head { position: Position { epoch, revision }, global_hash })
}

/// Refuses what was trimmed.
fn reaches(connection: &Connection, file: &FileFaults, revision: u64) -> Result<(), StoreError> {
    let oldest = meta(connection, file)?.oldest;
    if revision < oldest { Err(StoreError::Compacted { oldest }) } else { Ok(()) }
}

pub(super) fn tail(
    connection: &Connection,
    file: &FileFaults,
    from: u64,
    max: usize,
) -> Result<Vec<Logged>, StoreError> {
    reaches(connection, file, from.saturating_add(1))?;
    let sql = format!("{LOGGED} WHERE revision > ?1 ORDER BY revision LIMIT ?2");
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let found = rows(connection, file, &sql, params![signed(file, from)?, max], raw_logged)?;
    let logged = found.into_iter().map(|raw| raw.check(file)).collect::<Result<Vec<_>, _>>()?;
    let mut next = from;
    for entry in &logged {
        next += 1;
        if entry.revision != next {
            return Err(file.damaged(format_args!("the change log has no revision {next}")).into());
        }
    }
    Ok(logged)
}

pub(super) fn logged(
    connection: &Connection,
    file: &FileFaults,
    revision: u64,
) -> Result<Option<Logged>, StoreError> {
    if revision == 0 {
        return Ok(None);
    }
    reaches(connection, file, revision)?;
    let sql = format!("{LOGGED} WHERE revision = ?1");
    let found = rows(connection, file, &sql, params![signed(file, revision)?], raw_logged)?;
    Ok(found.into_iter().next().map(|raw| raw.check(file)).transpose()?)
}

pub(super) fn cells(connection: &Connection, file: &FileFaults) -> Result<Vec<CellPosition>, StoreFault> {
    let sql = "SELECT tenant, revision, history_hash FROM cell ORDER BY tenant";
    let found = rows(connection, file, sql, [], raw_cell)?;
    found.into_iter().map(|raw| raw.check(file)).collect()
}

pub(super) fn snapshot(
    connection: &Connection,
    file: &FileFaults,
    tenant: &Name,
) -> Result<Option<CellImage>, StoreFault> {
    let sql = "SELECT tenant, revision, history_hash FROM cell WHERE tenant = ?1";
    let Some(cell) = rows(connection, file, sql, params![tenant.as_str()], raw_cell)?.pop() else {
        return Ok(None);
    };
    let sql = format!("{RECORD} WHERE tenant = ?1 ORDER BY kind, name");
    let records = rows(connection, file, &sql, params![tenant.as_str()], raw_record)?;
    let records = records.into_iter().map(|raw| raw.check(file)).collect::<Result<_, _>>()?;
    Ok(Some(CellImage { position: cell.check(file)?, records }))
}

pub(super) fn record(
    connection: &Connection,
    file: &FileFaults,
    tenant: &Name,
    kind: RecordKind,
    name: &Name,
) -> Result<Option<StoredRecord>, StoreFault> {
    let given = params![tenant.as_str(), kind_to_wire(kind) as i32, name.as_str()];
    for (from, dropped) in [(RECORD, false), (DROPPED, true)] {
        let sql = format!("{from} WHERE tenant = ?1 AND kind = ?2 AND name = ?3");
        let found = connection.query_row(&sql, given, raw_record).optional();
        if let Some(raw) = found.map_err(|e| file.sql("read a record", &e))? {
            return Ok(Some(StoredRecord { dropped, ..raw.check(file)? }));
        }
    }
    Ok(None)
}

pub(super) fn settled(
    connection: &Connection,
    file: &FileFaults,
    tenant: &Name,
    before: Timestamp,
) -> Result<Vec<StoredRecord>, StoreFault> {
    // The condition of the index `record_settled`.
    let sql = format!(
        "{RECORD} WHERE tenant = ?1 AND (body IS NULL OR kind = 4) AND at_us < ?2
           AND revision < (SELECT oldest FROM meta) ORDER BY kind, name"
    );
    let found = rows(connection, file, &sql, params![tenant.as_str(), before.as_micros()], raw_record)?;
    found.into_iter().map(|raw| raw.check(file)).collect()
}

pub(super) fn dropped(
    connection: &Connection,
    file: &FileFaults,
    tenant: &Name,
) -> Result<Vec<StoredRecord>, StoreFault> {
    let sql = format!("{DROPPED} WHERE tenant = ?1 ORDER BY kind, name");
    let found = rows(connection, file, &sql, params![tenant.as_str()], raw_record)?;
    found.into_iter().map(|raw| Ok(StoredRecord { dropped: true, ..raw.check(file)? })).collect()
}

pub(super) fn page(
    connection: &Connection,
    file: &FileFaults,
    tenant: &Name,
    kind: RecordKind,
    after: Option<&Name>,
    max: usize,
) -> Result<Page, StoreFault> {
    let sql = format!(
        "{RECORD} WHERE tenant = ?1 AND kind = ?2 AND name > ?3 AND body IS NOT NULL ORDER BY name LIMIT ?4"
    );
    let more = i64::try_from(max.saturating_add(1)).unwrap_or(i64::MAX);
    let after = after.map_or("", Name::as_str);
    let given = params![tenant.as_str(), kind_to_wire(kind) as i32, after, more];
    let found = rows(connection, file, &sql, given, raw_record)?;
    let mut records = found.into_iter().map(|raw| raw.check(file)).collect::<Result<Vec<_>, _>>()?;
    let further = records.len() > max;
    records.truncate(max);
    let next = records.last().filter(|_| further).map(|last| last.name.clone());
    Ok(Page { records, next })
}

pub(super) fn counts(
    connection: &Connection,
    file: &FileFaults,
    tenant: &Name,
) -> Result<Vec<(RecordKind, u64)>, StoreFault> {
    let sql = "SELECT kind, count(*) FROM record WHERE tenant = ?1 AND body IS NOT NULL GROUP BY kind";
    let found = rows(connection, file, sql, params![tenant.as_str()], |row| {
        Ok((row.get::<_, i32>(0)?, row.get::<_, i64>(1)?))
    })?;
    found.into_iter().map(|(kind, count)| Ok((known_kind(file, kind)?, unsigned(file, count)?))).collect()
}

pub(super) fn members(connection: &Connection, file: &FileFaults) -> Result<Vec<StoredMember>, StoreFault> {
    let sql = "SELECT spoke_id, incarnation, deny_after_us, waived, build FROM member";
    rows(connection, file, sql, [], |row| {
        let deny_after: Option<i64> = row.get(2)?;
        let waived: String = row.get(3)?;
        Ok(StoredMember {
            spoke_id: row.get(0)?,
            incarnation: row.get(1)?,
            deny_after_max: deny_after.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))),
            waived: waived.lines().map(str::to_owned).collect(),
            build: row.get(4)?,
        })
    })
}

struct RawLogged {
    revision: i64,
    tenant: String,
    from_revision: i64,
    body: Vec<u8>,
    history_hash: [u8; 32],
    at_us: i64,
    acknowledged_us: Option<i64>,
    global_hash: [u8; 32],
}

fn raw_logged(row: &Row<'_>) -> rusqlite::Result<RawLogged> {
    Ok(RawLogged {
        revision: row.get(0)?,
        tenant: row.get(1)?,
        from_revision: row.get(2)?,
        body: row.get(3)?,
        history_hash: row.get(4)?,
        at_us: row.get(5)?,
        acknowledged_us: row.get(6)?,
        global_hash: row.get(7)?,
    })
}

impl RawLogged {
    fn check(self, file: &FileFaults) -> Result<Logged, StoreFault> {
        Ok(Logged {
            revision: unsigned(file, self.revision)?,
            tenant: known_name(file, &self.tenant)?,
            from_revision: unsigned(file, self.from_revision)?,
            body: Bytes::from(self.body),
            history_hash: self.history_hash,
            global_hash: self.global_hash,
            at: Timestamp::from_micros(self.at_us),
            acknowledged_at: self.acknowledged_us.map(Timestamp::from_micros),
        })
    }
}

struct RawCell(String, i64, [u8; 32]);

fn raw_cell(row: &Row<'_>) -> rusqlite::Result<RawCell> {
    Ok(RawCell(row.get(0)?, row.get(1)?, row.get(2)?))
}

impl RawCell {
    fn check(self, file: &FileFaults) -> Result<CellPosition, StoreFault> {
        let revision = unsigned(file, self.1)?;
        Ok(CellPosition { tenant: known_name(file, &self.0)?, revision, history_hash: self.2 })
    }
}

struct RawRecord {
    kind: i32,
    name: String,
    generation: u32,
    revision: i64,
    body: Option<Vec<u8>>,
}

fn raw_record(row: &Row<'_>) -> rusqlite::Result<RawRecord> {
    Ok(RawRecord {
        kind: row.get(0)?,
        name: row.get(1)?,
        generation: row.get(2)?,
        revision: row.get(3)?,
        body: row.get(4)?,
    })
}

impl RawRecord {
    fn check(self, file: &FileFaults) -> Result<StoredRecord, StoreFault> {
        Ok(StoredRecord {
            kind: known_kind(file, self.kind)?,
            name: known_name(file, &self.name)?,
            generation: self.generation,
            revision: unsigned(file, self.revision)?,
            body: self.body.map(Bytes::from),
            dropped: false,
        })
    }
}

fn known_kind(file: &FileFaults, kind: i32) -> Result<RecordKind, StoreFault> {
    kind_from_wire(kind).ok_or_else(|| file.damaged(format_args!("record kind {kind} is unknown")))
}

fn known_name(file: &FileFaults, name: &str) -> Result<Name, StoreFault> {
    Name::parse(name).map_err(|e| file.damaged(e))
}

pub(super) fn rows<T>(
    connection: &Connection,
    file: &FileFaults,
    sql: &str,
    given: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreFault> {
    let fault = |e: rusqlite::Error| file.sql("read", &e);
    let mut statement = connection.prepare(sql).map_err(fault)?;
    let found = statement.query_map(given, read).map_err(fault)?;
    found.collect::<rusqlite::Result<Vec<_>>>().map_err(fault)
}
