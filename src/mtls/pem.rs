//! PEM files: read whole or refused, and read again when they change.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::core::time::Timestamp;
use crate::files;

/// Why a file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{}`: {what}; expected {expected}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
    /// What should be in it.
    pub expected: &'static str,
}

/// A private key in PEM. Shows nothing of itself.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

impl Key {
    /// By its PEM.
    pub fn new(pem: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(pem.into()))
    }

    /// Its PEM.
    pub fn pem(&self) -> &[u8] {
        &self.0
    }

    /// Reads it.
    pub fn der(&self) -> Option<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.0).ok()
    }
}

/// A set of files, as last read.
#[derive(Debug, Default)]
pub struct Files {
    /// What they held when they were last taken, or last refused.
    seen: Option<blake3::Hash>,
}

impl Files {
    /// The contents of `paths`, if they are others than at the last call; what cannot be read is
    /// told once for each change, too.
    ///
    /// # Errors
    /// [`FileError`] names the file.
    pub fn changed(&mut self, paths: &[&Path]) -> Result<Option<Vec<Zeroizing<Vec<u8>>>>, FileError> {
        let mut hasher = blake3::Hasher::new();
        let mut contents = Vec::new();
        let mut failed = None;
        for path in paths {
            match read(path) {
                Ok(bytes) => {
                    hasher.update(blake3::hash(&bytes).as_bytes());
                    contents.push(bytes);
                }
                Err(error) => {
                    hasher.update(error.what.as_bytes());
                    failed.get_or_insert(error);
                }
            }
        }
        let found = hasher.finalize();
        if self.seen.replace(found) == Some(found) {
            return Ok(None);
        }
        failed.map_or(Ok(Some(contents)), Err)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let refuse = |what: String| FileError { path: path.to_owned(), what, expected: "a readable PEM file" };
    files::read(path, FILE_BYTES_MAX).map(Zeroizing::new).map_err(|e| refuse(e.to_string()))
}

/// Every certificate of a PEM text, at least one.
///
/// # Errors
/// [`FileError`] names `path`.
pub fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let expected = "PEM with at least one certificate";
    let refuse = |what: String| FileError { path: path.to_owned(), what, expected };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| refuse(e.to_string()))?;
    if found.is_empty() { Err(refuse("it has none".to_owned())) } else { Ok(found) }
}

/// A certificate with its key, which must be its own.
///
/// # Errors
/// [`FileError`] names the file that does not fit.
pub fn key_pair(
    (certificate, chain): (&Path, &[CertificateDer<'static>]),
    (path, key): (&Path, &Key),
) -> Result<rustls::sign::CertifiedKey, FileError> {
    let expected = "the private key of the first certificate, in PEM";
    let refuse = |what: String| FileError { path: path.to_owned(), what, expected };
    let der = key.der().ok_or_else(|| refuse("it has no private key".to_owned()))?;
    rustls::sign::CertifiedKey::from_der(chain.to_vec(), der, &super::provider())
        .map_err(|e| refuse(format!("with the certificate in `{}`: {e}", certificate.display())))
}

/// From when until when a certificate is good; `None`: it cannot be read.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_seconds(time.timestamp());
    Some((at(validity.not_before), at(validity.not_after)))
}

/// PEM of `der`.
///
/// # Standard
/// RFC 7468 §2.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

const FILE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_whether_good_or_bad() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let paths: [&Path; 2] = [&a, &b];
        let mut files = Files::default();
        assert!(files.changed(&paths).is_err());
        assert_eq!(files.changed(&paths), Ok(None), "the same trouble again");
        std::fs::write(&a, "1").unwrap();
        std::fs::write(&b, "2").unwrap();
        assert_eq!(files.changed(&paths).unwrap().map(|all| all.len()), Some(2));
        assert_eq!(files.changed(&paths), Ok(None));
        // As a mounted secret is swapped: another file under the same name.
        std::fs::remove_file(&b).unwrap();
        std::os::unix::fs::symlink(&a, &b).unwrap();
        assert!(files.changed(&paths).unwrap().is_some());
        std::fs::remove_file(&a).unwrap();
        assert!(files.changed(&paths).is_err());
    }

    #[test]
    fn errors_name_the_file_and_what_was_expected() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let chain = certificates(Path::new("c.pem"), made.cert.pem().as_bytes()).unwrap();
        let pair = |key: &str| {
            key_pair((Path::new("c.pem"), &chain), (Path::new("k.pem"), &Key::new(key))).map(|_| ())
        };
        assert_eq!(pair(&made.signing_key.serialize_pem()), Ok(()));
        let pem = encode("CERTIFICATE", made.cert.der());
        assert_eq!(certificates(Path::new("x"), pem.as_bytes()).unwrap(), chain);
        for (found, file) in [
            (pair(&other.serialize_pem()), "k.pem"),
            (pair("nothing"), "k.pem"),
            (certificates(Path::new("c.pem"), b"").map(|_| ()), "c.pem"),
        ] {
            let error = found.unwrap_err();
            assert_eq!(error.path, Path::new(file), "{error}");
            assert!(error.to_string().contains("expected"), "{error}");
        }
        assert_eq!(format!("{:?}", Key::new("secret")), "Key(redacted)");
    }
}
