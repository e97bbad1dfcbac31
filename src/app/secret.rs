//! Keys that a process makes for itself and keeps.

use std::io::Read as _;
use std::path::Path;

use super::{AppError, random};
use crate::files;

/// The 32 bytes kept in `path`, made at first use and readable by the owner only.
pub(super) fn key(path: &Path) -> Result<[u8; 32], AppError> {
    let what = || format!("key file {}", path.display());
    match files::open(path) {
        Ok(mut file) => {
            let mut key = [0; 32];
            file.read_exact(&mut key).map_err(AppError::io(format!(
                "{} (expected 32 bytes; remove it to have a new one made)",
                what()
            )))?;
            Ok(key)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = random::bytes()?;
            files::create(path, &key).map_err(|e| AppError::unwritten(path, e))?;
            Ok(key)
        }
        Err(error) => Err(AppError::io(what())(error)),
    }
}
