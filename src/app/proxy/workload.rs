//! What the SPIFFE Workload API gives to an enforcement point: handles that the rooms read, and who fills them.

use std::sync::Arc;

use super::{Condition, Core, Part};
use crate::app::{AppError, random};
use crate::config::{
    Authorities, ListenerKind, OwnCertificate, ProxyConfig, Tls, UpstreamAddress, WorkloadApi,
};
use crate::core::identity::LocalTrust;
use crate::mtls::{LiveBundles, LiveIdentity};
use crate::workload::{JwtBundles, Wanted, WorkloadClient, WorkloadStatus};

/// What is read where TLS is spoken and decisions are made.
#[derive(Clone, Debug, Default)]
pub(super) struct Workload {
    pub(super) wanted: Wanted,
    pub(super) trust: Arc<LocalTrust>,
    pub(super) status: Arc<WorkloadStatus>,
}

impl Workload {
    /// What `config` says is taken from the Workload API, and nothing else.
    pub(super) fn new(config: &ProxyConfig) -> Self {
        let domains = config.workload_api.as_ref().map(|api| api.jwt_bundles.clone()).unwrap_or_default();
        let wanted = Wanted {
            identity: shows_own(config).then(Arc::default),
            authorities: verifies_by_bundle(config).then(Arc::default),
            keys: (!domains.is_empty()).then(|| Arc::new(JwtBundles::new(domains))),
        };
        let trust = Arc::default();
        // Before anything is decided.
        wanted.keys.iter().for_each(|keys| keys.govern(&trust));
        Self { wanted, trust, ..Self::default() }
    }

    /// This process's own certificate.
    pub(super) fn identity(&self) -> Arc<LiveIdentity> {
        self.wanted.identity.clone().unwrap_or_default()
    }

    /// The authorities of trust domains.
    pub(super) fn authorities(&self) -> Arc<LiveBundles> {
        self.wanted.authorities.clone().unwrap_or_default()
    }
}

/// Every TLS of listeners.
fn tls(config: &ProxyConfig) -> impl Iterator<Item = &Tls> {
    config.listeners.iter().filter_map(|listener| match &listener.kind {
        ListenerKind::Proxy(proxy) => proxy.tls.as_ref(),
        ListenerKind::ExtAuthz(_) => None,
    })
}

fn shows_own(config: &ProxyConfig) -> bool {
    let upstreams = config.upstreams.values().any(|upstream| match &upstream.address {
        UpstreamAddress::Secure(_, tls) => tls.own == Some(OwnCertificate::WorkloadApi),
        UpstreamAddress::Clear(_) | UpstreamAddress::Socket(_) => false,
    });
    upstreams || tls(config).any(|tls| tls.from_workload_api)
}

fn verifies_by_bundle(config: &ProxyConfig) -> bool {
    let live =
        |tls: &Tls| tls.clients.as_ref().is_some_and(|it| matches!(it.ca, Authorities::WorkloadApi(_)));
    tls(config).any(live)
}

/// What is followed from the start on, and what a reload so cannot change.
pub(super) fn taken(config: &ProxyConfig) -> (Option<&WorkloadApi>, [bool; 2]) {
    (config.workload_api.as_ref(), [shows_own(config), verifies_by_bundle(config)])
}

/// Follows the Workload API for as long as it runs; `None`: nothing is wanted of it.
pub(super) fn start(config: &ProxyConfig, core: &Core) -> Result<Option<Part>, AppError> {
    let Workload { wanted, trust, status } = core.workload.clone();
    let nothing = wanted.identity.is_none() && wanted.authorities.is_none() && wanted.keys.is_none();
    let Some(api) = config.workload_api.as_ref().filter(|_| !nothing) else { return Ok(None) };
    let refuse = |why| AppError::io("`workload_api.socket`")(std::io::Error::other(why));
    WorkloadClient::check(&api.endpoint).map_err(refuse)?;
    let Condition { state, clock, .. } = core.condition.clone();
    let (exchanges, held) = (Arc::clone(&core.exchanges), Arc::clone(&state));
    let moved = move || {
        let cells: Vec<_> = held.load().cells().iter().map(|cell| cell.cell.clone()).collect();
        let ended: u64 = cells.iter().map(|cell| exchanges.doubted(cell)).sum();
        if ended > 0 {
            tracing::info!(ended, "exchanges were ended that rested on what the Workload API had said");
        }
    };
    let client = WorkloadClient {
        endpoint: api.endpoint.to_string(),
        wanted,
        trust,
        state,
        status,
        clock,
        moved: Arc::new(moved),
        pause: Arc::new(|wait| Box::pin(tokio::time::sleep(wait))),
        jitter: u64::from_le_bytes(random::bytes()?),
    };
    Part::start("workload-api", move |stop| client.run(stop)).map(Some)
}
