//! A hub from start to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

use super::admission::Admissions;
use super::api::{self, Context};
use super::authority::Authority;
use super::blocking;
use super::door::Door;
use super::enrolment::{CertificateAuthority, Enrolling, EnrolmentService};
use super::feed::Feed;
use super::figures::HubFigures;
use super::follow;
use super::issuers::Issuers;
use super::keys::ClusterKey;
use super::peer::Carried;
use super::receipts::{Keeper, Receipts};
use super::retention;
use super::roster::Roster;
use super::settings::{AccessSettings, HubError, HubSettings, StoreSettings, StreamSecurity};
use super::store::{DirectoryLock, FaultKind, PostgresStore, SqliteStore, StateStore, StoreFault};
use super::stream::{Partners, Shared, StateService};
use super::token::Admins;
use super::witness::Witness;
use crate::core::time::Clock;
use crate::mtls::Cluster;

/// A hub whose store is open. It serves nobody yet.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    figures: HubFigures,
    context: Arc<Context>,
    streams: Arc<Shared>,
    enrolling: Arc<Enrolling>,
    /// `None`: the state stream is in clear.
    door: Option<Arc<Door>>,
    shutdown: CancellationToken,
    /// Saves receipts while the hub serves.
    keeper: Option<Keeper>,
    _lock: Option<DirectoryLock>,
}

impl Hub {
    /// Opens the store and the admin token, making both at the first start. Blocks.
    ///
    /// # Errors
    /// [`HubError`] names the file, what is wrong and what to do.
    pub fn open(settings: HubSettings, clock: Arc<dyn Clock>) -> Result<Self, HubError> {
        refuse_beyond_loopback(&settings)?;
        let (store, lock) = open_store(&settings, Arc::clone(&clock))?;
        let hub = Self::over(store, settings, clock)?;
        Ok(Self { _lock: lock, ..hub })
    }

    /// A hub over a store that is open. Blocks.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn over(
        store: Arc<dyn StateStore>,
        settings: HubSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, HubError> {
        let admins = Admins::load_or_make(&settings)?;
        let key = ClusterKey::of(&*store, &settings.data_dir)?;
        let witness = Witness::open(&settings.witness, settings.store_file(), &key)?;
        witness.admit(&*store)?;
        key.admit(&*store, &settings.data_dir)?;
        let authority = certificate_authority(&*store, &key)?;
        let feed = Arc::new(Feed::new(Arc::clone(&store), key, witness, mirror_key()?, &*clock)?);
        feed.name(&store.heartbeat()?, clock.now().wall)?;
        let roster = Arc::new(Roster::load(Arc::clone(&store), Arc::clone(&clock))?);
        let shutdown = CancellationToken::new();
        let (receipts, keeper) = Receipts::new(Arc::clone(&store));
        let enrolling = enrolling(&settings.access, &authority, &feed, &clock);
        let door = door(&settings.access, authority, &clock)?;
        let changes = Authority::new(Arc::clone(&feed), Arc::clone(&clock), settings.guard);
        let changes = Arc::new(changes);
        let issuers =
            Issuers::new(Arc::clone(&feed), Arc::clone(&changes), Arc::clone(&clock), &settings.issuers);
        let issuers = Arc::new(issuers);
        let streams = Shared::new(
            Arc::clone(&feed),
            Arc::clone(&roster),
            Arc::clone(&clock),
            settings.streams.clone(),
            Partners {
                receipts,
                admissions: Arc::clone(&enrolling.admissions),
                issuers: Arc::clone(&issuers),
            },
            shutdown.clone(),
        );
        let context = Arc::new(Context {
            feed: Arc::clone(&feed),
            authority: changes,
            issuers: Arc::clone(&issuers),
            roster: Arc::clone(&roster),
            clock: Arc::clone(&clock),
            admins,
            streams: Arc::clone(&streams),
            enrolling: Arc::clone(&enrolling),
            shutdown: shutdown.clone(),
            room: Semaphore::new(STORE_REQUESTS_MAX),
        });
        tracing::info!(store = store.describe(), revision = feed.head(), "the hub's store is open");
        Ok(Self {
            settings,
            figures: HubFigures {
                streams: Arc::clone(&streams),
                issuers,
                enrolling: Arc::clone(&enrolling),
                door: door.clone(),
            },
            context,
            streams,
            enrolling,
            door,
            shutdown,
            keeper: Some(keeper),
            _lock: None,
        })
    }

