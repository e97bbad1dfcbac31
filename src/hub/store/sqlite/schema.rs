//! Opening: is the file ours, whole, and of a version this build knows; else make it.

use std::io::Read as _;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::fault::FileFaults;
use super::read;
use crate::core::id::{Epoch, Position};
use crate::core::time::Timestamp;
use crate::hub::store::side::next_epoch;
use crate::hub::store::{FaultKind, StoreFault, StoreIdentity, global_hash};

const APPLICATION_ID: i64 = 0x5052_4856;
const SCHEMA_VERSION: i64 = 3;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Version 1; a new store is made of it, then brought up like an old one.
const SCHEMA_1: &str = "
CREATE TABLE meta (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id BLOB NOT NULL CHECK (length(cluster_id) = 16),
  epoch      BLOB NOT NULL CHECK (length(epoch) = 16),
  revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE cell (
  tenant       TEXT PRIMARY KEY,
  revision     INTEGER NOT NULL,
  history_hash BLOB NOT NULL CHECK (length(history_hash) = 32)
) STRICT, WITHOUT ROWID;
CREATE TABLE record (
  tenant     TEXT NOT NULL REFERENCES cell (tenant),
  kind       INTEGER NOT NULL,
  name       TEXT NOT NULL,
  generation INTEGER NOT NULL,
  revision   INTEGER NOT NULL,
  body       BLOB,
  PRIMARY KEY (tenant, kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE change (
  revision      INTEGER PRIMARY KEY,
  tenant        TEXT NOT NULL REFERENCES cell (tenant),
  from_revision INTEGER NOT NULL,
  body          BLOB NOT NULL,
  history_hash  BLOB NOT NULL CHECK (length(history_hash) = 32),
  at_us         INTEGER NOT NULL,
  acknowledged_us INTEGER
) STRICT;
CREATE TABLE member (
  spoke_id      TEXT NOT NULL,
  incarnation   BLOB NOT NULL CHECK (length(incarnation) = 16),
  deny_after_us INTEGER,
  waived        TEXT NOT NULL,
  build         TEXT NOT NULL,
  PRIMARY KEY (spoke_id, incarnation)
) STRICT, WITHOUT ROWID;
";

/// Version 2. A new column needs a value for the rows there are: `fill` gives the right one.
const SCHEMA_2: &str = "
ALTER TABLE meta ADD COLUMN global_hash BLOB NOT NULL DEFAULT x'' CHECK (length(global_hash) IN (0, 32));
ALTER TABLE meta ADD COLUMN oldest INTEGER NOT NULL DEFAULT 1;
ALTER TABLE meta ADD COLUMN item_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN parent_epoch BLOB CHECK (length(parent_epoch) = 16);
ALTER TABLE meta ADD COLUMN parent_revision INTEGER;
ALTER TABLE change ADD COLUMN global_hash BLOB NOT NULL DEFAULT x'' CHECK (length(global_hash) IN (0, 32));
CREATE TABLE item (
  space   TEXT NOT NULL,
  key     TEXT NOT NULL,
  value   BLOB NOT NULL,
  version INTEGER NOT NULL,
  PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipt (
  revision      INTEGER NOT NULL,
  spoke_id      TEXT NOT NULL,
  incarnation   BLOB NOT NULL CHECK (length(incarnation) = 16),
  at_us         INTEGER NOT NULL,
  in_force      INTEGER NOT NULL,
  purged        INTEGER NOT NULL,
  ended_streams INTEGER NOT NULL,
  ack           BLOB NOT NULL,
  signature     BLOB NOT NULL,
  key           BLOB NOT NULL CHECK (length(key) = 32),
  voided        INTEGER NOT NULL,
  PRIMARY KEY (revision, spoke_id, incarnation)
) STRICT, WITHOUT ROWID;
";

/// Version 3. What is known of a record's time begins with it: `fill` gives the latest it can have been.
const SCHEMA_3: &str = "
ALTER TABLE record ADD COLUMN at_us INTEGER NOT NULL DEFAULT 0;
CREATE INDEX record_settled ON record (tenant, at_us) WHERE body IS NULL OR kind = 4;
CREATE TABLE dropped (
  tenant     TEXT NOT NULL REFERENCES cell (tenant),
  kind       INTEGER NOT NULL,
  name       TEXT NOT NULL,
  generation INTEGER NOT NULL,
  revision   INTEGER NOT NULL,
  PRIMARY KEY (tenant, kind, name)
) STRICT, WITHOUT ROWID;
";

/// Opens the writing connection.
pub(super) fn open(file: &FileFaults, now: Timestamp) -> Result<Connection, StoreFault> {
    make_private(file)?;
    check_header(file)?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file.path(), flags).map_err(|e| file.sql("open", &e))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| file.sql("open", &e))?;
    check_owner(file, &connection)?;
    configure(file, &connection)?;
    check_whole(file, &connection)?;
    match pragma(file, &connection, "user_version")? {
        0 => create(file, &mut connection)?,
        SCHEMA_VERSION => {}
        version => upgrade(file, &mut connection, version, now)?,
    }
    restrict(file)?;
    // Whoever wrote the last commit may have ended before it was acknowledged: from now on it is.
    connection
        .execute(
            "UPDATE change SET acknowledged_us = max(at_us, ?1)
             WHERE revision = (SELECT max(revision) FROM change) AND acknowledged_us IS NULL",
            params![now.as_micros()],
        )
        .map_err(|e| file.sql("open", &e))?;
    Ok(connection)
}

/// Opens a reading connection.
pub(super) fn open_reader(file: &FileFaults) -> Result<Connection, StoreFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file.path(), flags).map_err(|e| file.sql("open", &e))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| file.sql("open", &e))?;
    Ok(connection)
}

