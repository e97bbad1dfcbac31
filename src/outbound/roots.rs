//! Whom to trust: the system's authorities, or those of one file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};

use crate::mtls::{Files, certificates, provider};

/// A TLS client configuration, made anew now and then: authorities come and go.
#[derive(Debug)]
pub(super) struct Roots {
    /// `None`: the system's.
    file: Option<PathBuf>,
    made: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
}

impl Roots {
    pub(super) const fn new(file: Option<PathBuf>) -> Self {
        Self { file, made: Mutex::new(None) }
    }

    /// The configuration, read again when it is old. May read files.
    ///
    /// # Errors
    /// Says which authorities cannot be read.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut made = self.made.lock();
        if let Some((at, config)) = &*made
            && at.elapsed() < AGE_MAX
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make()?);
        *made = Some((Instant::now(), Arc::clone(&config)));
        Ok(config)
    }

    fn make(&self) -> Result<ClientConfig, String> {
        let roots = match &self.file {
            Some(file) => {
                let contents = Files::default().changed(&[file]).map_err(|e| e.to_string())?;
                let pem = contents.and_then(|all| all.into_iter().next()).unwrap_or_default();
                let found = certificates(file, &pem).map_err(|e| e.to_string())?;
                let mut roots = RootCertStore::empty();
                let mut added = found.into_iter().map(|certificate| roots.add(certificate));
                added.try_for_each(|added| added).map_err(|e| format!("`{}`: {e}", file.display()))?;
                roots
            }
            None => {
                // Systems carry certificates that this library refuses; one bad apple hides none of the others.
                let found = rustls_native_certs::load_native_certs();
                let mut roots = RootCertStore::empty();
                let (added, _) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err("the system names no certificate authorities; name a file of them".to_owned());
                }
                roots
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

const AGE_MAX: Duration = Duration::from_secs(300);
