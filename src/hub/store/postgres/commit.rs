//! One commit: everything is read and compared once the row that orders commits is held.
//!
//! That row is held until the commit is over, and, with a synchronous standby, until the standby
//! has it. So revisions are in commit order; and whoever holds the row after a commit of unknown
//! outcome knows that it is over, and reads whether it happened.

use std::time::Instant;

use tokio_postgres::types::Type;

use super::read::{self, Columns, signed};
use super::session::Session;
use super::{Ended, Engine};
use crate::core::id::Name;
use crate::core::identity::Change;
use crate::core::time::{Clock, Timestamp};
use crate::hub::store::judge::{Judge, Judged, name_of};
use crate::hub::store::{
    ChangeSet, Committed, EditName, Expect, FaultKind, Head, StoreError, StoreFault, global_hash,
};
use crate::wire::state::{history_hash, kind_to_wire};

pub(super) fn commit(
    engine: &Engine,
    clock: &dyn Clock,
    changes: &ChangeSet,
    expect: &[Expect],
) -> Result<Committed, StoreError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| engine.faults.fault(FaultKind::Io, "no random bytes"))?;
    let at = clock.now().wall;
    let ended = engine.transact("commit", |session| {
        let revision = write(engine, session, changes, expect, (&id, at))?;
        Ok(revision)
    })?;
    let (revision, judged) = match ended {
        Ended::Confirmed(done) => done,
        Ended::Unconfirmed(done) => {
            confirm(engine)?;
            done
        }
        Ended::Unknown(done, why) => {
            tracing::warn!(why, revision = done.0, "a commit's answer was lost: it is looked for");
            if !happened(engine, done.0, &id)? {
                let what = "the connection was lost before the change was committed: nothing of it was kept";
                return Err(engine.faults.fault(FaultKind::Unreachable, what).into());
            }
            confirm(engine)?;
            done
        }
    };
    // Read after the store has acknowledged: this is the time a promise may begin at.
    let at = clock.now().wall.max(at);
    tell(engine, revision, at);
    Ok(Committed { revision, at, changes: judged.changes })
}

/// Looks whether a commit happened, once it can no longer happen.
fn happened(engine: &Engine, revision: u64, id: &[u8; 16]) -> Result<bool, StoreError> {
    let number = signed(&engine.faults, revision)?;
    let until = Instant::now() + RESOLVE_MAX;
    loop {
        let looked = engine.transact("look for a commit", |session| {
            hold(engine, session)?;
            let sql = "SELECT 1 FROM portreeve_change WHERE revision = $1 AND commit_id = $2";
            let given: [super::Given<'_>; 2] = [(&number, Type::INT8), (&&id[..], Type::BYTEA)];
            let found = session.rows(sql, &given).map_err(|e| engine.faults.sql("look for a commit", &e))?;
            Ok(!found.is_empty())
        });
        match looked {
            // Nothing was written by the look itself: whether that was confirmed says nothing.
            Ok(Ended::Confirmed(found) | Ended::Unconfirmed(found) | Ended::Unknown(found, _)) => {
                return Ok(found);
            }
            Err(StoreError::Fault(fault))
                if fault.kind() == FaultKind::Unreachable && Instant::now() < until =>
            {
                std::thread::sleep(RETRY_AFTER);
            }
            Err(error) => {
                return Err(engine.faults.fault(FaultKind::Unknown, error).into());
            }
        }
    }
}

/// Waits for the row that orders commits: nobody else is committing then.
fn hold(engine: &Engine, session: &Session) -> Result<(), StoreError> {
    let sql = "SELECT epoch FROM portreeve_store FOR UPDATE";
    let found = session.rows(sql, &[]).map_err(|e| engine.faults.sql("wait for commits to end", &e))?;
    let row = found.first().ok_or_else(|| engine.faults.damaged("its schema holds no store"))?;
    engine.is_ours(crate::core::id::Epoch::from_bytes(Columns::of(&engine.faults, row).array16(0)?))?;
    Ok(())
}

/// Waits until a write that came after has been confirmed, and so everything before it.
fn confirm(engine: &Engine) -> Result<Head, StoreError> {
    let until = Instant::now() + CONFIRM_MAX;
    loop {
        match super::side::heartbeat(engine) {
            Err(StoreError::Fault(fault))
                if fault.kind() == FaultKind::Unreachable && Instant::now() < until =>
            {
                std::thread::sleep(RETRY_AFTER);
            }
            Err(StoreError::Fault(fault)) if fault.kind() == FaultKind::Unreachable => {
                let what =
                    "no standby confirmed the change: it is kept here, and may be lost with this machine";
                return Err(engine.faults.fault(FaultKind::Unknown, what).into());
            }
            other => return other,
        }
    }
}

/// Notes when a commit was acknowledged, and hints others at it. Neither is needed for what is promised.
fn tell(engine: &Engine, revision: u64, at: Timestamp) {
    let told = engine.session().and_then(|mut session| {
        let at = at.as_micros();
        let sql = format!(
            "BEGIN; SET LOCAL synchronous_commit = off;
             UPDATE portreeve_change SET acknowledged_us = greatest(at_us, {at})
               WHERE revision = {revision} AND (acknowledged_us IS NULL OR acknowledged_us > {at});
             COMMIT"
        );
        session.run(&sql).map_err(|e| engine.faults.sql("note an acknowledgement", &e))?;
        session.clean = true;
        // Not every database that speaks the protocol has it.
        if session.run(&format!("NOTIFY {}", super::CHANNEL)).is_err() {
            tracing::debug!("the database takes no hints: others find the change when they look");
        }
        Ok(())
    });
    if let Err(error) = told {
        tracing::debug!(%error, revision, "an acknowledgement was not noted; the next start notes it");
    }
}

fn write(
    engine: &Engine,
    session: &Session,
    changes: &ChangeSet,
    expect: &[Expect],
    (id, at): (&[u8; 16], Timestamp),
) -> Result<(u64, Judged), StoreError> {
    let writer = Writer { engine, session, tenant: &changes.tenant };
    let head = writer.next()?;
    let revision = head.position.revision;
    let before = writer.cell(changes.stands_at)?;
    let held = writer.held(changes, expect, revision)?;
    let find = |kind, name: &Name| Ok(held.get(&(kind, name.clone())).cloned());
    let judged = Judge { place: engine.faults.place(), held: &find }.judge(changes, expect, revision)?;
    writer.log(&before, &head.global_hash, revision, &judged, (id, at))?;
    Ok((revision, judged))
}

/// Where a cell stands before the commit.
struct Before {
    revision: u64,
    history_hash: [u8; 32],
}

struct Writer<'a> {
    engine: &'a Engine,
    session: &'a Session,
    tenant: &'a Name,
}

