//! Opening: is the schema there and of a version this build knows; else it is made.
//!
//! Two processes may open an empty database at once: each makes the schema in one transaction,
//! one of them is refused by the server because a table is there, and then finds it made.

use tokio_postgres::types::Type;

use super::Engine;
use super::read::{array16, unsigned};
use crate::core::id::{Epoch, Position};
use crate::core::time::Timestamp;
use crate::hub::store::side::next_epoch;
use crate::hub::store::{FaultKind, StoreError, StoreFault, StoreIdentity};

pub(super) const SCHEMA_VERSION: i32 = 2;

/// Version 1; a new store is made of it, then brought up like an old one.
/// Names compare by their bytes everywhere, as in every other engine.
const SCHEMA_1: &str = r#"
CREATE TABLE portreeve_store (
  one             integer PRIMARY KEY CHECK (one = 1),
  version         integer NOT NULL,
  cluster_id      bytea NOT NULL,
  epoch           bytea NOT NULL,
  revision        bigint NOT NULL,
  global_hash     bytea NOT NULL,
  oldest          bigint NOT NULL,
  parent_epoch    bytea,
  parent_revision bigint
);
CREATE TABLE portreeve_cell (
  tenant       text COLLATE "C" PRIMARY KEY,
  revision     bigint NOT NULL,
  history_hash bytea NOT NULL
);
CREATE TABLE portreeve_record (
  tenant     text COLLATE "C" NOT NULL,
  kind       integer NOT NULL,
  name       text COLLATE "C" NOT NULL,
  generation bigint NOT NULL,
  revision   bigint NOT NULL,
  body       bytea,
  PRIMARY KEY (tenant, kind, name)
);
CREATE TABLE portreeve_change (
  revision        bigint PRIMARY KEY,
  tenant          text COLLATE "C" NOT NULL,
  from_revision   bigint NOT NULL,
  body            bytea NOT NULL,
  history_hash    bytea NOT NULL,
  global_hash     bytea NOT NULL,
  at_us           bigint NOT NULL,
  acknowledged_us bigint,
  commit_id       bytea NOT NULL
);
CREATE TABLE portreeve_replica (
  id    bytea PRIMARY KEY,
  beats bigint NOT NULL
);
CREATE TABLE portreeve_member (
  replica       bytea NOT NULL,
  spoke_id      text COLLATE "C" NOT NULL,
  incarnation   bytea NOT NULL,
  deny_after_us bigint,
  waived        text NOT NULL,
  build         text NOT NULL,
  stream        integer NOT NULL,
  joined        bigint NOT NULL,
  told          bigint NOT NULL,
  holds         text,
  in_force      text NOT NULL,
  PRIMARY KEY (replica, spoke_id, incarnation)
);
CREATE INDEX portreeve_member_told ON portreeve_member (replica, told);
CREATE TABLE portreeve_item (
  space   text COLLATE "C" NOT NULL,
  key     text COLLATE "C" NOT NULL,
  value   bytea NOT NULL,
  version bigint NOT NULL,
  PRIMARY KEY (space, key)
);
CREATE SEQUENCE portreeve_number;
CREATE TABLE portreeve_receipt (
  revision      bigint NOT NULL,
  spoke_id      text COLLATE "C" NOT NULL,
  incarnation   bytea NOT NULL,
  at_us         bigint NOT NULL,
  in_force      bigint NOT NULL,
  purged        bigint NOT NULL,
  ended_streams bigint NOT NULL,
  ack           bytea NOT NULL,
  signature     bytea NOT NULL,
  key           bytea NOT NULL,
  voided        boolean NOT NULL,
  PRIMARY KEY (revision, spoke_id, incarnation)
);
"#;

