//! Connections to a hub under mutual TLS, with a certificate that the hub itself gave: once for a
//! join token, then again and again for the certificate before.
//!
//! `identity.pem`, for its owner alone: a line with the number of the join token, the private key,
//! its certificate, the authority. It is replaced whole. `next.key` is the key of a certificate that
//! has been asked for and not come yet, so that a lost answer can be asked for again.

mod kept;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use tonic::Code;

use crate::core::id::Name;
use crate::core::time::{Clock, Timestamp};
use crate::files;
use crate::mtls::{HubVerifier, JoinToken, WallClock, roots};
use crate::state::client::{Backoff, Dial, Dialled, Kept, Pins, Validity};
use crate::state::dial::connect;
use crate::state::session::in_time;
use crate::wire::state_proto as proto;
use kept::{Folder, Held};
use proto::enrolment_client::EnrolmentClient;

/// What joining needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnrolmentSettings {
    /// The file of the join token; it need not be there once a certificate is.
    pub join_token_file: PathBuf,
    /// Where certificate and key are kept.
    pub folder: PathBuf,
    /// This enforcement point.
    pub spoke_id: Name,
    /// How often it is looked whether the certificate is to be renewed.
    pub look_every: Duration,
    /// Seed for the jitter between tries.
    pub jitter: u64,
}

/// Why a kept certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The file system refused.
    #[error("`{}`: {source}; let this user read and write its data directory", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// What it holds cannot be used.
    #[error("`{}`: {what}; remove it, and put a new join token in place", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Dials with a certificate that the hub gave.
///
/// INVARIANT: before a certificate is held, a hub is believed only when it shows the authority that
/// the join token names; afterwards, only by that authority.
pub struct EnrolledDial {
    settings: EnrolmentSettings,
    clock: Arc<dyn Clock>,
    folder: Folder,
    held: Mutex<Option<Arc<Held>>>,
    /// The number of a join token that was refused for good: it is not tried again.
    spent: Mutex<Option<String>>,
    pins: Mutex<Option<Pins>>,
    /// One join or renewal at a time.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for EnrolledDial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolledDial").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl EnrolledDial {
    /// Reads what is kept, if there is anything. Blocks.
    ///
    /// # Errors
    /// [`EnrolmentError`] names the file.
    pub fn open(settings: EnrolmentSettings, clock: Arc<dyn Clock>) -> Result<Self, EnrolmentError> {
        let folder = Folder::open(&settings.folder)?;
        let held = folder.read(&settings.spoke_id)?.map(Arc::new);
        let (spent, pins, turn) = Default::default();
        Ok(Self { settings, clock, folder, held: Mutex::new(held), spent, pins, turn })
    }

    /// Until when the certificate is good; `None`: there is none.
    pub fn expires(&self) -> Option<Timestamp> {
        self.held.lock().as_ref().map(|held| held.certified.not_after)
    }

    /// What to connect with: what is held, or what a new join token brings.
    async fn credentials(&self, endpoint: &str) -> Result<Arc<Held>, String> {
        let _turn = self.turn.lock().await;
        let held = self.held.lock().clone();
        let good = held.filter(|held| self.clock.now().wall <= held.certified.not_after);
        let token = self.token();
        match (good, token) {
            (Some(held), Ok(Some(token))) if token.number() != held.joined_by => {
                // A new one was put in place: this enforcement point is to begin anew.
                match self.join(endpoint, &token).await {
                    Ok(joined) => Ok(joined),
                    Err(why) => {
                        tracing::warn!(
                            why,
                            "the new join token was not taken; the certificate of before is used"
                        );
                        Ok(held)
                    }
                }
            }
            (Some(held), _) => Ok(held),
            (None, Ok(Some(token))) => self.join(endpoint, &token).await,
            (None, Ok(None)) => Err(self.needs_token("that join token was tried before")),
            (None, Err(why)) => Err(self.needs_token(&why)),
        }
    }

    fn needs_token(&self, why: &str) -> String {
        let (id, file) = (&self.settings.spoke_id, self.settings.join_token_file.display());
        let expired = match self.expires() {
            Some(at) => format!("the certificate expired at {}", Wall(at)),
            None => "there is no certificate yet".to_owned(),
        };
        format!(
            "{expired}, and no join token to get one with: {why}; \
             make one with `portreeve hub join-token --id {id}` and put it in `{file}`"
        )
    }

