//! One hub a data directory.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

use super::{FaultKind, StoreFault};

/// Holds a directory for this process; released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory if need be and locks it.
    ///
    /// # Errors
    /// [`StoreFault`] when the directory cannot be made or written, or another process holds it.
    pub fn acquire(directory: &Path) -> Result<Self, StoreFault> {
        make_directory(directory)?;
        let path = directory.join(LOCK_FILE);
        let io = |doing: &str, error: &std::io::Error| StoreFault::from_io(&path, doing, error);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| io("open", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(&path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(io("lock", &error)),
        }
        file.set_len(0).map_err(|e| io("write", &e))?;
        writeln!(file, "{}", std::process::id()).map_err(|e| io("write", &e))?;
        Ok(Self { _file: file })
    }
}

fn make_directory(directory: &Path) -> Result<(), StoreFault> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| StoreFault::from_io(directory, "make the directory", &e))
}

fn held(path: &Path, file: &mut File) -> StoreFault {
    let mut holder = String::new();
    let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
    let who = if known { format!("process {}", holder.trim()) } else { "another process".to_owned() };
    StoreFault::new(path, FaultKind::Held, format_args!("{who} runs a hub on this directory"))
}

const LOCK_FILE: &str = "hub.lock";
