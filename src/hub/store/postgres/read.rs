//! Reading: every row is checked on its way out.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::fault::PlaceFaults;
use super::{Engine, Session};
use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::RecordKind;
use crate::core::time::Timestamp;
use crate::hub::store::{
    CellImage, CellPosition, Head, Logged, Page, StoreError, StoreFault, StoredMember, StoredRecord,
};
use crate::wire::state::{kind_from_wire, kind_to_wire};

const LOGGED: &str =
    "SELECT revision, tenant, from_revision, body, history_hash, at_us, acknowledged_us, global_hash
     FROM portreeve_change";
const RECORD: &str = "SELECT kind, name, generation, revision, body, false AS dropped FROM portreeve_record";
const DROPPED: &str =
    "SELECT kind, name, generation, revision, NULL::bytea AS body, true AS dropped FROM portreeve_dropped";
const CELL: &str = "SELECT tenant, revision, history_hash FROM portreeve_cell";

/// A revision as the database holds it.
pub(super) fn signed(faults: &PlaceFaults, value: u64) -> Result<i64, StoreFault> {
    i64::try_from(value).map_err(|_| faults.damaged("a revision is out of range"))
}

/// A revision from the database.
pub(super) fn unsigned(faults: &PlaceFaults, value: i64) -> Result<u64, StoreFault> {
    u64::try_from(value).map_err(|_| faults.damaged("a revision is negative"))
}

pub(super) fn array16(faults: &PlaceFaults, bytes: &[u8]) -> Result<[u8; 16], StoreFault> {
    bytes.try_into().map_err(|_| faults.damaged(format_args!("{} bytes where 16 belong", bytes.len())))
}

pub(super) fn array32(faults: &PlaceFaults, bytes: &[u8]) -> Result<[u8; 32], StoreFault> {
    bytes.try_into().map_err(|_| faults.damaged(format_args!("{} bytes where 32 belong", bytes.len())))
}

/// A row, read column by column.
pub(super) struct Columns<'a> {
    faults: &'a PlaceFaults,
    row: &'a Row,
}

impl<'a> Columns<'a> {
    pub(super) const fn of(faults: &'a PlaceFaults, row: &'a Row) -> Self {
        Self { faults, row }
    }

    pub(super) fn get<T: FromSql<'a>>(&self, at: usize) -> Result<T, StoreFault> {
        self.row.try_get(at).map_err(|e| self.faults.column(&e))
    }

    pub(super) fn number(&self, at: usize) -> Result<u64, StoreFault> {
        unsigned(self.faults, self.get(at)?)
    }

    pub(super) fn name(&self, at: usize) -> Result<Name, StoreFault> {
        Name::parse(self.get(at)?).map_err(|e| self.faults.damaged(e))
    }

    pub(super) fn kind(&self, at: usize) -> Result<RecordKind, StoreFault> {
        let kind: i32 = self.get(at)?;
        kind_from_wire(kind).ok_or_else(|| self.faults.damaged(format_args!("record kind {kind} is unknown")))
    }

    pub(super) fn bytes(&self, at: usize) -> Result<Bytes, StoreFault> {
        Ok(Bytes::copy_from_slice(self.get(at)?))
    }

    pub(super) fn array16(&self, at: usize) -> Result<[u8; 16], StoreFault> {
        array16(self.faults, self.get(at)?)
    }

    pub(super) fn array32(&self, at: usize) -> Result<[u8; 32], StoreFault> {
        array32(self.faults, self.get(at)?)
    }

    pub(super) fn time(&self, at: usize) -> Result<Timestamp, StoreFault> {
        Ok(Timestamp::from_micros(self.get(at)?))
    }
}

/// The row that says where the store stands.
pub(super) struct Meta {
    pub(super) head: Head,
    pub(super) oldest: u64,
}

pub(super) fn meta(engine: &Engine, session: &Session) -> Result<Meta, StoreFault> {
    let sql = "SELECT epoch, revision, global_hash, oldest FROM portreeve_store";
    let found = session.rows(sql, &[]).map_err(|e| engine.faults.sql("read the head", &e))?;
    let row = found.first().ok_or_else(|| engine.faults.damaged("its schema holds no store"))?;
    let columns = Columns::of(&engine.faults, row);
    Ok(Meta { head: head_of(&columns)?, oldest: columns.number(3)? })
}

/// A head from its first three columns.
pub(super) fn head_of(columns: &Columns<'_>) -> Result<Head, StoreFault> {
    let position = Position { epoch: Epoch::from_bytes(columns.array16(0)?), revision: columns.number(1)? };
    Ok(Head { position, global_hash: columns.array32(2)? })
}

/// Refuses what was trimmed, and the log of another epoch.
fn reaches(engine: &Engine, session: &Session, revision: u64) -> Result<(), StoreError> {
    let Meta { head, oldest } = meta(engine, session)?;
    engine.is_ours(head.position.epoch)?;
    if revision < oldest { Err(StoreError::Compacted { oldest }) } else { Ok(()) }
}

