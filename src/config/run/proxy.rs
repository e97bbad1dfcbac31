//! The configuration of an enforcement point, as run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::proxy as raw;
use crate::config::run::carriers::{self, Carriers};
use crate::config::run::check::Check;
use crate::config::run::evidence::{self, Evidence};
use crate::config::run::hub_client::{self, HubClient};
use crate::config::run::introspection::{self, Introspection};
use crate::config::run::key_sources::{self, Around, KeySources};
use crate::config::run::listener::{self, Listener};
use crate::config::run::route::Defaults;
use crate::config::run::shared::{self, Log};
use crate::config::run::traces::{self, Traces};
use crate::config::run::upstream::{self, Forward, Upstream};
use crate::config::run::workload::{self, WorkloadApi};
use crate::core::id::Name;

/// The configuration of an enforcement point, as run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyConfig {
    /// Which enforcement point this is and where it keeps its files.
    pub enforcement_point: EnforcementPoint,
    /// The hubs that identity state is streamed from.
    pub hub: HubClient,
    /// Front doors; at least one, names and addresses unique.
    pub listeners: Vec<Listener>,
    /// Servers that allowed requests are forwarded to, by name.
    pub upstreams: BTreeMap<Arc<str>, Arc<Upstream>>,
    /// Which credentials are looked for and accepted.
    pub credentials: Credentials,
    /// Who is asked about opaque tokens; `None`: nobody.
    pub introspection: Option<Introspection>,
    /// Where the SPIFFE Workload API is, and what is taken from it beside certificates.
    pub workload_api: Option<WorkloadApi>,
    /// Issuers whose keys are fetched here; `None`: the hub fetches all.
    pub key_sources: Option<KeySources>,
    /// What an upstream is told.
    pub forward: Forward,
    /// Records of decisions.
    pub evidence: Evidence,
    /// Where the administration interface is served; a loopback address.
    pub admin: SocketAddr,
    /// Where health and metrics are served.
    pub metrics: SocketAddr,
    /// Diagnostics.
    pub log: Log,
    /// Threads that serve listeners; 1 to 1024.
    pub workers: usize,
    /// How long open exchanges may go on when the process is asked to end; 0 s to 1 h.
    pub drain_timeout: Duration,
    /// Most bytes that the process may have in memory; 16 MiB to 16 TiB; `None`: as its control group says.
    pub memory_budget: Option<u64>,
    /// Spans of requests, by the variables that OpenTelemetry has for them; `None`: there are none.
    pub traces: Option<Traces>,
}

/// Which enforcement point this is and where it keeps its files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnforcementPoint {
    /// Its name at the hub.
    pub id: Name,
    /// The tenant of a service that is named without one.
    pub tenant: Name,
    /// The directory of its state, decision log and lease.
    pub data_dir: PathBuf,
}

/// Which credentials are looked for and accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Where a credential is looked for, by listeners that do not say it themselves.
    pub carriers: Carriers,
    /// Audiences a token must name one of, where a route has none of its own; at least one.
    pub audiences: Arc<[Arc<str>]>,
    /// Tolerated difference between an issuer's clock and ours; 0 s to 60 s.
    pub clock_skew: Duration,
    /// The file that nonces of proofs are made from; `None`: a secret of the process alone.
    pub dpop_nonce_key: Option<PathBuf>,
}

const WORKERS_MAX: usize = 1024;