impl Writer<'_> {
    fn sql(&self, error: &super::SqlError) -> StoreFault {
        self.engine.faults.sql("commit", error)
    }

    /// Takes the row that orders commits: the revision of this one, and the global hash before it.
    fn next(&self) -> Result<Head, StoreError> {
        let sql = "UPDATE portreeve_store SET revision = revision + 1 WHERE epoch = $1
                   RETURNING epoch, revision, global_hash";
        let given: [super::Given<'_>; 1] = [(&&self.engine.epoch()[..], Type::BYTEA)];
        let found = self.session.rows(sql, &given).map_err(|e| self.sql(&e))?;
        let row = found.first().ok_or_else(|| self.engine.supersede())?;
        Ok(read::head_of(&Columns::of(&self.engine.faults, row))?)
    }

    fn cell(&self, stands_at: Option<u64>) -> Result<Before, StoreError> {
        let held = read::cell(self.engine, self.session, self.tenant)?;
        let before = held.map_or(Before { revision: 0, history_hash: [0; 32] }, |held| Before {
            revision: held.revision,
            history_hash: held.history_hash,
        });
        match stands_at {
            Some(expected) if expected != before.revision => {
                Err(StoreError::Moved { tenant: self.tenant.clone(), expected, found: before.revision })
            }
            _ => Ok(before),
        }
    }

    /// Every record that the judge may ask for.
    fn held(
        &self,
        changes: &ChangeSet,
        expect: &[Expect],
        revision: u64,
    ) -> Result<
        std::collections::BTreeMap<
            (crate::core::identity::RecordKind, Name),
            crate::hub::store::StoredRecord,
        >,
        StoreError,
    > {
        let by_revision = changes.edits.iter().find(|edit| edit.name == EditName::ByRevision);
        let by_revision = by_revision.map(|edit| name_of(edit, revision, self.tenant)).transpose()?;
        let given = changes.edits.iter().filter_map(|edit| match &edit.name {
            EditName::Given(name) => Some(name.as_str()),
            EditName::ByRevision => None,
        });
        let expected = expect.iter().map(|expected| expected.name.as_str());
        let names: Vec<&str> = given.chain(expected).chain(by_revision.as_ref().map(Name::as_str)).collect();
        Ok(read::named(self.engine, self.session, self.tenant, &names)?)
    }

    fn log(
        &self,
        before: &Before,
        global: &[u8; 32],
        revision: u64,
        judged: &Judged,
        (id, at): (&[u8; 16], Timestamp),
    ) -> Result<(), StoreError> {
        let hash = history_hash(&before.history_hash, revision, &judged.body);
        let global = global_hash(global, self.tenant.as_str(), &hash);
        let number = |value| signed(&self.engine.faults, value);
        let (revision, from) = (number(revision)?, number(before.revision)?);
        let (tenant, body, at) = (self.tenant.as_str(), &judged.body[..], at.as_micros());
        let rows = Rows::of(judged.changes.iter().filter(|change| !change.dropped));
        let put = judged.changes.iter().zip(&judged.records).filter(|(change, _)| !change.dropped);
        let bodies: Vec<Option<&[u8]>> = put.map(|(_, record)| record.as_deref()).collect();
        let gone = Rows::of(judged.changes.iter().filter(|change| change.dropped));
        self.session
            .all(&[
                (
                    INSERT_CHANGE,
                    &[
                        (&revision, Type::INT8),
                        (&tenant, Type::TEXT),
                        (&from, Type::INT8),
                        (&body, Type::BYTEA),
                        (&&hash[..], Type::BYTEA),
                        (&&global[..], Type::BYTEA),
                        (&at, Type::INT8),
                        (&&id[..], Type::BYTEA),
                    ],
                ),
                (PUT_CELL, &[(&tenant, Type::TEXT), (&revision, Type::INT8), (&&hash[..], Type::BYTEA)]),
                (
                    PUT_RECORDS,
                    &[
                        (&tenant, Type::TEXT),
                        (&rows.kinds, Type::INT4_ARRAY),
                        (&rows.names, Type::TEXT_ARRAY),
                        (&rows.generations, Type::INT8_ARRAY),
                        (&rows.revisions, Type::INT8_ARRAY),
                        (&bodies, Type::BYTEA_ARRAY),
                        (&at, Type::INT8),
                    ],
                ),
                (
                    DROP_RECORDS,
                    &[
                        (&tenant, Type::TEXT),
                        (&gone.kinds, Type::INT4_ARRAY),
                        (&gone.names, Type::TEXT_ARRAY),
                        (&revision, Type::INT8),
                    ],
                ),
                ("UPDATE portreeve_store SET global_hash = $1", &[(&&global[..], Type::BYTEA)]),
            ])
            .map_err(|e| self.sql(&e))?;
        Ok(())
    }
}

