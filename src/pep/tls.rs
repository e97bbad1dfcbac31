//! TLS of a listener: one certificate, and callers' certificates where asked for.
//!
//! The provider is named, never a process-wide default. Live reload of files is later work.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Whether callers must show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// One that does not verify ends the connection; none is fine.
    Optional,
    /// None ends the connection as well.
    Required,
}

/// What a TLS listener needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSettings {
    /// PEM file: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: its private key.
    pub key: PathBuf,
    /// PEM file: who signs callers' certificates, and whether they must have one.
    pub clients: Option<(PathBuf, ClientCertificates)>,
}

/// Why a TLS listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{what} file `{path}`: {source}; expected a readable PEM file with {expected}", path = path.display())]
    File {
        /// What it is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error(
        "certificate `{certificate}` with key `{key}`: {source}; expected the private key of the first certificate",
        certificate = certificate.display(), key = key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The callers' authority cannot be used.
    #[error("client_ca file `{path}`: {why}; expected certificates of authorities", path = path.display())]
    ClientCa {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Builds the server side: TLS 1.2 or later, `h2` and `http/1.1` by ALPN.
///
/// # Errors
/// [`TlsError`] names the file and what was expected.
pub(crate) fn server_config(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("certificate", &settings.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|source| unreadable("key", &settings.key, "a private key", source))?;
    let pair = |source| TlsError::Pair {
        certificate: settings.certificate.clone(),
        key: settings.key.clone(),
        source,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(pair)?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some((path, demand)) => {
            let refuse = |why: String| TlsError::ClientCa { path: path.clone(), why };
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca", path)? {
                roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match demand {
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
                ClientCertificates::Required => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| refuse(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |source| unreadable(what, path, "at least one certificate", source);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(refuse)?.collect();
    let found = found.map_err(refuse)?;
    if found.is_empty() { Err(refuse(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn unreadable(what: &'static str, path: &Path, expected: &'static str, source: pem::Error) -> TlsError {
    TlsError::File { what, path: path.to_owned(), expected, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_and_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let pair = |host: &str| {
            let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let ((cert, key), (_, other_key)) = (pair("a.test"), pair("b.test"));
        let (cert, key) = (write("cert.pem", &cert), write("key.pem", &key));
        let other = write("other.pem", &other_key);
        let empty = write("empty.pem", "");
        let absent = dir.path().join("absent.pem");
        let settings = |certificate: &PathBuf, key: &PathBuf, ca: Option<&PathBuf>| TlsSettings {
            certificate: certificate.clone(),
            key: key.clone(),
            clients: ca.map(|ca| (ca.clone(), ClientCertificates::Required)),
        };
        assert!(server_config(&settings(&cert, &key, None)).is_ok());
        assert!(server_config(&settings(&cert, &key, Some(&cert))).is_ok());
        let rows = [
            (settings(&absent, &key, None), "absent.pem", "certificate"),
            (settings(&empty, &key, None), "empty.pem", "at least one certificate"),
            (settings(&cert, &cert, None), "cert.pem", "a private key"),
            (settings(&cert, &other, None), "other.pem", "the private key of the first certificate"),
            (settings(&cert, &key, Some(&empty)), "empty.pem", "client_ca"),
            (settings(&cert, &key, Some(&absent)), "absent.pem", "client_ca"),
        ];
        for (settings, file, expected) in rows {
            let error = server_config(&settings).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(expected), "{error}");
        }
    }
}
