//! Opening: is the file ours, whole, and of a version this build knows; else make it.

use std::io::Read as _;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::fault::FileFaults;
use crate::core::id::Epoch;
use crate::core::time::Timestamp;
use crate::hub::store::{FaultKind, StoreFault, StoreIdentity};

const APPLICATION_ID: i64 = 0x5052_4856;
const SCHEMA_VERSION: i64 = 1;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
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
    if pragma(file, &connection, "user_version")? == 0 {
        create(file, &mut connection)?;
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
    let (cluster_id, epoch) = connection
        .query_row("SELECT cluster_id, epoch FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(|e| file.sql("read its identity", &e))?;
    let epoch = Epoch::from_bytes(epoch);
    if epoch.is_none() {
        return Err(file.damaged("its epoch is zero"));
    }
    Ok(StoreIdentity { cluster_id, epoch })
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
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
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
    let mut epoch = [0; 16];
    let (counter, random) = epoch.split_at_mut(8);
    counter.copy_from_slice(&1u64.to_be_bytes());
    for part in [&mut cluster_id[..], random] {
        aws_lc_rs::rand::fill(part).map_err(|_| file.fault(FaultKind::Io, "no random bytes"))?;
    }
    let sql = |e: rusqlite::Error| file.sql("create", &e);
    let transaction = connection.transaction().map_err(sql)?;
    transaction.execute_batch(SCHEMA).map_err(sql)?;
    transaction
        .execute(
            "INSERT INTO meta (one, cluster_id, epoch, revision) VALUES (1, ?1, ?2, 0)",
            params![cluster_id, epoch],
        )
        .map_err(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(sql)?;
    transaction.commit().map_err(sql)?;
    tracing::info!(file = %file.path().display(), "made an empty store");
    Ok(())
}

fn restrict(file: &FileFaults) -> Result<(), StoreFault> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600))
        .map_err(|e| StoreFault::from_io(file.path(), "restrict its mode to 0600", &e))
}

fn pragma(file: &FileFaults, connection: &Connection, name: &str) -> Result<i64, StoreFault> {
    connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| file.sql("read its header", &e))
}
