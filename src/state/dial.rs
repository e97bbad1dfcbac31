//! Connections to a hub under mutual TLS, with certificates from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, ClientTlsConfig, Identity};
use zeroize::Zeroizing;

use crate::core::id::Name;
use crate::core::time::Clock;
use crate::mtls::{
    FileError, Files, HubVerifier, Key, WallClock, certificates, certified, key_pair, roots, validity,
};
use crate::state::client::{Dial, Dialled, Kept, Validity, causes, tuned};

/// Where the certificates are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubFiles {
    /// PEM: authorities of the hub's certificate.
    pub ca: PathBuf,
    /// PEM: this enforcement point's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// Dials with certificates from files, which are read again when they change.
///
/// INVARIANT: files that cannot be used change nothing: what was read before is used on.
pub struct FilesDial {
    files: HubFiles,
    spoke_id: Name,
    clock: Arc<dyn Clock>,
    look_every: Duration,
    held: Mutex<(Files, Held)>,
    refused: AtomicBool,
}

/// What the files hold.
#[derive(Clone)]
struct Held {
    identity: Identity,
    verifier: Arc<HubVerifier>,
    validity: Option<Validity>,
}

impl std::fmt::Debug for FilesDial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilesDial").field("files", &self.files).finish_non_exhaustive()
    }
}

impl FilesDial {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`FileError`] names the file that cannot be used, or whose certificate is of another
    /// enforcement point than `spoke_id`.
    pub fn open(
        files: HubFiles,
        spoke_id: Name,
        clock: Arc<dyn Clock>,
        look_every: Duration,
    ) -> Result<Self, FileError> {
        let mut seen = Files::default();
        let contents = seen.changed(&files.paths())?.unwrap_or_default();
        let held = files.read(contents, &spoke_id, &clock)?;
        Ok(Self {
            files,
            spoke_id,
            clock,
            look_every,
            held: Mutex::new((seen, held)),
            refused: AtomicBool::new(false),
        })
    }

    /// Takes over what has changed. Blocks.
    fn look(&self) -> Held {
        let mut held = self.held.lock();
        let (seen, current) = &mut *held;
        let changed = seen.changed(&self.files.paths());
        let read = changed.and_then(|contents| {
            contents.map(|contents| self.files.read(contents, &self.spoke_id, &self.clock)).transpose()
        });
        match read {
            Ok(None) => {}
            Ok(Some(next)) => {
                tracing::info!("certificates for the hub were taken over");
                *current = next;
                self.refused.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                self.refused.store(true, Ordering::Relaxed);
                tracing::error!(%error, "certificates for the hub cannot be taken over; those before stay");
            }
        }
        current.clone()
    }
}

impl Dial for FilesDial {
    fn dial<'a>(&'a self, endpoint: &'a str) -> Dialled<'a> {
        Box::pin(async move {
            let Held { identity, verifier, .. } = self.look();
            connect(endpoint, None, Some(identity), verifier).await
        })
    }

    fn validity(&self) -> Option<Validity> {
        self.held.lock().1.validity
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn keep<'a>(&'a self, _: &'a [String]) -> Kept<'a> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(self.look_every).await;
                self.look();
            }
        })
    }
}

impl HubFiles {
    fn paths(&self) -> [&Path; 3] {
        [&self.ca, &self.certificate, &self.key]
    }

    fn read(
        &self,
        contents: Vec<Zeroizing<Vec<u8>>>,
        spoke_id: &Name,
        clock: &Arc<dyn Clock>,
    ) -> Result<Held, FileError> {
        let mut contents = contents.into_iter();
        let mut next = || contents.next().unwrap_or_default();
        let ca = certificates(&self.ca, &next())?;
        let pem = next();
        let chain = certificates(&self.certificate, &pem)?;
        let key = Key::new(std::mem::take(&mut *next()));
        key_pair((&self.certificate, &chain), (&self.key, &key))?;
        let refuse =
            |path: &Path, what: String, expected| FileError { path: path.to_owned(), what, expected };
        let named = chain.first().map(|leaf| certified(leaf, None)).transpose();
        let named =
            named.map_err(|e| refuse(&self.certificate, e.to_string(), "a certificate that names an id"))?;
        if let Some(other) = named.filter(|named| named.id != *spoke_id) {
            let what = format!("it is of `{}`, and this enforcement point is `{spoke_id}`", other.id);
            return Err(refuse(&self.certificate, what, "a certificate of this enforcement point"));
        }
        let roots = roots(&ca).map_err(|e| refuse(&self.ca, e.to_string(), "certificates of authorities"))?;
        let verifier = Arc::new(HubVerifier::by_host(roots, WallClock::new(Arc::clone(clock))));
        let validity = chain.first().and_then(validity);
        Ok(Held { identity: Identity::from_pem(&*pem, key.pem()), verifier, validity })
    }
}

/// Connects to a hub that `verifier` accepts. `host` is asked for by name; `None`: that of the endpoint.
pub(super) async fn connect(
    endpoint: &str,
    host: Option<String>,
    identity: Option<Identity>,
    verifier: Arc<HubVerifier>,
) -> Result<Channel, String> {
    let mut tls = ClientTlsConfig::new();
    if let Some(host) = host {
        tls = tls.domain_name(host);
    }
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = tuned(endpoint)?.tls_config_with_verifier(tls, verifier).map_err(|e| causes(&e))?;
    endpoint.connect().await.map_err(|e| causes(&e))
}
