//! What can go wrong when a spool is opened or read.

use std::io;
use std::path::{Path, PathBuf};

use crate::core::id::LogId;

/// A fault of the spool's directory or of the disk under it.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process holds the directory.
    #[error(
        "spool directory `{}` is in use by {holder}: stop that process or give this one a data \
         directory of its own",
        dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// What the lock file says of the holder.
        holder: String,
    },
    /// The budget cannot hold a log.
    #[error(
        "spool budget of {max_bytes} bytes holds no log: it must be at least four segments of \
         {segment_bytes} bytes; raise the budget or lower the segment size"
    )]
    Budget {
        /// The budget.
        max_bytes: u64,
        /// The segment size.
        segment_bytes: u64,
    },
    /// A file or directory could not be used.
    #[error("cannot {what} `{}`: {source}; check the directory's owner, mode and free space", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start thread `{name}`: {source}; check the limit on threads")]
    Thread {
        /// The thread.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A reader asked for a log that is not there.
    #[error("no log `{log}` in `{}`: it was delivered and removed, or never written", dir.display())]
    NoLog {
        /// The log.
        log: LogId,
        /// Where it was looked for.
        dir: PathBuf,
    },
}

impl SpoolError {
    /// Names what was tried and where.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }
}
