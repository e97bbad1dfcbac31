//! Another configuration for a running enforcement point: taken whole or refused.
//!
//! What listens, who this is, and what the hub was told of it stays until a restart. What requests are
//! read, judged and forwarded by is replaced for those that come after.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use serde_json::{Value, json};

use super::tls::{self, Tls};
use super::{
    AssertionKey, Core, Explained, LogLevel, Part, ProxyConfig, Running, health, settings, workload,
};
use crate::app::AppError;
use crate::app::certificates::Certificates;
use crate::config::{Authorities, Limits, Listener, ListenerKind};
use crate::core::policy::Staleness;
use crate::pep::{ExtAuthzDoor, Load, ProxyDoor};

/// Why a configuration is not taken over; the old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It changes what only a restart can.
    #[error("{}", .0.join("\n"))]
    Fixed(Vec<String>),
    /// What it names cannot be used.
    #[error(transparent)]
    Part(#[from] AppError),
}

/// A listener's door.
#[derive(Debug)]
pub(super) enum Door {
    Proxy(ProxyDoor),
    ExtAuthz(ExtAuthzDoor),
}

/// What follows the configuration beside the doors.
pub(in crate::app) struct Shown {
    /// The limits of the most lenient route: beyond it everything would be refused.
    pub(in crate::app) longest: ArcSwap<Staleness>,
    /// Listeners as explanations need them.
    pub(in crate::app) explained: ArcSwap<Vec<Explained>>,
    /// The configuration for the operator, without secrets.
    pub(in crate::app) dump: ArcSwap<Value>,
}

impl Shown {
    pub(super) fn of(config: &ProxyConfig) -> Self {
        Self {
            longest: ArcSwap::from_pointee(settings::longest_staleness(config)),
            explained: ArcSwap::from_pointee(explained(config)),
            dump: ArcSwap::from_pointee(dump(config)),
        }
    }

    fn follow(&self, config: &ProxyConfig) {
        self.longest.store(Arc::new(settings::longest_staleness(config)));
        self.explained.store(Arc::new(explained(config)));
        self.dump.store(Arc::new(dump(config)));
    }
}

fn explained(config: &ProxyConfig) -> Vec<Explained> {
    config.listeners.iter().filter_map(settings::explained).collect()
}

/// Secrets are files that the configuration names: it holds none.
fn dump(config: &ProxyConfig) -> Value {
    json!({ "running": format!("{config:#?}").lines().collect::<Vec<_>>() })
}

/// Counts reloads.
pub(super) struct Reloads {
    outcomes: IntCounterVec,
    refused: IntGauge,
}

impl Reloads {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcomes = IntCounterVec::new(
            Opts::new("portreeve_config_reloads_total", "Configurations read again, by outcome."),
            &["outcome"],
        )?;
        let refused = IntGauge::new(
            "portreeve_config_refused",
            "1 while the configuration on disk was refused, and the one before goes on.",
        )?;
        registry.register(Box::new(outcomes.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        for outcome in [TAKEN, REFUSED] {
            outcomes.with_label_values(&[outcome]).reset();
        }
        Ok(Self { outcomes, refused })
    }

    fn count(&self, taken: bool) {
        self.outcomes.with_label_values(&[if taken { TAKEN } else { REFUSED }]).inc();
        self.refused.set(i64::from(!taken));
    }
}

const TAKEN: &str = "taken";
const REFUSED: &str = "refused";

/// What the hub was told of the routes at the start, and counts on.
pub(super) struct Told {
    deny_after_max: Duration,
    waived: Vec<String>,
}

impl Told {
    pub(super) fn of(config: &ProxyConfig) -> Self {
        Self { deny_after_max: settings::deny_after_max(config), waived: settings::waived(config) }
    }
}

/// What a reload works on.
pub(super) struct Live {
    pub(super) config: ProxyConfig,
    pub(super) core: Core,
    /// In the order of the listeners.
    pub(super) doors: Vec<(Door, Arc<Load>)>,
    pub(super) tls: Tls,
    pub(super) files: tls::WithFiles,
    pub(super) told: Told,
    pub(super) certificates: Arc<Certificates>,
    pub(super) level: Option<LogLevel>,
    pub(super) reloads: Reloads,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("doors", &self.doors).finish_non_exhaustive()
    }
}

