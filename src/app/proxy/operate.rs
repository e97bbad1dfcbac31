//! Health, metrics and admin of an enforcement point.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::tail::tail;
use super::{Condition, Core, Gauges, LogLevel, Memory, Part, ProxyConfig, Serves, keys, memory};
use crate::admin::{Control, Health, Readiness, Server};
use crate::app::AppError;
use crate::app::certificates::Certificates;
use crate::app::explain::explain;
use crate::app::issuer_keys::troubles;
use crate::jwks::DirectView;
use crate::spool::SpoolLog;

/// How often gRPC health is brought up to date, and memory looked at.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

impl Condition {
    /// Ready once there is a tenant's state that some route would still decide by, and a log to record in.
    pub(super) fn readiness(&self) -> Readiness {
        let snapshot = self.state.load();
        let freshness = self.state.lease().freshness(self.clock.now(), &self.shown.longest.load());
        let failed = self.log.stats().failed;
        let mut detail = Vec::new();
        let holds_none = !snapshot.cells().iter().any(|held| held.confirmed);
        if holds_none && freshness.age.is_none() {
            detail.push("state.absent: no state has arrived yet".to_owned());
        } else if !snapshot.cells().is_empty() && holds_none {
            detail.push("state.absent: no hub has confirmed the state of any tenant yet".to_owned());
        } else if holds_none {
            let remedy = "no tenant is in its scope: `portreeve fleet scope` gives it one";
            detail.push(format!("state.absent: {remedy}"));
        }
        match freshness.age {
            None => detail.push("state age unknown: no hub has confirmed it".to_owned()),
            Some(age) if freshness.warn => detail.push(format!("state is {:.1}s old", age.as_secs_f64())),
            Some(_) => {}
        }
        if freshness.stale {
            detail.push("state.stale: older than every route allows".to_owned());
        }
        if failed {
            detail.push("evidence.unavailable: the decision log cannot be written".to_owned());
        }
        let bare = self.workload.lacks_identity();
        if bare {
            detail.push("workload_api: no certificate of its own has come".to_owned());
        }
        detail.extend(self.workload.troubles());
        let (unhealthy, gated) = self.healths.unhealthy();
        detail.extend(unhealthy.iter().map(|name| format!("upstream `{name}` is unhealthy")));
        detail.extend(keys::troubles(&self.views()));
        detail.extend(troubles(&self.issuer_keys.standing().overdue));
        let stopping = self.stopping.load(Ordering::Relaxed);
        if stopping {
            detail.push("stopping: requests under way are finished".to_owned());
        }
        let ready = !holds_none && !freshness.stale && !failed && !stopping && !bare && !gated;
        Readiness { ready, detail }
    }

    fn dump(&self) -> Value {
        let now = self.clock.now();
        let snapshot = self.state.load();
        let lease = self.state.lease();
        let age = lease.age(now);
        let cells = snapshot.cells().iter().map(|cell| {
            json!({
                "cell": cell.cell.as_str(),
                "epoch": cell.epoch.to_string(),
                "revision": cell.revision,
                "policy_digest": hex(cell.policy.digest()),
            })
        });
        let records = snapshot.stats();
        json!({
            "epoch": snapshot.position().epoch.to_string(),
            "revision": snapshot.position().revision,
            "age_ms": age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            "cells": cells.collect::<Vec<_>>(),
            "records": {
                "identities": records.identities, "credentials": records.credentials,
                "issuers": records.issuers, "revocations": records.revocations,
                "policies": records.policy_sets, "exceptions": records.exceptions,
                "resources": records.resources, "bindings": records.bindings,
                "status_lists": records.status_lists,
            },
            "hub": {
                "endpoint": self.status.endpoint(), "connected": self.status.connected(),
                "last_error": self.status.last_error(),
            },
            "upstreams": self.healths.dump(),
            "key_sources": keys::dump(&self.views()), "overdue_keys": self.overdue_keys(),
            "evidence": evidence(&self.log),
        })
    }

    /// How the sources of keys stand.
    fn views(&self) -> Vec<DirectView> {
        self.direct.as_ref().map(|direct| direct.views()).unwrap_or_default()
    }

