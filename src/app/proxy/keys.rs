//! Keys that this enforcement point fetches itself: from the configuration to whoever fetches, and what is shown.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Core, Part};
use crate::app::AppError;
use crate::app::issuer_keys::IssuerKeys;
use crate::config::{DirectIssuer, KeySources, ProxyConfig};
use crate::core::credential::MissingKeys;
use crate::core::id::Name;
use crate::core::identity::{LocalTrust, SnapshotCell};
use crate::core::time::{Clock, Timestamp};
use crate::jwks::{DirectKeys, DirectReports, DirectSettings, DirectSource, DirectView, Pace, Place};
use crate::outbound::{Bounds, OutboundSettings};
use crate::state::KeyReports;

/// Whom missing keys are told of, and who fetches, if anything is fetched here. From now on the records' keys
/// of these issuers do not count.
pub(super) fn open(
    config: &ProxyConfig,
    clock: &Arc<dyn Clock>,
    trust: &LocalTrust,
    hub: Arc<KeyReports>,
) -> (Arc<Reports>, Option<DirectReports>) {
    let opened = config
        .key_sources
        .as_ref()
        .map(|written| DirectKeys::new(settings(written), Arc::clone(clock), trust));
    let (direct, wanted) = opened.unzip();
    (Arc::new(Reports { hub, direct }), wanted)
}

/// How the keys stand that tokens are verified by.
pub(super) fn shown(
    state: &Arc<SnapshotCell>,
    trust: &Arc<LocalTrust>,
    clock: &Arc<dyn Clock>,
) -> Arc<IssuerKeys> {
    Arc::new(IssuerKeys::new(Arc::clone(state), Arc::clone(trust), Arc::clone(clock)))
}

fn settings(written: &KeySources) -> DirectSettings {
    let source = |issuer: &DirectIssuer| DirectSource {
        tenant: issuer.tenant.clone(),
        iss: Arc::clone(&issuer.iss),
        source: issuer.source.clone(),
    };
    DirectSettings {
        sources: written.issuers.iter().map(source).collect(),
        pace: Pace { refresh: written.refresh, refetch: written.refetch_interval, keep: written.keep },
        outbound: OutboundSettings {
            internal_hosts: written.internal_hosts.clone(),
            ca_file: written.ca.clone(),
            bounds: Bounds::default(),
        },
        look_every: LOOK_EVERY,
    }
}

/// Fetches for as long as it runs; `None`: nothing is fetched here.
pub(super) fn start(core: &Core, reports: Option<DirectReports>) -> Result<Option<Part>, AppError> {
    let Some((keys, reports)) = core.condition.direct.clone().zip(reports) else { return Ok(None) };
    let (exchanges, held) = (Arc::clone(&core.exchanges), Arc::clone(&core.condition.state));
    let moved = move || {
        let cells: Vec<_> = held.load().cells().iter().map(|cell| cell.cell.clone()).collect();
        let ended: u64 = cells.iter().map(|cell| exchanges.doubted(cell)).sum();
        if ended > 0 {
            tracing::info!(ended, "exchanges were ended that rested on keys that are gone");
        }
    };
    let place = Place {
        trust: Arc::clone(&core.workload.trust),
        state: Arc::clone(&core.condition.state),
        moved: Arc::new(moved),
    };
    Part::start("key-sources", move |stop| keys.run(reports, place, stop)).map(Some)
}

/// Tells of missing keys whoever fetches them: this process, or the hub.
pub(super) struct Reports {
    pub(super) hub: Arc<KeyReports>,
    pub(super) direct: Option<Arc<DirectKeys>>,
}

impl MissingKeys for Reports {
    fn missing(&self, tenant: &Name, issuer: &Name, key_id: &str) {
        if !self.direct.as_ref().is_some_and(|direct| direct.missing(tenant, issuer, key_id)) {
            self.hub.missing(tenant, issuer, key_id);
        }
    }

    fn missing_list(&self, tenant: &Name, issuer: &Name, uri: &str) {
        self.hub.missing_list(tenant, issuer, uri);
    }
}

/// What is wrong, a line each.
pub(super) fn troubles(views: &[DirectView]) -> Vec<String> {
    let line = |view: &DirectView| {
        let error = view.error.as_deref()?;
        Some(format!("key_sources: `{}` of `{}`: {error}", view.iss, view.tenant))
    };
    views.iter().filter_map(line).collect()
}

/// How each source stands, for operators.
pub(super) fn dump(views: &[DirectView]) -> Vec<Value> {
    let seconds = |at: Option<Timestamp>| at.map(Timestamp::as_seconds);
    let shown = |view: &DirectView| {
        json!({
            "tenant": view.tenant.as_str(), "iss": &*view.iss, "url": view.url,
            "fetched_at": seconds(view.fetched), "kept_until": seconds(view.kept_until),
            "left_out": view.left_out, "failures": view.failures, "last_error": view.error,
        })
    };
    views.iter().map(shown).collect()
}

/// How often it is looked what is due, and whether records have changed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
