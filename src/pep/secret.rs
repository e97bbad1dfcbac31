//! Secrets of ours that others are shown: one line of a file, read again when it changes.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::mtls::{FileError, Files};

/// The one line that the file holds, if it is other than at the last call. Blocks.
///
/// # Errors
/// [`FileError`] says what else is there.
pub(super) fn one_line(seen: &mut Files, file: &Path) -> Result<Option<Zeroizing<String>>, FileError> {
    let changed = seen.changed(&[file]).map_err(|error| FileError { expected: SECRET_FORM, ..error })?;
    let Some(contents) = changed else { return Ok(None) };
    let contents = contents.into_iter().next().unwrap_or_default();
    let secret = contents.strip_suffix(b"\n").unwrap_or(&contents);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.is_empty() {
        return Err(refused(file, "it is empty"));
    }
    if secret.len() > SECRET_BYTES_MAX {
        return Err(refused(file, "it is longer than 8 KiB"));
    }
    let text = std::str::from_utf8(secret).map_err(|_| refused(file, "it is no text"))?;
    if text.chars().any(char::is_control) {
        return Err(refused(file, "it has more than one line, or a control character"));
    }
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// User and password as the value of `authorization`.
///
/// # Errors
/// [`FileError`] names the file of the password when they are none.
///
/// # Standard
/// RFC 7617 §2, in UTF-8.
pub(super) fn basic(user: &str, password: &str, file: &Path) -> Result<HeaderValue, FileError> {
    // Room for all of it, so that nothing is left behind by growing.
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + password.len()));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(password);
    let mut shown = Zeroizing::new(String::with_capacity(SCHEME.len() + pair.len() / 3 * 4 + 4));
    shown.push_str(SCHEME);
    STANDARD.encode_string(pair.as_bytes(), &mut shown);
    self::shown(Zeroizing::new(std::mem::take(&mut *shown).into_bytes()), file)
}

/// A secret as a header's value, which is wiped when nobody has it any more.
///
/// # Errors
/// [`FileError`] names the file it is of when it is none.
pub(super) fn shown(secret: Zeroizing<Vec<u8>>, file: &Path) -> Result<HeaderValue, FileError> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(secret))
        .map_err(|_| refused(file, "it is no value of a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is wrong with a file of a secret.
pub(super) fn refused(file: &Path, what: &str) -> FileError {
    FileError { path: file.to_owned(), what: what.to_owned(), expected: SECRET_FORM }
}

const SCHEME: &str = "Basic ";
const SECRET_FORM: &str = "a readable file with one line";
const SECRET_BYTES_MAX: usize = 8 * 1024;
