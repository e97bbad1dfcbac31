//! The health of upstreams: who is checked, by whom, and what is shown of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{IntGaugeVec, Opts, Registry};
use serde_json::{Map, Value, json};

use super::{Part, ProxyConfig};
use crate::app::AppError;
use crate::config::Upstream;
use crate::pep::{HealthChecks, HealthRule, HealthState, UpstreamHealth, UpstreamSettings};
use crate::telemetry::metrics::Metrics;

/// Upstreams by name.
type Upstreams = BTreeMap<Arc<str>, UpstreamSettings>;

/// What the configuration says of an upstream's checks, with none made yet.
pub(super) fn of(upstream: &Upstream) -> Option<Arc<UpstreamHealth>> {
    let written = upstream.health.as_ref()?;
    Some(Arc::new(UpstreamHealth::new(HealthRule {
        path: written.path.clone(),
        interval: written.interval,
        timeout: written.timeout,
        healthy_after: written.healthy_after,
        unhealthy_after: written.unhealthy_after,
        expected_status: Arc::clone(&written.expected_status),
    })))
}

/// Has `new` go on with what is known of upstreams that are asked where and as they were.
pub(super) fn keep(old: (&ProxyConfig, &Upstreams), new: (&ProxyConfig, &mut Upstreams)) {
    for (name, settings) in new.1.iter_mut() {
        let written = (old.0.upstreams.get(name), new.0.upstreams.get(name));
        let (Some(before), Some(after), Some(known)) = (written.0, written.1, old.1.get(name)) else {
            continue;
        };
        let same = before.address == after.address && before.http2 == after.http2;
        if same && before.health == after.health {
            settings.health.clone_from(&known.health);
        }
    }
}

/// Checks them for as long as it runs; `None`: none is to be checked.
pub(super) fn start(upstreams: &Upstreams) -> Result<Option<Part>, AppError> {
    let checked = upstreams.iter().filter(|(_, settings)| settings.health.is_some());
    let upstreams: Vec<_> = checked.map(|(name, settings)| (Arc::clone(name), settings.clone())).collect();
    if upstreams.is_empty() {
        return Ok(None);
    }
    let checks = HealthChecks { upstreams, pause: Arc::new(|wait| Box::pin(tokio::time::sleep(wait))) };
    Part::start("upstream-health", move |stop| checks.run(stop)).map(Some)
}

/// One upstream that is checked.
struct Checked {
    name: Arc<str>,
    health: Arc<UpstreamHealth>,
    gates_readiness: bool,
}

/// What is shown of upstreams that are checked.
pub(super) struct Healths {
    healthy: IntGaugeVec,
    checks: IntGaugeVec,
    checked: Mutex<Vec<Checked>>,
}

impl Healths {
    /// Registers the families.
    pub(super) fn register(
        metrics: &Metrics,
        config: &ProxyConfig,
        upstreams: &Upstreams,
    ) -> Result<Arc<Self>, AppError> {
        let families = families(metrics.registry());
        let (healthy, checks) =
            families.map_err(|error| AppError::io("metrics")(std::io::Error::other(error)))?;
        let healths = Self { healthy, checks, checked: Mutex::default() };
        healths.follow(config, upstreams);
        Ok(Arc::new(healths))
    }

    /// Goes on with these upstreams, and no others.
    pub(super) fn follow(&self, config: &ProxyConfig, upstreams: &Upstreams) {
        let mut checked = self.checked.lock();
        self.healthy.reset();
        self.checks.reset();
        let each = upstreams.iter().filter_map(|(name, settings)| {
            let health = Arc::clone(settings.health.as_ref()?);
            let gates_readiness = config.upstreams.get(name)?.health.as_ref()?.gates_readiness;
            Some(Checked { name: Arc::clone(name), health, gates_readiness })
        });
        *checked = each.collect();
    }

    /// Brings every gauge up to date.
    pub(super) fn refresh(&self) {
        let whole = |count| i64::try_from(count).unwrap_or(i64::MAX);
        for Checked { name, health, .. } in &*self.checked.lock() {
            let report = health.report();
            let healthy = report.state != HealthState::Unhealthy;
            self.healthy.with_label_values(&[name]).set(i64::from(healthy));
            self.checks.with_label_values(&[&**name, "passed"]).set(whole(report.passed));
            self.checks.with_label_values(&[&**name, "failed"]).set(whole(report.failed));
        }
    }

    /// Those that are unhealthy, and whether one of them gates readiness.
    pub(super) fn unhealthy(&self) -> (Vec<Arc<str>>, bool) {
        let checked = self.checked.lock();
        let unhealthy = checked.iter().filter(|one| one.health.report().state == HealthState::Unhealthy);
        let (names, gates): (Vec<_>, Vec<_>) =
            unhealthy.map(|one| (Arc::clone(&one.name), one.gates_readiness)).unzip();
        (names, gates.contains(&true))
    }

    /// All of them, for the operator.
    pub(super) fn dump(&self) -> Value {
        let of = |one: &Checked| {
            let report = one.health.report();
            let told = json!({
                "state": report.state.as_str(), "passed": report.passed, "failed": report.failed,
                "last_fault": report.fault,
            });
            (one.name.to_string(), told)
        };
        Value::Object(self.checked.lock().iter().map(of).collect::<Map<_, _>>())
    }
}

fn families(registry: &Registry) -> Result<(IntGaugeVec, IntGaugeVec), prometheus::Error> {
    let healthy = IntGaugeVec::new(
        Opts::new(
            "portreeve_upstream_healthy",
            "0 while an upstream's checks refuse it; only for those that are checked.",
        ),
        &["upstream"],
    )?;
    let checks = IntGaugeVec::new(
        Opts::new("portreeve_upstream_health_checks_total", "Checks of upstreams, by outcome."),
        &["upstream", "outcome"],
    )?;
    registry.register(Box::new(healthy.clone()))?;
    registry.register(Box::new(checks.clone()))?;
    Ok((healthy, checks))
}