/// The columns of what is put, one entry a record.
struct Rows<'a> {
    kinds: Vec<i32>,
    names: Vec<&'a str>,
    generations: Vec<i64>,
    revisions: Vec<i64>,
}

impl<'a> Rows<'a> {
    fn of(changes: impl Iterator<Item = &'a Change> + Clone) -> Self {
        Self {
            kinds: changes.clone().map(|change| kind_to_wire(change.kind) as i32).collect(),
            names: changes.clone().map(|change| change.name.as_str()).collect(),
            generations: changes.clone().map(|change| i64::from(change.generation)).collect(),
            revisions: changes.map(|change| change.revision.cast_signed()).collect(),
        }
    }
}

const INSERT_CHANGE: &str = "INSERT INTO portreeve_change
    (revision, tenant, from_revision, body, history_hash, global_hash, at_us, commit_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const PUT_CELL: &str = "INSERT INTO portreeve_cell (tenant, revision, history_hash) VALUES ($1, $2, $3)
    ON CONFLICT (tenant) DO UPDATE SET revision = excluded.revision, history_hash = excluded.history_hash";
/// Puts records of one tenant, given column by column.
pub(super) const PUT_RECORDS: &str =
    "INSERT INTO portreeve_record (tenant, kind, name, generation, revision, body, at_us)
    SELECT $1, kind, name, generation, revision, body, $7
    FROM unnest($2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
      AS given (kind, name, generation, revision, body)
    ON CONFLICT (tenant, kind, name) DO UPDATE SET
      generation = excluded.generation, revision = excluded.revision, body = excluded.body,
      at_us = excluded.at_us";
/// Takes records out; of all but revocations the names are kept.
const DROP_RECORDS: &str = "WITH gone AS (
      DELETE FROM portreeve_record
      WHERE tenant = $1 AND (kind, name) IN (SELECT * FROM unnest($2::int[], $3::text[]))
      RETURNING tenant, kind, name, generation)
    INSERT INTO portreeve_dropped (tenant, kind, name, generation, revision)
    SELECT tenant, kind, name, generation, $4 FROM gone WHERE kind <> 4";
/// Keeps names of one tenant that were let go of, given column by column.
pub(super) const PUT_DROPPED: &str =
    "INSERT INTO portreeve_dropped (tenant, kind, name, generation, revision)
    SELECT $1, kind, name, generation, revision
    FROM unnest($2::int[], $3::text[], $4::bigint[], $5::bigint[])
      AS given (kind, name, generation, revision)";
const RESOLVE_MAX: std::time::Duration = std::time::Duration::from_secs(20);
const CONFIRM_MAX: std::time::Duration = std::time::Duration::from_secs(5);
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(100);