/// Version 2 notes when each record was last changed, and names that were let go of.
const SCHEMA_2: &str = r#"
ALTER TABLE portreeve_record ADD COLUMN at_us bigint NOT NULL DEFAULT 0;
CREATE INDEX portreeve_record_settled ON portreeve_record (tenant, at_us) WHERE body IS NULL OR kind = 4;
CREATE TABLE portreeve_dropped (
  tenant     text COLLATE "C" NOT NULL,
  kind       integer NOT NULL,
  name       text COLLATE "C" NOT NULL,
  generation bigint NOT NULL,
  revision   bigint NOT NULL,
  PRIMARY KEY (tenant, kind, name)
);
"#;

const IDENTITY: &str =
    "SELECT version, cluster_id, epoch, parent_epoch, parent_revision FROM portreeve_store";

/// A store to be made: which it shall be, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    pub(super) identity: StoreIdentity,
    pub(super) revision: u64,
    pub(super) global_hash: [u8; 32],
}

impl Beginning {
    /// A new cluster.
    pub(super) fn anew(engine: &Engine) -> Result<Self, StoreFault> {
        let no_random = || engine.faults.fault(FaultKind::Io, "no random bytes");
        let mut cluster_id = [0; 16];
        aws_lc_rs::rand::fill(&mut cluster_id).map_err(|_| no_random())?;
        let epoch = next_epoch(None).ok_or_else(no_random)?;
        let identity = StoreIdentity { cluster_id, epoch, parent: None };
        Ok(Self { identity, revision: 0, global_hash: [0; 32] })
    }
}

/// Reads which store it is, and makes it where there is none.
pub(super) fn open(engine: &Engine, now: Timestamp) -> Result<StoreIdentity, StoreFault> {
    upgrade(engine, now)?;
    for _ in 0..ATTEMPTS_MAX {
        if let Some(identity) = identity(engine)? {
            note_acknowledged(engine, now)?;
            return Ok(identity);
        }
        create(engine, &Beginning::anew(engine)?, |_| Ok(()))?;
    }
    Err(engine.faults.fault(FaultKind::Unreachable, "its schema was neither found nor made"))
}

/// Brings a store of an older version up, at once or not at all; no hub of an older build may run meanwhile.
fn upgrade(engine: &Engine, now: Timestamp) -> Result<(), StoreFault> {
    let mut session = engine.session()?;
    let sql = |e: super::SqlError| engine.faults.sql("bring its schema up", &e);
    session.run("BEGIN").map_err(sql)?;
    let version = match session.rows("SELECT version FROM portreeve_store FOR UPDATE", &[]) {
        Ok(found) => found.first().and_then(|row| row.try_get::<_, i32>(0).ok()),
        Err(error) if error.state().is_some_and(|state| state.code() == "42P01") => None,
        Err(error) => return Err(sql(error)),
    };
    if version != Some(1) {
        session.clean = session.run("ROLLBACK").is_ok();
        return Ok(());
    }
    session.run(SCHEMA_2).map_err(sql)?;
    let fill = "UPDATE portreeve_record SET at_us = $1";
    session.rows(fill, &[(&now.as_micros(), Type::INT8)]).map_err(sql)?;
    session.rows("UPDATE portreeve_store SET version = $1", &[(&SCHEMA_VERSION, Type::INT4)]).map_err(sql)?;
    session.commit().map_err(sql)?;
    session.clean = true;
    tracing::info!(store = engine.faults.place(), version = SCHEMA_VERSION, "brought the store's schema up");
    Ok(())
}

