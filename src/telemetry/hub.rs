//! The metric families of a hub.

use std::fmt;

use prometheus::{Histogram, HistogramOpts, IntGauge, Registry};

use crate::telemetry::metrics::registered;

/// Time from a revocation's commit to its acknowledgement, in seconds.
pub const RECEIPT_SECONDS: &str = "portreeve_hub_receipt_seconds";

/// Buckets of [`RECEIPT_SECONDS`], in seconds: 1 ms to 5 min.
const RECEIPT_BUCKETS: [f64; 13] =
    [1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0, 300.0];

/// Numbers of the issuers whose keys the hub fetches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IssuerReading {
    /// Such issuers.
    pub fetched: u64,
    /// Of these, those whose last fetch failed.
    pub failing: u64,
    /// Of these, those without a usable key: all their tokens are refused.
    pub without_keys: u64,
    /// Keys that are refused, each for a fault of its own.
    pub refused_keys: u64,
    /// Fetches begun.
    pub fetches: u64,
    /// Fetches that failed.
    pub fetch_failures: u64,
    /// Reports of enforcement points that a key is missing.
    pub missing_reports: u64,
    /// Status lists.
    pub lists: ListReading,
}

/// Numbers of the status lists that the hub fetches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListReading {
    /// Such lists.
    pub watched: u64,
    /// Of these, those whose last fetch failed.
    pub failing: u64,
    /// Fetches begun.
    pub fetches: u64,
    /// Fetches that failed.
    pub fetch_failures: u64,
    /// Reports of enforcement points that a list is missing.
    pub missing_reports: u64,
}

/// A hub's numbers at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HubReading {
    /// The store's head revision.
    pub revision: u64,
    /// Whether state is streamed.
    pub serving: bool,
    /// Tenants whose order stands still.
    pub frozen: u64,
    /// Members that may hold state under a lease, live or not.
    pub members: u64,
    /// Members with a live stream.
    pub connected: u64,
    /// Members that lack a revocation that has been committed.
    pub pending: u64,
    /// The longest time since a connected member's last ping was answered, in whole seconds.
    pub quietest_s: u64,
    /// Tables found to differ.
    pub drift_found: u64,
    /// Of these, repaired.
    pub drift_mended: u64,
    /// Revocations of an older epoch that the store does not restate.
    pub carried: u64,
    /// Certificates given for a join token.
    pub joined: u64,
    /// Certificates given for the one before.
    pub renewed: u64,
    /// Requests for a certificate refused.
    pub unenrolled: u64,
    /// TLS handshakes of the state stream that failed.
    pub handshakes_failed: u64,
    /// Times that changed certificate files were taken over.
    pub tls_reloads: u64,
    /// Times that they could not be.
    pub tls_reload_failures: u64,
    /// Issuers whose keys are fetched.
    pub issuers: IssuerReading,
}

type Field = fn(&HubReading) -> u64;

