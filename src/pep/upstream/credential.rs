//! What an upstream is shown in place of the caller's credential: its own, from a file.
//!
//! The secret is in no setting, dump or log; it is wiped from memory when the last request that
//! carries it is done with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::secure::UpstreamFileError;
use crate::mtls::{FileError, Files};
use crate::pep::{headers, secret};

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
    let Some(text) = secret::one_line(seen, file)? else { return Ok(None) };
    match user {
        Some(user) => secret::basic(user, &text, file),
        None if text.is_ascii() && text.trim() == text.as_str() => {
            secret::shown(Zeroizing::new(text.as_bytes().to_vec()), file)
        }
        None => Err(secret::refused(file, "it has what is not ASCII, or spaces around it")),
    }
    .map(Some)
}
