//! The metric families of introspection.

use std::fmt;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::telemetry::metrics::registered;

/// Questions to issuers about opaque tokens, by result.
pub const REQUESTS: &str = "portreeve_introspection_requests_total";
/// Time of such a question, in seconds.
pub const DURATION: &str = "portreeve_introspection_duration_seconds";
/// Answers that were remembered.
pub const CACHE_HITS: &str = "portreeve_introspection_cache_hits_total";
/// Answers that were not.
pub const CACHE_MISSES: &str = "portreeve_introspection_cache_misses_total";
/// Whether an endpoint failed too often and is not asked for a moment, by endpoint.
pub const PAUSED: &str = "portreeve_introspection_paused";

/// Buckets of [`DURATION`], in seconds: 1 ms to 5 s.
const BUCKETS: [f64; 11] = [1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 5.0];

/// How a question ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntrospectionResult {
    /// The token is active.
    Active,
    /// It is not.
    Inactive,
    /// It is, and what is said of it is not taken.
    Refused,
    /// No answer came that can be taken.
    Failed,
}

impl IntrospectionResult {
    /// Every result.
    pub const ALL: [Self; 4] = [Self::Active, Self::Inactive, Self::Refused, Self::Failed];

    /// The result's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counts what becomes of questions about opaque tokens.
pub struct IntrospectionMetrics {
    requests: [IntCounter; 4],
    duration: Histogram,
    /// Found.
    pub hits: IntCounter,
    /// Not found.
    pub misses: IntCounter,
    paused: IntGaugeVec,
}

impl fmt::Debug for IntrospectionMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntrospectionMetrics")
    }
}

impl IntrospectionMetrics {
    /// Makes the families on `registry`; once for each.
    pub fn new(registry: &Registry) -> Self {
        let counter = |name, help| registered(registry, IntCounter::new(name, help));
        let requests = Opts::new(REQUESTS, "Questions to issuers about opaque tokens.");
        let requests = registered(registry, IntCounterVec::new(requests, &["result"]));
        let duration = HistogramOpts::new(DURATION, "Seconds of such a question.").buckets(BUCKETS.to_vec());
        let paused = Opts::new(PAUSED, "Whether an endpoint is not asked for a moment.");
        Self {
            requests: IntrospectionResult::ALL.map(|result| requests.with_label_values(&[result.as_str()])),
            duration: registered(registry, Histogram::with_opts(duration)),
            hits: counter(CACHE_HITS, "Answers of introspection that were remembered."),
            misses: counter(CACHE_MISSES, "Answers of introspection that were not remembered."),
            paused: registered(registry, IntGaugeVec::new(paused, &["endpoint"])),
        }
    }

    /// Counts a question that ended.
    pub fn asked(&self, result: IntrospectionResult, seconds: f64) {
        if let Some(counter) = self.requests.get(result as usize) {
            counter.inc();
        }
        self.duration.observe(seconds);
    }

    /// The handle of one endpoint.
    pub fn paused(&self, endpoint: &str) -> IntGauge {
        self.paused.with_label_values(&[endpoint])
    }
}