impl Running {
    /// Goes on by `config`: requests that come from now on are read, judged and forwarded by it.
    ///
    /// # Errors
    /// [`ReloadError`]: nothing has changed.
    pub async fn reload(&mut self, config: ProxyConfig) -> Result<(), ReloadError> {
        let taken = self.live.take(config);
        self.live.reloads.count(taken.is_ok());
        let health = taken?;
        if let Some(before) = std::mem::replace(&mut self.health, health) {
            before.stop().await?;
        }
        tracing::info!("the configuration was taken over");
        Ok(())
    }

    /// Notes that a configuration could not be read; the one before goes on.
    pub fn refuse_reload(&self, why: &str) {
        self.live.reloads.count(false);
        tracing::error!("the configuration is refused, the one before goes on: {why}");
    }
}

impl Live {
    /// Everything that can fail comes before anything changes.
    fn take(&mut self, config: ProxyConfig) -> Result<Option<Part>, ReloadError> {
        let fixed = fixed(&self.config, &config, self.core.assertion_key.as_ref(), &self.told);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        let clock = &self.core.condition.clock;
        let workload = &self.core.workload;
        let opened = tls::open(&config, clock, workload)?;
        let mut upstreams = settings::upstreams(&config, clock, self.core.assertion_key.as_ref(), workload)?;
        health::keep((&self.config, &self.core.upstreams), (&config, &mut upstreams));
        let tracer = self.core.tracer.as_ref();
        let mut changes = Vec::new();
        for ((door, load), listener) in self.doors.iter().zip(&config.listeners) {
            changes.push(match (door, &listener.kind) {
                (Door::Proxy(door), ListenerKind::Proxy(kind)) => Change::Proxy(
                    door,
                    settings::proxy(&config, (listener, kind), &upstreams, Arc::clone(load), tracer)?,
                ),
                (Door::ExtAuthz(door), ListenerKind::ExtAuthz(kind)) => Change::ExtAuthz(
                    door,
                    settings::ext_authz(&config, (listener, kind), Arc::clone(load), tracer)?,
                ),
                _ => return Err(ReloadError::Fixed(vec![told("listeners")])),
            });
        }
        for change in changes {
            match change {
                Change::Proxy(door, settings) => door.reload(settings).map_err(AppError::from)?,
                Change::ExtAuthz(door, settings) => door.reload(settings),
            }
        }
        for ((_, load), listener) in self.doors.iter().zip(&config.listeners) {
            load.set_requests_max(listener.limits.max_requests);
        }
        for (name, tls) in &self.tls {
            if let Some(opened) = opened.get(name) {
                tls.adopt(opened);
            }
        }
        self.files.store(Arc::new(tls::with_files(&upstreams)));
        self.core.upstreams = upstreams;
        self.certificates.show(tls::places(&self.core, &self.tls));
        self.core.shown.follow(&config);
        self.core.condition.healths.follow(&config, &self.core.upstreams);
        if let Some(level) = self.level.as_ref().filter(|_| self.config.log.level != config.log.level) {
            // A level of the configuration is always one that can be set.
            level.set(config.log.level.as_str()).unwrap_or_default();
        }
        self.config = config;
        Ok(health::start(&self.core.upstreams)?)
    }
}

