//! Keys that a process makes for itself and keeps.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{AppError, random};

/// The 32 bytes kept in `path`, made at first use and readable by the owner only.
pub(super) fn key(path: &Path) -> Result<[u8; 32], AppError> {
    let what = || format!("key file {}", path.display());
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let key = random::bytes()?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(AppError::io(what()))?;
            Ok(key)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mut file = OpenOptions::new().read(true).open(path).map_err(AppError::io(what()))?;
            let mut key = [0; 32];
            file.read_exact(&mut key).map_err(AppError::io(format!(
                "{} (expected 32 bytes; remove it to have a new one made)",
                what()
            )))?;
            Ok(key)
        }
        Err(error) => Err(AppError::io(what())(error)),
    }
}