pub(in crate::config) fn proxy_config(check: &mut Check<'_>, raw: &raw::ProxyFile) -> Option<ProxyConfig> {
    let root = Key::root();
    let enforcement_point = enforcement_point(check, &raw.enforcement_point);
    let hub = hub_client::hub_client(check, &raw.hub);
    let credentials = credentials(check, &raw.credentials);
    let workload_api = raw.workload_api.as_ref().map(|raw| workload::workload_api(check, raw));
    let upstreams = upstream::upstreams(check, &raw.upstreams, raw.workload_api.is_some());
    let defaults = Defaults {
        tenant: enforcement_point.as_ref().map(|point| point.tenant.clone()),
        carriers: credentials.as_ref().map(|known| known.carriers.clone()),
        audiences: credentials.as_ref().map(|known| Arc::clone(&known.audiences)),
        clock_skew: credentials.as_ref().map(|known| known.clock_skew),
        workload_api: raw.workload_api.is_some(),
        upstreams: raw.upstreams.keys().map(String::as_str).collect(),
    };
    let listeners = listener::listeners(check, &raw.listeners, &defaults);
    let introspection = raw.introspection.as_ref().map(|raw| introspection::introspection(check, raw));
    let domains = raw.workload_api.as_ref().map(|api| &*api.jwt_bundles).unwrap_or_default();
    let around = Around { tenant: enforcement_point.as_ref().map(|point| &point.tenant), domains };
    let key_sources = raw.key_sources.as_ref().map(|raw| key_sources::key_sources(check, raw, &around));
    let forward = upstream::forward(check, &raw.forward);
    let evidence = evidence::evidence(check, &raw.evidence);
    let reason = "whoever reaches it sees the identity state";
    let admin = check.loopback(&root.field("admin").field("address"), &raw.admin.address, reason);
    let metrics = shared::metrics(check, &raw.metrics);
    let workers = workers(check, raw.workers);
    let drain = Duration::ZERO..=Duration::from_secs(3600);
    let drain_timeout = check.duration(&root.field("drain_timeout"), &raw.drain_timeout, &drain);
    let workload_api = match workload_api {
        Some(api) => Some(api?),
        None => None,
    };
    let budget_key = root.field("memory_budget");
    let memory_budget = match &raw.memory_budget {
        None => Some(None),
        Some(bytes) => check.size(&budget_key, bytes, &(16 << 20..=16 << 40)).map(Some),
    };
    Some(ProxyConfig {
        enforcement_point: enforcement_point?,
        hub: hub?,
        listeners: listeners?,
        upstreams: upstreams?,
        credentials: credentials?,
        introspection: match introspection {
            Some(introspection) => Some(introspection?),
            None => None,
        },
        workload_api,
        key_sources: match key_sources {
            Some(sources) => Some(sources?),
            None => None,
        },
        forward,
        evidence: evidence?,
        admin: admin?,
        metrics: metrics?,
        log: shared::log(&raw.log),
        workers: workers?,
        drain_timeout: drain_timeout?,
        memory_budget: memory_budget?,
        traces: traces::traces(check),
    })
}

fn enforcement_point(check: &mut Check<'_>, raw: &raw::EnforcementPoint) -> Option<EnforcementPoint> {
    let key = Key::root().field("enforcement_point");
    let id = match &raw.id {
        Some(id) => check.name(&key.field("id"), id),
        None => {
            let host_name = check.environment.host_name.to_ascii_lowercase();
            let id = Name::parse(&host_name).ok();
            if id.is_none() {
                let found = format!("nothing, and the host name {}, which is no name", quoted(&host_name));
                check.refuse(&key.field("id"), found, "a name", "add `id: NAME`");
            }
            id
        }
    };
    let tenant = check.name(&key.field("tenant"), &raw.tenant);
    let data_dir = check.path(&key.field("data_dir"), &raw.data_dir);
    Some(EnforcementPoint { id: id?, tenant: tenant?, data_dir: data_dir? })
}

fn credentials(check: &mut Check<'_>, raw: &raw::Credentials) -> Option<Credentials> {
    let key = Key::root().field("credentials");
    let carriers = carriers::carriers(check, &key.field("carriers"), &raw.carriers);
    let audiences = audiences(check, &key.field("audiences"), &raw.audiences);
    let skew = Duration::ZERO..=Duration::from_secs(60);
    let clock_skew = check.duration(&key.field("clock_skew"), &raw.clock_skew, &skew);
    let nonce_key = raw.dpop_nonce_key.as_ref().map(|path| check.path(&key.field("dpop_nonce_key"), path));
    let dpop_nonce_key = match nonce_key {
        Some(path) => Some(path?),
        None => None,
    };
    Some(Credentials { carriers: carriers?, audiences: audiences?, clock_skew: clock_skew?, dpop_nonce_key })
}

/// Audiences: at least one, none empty.
pub(super) fn audiences(check: &mut Check<'_>, key: &Key, raw: &[String]) -> Option<Arc<[Arc<str>]>> {
    if raw.is_empty() {
        let remedy = "name an audience that tokens for this proxy carry";
        check.refuse(key, "an empty list", "at least one audience", remedy);
        return None;
    }
    let empty: Vec<usize> =
        (0..raw.len()).filter(|index| raw.get(*index).is_some_and(String::is_empty)).collect();
    for index in &empty {
        check.refuse(&key.item(*index), "an empty text", "an audience", "name it, or remove the item");
    }
    empty.is_empty().then(|| raw.iter().map(|audience| Arc::from(audience.as_str())).collect())
}

fn workers(check: &mut Check<'_>, raw: Option<u64>) -> Option<usize> {
    match raw {
        Some(workers) => check.number(&Key::root().field("workers"), workers, 1..=WORKERS_MAX),
        None => Some(check.environment.cores.clamp(1, WORKERS_MAX)),
    }
}