enum Change<'a> {
    Proxy(&'a ProxyDoor, crate::pep::ProxySettings),
    ExtAuthz(&'a ExtAuthzDoor, crate::pep::ExtAuthzSettings),
}

/// What `new` changes that a reload cannot, a line each.
fn fixed(
    old: &ProxyConfig,
    new: &ProxyConfig,
    key: Option<&Arc<AssertionKey>>,
    told_hub: &Told,
) -> Vec<String> {
    let mut changed: Vec<String> = [
        ("enforcement_point", old.enforcement_point != new.enforcement_point),
        ("hub", old.hub != new.hub),
        ("evidence", old.evidence != new.evidence),
        ("introspection", old.introspection != new.introspection),
        ("credentials.dpop_nonce_key", old.credentials.dpop_nonce_key != new.credentials.dpop_nonce_key),
        ("workload_api", workload::taken(old) != workload::taken(new)),
        ("key_sources", old.key_sources != new.key_sources),
        ("admin", old.admin != new.admin),
        ("metrics", old.metrics != new.metrics),
        ("log.format", old.log.format != new.log.format),
        ("workers", old.workers != new.workers),
        ("drain_timeout", old.drain_timeout != new.drain_timeout),
        ("memory_budget", old.memory_budget != new.memory_budget),
        ("upstreams.*.assertion", key.is_none() && new.upstreams.values().any(|up| up.assertion.is_some())),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(key, _)| told(key))
    .collect();
    if old.listeners.len() != new.listeners.len() {
        changed.push(told("listeners"));
    }
    for (index, (old, new)) in old.listeners.iter().zip(&new.listeners).enumerate() {
        changed.extend(fixed_of(old, new).into_iter().map(|key| told(&format!("listeners[{index}].{key}"))));
    }
    if settings::deny_after_max(new) > told_hub.deny_after_max
        || settings::waived(new).iter().any(|route| !told_hub.waived.contains(route))
    {
        changed.push(
            "`staleness.deny_after` of a route is longer than any that the hub was told of at the start: \
             shorten it, or restart"
                .to_owned(),
        );
    }
    changed
}

fn told(key: &str) -> String {
    format!("`{key}` has changed, and a reload cannot change it: write back what it was, or restart")
}

/// The keys of a listener that a reload cannot change, and that differ.
fn fixed_of(old: &Listener, new: &Listener) -> Vec<&'static str> {
    let tls = |listener: &Listener| match &listener.kind {
        ListenerKind::Proxy(proxy) => Some(proxy.tls.is_some()),
        ListenerKind::ExtAuthz(_) => None,
    };
    // Whoever is connected, or shakes hands just now, was verified by what counted before.
    let issuer = |listener: &Listener| match &listener.kind {
        ListenerKind::Proxy(proxy) if proxy.tls.is_some() => proxy.certificates.issuer.clone(),
        _ => None,
    };
    let is_live = |listener: &Listener| match &listener.kind {
        ListenerKind::Proxy(proxy) => {
            let clients = proxy.tls.as_ref().and_then(|tls| tls.clients.as_ref());
            clients.map(|clients| matches!(clients.ca, Authorities::WorkloadApi(_)))
        }
        ListenerKind::ExtAuthz(_) => None,
    };
    let keys = [
        ("name", old.name != new.name),
        ("address", old.address != new.address),
        ("kind", old.door() != new.door()),
        ("tls", tls(old) != tls(new)),
        ("client_issuer", issuer(old) != issuer(new)),
        ("tls.client_ca_from", is_live(old).zip(is_live(new)).is_some_and(|(old, new)| old != new)),
        ("unresolved_refusals_per_s", old.unresolved_refusals_per_s != new.unresolved_refusals_per_s),
        ("limits", connection_limits(old.limits) != connection_limits(new.limits)),
    ];
    keys.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

/// With the limits that a reload can change set aside.
fn connection_limits(limits: Limits) -> Limits {
    let (max_requests, max_uri_bytes, max_body_bytes, min_body_rate) = (0, 0, None, 0);
    let body_timeout = Duration::ZERO;
    Limits { max_requests, max_uri_bytes, max_body_bytes, min_body_rate, body_timeout, ..limits }
}
