//! What an upstream is shown in place of the caller's credential: its own, from a file.
//!
//! The secret is in no setting, dump or log; it is wiped from memory when the last request that
//! carries it is done with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::secure::UpstreamFileError;
use crate::mtls::{FileError, Files};
use crate::pep::headers;

/// How the secret is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CredentialForm {
    /// The file holds the password of this user.
    Basic(Arc<str>),
    /// The file holds the whole value of this header.
    Header(Arc<str>),
}

/// The credential of one upstream, for all workers; read again when the file changes.
///
/// INVARIANT: a file that cannot be used changes nothing: what was read before is used on.
pub struct UpstreamCredential {
    upstream: Arc<str>,
    user: Option<Arc<str>>,
    header: HeaderName,
    file: PathBuf,
    seen: Mutex<Files>,
    held: ArcSwap<HeaderValue>,
}

impl std::fmt::Debug for UpstreamCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamCredential").field("file", &self.file).finish_non_exhaustive()
    }
}

impl UpstreamCredential {
    /// Reads the file of `upstream`. Blocks.
    ///
    /// # Errors
    /// [`UpstreamFileError`] names the upstream and the file that cannot be used.
    pub fn open(upstream: &Arc<str>, form: CredentialForm, file: &Path) -> Result<Self, UpstreamFileError> {
        let (user, header) = match form {
            CredentialForm::Basic(user) => (Some(user), header::AUTHORIZATION),
            CredentialForm::Header(name) => {
                let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    UpstreamFileError::new(upstream, format!("`{name}` is no name of a header"))
                })?;
                (None, header)
            }
        };
        let mut seen = Files::default();
        let held = read(&mut seen, file, user.as_deref())
            .map_err(|error| UpstreamFileError::new(upstream, error))?
            .unwrap_or_else(|| HeaderValue::from_static(""));
        Ok(Self {
            upstream: Arc::clone(upstream),
            user,
            header,
            file: file.to_owned(),
            seen: Mutex::new(seen),
            held: ArcSwap::from_pointee(held),
        })
    }

    /// Takes over what has changed. Blocks.
    pub(super) fn look(&self) {
        let upstream = &*self.upstream;
        match read(&mut self.seen.lock(), &self.file, self.user.as_deref()) {
            Ok(None) => {}
            Ok(Some(value)) => {
                self.held.store(Arc::new(value));
                tracing::info!(upstream, "the credential for an upstream was taken over");
            }
            Err(error) => {
                tracing::error!(%error, upstream, "the credential for an upstream cannot be taken over; the one before stays");
            }
        }
    }

    /// Puts it in place of whatever a caller sent under its name, however spelled.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        headers::strip_named(headers, &self.header);
        headers.insert(self.header.clone(), HeaderValue::clone(&self.held.load()));
    }
}

/// What the file holds as a header's value, if it is other than at the last call.
fn read(seen: &mut Files, file: &Path, user: Option<&str>) -> Result<Option<HeaderValue>, FileError> {
    let refuse =
        |what: &str| FileError { path: file.to_owned(), what: what.to_owned(), expected: SECRET_FORM };
    let changed = seen.changed(&[file]).map_err(|error| FileError { expected: SECRET_FORM, ..error })?;
    let Some(contents) = changed else { return Ok(None) };
    let contents = contents.into_iter().next().unwrap_or_default();
    let secret = contents.strip_suffix(b"\n").unwrap_or(&contents);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.is_empty() {
        return Err(refuse("it is empty"));
    }
    if secret.len() > SECRET_BYTES_MAX {
        return Err(refuse("it is longer than 8 KiB"));
    }
    let text = std::str::from_utf8(secret).map_err(|_| refuse("it is no text"))?;
    if text.chars().any(char::is_control) {
        return Err(refuse("it has more than one line, or a control character"));
    }
    let shown = match user {
        Some(user) => basic(user, text),
        None if text.is_ascii() && text.trim() == text => Zeroizing::new(text.as_bytes().to_vec()),
        None => return Err(refuse("it has what is not ASCII, or spaces around it")),
    };
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(shown))
        .map_err(|_| refuse("it is no value of a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// # Standard
/// RFC 7617 §2, in UTF-8.
fn basic(user: &str, password: &str) -> Zeroizing<Vec<u8>> {
    // Room for all of it, so that nothing is left behind by growing.
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + password.len()));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(password);
    let mut shown = Zeroizing::new(String::with_capacity(SCHEME.len() + pair.len() / 3 * 4 + 4));
    shown.push_str(SCHEME);
    STANDARD.encode_string(pair.as_bytes(), &mut shown);
    Zeroizing::new(std::mem::take(&mut *shown).into_bytes())
}

const SCHEME: &str = "Basic ";
const SECRET_FORM: &str = "a readable file with one line";
const SECRET_BYTES_MAX: usize = 8 * 1024;