/// Reads which store it is.
pub(super) fn identity(file: &FileFaults, connection: &Connection) -> Result<StoreIdentity, StoreFault> {
    let sql = "SELECT cluster_id, epoch, parent_epoch, parent_revision FROM meta";
    let (cluster_id, epoch, parent_epoch, parent_revision) = connection
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .map_err(|e| file.sql("read its identity", &e))?;
    let epoch = Epoch::from_bytes(epoch);
    if epoch.is_none() {
        return Err(file.damaged("its epoch is zero"));
    }
    let parent = match (parent_epoch, parent_revision) {
        (Some(epoch), Some(revision)) => {
            Some(Position { epoch: Epoch::from_bytes(epoch), revision: read::unsigned(file, revision)? })
        }
        (None, None) => None,
        _ => return Err(file.damaged("its parent epoch is half there")),
    };
    Ok(StoreIdentity { cluster_id, epoch, parent })
}

/// Makes the file, if there is none, for its owner only: the files beside it take their mode from it.
fn make_private(file: &FileFaults) -> Result<(), StoreFault> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::File::options().write(true).create_new(true).mode(0o600).open(file.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StoreFault::from_io(file.path(), "make", &error))
        }
        _ => Ok(()),
    }
}

fn check_header(file: &FileFaults) -> Result<(), StoreFault> {
    let mut head = Vec::new();
    match std::fs::File::open(file.path()) {
        Ok(opened) => opened
            .take(MAGIC.len() as u64)
            .read_to_end(&mut head)
            .map_err(|e| StoreFault::from_io(file.path(), "read", &e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreFault::from_io(file.path(), "open", &error)),
    };
    if head.is_empty() || head == MAGIC {
        return Ok(());
    }
    Err(file.fault(FaultKind::Foreign, "it is not a SQLite file"))
}

fn check_owner(file: &FileFaults, connection: &Connection) -> Result<(), StoreFault> {
    let application = pragma(file, connection, "application_id")?;
    let version = pragma(file, connection, "user_version")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| file.sql("read its schema", &e))?;
    match (application, version) {
        (APPLICATION_ID, 1..=SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, newer) if newer > SCHEMA_VERSION => Err(file.fault(
            FaultKind::Newer,
            format_args!("its schema is version {newer}, this build knows {SCHEMA_VERSION}"),
        )),
        (0, 0) if tables == 0 => Ok(()),
        _ => Err(file.fault(FaultKind::Foreign, "it is a database of another program")),
    }
}