    /// Numbers for metrics.
    pub const fn figures(&self) -> &HubFigures {
        &self.figures
    }

    /// The HTTP API, for whoever answers its requests without a listener of the hub's.
    pub fn api(&self) -> axum::Router {
        api::router(Arc::clone(&self.context))
    }

    /// Serves the state stream alone to whoever comes in, until `shutdown`. Each is taken at its word
    /// for who it is: for pipes within one process.
    ///
    /// # Errors
    /// [`HubError::Serve`] when accepting fails.
    pub async fn serve_streams<I, C>(
        mut self,
        incoming: I,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), HubError>
    where
        I: Stream<Item = std::io::Result<C>>,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let saved = CancellationToken::new();
        let keeping = keep_receipts(&mut self, saved.clone());
        let serving = serve_stream(&self, incoming.map(|io| io.map(|io| Carried::claimed(io, None))));
        let stop = async {
            shutdown.await;
            self.shutdown.cancel();
            self.streams.drained().await;
            Ok(())
        };
        let retaining = retention::run(&self.context, &self.settings.retention);
        let either = async {
            let ended = tokio::select! {
                biased;
                ended = serving => ended,
                ended = stop => ended,
                () = retaining => Ok(()),
            };
            saved.cancel();
            ended
        };
        tokio::join!(either, keeping).0
    }

    /// Takes both listeners. Nobody is answered before [`BoundHub::serve`].
    ///
    /// # Errors
    /// [`HubError::Listen`] names the address, what is wrong and what to do.
    pub async fn bind(self) -> Result<BoundHub, HubError> {
        let stream = listen("the state stream", self.settings.stream).await?;
        let api = listen("the HTTP API", self.settings.api).await?;
        Ok(BoundHub { hub: self, stream, api })
    }
}

/// A hub that has its listeners.
#[derive(Debug)]
pub struct BoundHub {
    hub: Hub,
    stream: TcpListener,
    api: TcpListener,
}

impl BoundHub {
    /// Where the state stream listens.
    ///
    /// # Errors
    /// [`HubError::Serve`] when the system does not say.
    pub fn stream_address(&self) -> Result<SocketAddr, HubError> {
        self.stream.local_addr().map_err(|e| failed("the state stream", &e))
    }

    /// Where the HTTP API listens.
    ///
    /// # Errors
    /// [`HubError::Serve`] when the system does not say.
    pub fn api_address(&self) -> Result<SocketAddr, HubError> {
        self.api.local_addr().map_err(|e| failed("the HTTP API", &e))
    }

    /// Numbers for metrics.
    pub const fn figures(&self) -> &HubFigures {
        self.hub.figures()
    }

    /// Serves until `shutdown`, then ends every stream and finishes open requests.
    ///
    /// # Errors
    /// [`HubError::Serve`] when a listener fails.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), HubError> {
        let Self { mut hub, stream, api } = self;
        let saved = CancellationToken::new();
        let keeping = keep_receipts(&mut hub, saved.clone());
        let stopping = hub.shutdown.clone();
        let streams = serve_listener(&hub, stream);
        let requests = serve_api(&hub, api);
        let sweeping = sweep(&hub);
        let following = follow::run(&hub.context);
        let retaining = retention::run(&hub.context, &hub.settings.retention);
        let fetching = hub.context.issuers.run();
        let both = async {
            let ended = tokio::try_join!(streams, requests);
            hub.shutdown.cancel();
            hub.streams.drained().await;
            saved.cancel();
            ended.map(|_| ())
        };
        let all = async { tokio::join!(both, keeping).0 };
        let stop = async {
            shutdown.await;
            tracing::info!("the hub is stopping");
            stopping.cancel();
            tokio::time::sleep(DRAIN_MAX).await;
            tracing::warn!("some connections did not end in time and are cut");
        };
        tokio::select! {
            ended = all => ended,
            () = stop => Ok(()),
            () = sweeping => Ok(()),
            () = following => Ok(()),
            () = retaining => Ok(()),
            () = fetching => Ok(()),
        }
    }
}

