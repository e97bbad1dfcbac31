//! The admin token: made at the first start, kept in a file only its owner reads.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::settings::{HubError, HubSettings};
use crate::files;

/// Who may administer the hub, each recognised by a token of its own.
#[derive(Clone, Debug)]
pub(crate) struct Admins(Vec<(Arc<str>, AdminToken)>);

impl Admins {
    /// Reads every token, making those that are not there.
    ///
    /// # Errors
    /// [`HubError::File`] names the file, what is wrong and what to do; two principals cannot share a token.
    pub(crate) fn load_or_make(settings: &HubSettings) -> Result<Self, HubError> {
        let mut all: Vec<(Arc<str>, AdminToken)> = Vec::new();
        let first = (FIRST.to_owned(), settings.admin_token_file.clone());
        for (name, file) in std::iter::once(&first).chain(&settings.admins) {
            let token = AdminToken::load_or_make(file)?;
            if let Some((other, _)) = all.iter().find(|(other, held)| **other == **name || held.0 == token.0)
            {
                let what = format!("it is the token of `{other}` too, and would be two principals in one");
                return Err(fault(file, &what, "remove it, and the next start makes another"));
            }
            all.push((Arc::from(name.as_str()), token));
        }
        Ok(Self(all))
    }

    /// Whose token `presented` is, in time that tells neither how much of it is right nor whose it is.
    pub(crate) fn whose(&self, presented: &[u8]) -> Option<Arc<str>> {
        let mut found = None;
        for (name, token) in &self.0 {
            if token.is(presented) {
                found = Some(Arc::clone(name));
            }
        }
        found
    }
}

/// A digest of the admin token: enough to recognise it.
#[derive(Clone)]
pub(crate) struct AdminToken([u8; 32]);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(redacted)")
    }
}

impl AdminToken {
    /// Reads the token, or makes one when there is no file.
    fn load_or_make(file: &Path) -> Result<Self, HubError> {
        match files::open(file) {
            Ok(opened) => read(file, opened),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(file),
            Err(error) => Err(fault(file, &format!("open: {error}"), READABLE)),
        }
    }

    /// Whether `presented` is the token, in time that does not tell how much of it is right.
    fn is(&self, presented: &[u8]) -> bool {
        digest(presented).ct_eq(&self.0).into()
    }
}

fn read(file: &Path, opened: File) -> Result<AdminToken, HubError> {
    let io = |e: std::io::Error| fault(file, &format!("read: {e}"), READABLE);
    let mode = opened.metadata().map_err(io)?.mode();
    if mode & 0o077 != 0 {
        let what = format!("its mode {:04o} lets others than its owner use it", mode & 0o7777);
        return Err(fault(file, &what, "`chmod 600` it, and replace the token if someone may have read it"));
    }
    let mut text = Zeroizing::new(String::new());
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
    let token = text.trim();
    let known = token.strip_prefix(PREFIX).and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok());
    match known {
        Some(random) if random.len() >= RANDOM_BYTES => Ok(AdminToken(digest(token.as_bytes()))),
        _ => Err(fault(file, "it holds no admin token", "remove it, and the next start makes one")),
    }
}

fn make(file: &Path) -> Result<AdminToken, HubError> {
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    aws_lc_rs::rand::fill(&mut *random).map_err(|_| fault(file, "no random bytes", "try again"))?;
    let line = Zeroizing::new(format!("{PREFIX}{}\n", URL_SAFE_NO_PAD.encode(*random)));
    let made = files::create(file, line.as_bytes());
    made.map_err(|e| fault(file, &format!("make: {e}"), files::remedy(&e)))?;
    tracing::info!(file = %file.display(), "made an admin token");
    Ok(AdminToken(digest(line.trim_end().as_bytes())))
}

fn digest(token: &[u8]) -> [u8; 32] {
    *blake3::hash(token).as_bytes()
}

fn fault(file: &Path, what: &str, remedy: &'static str) -> HubError {
    HubError::File { file: file.to_owned(), what: what.to_owned(), remedy }
}

/// The name of who holds the first admin token.
pub(super) const FIRST: &str = "admin";
const PREFIX: &str = "prt_admin_";
const RANDOM_BYTES: usize = 32;
const FILE_BYTES_MAX: u64 = 4096;
const READABLE: &str = "let the hub's user read it";