    /// The join token that is in place; `None`: it was refused before.
    fn token(&self) -> Result<Option<JoinToken>, String> {
        let file = &self.settings.join_token_file;
        let refuse = |e: &dyn std::fmt::Display| format!("`{}`: {e}", file.display());
        let bytes = files::read(file, TOKEN_FILE_BYTES_MAX).map(zeroize::Zeroizing::new);
        let bytes = bytes.map_err(|e| refuse(&e))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| refuse(&e))?;
        let token = JoinToken::parse(text.trim()).map_err(|e| refuse(&e))?;
        if *token.spoke_id() != self.settings.spoke_id {
            let (found, own) = (token.spoke_id(), &self.settings.spoke_id);
            let file = file.display();
            return Err(format!("`{file}`: it is for `{found}`, and this enforcement point is `{own}`"));
        }
        let is_spent = self.spent.lock().as_deref() == Some(&*token.number());
        Ok((!is_spent).then_some(token))
    }

    async fn join(&self, endpoint: &str, token: &JoinToken) -> Result<Arc<Held>, String> {
        let (cluster, clock) = (token.cluster(), WallClock::new(Arc::clone(&self.clock)));
        let verifier = HubVerifier::by_token(&cluster, *token.authority(), clock);
        let channel = connect(endpoint, Some(cluster.hub_host()), None, Arc::new(verifier)).await?;
        let key = self.folder.next_key().map_err(|e| e.to_string())?;
        let asked = proto::JoinRequest {
            token: token.reveal().to_string(),
            spoke_id: self.settings.spoke_id.to_string(),
            csr_der: request(&key)?,
        };
        let enrolled = match in_time(EnrolmentClient::new(channel).join(asked)).await {
            Ok(enrolled) => enrolled.into_inner(),
            Err(error) => {
                if error
                    .code()
                    .is_some_and(|code| matches!(code, Code::PermissionDenied | Code::InvalidArgument))
                {
                    *self.spent.lock() = Some(token.number());
                }
                return Err(format!("joining: {error}"));
            }
        };
        let held = Held::new(&enrolled, &key, token.number(), &self.settings.spoke_id);
        let held = held.filter(|held| held.is_by(cluster, token.authority()));
        let held =
            held.ok_or("joining: the hub gave no certificate of its own for this enforcement point")?;
        tracing::info!(spoke = %self.settings.spoke_id, "joined the cluster");
        self.take(held, &enrolled)
    }

    /// Renews the certificate with itself.
    async fn renew(&self, endpoint: &str, held: &Held) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let channel = self.connect(endpoint, held).await?;
        let key = self.folder.next_key().map_err(|e| e.to_string())?;
        let asked = proto::RenewRequest { csr_der: request(&key)? };
        let enrolled =
            in_time(EnrolmentClient::new(channel).renew(asked)).await.map_err(|e| e.to_string())?;
        let enrolled = enrolled.into_inner();
        let renewed = Held::new(&enrolled, &key, held.joined_by.clone(), &self.settings.spoke_id);
        let renewed = renewed.filter(|renewed| renewed.root == held.root);
        let renewed = renewed.ok_or("the hub gave no certificate of the same authority")?;
        self.take(renewed, &enrolled)?;
        tracing::info!(spoke = %self.settings.spoke_id, "renewed the certificate for the hub");
        Ok(())
    }

    fn take(&self, held: Held, enrolled: &proto::Enrolled) -> Result<Arc<Held>, String> {
        self.folder.write(&held).map_err(|e| e.to_string())?;
        let held = Arc::new(held);
        *self.held.lock() = Some(Arc::clone(&held));
        if !enrolled.signing_keys.is_empty() {
            let signing_keys = enrolled.signing_keys.clone();
            *self.pins.lock() = Some(Pins { cluster_id: enrolled.cluster_id.clone(), signing_keys });
        }
        Ok(held)
    }

    async fn connect(&self, endpoint: &str, held: &Held) -> Result<tonic::transport::Channel, String> {
        let roots = roots(std::slice::from_ref(&held.root)).map_err(|e| e.to_string())?;
        let clock = WallClock::new(Arc::clone(&self.clock));
        let verifier = Arc::new(HubVerifier::enrolled(&held.cluster, roots, clock));
        connect(endpoint, Some(held.cluster.hub_host()), Some(held.identity()), verifier).await
    }

    /// The certificate, once it is old enough to be renewed, and while it still can be.
    fn due(&self) -> Option<Arc<Held>> {
        let now = self.clock.now().wall;
        self.held.lock().clone().filter(|held| now >= held.renew_at() && now <= held.certified.not_after)
    }
}

impl Dial for EnrolledDial {
    fn dial<'a>(&'a self, endpoint: &'a str) -> Dialled<'a> {
        Box::pin(async move {
            let held = self.credentials(endpoint).await?;
            self.connect(endpoint, &held).await
        })
    }

    fn keep<'a>(&'a self, endpoints: &'a [String]) -> Kept<'a> {
        Box::pin(async move {
            let mut backoff = Backoff::new(self.settings.jitter);
            let mut at = 0;
            loop {
                tokio::time::sleep(self.settings.look_every).await;
                let Some(held) = self.due() else { continue };
                let Some(endpoint) = endpoints.get(at % endpoints.len().max(1)) else { continue };
                let renewed = self.renew(endpoint, &held).await;
                if let Err(error) = &renewed {
                    at += 1;
                    let expires = Wall(held.certified.not_after).to_string();
                    tracing::warn!(
                        hub = endpoint,
                        error,
                        expires,
                        "the certificate for the hub is not renewed yet"
                    );
                }
                tokio::time::sleep(backoff.after(renewed.is_ok(), false)).await;
            }
        })
    }

    fn validity(&self) -> Option<Validity> {
        self.held.lock().as_ref().map(|held| (held.certified.not_before, held.certified.not_after))
    }

    fn pins(&self) -> Option<Pins> {
        self.pins.lock().clone()
    }
}

/// A request for a certificate of `key`: of what it says beside the key nothing counts.
fn request(key: &KeyPair) -> Result<Bytes, String> {
    let made = CertificateParams::default().serialize_request(key).map_err(|e| e.to_string())?;
    Ok(Bytes::copy_from_slice(made.der()))
}

/// A time for people, RFC 3339 in UTC.
struct Wall(Timestamp);

impl std::fmt::Display for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0.as_micros()) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{:?}", self.0),
        }
    }
}

impl EnrolmentError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Larger than any join token.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;