pub(super) fn tail(
    engine: &Engine,
    session: &Session,
    from: u64,
    max: usize,
) -> Result<Vec<Logged>, StoreError> {
    reaches(engine, session, from.saturating_add(1))?;
    let sql = format!("{LOGGED} WHERE revision > $1 ORDER BY revision LIMIT $2");
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let from_signed = signed(&engine.faults, from)?;
    let found = session
        .rows(&sql, &[(&from_signed, Type::INT8), (&max, Type::INT8)])
        .map_err(|e| engine.faults.sql("read the change log", &e))?;
    let mut next = from;
    let mut log = Vec::with_capacity(found.len());
    for row in &found {
        let entry = logged_of(&Columns::of(&engine.faults, row))?;
        next += 1;
        if entry.revision != next {
            let what = format_args!("the change log has no revision {next}");
            return Err(engine.faults.damaged(what).into());
        }
        log.push(entry);
    }
    Ok(log)
}

pub(super) fn logged(
    engine: &Engine,
    session: &Session,
    revision: u64,
) -> Result<Option<Logged>, StoreError> {
    if revision == 0 {
        return Ok(None);
    }
    reaches(engine, session, revision)?;
    let sql = format!("{LOGGED} WHERE revision = $1");
    let number = signed(&engine.faults, revision)?;
    let found = session
        .rows(&sql, &[(&number, Type::INT8)])
        .map_err(|e| engine.faults.sql("read the change log", &e))?;
    Ok(found.first().map(|row| logged_of(&Columns::of(&engine.faults, row))).transpose()?)
}

fn logged_of(columns: &Columns<'_>) -> Result<Logged, StoreFault> {
    let acknowledged: Option<i64> = columns.get(6)?;
    Ok(Logged {
        revision: columns.number(0)?,
        tenant: columns.name(1)?,
        from_revision: columns.number(2)?,
        body: columns.bytes(3)?,
        history_hash: columns.array32(4)?,
        at: columns.time(5)?,
        acknowledged_at: acknowledged.map(Timestamp::from_micros),
        global_hash: columns.array32(7)?,
    })
}

pub(super) fn cells(engine: &Engine, session: &Session) -> Result<Vec<CellPosition>, StoreFault> {
    let sql = format!("{CELL} ORDER BY tenant");
    let found = session.rows(&sql, &[]).map_err(|e| engine.faults.sql("read the cells", &e))?;
    found.iter().map(|row| cell_of(&Columns::of(&engine.faults, row))).collect()
}

pub(super) fn cell(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
) -> Result<Option<CellPosition>, StoreFault> {
    let sql = format!("{CELL} WHERE tenant = $1");
    let found = session
        .rows(&sql, &[(&tenant.as_str(), Type::TEXT)])
        .map_err(|e| engine.faults.sql("read a cell", &e))?;
    found.first().map(|row| cell_of(&Columns::of(&engine.faults, row))).transpose()
}

fn cell_of(columns: &Columns<'_>) -> Result<CellPosition, StoreFault> {
    let history_hash = columns.array32(2)?;
    Ok(CellPosition { tenant: columns.name(0)?, revision: columns.number(1)?, history_hash })
}

pub(super) fn snapshot(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
) -> Result<Option<CellImage>, StoreFault> {
    session.bound.set(super::session::BULK_MAX);
    let sql = |e| engine.faults.sql("read a cell", &e);
    session.run("SET LOCAL statement_timeout = '120s'").map_err(sql)?;
    let Some(position) = cell(engine, session, tenant)? else { return Ok(None) };
    let records = format!("{RECORD} WHERE tenant = $1 ORDER BY kind, name");
    let found = session.rows(&records, &[(&tenant.as_str(), Type::TEXT)]).map_err(sql)?;
    let records =
        found.iter().map(|row| record_of(&Columns::of(&engine.faults, row))).collect::<Result<_, _>>()?;
    Ok(Some(CellImage { position, records }))
}

