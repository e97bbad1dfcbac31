//! The state stream's way in: mutual TLS, its files read again when they change.
//!
//! A hub always has a certificate of the cluster's own authority, for those who joined; whoever asks
//! for it by its host name gets it. With files of its own it shows theirs to all others. A client
//! certificate is verified against the cluster's authority and those of `client_ca`; a connection
//! without one may join and nothing else, which the services hold.
//!
//! INVARIANT: a file that cannot be used changes nothing. What is open stays open: only connections
//! from then on are met with what is new. No session is resumed, so each one is verified.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::Stream;
use parking_lot::Mutex;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::enrolment::CertificateAuthority;
use super::peer::{Carried, Peer, Who};
use super::settings::{HubError, TlsFiles};
use crate::core::time::{Clock, Timestamp};
use crate::mtls::{Files, Key, WallClock, certificates, certified, key_pair, provider, roots};

/// Meets connections.
pub(crate) struct Door {
    authority: Arc<CertificateAuthority>,
    clock: Arc<dyn Clock>,
    files: Option<TlsFiles>,
    current: ArcSwap<ServerConfig>,
    kept: Mutex<Kept>,
    counts: DoorCounts,
}

/// What the current configuration is made of.
struct Kept {
    seen: Files,
    given: Option<Given>,
    own: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

/// What the files hold.
#[derive(Clone)]
struct Given {
    certificate: Arc<CertifiedKey>,
    clients: Vec<rustls::pki_types::CertificateDer<'static>>,
}

/// Numbers for metrics.
#[derive(Debug, Default)]
pub(crate) struct DoorCounts {
    pub(crate) refused: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) failed_reloads: AtomicU64,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Door {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`HubError`] names the file, what is wrong and what to do.
    pub(crate) fn open(
        authority: Arc<CertificateAuthority>,
        files: Option<TlsFiles>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, HubError> {
        let mut seen = Files::default();
        let given = match &files {
            Some(files) => files.read(&mut seen)?,
            None => None,
        };
        let (own, renew_at) = own_certificate(&authority, clock.now().wall)?;
        let config = configure(&authority, given.as_ref(), &own, &clock)?;
        let kept = Mutex::new(Kept { seen, given, own, renew_at });
        let counts = DoorCounts::default();
        Ok(Self { authority, clock, files, current: ArcSwap::from(config), kept, counts })
    }

    /// Numbers for metrics.
    pub(crate) const fn counts(&self) -> &DoorCounts {
        &self.counts
    }

    /// Looks at the files again and again, and renews its own certificate. Never ends.
    pub(crate) async fn keep(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.look()).await
                && error.is_panic()
            {
                tracing::error!("looking at the certificates failed");
            }
        }
    }

    /// Takes over what has changed, or keeps what there is.
    fn look(&self) {
        let mut kept = self.kept.lock();
        let now = self.clock.now().wall;
        let read = self.files.as_ref().map_or(Ok(None), |files| files.read(&mut kept.seen));
        let next = read.and_then(|given| {
            let (own, renew_at) = if now >= kept.renew_at {
                own_certificate(&self.authority, now)?
            } else if given.is_none() {
                return Ok(None);
            } else {
                (Arc::clone(&kept.own), kept.renew_at)
            };
            let given = given.or_else(|| kept.given.clone());
            let config = configure(&self.authority, given.as_ref(), &own, &self.clock)?;
            Ok(Some((config, given, own, renew_at)))
        });
        match next {
            Ok(None) => {}
            Ok(Some((config, given, own, renew_at))) => {
                self.current.store(config);
                (kept.given, kept.own, kept.renew_at) = (given, own, renew_at);
                self.counts.reloads.fetch_add(1, Ordering::Relaxed);
                tracing::info!("certificates of the state stream were taken over");
            }
            Err(error) => {
                self.counts.failed_reloads.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "certificates of the state stream cannot be taken over; those before stay");
            }
        }
    }

    /// Meets whoever comes to `listener`, several at a time.
    pub(crate) fn incoming(
        self: Arc<Self>,
        listener: TcpListener,
    ) -> impl Stream<Item = std::io::Result<Carried<TlsStream<TcpStream>>>> {
        let meeting = Meeting { door: self, listener, greeted: JoinSet::new() };
        futures_util::stream::unfold(meeting, |mut meeting| async {
            let next = meeting.next().await;
            Some((next, meeting))
        })
    }

    /// One handshake.
    async fn meet(self: Arc<Self>, stream: TcpStream) -> Option<Carried<TlsStream<TcpStream>>> {
        let address = stream.peer_addr().ok();
        // A connection that cannot be told to be quick is slower, and no worse.
        stream.set_nodelay(true).unwrap_or_default();
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let refused = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
            Ok(Ok(io)) => {
                let who = self.who(&io);
                return Some(Carried { io, peer: Peer { address, who } });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        tracing::warn!(peer = address, why = refused, "no TLS with whoever came to the state stream");
        None
    }

    fn who(&self, io: &TlsStream<TcpStream>) -> Who {
        let Some(leaf) = io.get_ref().1.peer_certificates().and_then(<[_]>::first) else {
            return Who::Stranger;
        };
        match certified(leaf, Some(&self.authority.cluster())) {
            Ok(certified) => Who::Certified(Arc::new(certified)),
            Err(error) => Who::Nameless(error.to_string()),
        }
    }
}

