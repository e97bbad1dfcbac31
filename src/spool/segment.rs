//! Segment files and the directories they lie in.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::core::id::LogId;
use crate::spool::error::SpoolError;
use crate::spool::format::{parse_segment_name, segment_name};
use crate::spool::io::Io;

/// The name of a segment that was made ahead.
pub(crate) const AHEAD: &str = "next.tmp";

/// A segment that is, or was, written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// A segment made ahead: full size, no header, no name yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// Whether it is the one kept back for when the budget is spent.
    pub(crate) reserve: bool,
}

impl Prepared {
    /// Makes one in a log's directory.
    pub(crate) fn create(io: &dyn Io, dir: &Path, bytes: u64, reserve: bool) -> io::Result<Self> {
        let path = dir.join(AHEAD);
        match io.create(&path, bytes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                io.remove(&path)?;
                io.create(&path, bytes)
            }
            other => other,
        }
        .map(|file| Self { file, path, bytes, reserve })
    }

    /// Gives it its header and its name.
    pub(crate) fn begin(self, io: &dyn Io, header: &[u8], first_seq: u64) -> io::Result<Segment> {
        io.write_at(&self.file, header, 0)?;
        let path = self.path.with_file_name(segment_name(first_seq));
        if path.exists() {
            // The same place was begun before and nothing of it became durable.
            io.rename(&path, &path.with_extension("nev.suspect"))?;
        }
        io.rename(&self.path, &path)?;
        Ok(Segment { file: self.file, path, bytes: self.bytes })
    }
}

/// A segment as found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) log: LogId,
    pub(crate) first_seq: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The logs of a spool directory, oldest first.
pub(crate) fn logs(spool: &Path) -> Result<Vec<LogId>, SpoolError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(spool).map_err(SpoolError::io("list", spool))? {
        let entry = entry.map_err(SpoolError::io("list", spool))?;
        found.extend(entry.file_name().to_str().and_then(LogId::parse));
    }
    found.sort();
    Ok(found)
}

/// The segments of one log, in order. Empty when the log is gone.
pub(crate) fn segments(spool: &Path, log: LogId) -> Result<Vec<Found>, SpoolError> {
    let dir = spool.join(log.to_string());
    let mut found = Vec::new();
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(SpoolError::io("list", &dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(SpoolError::io("list", &dir))?;
        let Some(first_seq) = entry.file_name().to_str().and_then(parse_segment_name) else {
            continue;
        };
        // A segment removed since is none.
        if let Ok(about) = entry.metadata() {
            found.push(Found { log, first_seq, path: entry.path(), bytes: about.len() });
        }
    }
    found.sort_by_key(|segment| segment.first_seq);
    Ok(found)
}

/// Removes what an ended log has besides segments, and its directory if that leaves it empty.
///
/// Failing is harmless: the next round or the next start tries again.
pub(crate) fn sweep(spool: &Path, log: LogId) -> io::Result<()> {
    let dir = spool.join(log.to_string());
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name == AHEAD || name.ends_with(".suspect")) {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(&dir)
}
