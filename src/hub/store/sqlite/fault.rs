//! SQLite's errors as faults of one file.

use std::fmt;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::hub::store::{FaultKind, StoreFault};

/// Makes faults that name the store's file.
#[derive(Clone, Debug)]
pub(super) struct FileFaults {
    path: PathBuf,
}

impl FileFaults {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fault(&self, kind: FaultKind, what: impl fmt::Display) -> StoreFault {
        StoreFault::new(&self.path, kind, what)
    }

    pub(super) fn damaged(&self, what: impl fmt::Display) -> StoreFault {
        self.fault(FaultKind::Damaged, what)
    }

    pub(super) fn sql(&self, doing: &str, error: &rusqlite::Error) -> StoreFault {
        self.fault(kind_of(error), format_args!("{doing}: {error}"))
    }
}

fn kind_of(error: &rusqlite::Error) -> FaultKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => FaultKind::Damaged,
        Some(ErrorCode::NotADatabase) => FaultKind::Foreign,
        Some(ErrorCode::DiskFull) => FaultKind::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            FaultKind::Held
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => FaultKind::Denied,
        Some(_) => FaultKind::Io,
        // Not SQLite's own: a column was missing or of another type.
        None => FaultKind::Damaged,
    }
}