/// A listener, and whom it is greeting.
struct Meeting {
    door: Arc<Door>,
    listener: TcpListener,
    greeted: JoinSet<Option<Carried<TlsStream<TcpStream>>>>,
}

impl Meeting {
    async fn next(&mut self) -> std::io::Result<Carried<TlsStream<TcpStream>>> {
        loop {
            let has_room = self.greeted.len() < HANDSHAKES_MAX;
            tokio::select! {
                Some(greeted) = self.greeted.join_next() => {
                    if let Ok(Some(carried)) = greeted {
                        return Ok(carried);
                    }
                }
                came = self.listener.accept(), if has_room => match came {
                    Ok((stream, _)) => {
                        self.greeted.spawn(Arc::clone(&self.door).meet(stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the state stream could not be taken");
                        // Out of descriptors, most likely: others must end before the next can begin.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

impl TlsFiles {
    /// What they hold, if that has changed. Blocks.
    fn read(&self, seen: &mut Files) -> Result<Option<Given>, HubError> {
        let client_ca = self.client_ca.as_deref();
        let paths: Vec<&Path> = [&*self.certificate, &*self.key].into_iter().chain(client_ca).collect();
        let Some(contents) = seen.changed(&paths)? else { return Ok(None) };
        let mut contents = contents.into_iter();
        let mut next = || contents.next().unwrap_or_else(|| Zeroizing::new(Vec::new()));
        let chain = certificates(&self.certificate, &next())?;
        let key = Key::new(std::mem::take(&mut *next()));
        let certificate = Arc::new(key_pair((&self.certificate, &chain), (&self.key, &key))?);
        let clients = match client_ca {
            Some(path) => certificates(path, &next())?,
            None => Vec::new(),
        };
        Ok(Some(Given { certificate, clients }))
    }
}

fn own_certificate(
    authority: &CertificateAuthority,
    now: Timestamp,
) -> Result<(Arc<CertifiedKey>, Timestamp), HubError> {
    let made = authority.certify_hub(now.before(BACKDATED), now.after(OWN_LIFETIME));
    let made = made.ok_or_else(|| unusable("no certificate for the hub can be made"))?;
    Ok((Arc::new(made), now.after(OWN_LIFETIME / 2)))
}

fn configure(
    authority: &Arc<CertificateAuthority>,
    given: Option<&Given>,
    own: &Arc<CertifiedKey>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, HubError> {
    let mut trusted = vec![authority.certificate().clone()];
    trusted.extend(given.iter().flat_map(|given| given.clients.iter().cloned()));
    let trusted = roots(&trusted).map_err(|e| unusable(&format!("client_ca: {e}")))?;
    let clients = WebPkiClientVerifier::builder_with_provider(trusted, provider()).allow_unauthenticated();
    let clients = clients.build().map_err(|e| unusable(&e.to_string()))?;
    let shown = Shown {
        host: authority.cluster().hub_host(),
        own: Arc::clone(own),
        given: given.map(|given| Arc::clone(&given.certificate)),
    };
    let time = Arc::new(WallClock::new(Arc::clone(clock)));
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|e| unusable(&e.to_string()))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Which certificate is shown to whom.
#[derive(Debug)]
struct Shown {
    host: String,
    own: Arc<CertifiedKey>,
    given: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let given = self.given.as_ref().filter(|_| hello.server_name() != Some(&*self.host));
        Some(Arc::clone(given.unwrap_or(&self.own)))
    }
}

fn unusable(what: &str) -> HubError {
    HubError::Serve { listener: "the state stream", what: what.to_owned() }
}

/// Handshakes under way at once.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How far another machine's clock may be behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(300);
const OWN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
