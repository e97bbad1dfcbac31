//! How far a sink is, kept across restarts.
//!
//! A file of two slots of 64 bytes, written in turn; the valid one with the higher generation
//! counts. A write that a crash cuts short spoils the older slot's place only.
//!
//! | at | slot, little-endian |
//! |---|---|
//! | 0 | magic `PRTRVCUR` |
//! | 8 | generation u64 |
//! | 16 | log id, 16 bytes, big-endian as in a ULID |
//! | 32 | next sequence u64 |
//! | 40 | zeros |
//! | 60 | crc32c u32 over bytes 0 to 60 |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::core::id::LogId;
use crate::spool::Delivered;

const SLOT_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"PRTRVCUR";

/// Why a cursor cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what} cursor `{}`: {source}; check the directory's owner, mode and free space",
    path.display()
)]
pub struct CursorError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A sink's place in the row of all logs.
#[derive(Debug)]
pub struct Cursor {
    file: File,
    path: PathBuf,
    generation: u64,
    at: Delivered,
}

impl Cursor {
    /// Opens a cursor, or makes one at the very beginning. One that is damaged begins there too:
    /// a record delivered twice is one by its id, a record not delivered is gone.
    ///
    /// # Errors
    /// [`CursorError`] when the file cannot be opened, made or read.
    pub fn open(path: &Path) -> Result<Self, CursorError> {
        let fault = |what| {
            let path = path.to_path_buf();
            move |source| CursorError { what, path, source }
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(fault("make a directory for"))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fault("open"))?;
        if let Some(dir) = path.parent() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(fault("sync"))?;
        }
        let mut newest = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64) {
                Ok(()) => newest = newest.max(parse(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(fault("read")(error)),
            }
        }
        let (generation, at) = newest.unwrap_or((0, (LogId::default(), 0)));
        Ok(Self { file, path: path.to_path_buf(), generation, at })
    }

    /// The first record not yet delivered.
    pub const fn at(&self) -> Delivered {
        self.at
    }

    /// Moves it, and returns once that is on stable storage.
    ///
    /// # Errors
    /// [`CursorError`]; the former place still counts then.
    pub fn advance(&mut self, to: Delivered) -> Result<(), CursorError> {
        let generation = self.generation + 1;
        let offset = (generation % 2) * SLOT_BYTES as u64;
        let written = self.file.write_all_at(&slot(generation, to), offset);
        written.and_then(|()| self.file.sync_data()).map_err(|source| CursorError {
            what: "write",
            path: self.path.clone(),
            source,
        })?;
        self.generation = generation;
        self.at = to;
        Ok(())
    }
}

fn slot(generation: u64, (log, next_seq): Delivered) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&generation.to_le_bytes());
    out[16..32].copy_from_slice(&log.to_bytes());
    out[32..40].copy_from_slice(&next_seq.to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn parse(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Delivered)> {
    let whole = slot.starts_with(MAGIC) && slot[60..] == crc32c::crc32c(&slot[..60]).to_le_bytes();
    whole.then_some(())?;
    let log = LogId::from_bytes(slot[16..32].try_into().ok()?);
    let generation = u64::from_le_bytes(slot[8..16].try_into().ok()?);
    Some((generation, (log, u64::from_le_bytes(slot[32..40].try_into().ok()?))))
}