/// Serves the state stream behind its door, where there is one.
async fn serve_listener(hub: &Hub, listener: TcpListener) -> Result<(), HubError> {
    let admissions = Arc::clone(&hub.enrolling.admissions);
    let following = async {
        admissions.follow().await;
        std::future::pending().await
    };
    let serving = async {
        match &hub.door {
            Some(door) => {
                let keeping = Arc::clone(door).keep(hub.settings.access.look_every);
                let incoming = std::pin::pin!(Arc::clone(door).incoming(listener));
                tokio::select! {
                    ended = serve_stream(hub, incoming) => ended,
                    () = keeping => Ok(()),
                }
            }
            None => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                let claimed = |io: TcpStream| {
                    let address = io.peer_addr().ok();
                    Carried::claimed(io, address)
                };
                serve_stream(hub, incoming.map(move |io| io.map(claimed))).await
            }
        }
    };
    tokio::select! {
        ended = serving => ended,
        () = following => Ok(()),
    }
}

/// Serves the state stream to whoever comes in.
async fn serve_stream<I, C>(hub: &Hub, incoming: I) -> Result<(), HubError>
where
    I: Stream<Item = std::io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS_A_CONNECTION_MAX);
    server
        .add_service(StateService::server(Arc::clone(&hub.streams)))
        .add_service(EnrolmentService::server(Arc::clone(&hub.enrolling)))
        .serve_with_incoming_shutdown(incoming, hub.shutdown.clone().cancelled_owned())
        .await
        .map_err(|e| failed("the state stream", &e))
}

async fn serve_api(hub: &Hub, listener: TcpListener) -> Result<(), HubError> {
    axum::serve(listener, api::router(Arc::clone(&hub.context)))
        .with_graceful_shutdown(hub.shutdown.clone().cancelled_owned())
        .await
        .map_err(|e| failed("the HTTP API", &e))
}

/// Saves receipts until `stop`.
fn keep_receipts(hub: &mut Hub, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
    let keeper = hub.keeper.take();
    async move {
        if let Some(keeper) = keeper {
            keeper.run(stop).await;
        }
    }
}

async fn sweep(hub: &Hub) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let admissions = Arc::clone(&hub.enrolling.admissions);
        if let Err(error) = blocking(&**hub.streams.feed.store(), move || admissions.sweep()).await {
            tracing::warn!(%error, "join tokens that expired could not be forgotten");
        }
        if let Err(error) = hub.streams.roster.sweep().await {
            tracing::warn!(%error, "lapsed members could not be forgotten");
        }
        let (authority, now) = (Arc::clone(&hub.context.authority), hub.context.clock.now().wall);
        let swept = blocking(&**hub.context.feed.store(), move || authority.held().sweep(now)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "held changes could not be let go of");
        }
    }
}

fn mirror_key() -> Result<u128, HubError> {
    let mut random = [0; 16];
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => Ok(u128::from_le_bytes(random)),
        Err(_) => Err(HubError::Serve { listener: "the hub", what: "no random bytes can be had".to_owned() }),
    }
}

/// The authority that the cluster key makes.
fn certificate_authority(
    store: &dyn StateStore,
    key: &ClusterKey,
) -> Result<Arc<CertificateAuthority>, HubError> {
    let cluster = Cluster::new(store.identity().cluster_id);
    let seed = key.derive(b"portreeve enrolment authority v1");
    let authority = seed.and_then(|seed| CertificateAuthority::new(cluster, &seed)).map(Arc::new);
    let what = || "the cluster key makes no certificate authority".to_owned();
    authority.ok_or_else(|| HubError::Serve { listener: "the hub", what: what() })
}