/// Name, help, and which number it shows.
/// A `_total` here is a counter kept elsewhere.
const GAUGES: [(&str, &str, Field); 28] = [
    ("portreeve_hub_revision", "The store's head revision.", |r| r.revision),
    ("portreeve_hub_serving", "1 while state is streamed; 0: the store was rolled back.", |r| {
        u64::from(r.serving)
    }),
    ("portreeve_hub_frozen_tenants", "Tenants whose order stands still, revocations apart.", |r| r.frozen),
    ("portreeve_hub_members", "Enforcement points that may hold state under a lease.", |r| r.members),
    ("portreeve_hub_members_connected", "Enforcement points with an open stream.", |r| r.connected),
    ("portreeve_hub_members_pending", "Enforcement points that lack a committed revocation.", |r| r.pending),
    (
        "portreeve_hub_quietest_member_seconds",
        "Longest time since a connected enforcement point's last ping was answered.",
        |r| r.quietest_s,
    ),
    ("portreeve_hub_drift_found", "Tables found to differ, at enforcement points now listed.", |r| {
        r.drift_found
    }),
    ("portreeve_hub_drift_mended", "Of these, repaired.", |r| r.drift_mended),
    ("portreeve_hub_carried_revocations", "Revocations of an older epoch kept by enforcement points.", |r| {
        r.carried
    }),
    ("portreeve_hub_joins_total", "Certificates given for a join token.", |r| r.joined),
    ("portreeve_hub_certificate_renewals_total", "Certificates given for the one before.", |r| r.renewed),
    ("portreeve_hub_certificates_refused_total", "Requests for a certificate refused.", |r| r.unenrolled),
    ("portreeve_hub_handshakes_failed_total", "TLS handshakes of the state stream that failed.", |r| {
        r.handshakes_failed
    }),
    ("portreeve_hub_tls_reloads_total", "Times that changed certificate files were taken over.", |r| {
        r.tls_reloads
    }),
    ("portreeve_hub_tls_reload_failures_total", "Times that they could not be.", |r| r.tls_reload_failures),
    ("portreeve_hub_issuers_fetched", "Issuers whose keys the hub fetches.", |r| r.issuers.fetched),
    (
        "portreeve_hub_issuers_failing",
        "Of these, those whose last fetch failed: they live on the keys before.",
        |r| r.issuers.failing,
    ),
    (
        "portreeve_hub_issuers_without_keys",
        "Of these, those without a usable key: their tokens are refused.",
        |r| r.issuers.without_keys,
    ),
    (
        "portreeve_hub_issuer_keys_refused",
        "Keys of these issuers that are not used, each for a fault of its own.",
        |r| r.issuers.refused_keys,
    ),
    ("portreeve_hub_issuer_fetches_total", "Fetches of an issuer's keys.", |r| r.issuers.fetches),
    ("portreeve_hub_issuer_fetch_failures_total", "Of these, those that failed.", |r| {
        r.issuers.fetch_failures
    }),
    ("portreeve_hub_missing_key_reports_total", "Reports that a token names a key that is not there.", |r| {
        r.issuers.missing_reports
    }),
    ("portreeve_hub_status_lists", "Status lists of issuers that the hub fetches.", |r| {
        r.issuers.lists.watched
    }),
    (
        "portreeve_hub_status_lists_failing",
        "Of these, those whose last fetch failed: they count until their time is over.",
        |r| r.issuers.lists.failing,
    ),
    ("portreeve_hub_status_list_fetches_total", "Fetches of a status list.", |r| r.issuers.lists.fetches),
    ("portreeve_hub_status_list_fetch_failures_total", "Of these, those that failed.", |r| {
        r.issuers.lists.fetch_failures
    }),
    (
        "portreeve_hub_missing_list_reports_total",
        "Reports that a token names a status list that is not there.",
        |r| r.issuers.lists.missing_reports,
    ),
];

/// The families, on a registry of their own.
#[derive(Clone)]
pub struct HubMetrics {
    registry: Registry,
    gauges: Vec<(IntGauge, Field)>,
    receipts: Histogram,
}

impl fmt::Debug for HubMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubMetrics")
    }
}

impl Default for HubMetrics {
    fn default() -> Self {
        let registry = Registry::new();
        let gauge = |(name, help, field)| (registered(&registry, IntGauge::new(name, help)), field);
        let gauges = GAUGES.into_iter().map(gauge).collect();
        let help = "Seconds from a revocation's commit to an enforcement point's acknowledgement.";
        let receipts = HistogramOpts::new(RECEIPT_SECONDS, help).buckets(RECEIPT_BUCKETS.to_vec());
        let receipts = registered(&registry, Histogram::with_opts(receipts));
        Self { registry, gauges, receipts }
    }
}

impl HubMetrics {
    /// The registry.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts one acknowledgement of a revocation.
    pub fn receipt(&self, seconds: f64) {
        self.receipts.observe(seconds);
    }

    /// Shows what was read just now.
    pub fn show(&self, reading: &HubReading) {
        for (gauge, field) in &self.gauges {
            gauge.set(i64::try_from(field(reading)).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_made_and_shows_its_number() {
        let metrics = HubMetrics::default();
        metrics.show(&HubReading { revision: 7, pending: 3, ..HubReading::default() });
        metrics.receipt(0.002);
        let families = metrics.registry().gather();
        assert_eq!(families.len(), GAUGES.len() + 1);
        let of = |name: &str| families.iter().find(|family| family.name() == name).unwrap();
        for (name, value) in [("portreeve_hub_revision", 7.0), ("portreeve_hub_members_pending", 3.0)] {
            assert_eq!(
                of(name).get_metric()[0].get_gauge().get_value().to_bits(),
                f64::to_bits(value),
                "{name}"
            );
        }
        assert_eq!(of(RECEIPT_SECONDS).get_metric()[0].get_histogram().get_sample_count(), 1);
    }
}