fn configure(file: &FileFaults, connection: &Connection) -> Result<(), StoreFault> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|e| file.sql("switch on the write-ahead log", &e))?;
    if mode != "wal" {
        let what = format_args!("its volume offers no write-ahead log (`{mode}`): a local one is needed");
        return Err(file.fault(FaultKind::Io, what));
    }
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(|e| file.sql("configure", &e))
}

fn check_whole(file: &FileFaults, connection: &Connection) -> Result<(), StoreFault> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| file.sql("check", &e))?;
    if found == "ok" { Ok(()) } else { Err(file.damaged(found.replace('\n', " "))) }
}

fn create(file: &FileFaults, connection: &mut Connection) -> Result<(), StoreFault> {
    let mut cluster_id = [0; 16];
    let no_random = || file.fault(FaultKind::Io, "no random bytes");
    aws_lc_rs::rand::fill(&mut cluster_id).map_err(|_| no_random())?;
    let epoch = next_epoch(None).ok_or_else(no_random)?;
    let sql = |e: rusqlite::Error| file.sql("create", &e);
    let transaction = connection.transaction().map_err(sql)?;
    transaction.execute_batch(SCHEMA_1).map_err(sql)?;
    transaction
        .execute(
            "INSERT INTO meta (one, cluster_id, epoch, revision) VALUES (1, ?1, ?2, 0)",
            params![cluster_id, epoch.as_bytes()],
        )
        .map_err(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    to_version_2(file, &transaction)?;
    to_version_3(file, &transaction, Timestamp::default())?;
    transaction.commit().map_err(sql)?;
    tracing::info!(file = %file.path().display(), "made an empty store");
    Ok(())
}

/// Brings a store of an older version up, at once or not at all.
fn upgrade(
    file: &FileFaults,
    connection: &mut Connection,
    version: i64,
    now: Timestamp,
) -> Result<(), StoreFault> {
    let sql = |e: rusqlite::Error| file.sql("bring its schema up", &e);
    let transaction = connection.transaction().map_err(sql)?;
    if version < 2 {
        to_version_2(file, &transaction)?;
    }
    to_version_3(file, &transaction, now)?;
    transaction.commit().map_err(sql)?;
    tracing::info!(file = %file.path().display(), version = SCHEMA_VERSION, "brought the store's schema up");
    Ok(())
}

/// Version 2 gives every commit its global hash, chained over the whole log.
fn to_version_2(file: &FileFaults, connection: &Connection) -> Result<(), StoreFault> {
    let sql = |e: rusqlite::Error| file.sql("bring its schema up", &e);
    connection.execute_batch(SCHEMA_2).map_err(sql)?;
    let mut log = connection
        .prepare("SELECT revision, tenant, history_hash FROM change ORDER BY revision")
        .map_err(sql)?;
    let mut fill =
        connection.prepare("UPDATE change SET global_hash = ?2 WHERE revision = ?1").map_err(sql)?;
    let mut hash = [0; 32];
    let mut found = log.query([]).map_err(sql)?;
    while let Some(row) = found.next().map_err(sql)? {
        let tenant: String = row.get(1).map_err(sql)?;
        hash = global_hash(&hash, &tenant, &row.get(2).map_err(sql)?);
        let revision: i64 = row.get(0).map_err(sql)?;
        fill.execute(params![revision, hash]).map_err(sql)?;
    }
    connection.execute("UPDATE meta SET global_hash = ?1", params![hash]).map_err(sql)?;
    connection.pragma_update(None, "user_version", 2).map_err(sql)
}

/// Version 3 notes when each record was last changed, and names that were let go of.
fn to_version_3(file: &FileFaults, connection: &Connection, now: Timestamp) -> Result<(), StoreFault> {
    let sql = |e: rusqlite::Error| file.sql("bring its schema up", &e);
    connection.execute_batch(SCHEMA_3).map_err(sql)?;
    connection.execute("UPDATE record SET at_us = ?1", params![now.as_micros()]).map_err(sql)?;
    connection.pragma_update(None, "user_version", 3).map_err(sql)
}

fn restrict(file: &FileFaults) -> Result<(), StoreFault> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600))
        .map_err(|e| StoreFault::from_io(file.path(), "restrict its mode to 0600", &e))
}

fn pragma(file: &FileFaults, connection: &Connection, name: &str) -> Result<i64, StoreFault> {
    connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| file.sql("read its header", &e))
}