fn enrolling(
    access: &AccessSettings,
    authority: &Arc<CertificateAuthority>,
    feed: &Arc<Feed>,
    clock: &Arc<dyn Clock>,
) -> Arc<Enrolling> {
    let default_scope = access.default_scope.clone();
    let admissions = Admissions::new(Arc::clone(feed.store()), Arc::clone(clock), default_scope);
    Arc::new(Enrolling::new(
        Arc::clone(authority),
        Arc::new(admissions),
        Arc::clone(feed),
        Arc::clone(clock),
        access.certificate_lifetime,
        access.security != StreamSecurity::CleartextOnLoopback,
    ))
}

fn door(
    access: &AccessSettings,
    authority: Arc<CertificateAuthority>,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<Door>>, HubError> {
    match &access.security {
        StreamSecurity::CleartextOnLoopback => Ok(None),
        StreamSecurity::MutualTls(files) => {
            Door::open(authority, files.clone(), Arc::clone(clock)).map(Arc::new).map(Some)
        }
    }
}

/// What is in clear must not cross a network: anybody on it could revive a revoked identity.
fn refuse_beyond_loopback(settings: &HubSettings) -> Result<(), HubError> {
    let in_clear = settings.access.security == StreamSecurity::CleartextOnLoopback;
    let stream = in_clear.then_some(("the state stream", settings.stream));
    for (listener, address) in stream.into_iter().chain([("the HTTP API", settings.api)]) {
        if !address.ip().is_loopback() {
            return Err(HubError::Listen {
                listener,
                address,
                what: "in clear anyone on the path could change state".to_owned(),
                remedy: "listen on loopback, behind a terminator of TLS if need be",
            });
        }
    }
    Ok(())
}

/// Opens the store that `settings` name, with the lock of the data directory if that is another.
pub(super) fn open_store(
    settings: &HubSettings,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn StateStore>, Option<DirectoryLock>), HubError> {
    let lock = lock_beside_store(settings)?;
    let store: Arc<dyn StateStore> = match &settings.store {
        StoreSettings::Sqlite(file) => {
            refuse_in_place_of_a_lost_one(file, &settings.witness)?;
            Arc::new(SqliteStore::open(file, clock)?)
        }
        StoreSettings::Postgres(database) => {
            let store = PostgresStore::open(database, clock).map_err(|fault| match fault.kind() {
                FaultKind::Unreachable => {
                    fault.with_remedy("check the database and the way to it, then start the hub again")
                }
                _ => fault,
            });
            Arc::new(store?)
        }
    };
    Ok((store, lock))
}

/// A store is made at the first start; where there was one before, it is missing.
fn refuse_in_place_of_a_lost_one(file: &Path, witness: &Path) -> Result<(), StoreFault> {
    if file.exists() || !witness.exists() {
        return Ok(());
    }
    let what = format!("it is not there, and was: `{}` was kept for it", witness.display());
    Err(StoreFault::new(file, FaultKind::Behind, what).with_remedy(
        "put it back; of a backup make a store with `portreeve hub restore`; to begin another cluster, remove the witness too",
    ))
}

/// The store locks its own directory; the data directory is locked too when it is another.
pub(super) fn lock_beside_store(settings: &HubSettings) -> Result<Option<DirectoryLock>, HubError> {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    let beside = settings.store_file().map(|file| absolute(file.parent().unwrap_or(Path::new(""))));
    if beside.is_some_and(|beside| beside == absolute(&settings.data_dir)) {
        Ok(None)
    } else {
        Ok(Some(DirectoryLock::acquire(&settings.data_dir)?))
    }
}

async fn listen(listener: &'static str, address: SocketAddr) -> Result<TcpListener, HubError> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
            std::io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
            std::io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
            _ => "choose another address",
        };
        HubError::Listen { listener, address, what: error.to_string(), remedy }
    })
}

fn failed(listener: &'static str, error: &dyn std::error::Error) -> HubError {
    HubError::Serve { listener, what: error.to_string() }
}

const STORE_REQUESTS_MAX: usize = 32;
const STREAMS_A_CONNECTION_MAX: u32 = 64;
const KEEPALIVE: Duration = Duration::from_secs(20);
const DRAIN_MAX: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