    /// Issuers whose tokens are refused because their keys were not fetched for too long.
    fn overdue_keys(&self) -> Vec<String> {
        let overdue = self.issuer_keys.standing().overdue;
        overdue.iter().map(|(tenant, issuer)| format!("{tenant}/{issuer}")).collect()
    }
}

fn evidence(log: &SpoolLog) -> Value {
    let stats = log.stats();
    json!({
        "log": log.id().to_string(),
        "decisions": stats.counts.decisions, "records": stats.counts.records,
        "rolled_up": stats.counts.rolled_up, "lost": stats.counts.lost,
        "abandoned": stats.counts.abandoned, "disk_bytes": stats.disk_bytes,
        "stalled": stats.stalled, "failed": stats.failed,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Binds both servers.
pub(super) fn bind(
    config: &ProxyConfig,
    core: &Core,
    certificates: Arc<Certificates>,
    level: Option<LogLevel>,
) -> Result<[Server; 2], AppError> {
    let condition = core.condition.clone();
    let gauges = Gauges::register(
        core.metrics.registry(),
        Arc::clone(&condition.state),
        Arc::clone(&condition.status),
        Arc::clone(&condition.log),
        Arc::clone(&condition.clock),
        Arc::clone(&condition.shown),
        Arc::clone(&core.exchanges),
        Arc::clone(&core.memory),
        Arc::clone(&condition.workload),
        Arc::clone(&condition.issuer_keys),
        condition.direct.clone(),
    )
    .map_err(|error| AppError::io("metrics")(std::io::Error::other(error)))?;
    let (readiness, healths) = (condition.clone(), Arc::clone(&condition.healths));
    let health = Health {
        readiness: Arc::new(move || readiness.readiness()),
        refresh: Arc::new(move || {
            gauges.refresh();
            healths.refresh();
            certificates.refresh();
        }),
        registry: core.metrics.registry().clone(),
        keys: core.assertion_key.as_ref().map(|key| Arc::clone(key.jwks())),
    };
    let (dumped, explained) = (Arc::clone(&core.shown), Arc::clone(&core.shown));
    let log = Arc::clone(&condition.log);
    let pipeline = Arc::clone(&core.pipeline);
    let shown = level.clone();
    let control = Control {
        config: Arc::new(move || Value::clone(&dumped.dump.load())),
        state: Arc::new(move || condition.dump()),
        level: Arc::new(move || shown.as_ref().map_or_else(|| "off".to_owned(), LogLevel::current)),
        set_level: Arc::new(move |new| match &level {
            Some(level) => level.set(new).map_err(|error| error.to_string()),
            None => Err("this process has no logging".to_owned()),
        }),
        explain: Arc::new(move |request| {
            let (pipeline, listeners) = (Arc::clone(&pipeline), explained.explained.load_full());
            Box::pin(async move { explain(&pipeline, &listeners, request).await })
        }),
        decisions: Arc::new(move |count| tail(&log, count)),
    };
    Ok([health.bind(config.metrics)?, control.bind(config.admin)?])
}

/// Serves them, and keeps gRPC health up to date.
pub(super) fn start(
    servers: [Server; 2],
    condition: Condition,
    serves: Vec<Serves>,
    memory: Arc<Memory>,
) -> Result<Part, AppError> {
    Part::start("operations", move |stop| async move {
        let [health, control] = servers;
        let watch = async {
            let mut looks = tokio::time::interval(HEALTH_INTERVAL);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = looks.tick() => {}
                }
                if let Some(resident) = memory::resident() {
                    memory.observe(resident);
                }
                condition.issuer_keys.tell();
                let ready = condition.readiness().ready;
                for serves in &serves {
                    serves.set(ready).await;
                }
            }
        };
        let (health, control, ()) =
            tokio::join!(health.serve(stop.clone()), control.serve(stop.clone()), watch);
        for error in [health, control].into_iter().filter_map(Result::err) {
            tracing::error!(%error, "a server of the operator's ended");
        }
    })
}