/// Which store it is; `None`: there is none.
pub(super) fn identity(engine: &Engine) -> Result<Option<StoreIdentity>, StoreFault> {
    let mut session = engine.session()?;
    let found = session.rows(IDENTITY, &[]);
    session.clean = true;
    let found = match found {
        Ok(found) => found,
        Err(error) if error.state().is_some_and(|state| state.code() == "42P01") => return Ok(None),
        Err(error) => return Err(engine.faults.sql("read which store it is", &error)),
    };
    let faults = &engine.faults;
    let row = found.first().ok_or_else(|| faults.damaged("its schema holds no store"))?;
    let column = |e: tokio_postgres::Error| faults.column(&e);
    let version: i32 = row.try_get(0).map_err(column)?;
    if version != SCHEMA_VERSION {
        let what = format_args!("its schema is version {version}, this build knows {SCHEMA_VERSION}");
        return Err(faults.fault(FaultKind::Newer, what));
    }
    let epoch = Epoch::from_bytes(array16(faults, row.try_get(2).map_err(column)?)?);
    if epoch.is_none() {
        return Err(faults.damaged("its epoch is zero"));
    }
    let parent_epoch: Option<&[u8]> = row.try_get(3).map_err(column)?;
    let parent_revision: Option<i64> = row.try_get(4).map_err(column)?;
    let parent = match (parent_epoch, parent_revision) {
        (Some(epoch), Some(revision)) => Some(Position {
            epoch: Epoch::from_bytes(array16(faults, epoch)?),
            revision: unsigned(faults, revision)?,
        }),
        (None, None) => None,
        _ => return Err(faults.damaged("its parent epoch is half there")),
    };
    let cluster_id = array16(faults, row.try_get(1).map_err(column)?)?;
    Ok(Some(StoreIdentity { cluster_id, epoch, parent }))
}

/// Makes the schema and what `fill` puts into it, all or nothing. `false`: another process made one.
pub(super) fn create(
    engine: &Engine,
    begin: &Beginning,
    fill: impl Fn(&super::Session) -> Result<(), StoreError>,
) -> Result<bool, StoreFault> {
    let mut session = engine.session()?;
    let sql = |e: super::SqlError| engine.faults.sql("make its schema", &e);
    session.run("BEGIN").map_err(sql)?;
    if let Err(error) = session.run(SCHEMA_1).and_then(|()| session.run(SCHEMA_2)) {
        // A table that is there, or is being made: another process was first.
        let taken = error.state().is_some_and(|state| matches!(state.code(), "42P07" | "23505" | "42710"));
        session.clean = session.run("ROLLBACK").is_ok();
        return if taken { Ok(false) } else { Err(sql(error)) };
    }
    let StoreIdentity { cluster_id, epoch, parent } = begin.identity;
    let revision = super::read::signed(&engine.faults, begin.revision)?;
    let oldest = revision + 1;
    let parent_epoch = parent.map(|parent| parent.epoch.as_bytes().to_vec());
    let parent_revision = parent.map(|parent| parent.revision.cast_signed());
    session
        .rows(
            "INSERT INTO portreeve_store (one, version, cluster_id, epoch, revision, global_hash, oldest,
               parent_epoch, parent_revision) VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                (&SCHEMA_VERSION, Type::INT4),
                (&&cluster_id[..], Type::BYTEA),
                (&&epoch.as_bytes()[..], Type::BYTEA),
                (&revision, Type::INT8),
                (&&begin.global_hash[..], Type::BYTEA),
                (&oldest, Type::INT8),
                (&parent_epoch, Type::BYTEA),
                (&parent_revision, Type::INT8),
            ],
        )
        .map_err(sql)?;
    if let Err(error) = fill(&session) {
        session.clean = session.run("ROLLBACK").is_ok();
        return match error {
            StoreError::Fault(fault) => Err(fault),
            other => Err(engine.faults.fault(FaultKind::Damaged, other)),
        };
    }
    let confirmed = session.commit().map_err(sql)?;
    session.clean = true;
    if !confirmed {
        tracing::warn!(store = engine.faults.place(), "no standby confirmed the new schema");
    }
    tracing::info!(store = engine.faults.place(), "made an empty store");
    Ok(true)
}

/// A commit whose acknowledgement nobody saw: whoever made it was gone by now.
fn note_acknowledged(engine: &Engine, now: Timestamp) -> Result<(), StoreFault> {
    let mut session = engine.session()?;
    session
        .rows(
            "UPDATE portreeve_change SET acknowledged_us = greatest(at_us, $1) WHERE acknowledged_us IS NULL",
            &[(&now.as_micros(), Type::INT8)],
        )
        .map_err(|e| engine.faults.sql("note acknowledgements", &e))?;
    session.clean = true;
    Ok(())
}

const ATTEMPTS_MAX: usize = 8;
