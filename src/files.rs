//! Whole files: read without waiting and within a bound, made or replaced in one step.
//!
//! Whoever looks finds a file as it was or as it is to be, never half of it, whatever the process or its
//! volume does meanwhile. Deliberately absent: files that grow (logs, the spool, the state).

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

/// Opens a regular file to be read. A pipe, which may never answer, and a device, which may never end, are refused.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] for what is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(without_waiting).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

/// The content of a regular file.
///
/// # Errors
/// As [`open`]; [`ErrorKind::FileTooLarge`] for more than `bytes_max`.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Makes a file for its owner alone, on stable storage with all of `bytes` when this returns.
///
/// # Errors
/// What the system says; [`ErrorKind::AlreadyExists`] when there is one. Nothing is left then.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    beside(folder, bytes)?.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}

/// The same in place of what was there.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] where something else than a regular file stands. What
/// was there is there still.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replaceable(path)?;
    let folder = folder_of(path);
    beside(folder, bytes)?.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Whether a file may be put there: in place of a regular file, or of nothing.
///
/// # Errors
/// As [`replace`].
pub(crate) fn replaceable(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(there) if !there.is_file() => {
            Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"))
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What to do where a file cannot be written.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space on its volume",
        ErrorKind::ReadOnlyFilesystem => "name a place on a volume that can be written",
        ErrorKind::InvalidInput | ErrorKind::IsADirectory | ErrorKind::NotADirectory => "name a regular file",
        _ => "let the process's user write its directory",
    }
}

fn beside(folder: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut made = NamedTempFile::new_in(folder)?;
    made.write_all(bytes)?;
    made.as_file().sync_all()?;
    Ok(made)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn kind<T: std::fmt::Debug>(done: io::Result<T>) -> ErrorKind {
        done.unwrap_err().kind()
    }

    #[test]
    fn a_file_is_made_once_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        create(&file, b"one").unwrap();
        assert_eq!(kind(create(&file, b"two")), ErrorKind::AlreadyExists);
        assert_eq!(read(&file, 3).unwrap(), b"one");
        replace(&file, b"three").unwrap();
        assert_eq!(kind(read(&file, 4)), ErrorKind::FileTooLarge);
        assert_eq!(read(&file, 5).unwrap(), b"three");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(kind(create(&folder.path().join("no/b"), b"")), ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "something is left beside it");
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for other in [&pipe, Path::new("/dev/zero"), folder.path()] {
            assert_eq!(kind(read(other, 5)), ErrorKind::InvalidInput, "{}", other.display());
            assert_eq!(kind(replace(other, b"")), ErrorKind::InvalidInput, "{}", other.display());
        }
    }
}
