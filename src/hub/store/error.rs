//! What can go wrong with a store, and what to do about it.

use std::fmt;
use std::path::Path;

use super::{ITEM_BYTES_MAX, ItemConflict};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::wire::state::WireError;

/// Why a store refuses or fails. Nothing has been half-applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// An expectation of the commit does not hold.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Someone else committed to the cell in between: read again and retry.
    #[error("tenant `{tenant}` stands at revision {found}, the change was made for {expected}")]
    Moved {
        /// The tenant.
        tenant: Name,
        /// Where the change expected it.
        expected: u64,
        /// Where it stands.
        found: u64,
    },
    /// The change set itself is not one: empty, twice the same record, or too large.
    #[error("change set of tenant `{tenant}`: {why}")]
    Malformed {
        /// The tenant.
        tenant: Name,
        /// What is wrong.
        why: String,
    },
    /// An item is not as its writer expected.
    #[error(transparent)]
    Item(#[from] ItemConflict),
    /// An item's value is too long.
    #[error("item `{key}` of `{space}` is {bytes} bytes, at most {ITEM_BYTES_MAX}")]
    ItemTooLong {
        /// The space.
        space: String,
        /// The key.
        key: String,
        /// How long its value is.
        bytes: usize,
    },
    /// The log no longer reaches back so far: what is asked for was trimmed.
    #[error("the change log begins at revision {oldest}; what was before it was trimmed")]
    Compacted {
        /// The oldest revision the log holds, or will hold.
        oldest: u64,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Fault(#[from] StoreFault),
}

/// One record that is not as a commit expected it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{name}` {why}", kind = kind.as_str())]
pub struct Conflict {
    /// Which kind of record.
    pub kind: RecordKind,
    /// Its name.
    pub name: Name,
    /// How it differs.
    pub why: ConflictKind,
}

/// How a record differs from what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// It exists.
    Exists,
    /// It existed: names are never reused.
    Removed,
    /// It does not exist.
    Missing,
    /// It was changed at another revision than expected.
    Changed {
        /// The revision expected.
        expected: u64,
        /// The revision found.
        found: u64,
    },
}

impl fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("exists already"),
            Self::Removed => f.write_str("was removed, and names are never reused: choose another name"),
            Self::Missing => f.write_str("does not exist"),
            Self::Changed { expected, found } => {
                write!(f, "was changed at revision {found}, not {expected}: read it again and retry")
            }
        }
    }
}

/// What kind of fault keeps a store from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The file does not hold what it should.
    Damaged,
    /// The file is another program's.
    Foreign,
    /// A newer build wrote it.
    Newer,
    /// This process may not read or write it.
    Denied,
    /// The disk is full.
    Full,
    /// Another process holds it.
    Held,
    /// Reading or writing failed.
    Io,
    /// The database did not answer, or not in time.
    Unreachable,
    /// The connection was lost while a change was committed, and asking again gave no answer:
    /// it may have happened.
    Unknown,
    /// A newer epoch was begun: this process serves a lineage that was left.
    Superseded,
    /// It is older than the witness says it was.
    Behind,
}

impl FaultKind {
    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Damaged => "restore it from a backup, or move it away to begin an empty store",
            Self::Foreign => "name another file for the hub's store, or move this one away",
            Self::Newer => "start the build that wrote it, or a later one",
            Self::Denied => "let the hub's user read and write the file and its directory",
            Self::Full => "free space on its volume; nothing of the refused change was kept",
            Self::Held => "stop the other hub, or give this one a store of its own",
            Self::Io => "check the volume, then start the hub again",
            Self::Unreachable => "check the database and the way to it; the hub tries again by itself",
            Self::Unknown => "read what is held before trying again",
            Self::Superseded => "start the hub again",
            Self::Behind => {
                "put back the store that was served from; if that is lost, stop every hub and run `portreeve hub restore`"
            }
        }
    }
}

/// A store that cannot be used: which one, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store `{place}`: {what}: {remedy}")]
pub struct StoreFault {
    place: String,
    kind: FaultKind,
    what: String,
    remedy: &'static str,
}

impl StoreFault {
    /// A fault of a file.
    pub fn new(file: &Path, kind: FaultKind, what: impl fmt::Display) -> Self {
        Self::at(file.display(), kind, what)
    }

    /// A fault of the store at `place`, which shows no secret.
    pub fn at(place: impl fmt::Display, kind: FaultKind, what: impl fmt::Display) -> Self {
        Self { place: place.to_string(), kind, what: what.to_string(), remedy: kind.remedy() }
    }

    /// The same with another remedy.
    #[must_use]
    pub fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy, ..self }
    }

    /// A fault of the file system.
    pub(crate) fn from_io(file: &Path, doing: &str, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                FaultKind::Denied
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FaultKind::Full,
            _ => FaultKind::Io,
        };
        Self::new(file, kind, format_args!("{doing}: {error}"))
    }

    /// A stored value that this build cannot read.
    pub(crate) fn unreadable(store: impl fmt::Display, value: impl fmt::Display, error: &WireError) -> Self {
        Self::at(store, FaultKind::Damaged, format_args!("{value} cannot be read: {error}"))
    }

    /// What kind of fault it is.
    pub const fn kind(&self) -> FaultKind {
        self.kind
    }
}