pub(super) fn record(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
    kind: RecordKind,
    name: &Name,
) -> Result<Option<StoredRecord>, StoreFault> {
    let is = "WHERE tenant = $1 AND kind = $2 AND name = $3";
    let sql = format!("{RECORD} {is} UNION ALL {DROPPED} {is}");
    let kind = kind_to_wire(kind) as i32;
    let given: [super::Given<'_>; 3] =
        [(&tenant.as_str(), Type::TEXT), (&kind, Type::INT4), (&name.as_str(), Type::TEXT)];
    let found = session.rows(&sql, &given).map_err(|e| engine.faults.sql("read a record", &e))?;
    found.first().map(|row| record_of(&Columns::of(&engine.faults, row))).transpose()
}

/// Every record of these names, whatever its kind.
pub(super) fn named(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
    names: &[&str],
) -> Result<BTreeMap<(RecordKind, Name), StoredRecord>, StoreFault> {
    let is = "WHERE tenant = $1 AND name = ANY ($2)";
    let sql = format!("{RECORD} {is} UNION ALL {DROPPED} {is}");
    let given: [super::Given<'_>; 2] = [(&tenant.as_str(), Type::TEXT), (&names, Type::TEXT_ARRAY)];
    let found = session.rows(&sql, &given).map_err(|e| engine.faults.sql("read records", &e))?;
    let records = found.iter().map(|row| record_of(&Columns::of(&engine.faults, row)));
    records.map(|record| record.map(|it| ((it.kind, it.name.clone()), it))).collect()
}

pub(super) fn settled(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
    before: Timestamp,
) -> Result<Vec<StoredRecord>, StoreFault> {
    // The condition of the index `portreeve_record_settled`.
    let sql = format!(
        "{RECORD} WHERE tenant = $1 AND (body IS NULL OR kind = 4) AND at_us < $2
           AND revision < (SELECT oldest FROM portreeve_store) ORDER BY kind, name"
    );
    let given: [super::Given<'_>; 2] = [(&tenant.as_str(), Type::TEXT), (&before.as_micros(), Type::INT8)];
    let found = session.rows(&sql, &given).map_err(|e| engine.faults.sql("read settled records", &e))?;
    found.iter().map(|row| record_of(&Columns::of(&engine.faults, row))).collect()
}

pub(super) fn dropped(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
) -> Result<Vec<StoredRecord>, StoreFault> {
    let sql = format!("{DROPPED} WHERE tenant = $1 ORDER BY kind, name");
    let found = session
        .rows(&sql, &[(&tenant.as_str(), Type::TEXT)])
        .map_err(|e| engine.faults.sql("read names let go of", &e))?;
    found.iter().map(|row| record_of(&Columns::of(&engine.faults, row))).collect()
}

fn record_of(columns: &Columns<'_>) -> Result<StoredRecord, StoreFault> {
    let generation = u32::try_from(columns.number(2)?);
    let body: Option<&[u8]> = columns.get(4)?;
    Ok(StoredRecord {
        kind: columns.kind(0)?,
        name: columns.name(1)?,
        generation: generation.map_err(|_| columns.faults.damaged("a generation is out of range"))?,
        revision: columns.number(3)?,
        body: body.map(Bytes::copy_from_slice),
        dropped: columns.get(5)?,
    })
}

pub(super) fn page(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
    kind: RecordKind,
    (after, max): (Option<&Name>, usize),
) -> Result<Page, StoreFault> {
    let sql = format!(
        "{RECORD} WHERE tenant = $1 AND kind = $2 AND name > $3 AND body IS NOT NULL ORDER BY name LIMIT $4"
    );
    let more = i64::try_from(max.saturating_add(1)).unwrap_or(i64::MAX);
    let (kind, after) = (kind_to_wire(kind) as i32, after.map_or("", Name::as_str));
    let given: [super::Given<'_>; 4] =
        [(&tenant.as_str(), Type::TEXT), (&kind, Type::INT4), (&after, Type::TEXT), (&more, Type::INT8)];
    let found = session.rows(&sql, &given).map_err(|e| engine.faults.sql("read a page", &e))?;
    let records = found.iter().map(|row| record_of(&Columns::of(&engine.faults, row)));
    let mut records = records.collect::<Result<Vec<_>, _>>()?;
    let further = records.len() > max;
    records.truncate(max);
    let next = records.last().filter(|_| further).map(|last| last.name.clone());
    Ok(Page { records, next })
}

pub(super) fn counts(
    engine: &Engine,
    session: &Session,
    tenant: &Name,
) -> Result<Vec<(RecordKind, u64)>, StoreFault> {
    let sql = "SELECT kind, count(*) FROM portreeve_record WHERE tenant = $1 AND body IS NOT NULL
               GROUP BY kind ORDER BY kind";
    let found = session
        .rows(sql, &[(&tenant.as_str(), Type::TEXT)])
        .map_err(|e| engine.faults.sql("count records", &e))?;
    let counted = found.iter().map(|row| Columns::of(&engine.faults, row));
    counted.map(|columns| Ok((columns.kind(0)?, columns.number(1)?))).collect()
}

/// What was granted to a member, from six columns.
pub(super) fn member_of(columns: &Columns<'_>) -> Result<StoredMember, StoreFault> {
    let deny_after: Option<i64> = columns.get(2)?;
    let waived: &str = columns.get(3)?;
    Ok(StoredMember {
        spoke_id: columns.get(0)?,
        incarnation: columns.array16(1)?,
        deny_after_max: deny_after.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))),
        waived: waived.lines().map(str::to_owned).collect(),
        build: columns.get(4)?,
    })
}
