//! Metrics: one registry, made once and passed down; no globals.
//!
//! Whatever is counted per request has its handle made at start, so that a request
//! never looks up a label.

use std::fmt;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::core::evidence::Door;
use crate::core::policy::{Effect, Reason};

/// Decisions, by listener, door, effect and reason.
pub const DECISIONS: &str = "portreeve_decisions_total";
/// Time from the request's head to its decision, in seconds.
pub const DECISION_DURATION: &str = "portreeve_decision_duration_seconds";
/// Broken hygiene rules that only warn, by rule.
pub const WARNINGS: &str = "portreeve_warnings_total";
/// Open connections, by listener.
pub const CONNECTIONS: &str = "portreeve_connections";
/// Connections closed at once because the listener is full or memory is short, by listener.
pub const CONNECTIONS_REFUSED: &str = "portreeve_connections_refused_total";
/// Connections ended for what their callers did or left undone, by listener and cause.
pub const CONNECTIONS_ENDED: &str = "portreeve_connections_ended_total";
/// Times that no connection could be accepted, for want of descriptors or memory, by listener.
pub const ACCEPT_ERRORS: &str = "portreeve_accept_errors_total";
/// TLS handshakes that failed: no certificate for the name asked for, none shown that verifies, or no TLS, by listener.
pub const HANDSHAKES_FAILED: &str = "portreeve_tls_handshakes_failed_total";
/// Exchanges that failed between us and an upstream, by upstream and kind.
pub const UPSTREAM_ERRORS: &str = "portreeve_upstream_errors_total";
/// Verifications that were remembered.
pub const CACHE_HITS: &str = "portreeve_verification_cache_hits_total";
/// Verifications that had to be done.
pub const CACHE_MISSES: &str = "portreeve_verification_cache_misses_total";

/// Open exchanges judged again.
pub const EXCHANGES_REJUDGED: &str = "portreeve_exchanges_rejudged_total";
/// Open exchanges ended, by reason.
pub const EXCHANGES_SEVERED: &str = "portreeve_exchanges_severed_total";

/// Buckets of [`DECISION_DURATION`], in seconds: 25 µs to 50 ms.
const DECISION_BUCKETS: [f64; 11] =
    [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3];

/// The metric families of the request path.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    decisions: IntCounterVec,
    duration: HistogramVec,
    warnings: IntCounterVec,
    connections: IntGaugeVec,
    refused: IntCounterVec,
    ended: IntCounterVec,
    accept_errors: IntCounterVec,
    handshakes: IntCounterVec,
    upstream_errors: IntCounterVec,
    cache: CacheMetrics,
    exchanges: ExchangeMetrics,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes the families on a registry of their own.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name, help, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name, help| registered(&registry, IntCounter::new(name, help));
        let gauges = |name, help, labels: &[&str]| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let buckets = HistogramOpts::new(DECISION_DURATION, "Seconds from a request's head to its decision.")
            .buckets(DECISION_BUCKETS.to_vec());
        Self {
            decisions: counters(
                DECISIONS,
                "Decisions that took effect.",
                &["listener", "door", "effect", "reason"],
            ),
            duration: registered(&registry, HistogramVec::new(buckets, &["listener"])),
            warnings: counters(WARNINGS, "Broken hygiene rules that only warn.", &["rule"]),
            connections: gauges(CONNECTIONS, "Open connections.", &["listener"]),
            refused: counters(
                CONNECTIONS_REFUSED,
                "Connections closed because the listener is full or memory is short.",
                &["listener"],
            ),
            ended: counters(
                CONNECTIONS_ENDED,
                "Connections ended for what their callers did or left undone.",
                &["listener", "cause"],
            ),
            accept_errors: counters(
                ACCEPT_ERRORS,
                "Times that no connection could be accepted, for want of descriptors or memory.",
                &["listener"],
            ),
            handshakes: counters(HANDSHAKES_FAILED, "TLS handshakes that failed.", &["listener"]),
            upstream_errors: counters(
                UPSTREAM_ERRORS,
                "Exchanges an upstream failed.",
                &["upstream", "kind"],
            ),
            cache: CacheMetrics {
                hits: counter(CACHE_HITS, "Verifications that were remembered."),
                misses: counter(CACHE_MISSES, "Verifications that had to be done."),
            },
            exchanges: {
                let severed = counters(EXCHANGES_SEVERED, "Open exchanges ended.", &["reason"]);
                ExchangeMetrics {
                    rejudged: counter(EXCHANGES_REJUDGED, "Open exchanges judged again."),
                    severed: Reason::ALL.iter().map(|r| severed.with_label_values(&[r.code()])).collect(),
                }
            },
            registry,
        }
    }

    /// The registry, for other rooms to add their families to.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All families in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // INVARIANT: encoding fails only for a family without metrics, which `gather` leaves out;
        // what was written until then is served.
        if TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text).is_err() {
            tracing::error!("metrics could not be rendered whole");
        }
        text
    }

    /// The handles of one listener.
    pub fn listener(&self, listener: &str, door: Door) -> Arc<ListenerMetrics> {
        let decided = |effect: Effect, reason: &str| {
            self.decisions.with_label_values(&[listener, door.as_str(), effect.as_str(), reason])
        };
        Arc::new(ListenerMetrics {
            allowed: decided(Effect::Allow, "allowed"),
            denied: Reason::ALL.iter().map(|reason| decided(Effect::Deny, reason.code())).collect(),
            warnings: Reason::ALL.iter().map(|reason| self.warning(*reason)).collect(),
            duration: self.duration.with_label_values(&[listener]),
            connections: self.connections.with_label_values(&[listener]),
            refused: self.refused.with_label_values(&[listener]),
            ended: ConnectionEnd::ALL.map(|end| self.ended.with_label_values(&[listener, end.as_str()])),
            accept_errors: self.accept_errors.with_label_values(&[listener]),
            handshakes: self.handshakes.with_label_values(&[listener]),
        })
    }

    /// The handles of one upstream.
    pub fn upstream(&self, upstream: &str) -> UpstreamMetrics {
        let failed =
            |kind: UpstreamFailure| self.upstream_errors.with_label_values(&[upstream, kind.as_str()]);
        UpstreamMetrics { failures: UpstreamFailure::ALL.map(failed) }
    }

    /// The handles of the verification cache.
    pub fn cache(&self) -> CacheMetrics {
        self.cache.clone()
    }

    /// The handles of the open exchanges.
    pub fn exchanges(&self) -> ExchangeMetrics {
        self.exchanges.clone()
    }

    /// Only rules that can warn have a series.
    fn warning(&self, rule: Reason) -> Option<IntCounter> {
        rule.code().starts_with("hygiene.").then(|| self.warnings.with_label_values(&[rule.code()]))
    }
}

/// Counts what one listener does.
#[derive(Debug)]
pub struct ListenerMetrics {
    allowed: IntCounter,
    denied: Vec<IntCounter>,
    warnings: Vec<Option<IntCounter>>,
    duration: Histogram,
    connections: IntGauge,
    refused: IntCounter,
    ended: [IntCounter; 5],
    accept_errors: IntCounter,
    handshakes: IntCounter,
}

/// Why a connection is ended for what its caller did or left undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionEnd {
    /// A head did not arrive in time.
    Head,
    /// No request came.
    Idle,
    /// Answers were not taken.
    Send,
    /// Too many streams were reset.
    Resets,
    /// Too many frames carried nothing.
    Control,
}

impl ConnectionEnd {
    /// Every cause.
    pub const ALL: [Self; 5] = [Self::Head, Self::Idle, Self::Send, Self::Resets, Self::Control];

    /// The cause's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Send => "send",
            Self::Resets => "resets",
            Self::Control => "control",
        }
    }
}

impl ListenerMetrics {
    /// Counts an allow that had its effect, and what it warned of.
    pub fn allowed(&self, warnings: &[Reason], seconds: f64) {
        self.allowed.inc();
        for rule in warnings {
            if let Some(Some(counter)) = self.warnings.get(*rule as usize) {
                counter.inc();
            }
        }
        self.duration.observe(seconds);
    }

    /// Counts a refusal.
    pub fn denied(&self, reason: Reason, seconds: f64) {
        if let Some(counter) = self.denied.get(reason as usize) {
            counter.inc();
        }
        self.duration.observe(seconds);
    }

    /// The number of open connections.
    pub const fn connections(&self) -> &IntGauge {
        &self.connections
    }

    /// Counts a connection that is ended.
    pub fn connection_ended(&self, end: ConnectionEnd) {
        if let Some(counter) = self.ended.get(end as usize) {
            counter.inc();
        }
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// Counts that no connection could be accepted.
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// Counts a connection that found the listener full or memory short.
    pub fn connection_refused(&self) {
        self.refused.inc();
    }
}

/// How an upstream failed an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamFailure {
    /// It could not be reached in time.
    Connect,
    /// It was reached and did not answer in time.
    Timeout,
    /// It closed the connection, or answered what is no HTTP.
    Reset,
    /// It answered what can be read in two ways.
    Invalid,
    /// It was reached, and TLS with it failed: it is not whom it must be.
    Tls,
    /// Checks had found before that it does not answer: it was not asked.
    Unhealthy,
}

impl UpstreamFailure {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Timeout, Self::Reset, Self::Invalid, Self::Tls, Self::Unhealthy];

    /// The kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Invalid => "invalid",
            Self::Tls => "tls",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Counts how one upstream fails.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    failures: [IntCounter; 6],
}

impl UpstreamMetrics {
    /// Counts a failure.
    pub fn failed(&self, kind: UpstreamFailure) {
        if let Some(counter) = self.failures.get(kind as usize) {
            counter.inc();
        }
    }
}

/// Counts what the verification cache spares.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    /// Found.
    pub hits: IntCounter,
    /// Not found.
    pub misses: IntCounter,
}

/// Counts what becomes of open exchanges.
#[derive(Clone, Debug)]
pub struct ExchangeMetrics {
    rejudged: IntCounter,
    severed: Arc<[IntCounter]>,
}

impl ExchangeMetrics {
    /// Counts that one was judged again.
    pub fn judged_again(&self) {
        self.rejudged.inc();
    }

    /// Counts that one was ended.
    pub fn severed(&self, reason: Reason) {
        if let Some(counter) = self.severed.get(reason as usize) {
            counter.inc();
        }
    }
}

/// Makes a family known.
///
/// INVARIANT: names and labels are constants of this room, valid and distinct, so neither
/// making nor registering a family fails; tests make them all.
pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    family: prometheus::Result<C>,
) -> C {
    let family = family.expect("a family of constants is valid");
    registry.register(Box::new(family.clone())).expect("families have distinct names");
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_series() {
        let metrics = Metrics::new();
        let listener = metrics.listener("inbound", Door::Proxy);
        for reason in Reason::ALL {
            listener.denied(*reason, 0.0);
        }
        listener.allowed(&[Reason::HygieneOwnerless], 30e-6);
        metrics.upstream("app").failed(UpstreamFailure::Timeout);
        let text = metrics.render();
        for reason in Reason::ALL {
            let line = format!(
                "{DECISIONS}{{door=\"proxy\",effect=\"deny\",listener=\"inbound\",reason=\"{reason}\"}} 1\n"
            );
            assert!(text.contains(&line), "{line}\n{text}");
        }
        let bucket = "portreeve_decision_duration_seconds_bucket{listener=\"inbound\",le=\"0.00005\"}";
        let counted = format!("{bucket} {}\n", Reason::ALL.len() + 1);
        for line in [
            "portreeve_warnings_total{rule=\"hygiene.ownerless\"} 1\n",
            "portreeve_warnings_total{rule=\"hygiene.environment\"} 0\n",
            "portreeve_upstream_errors_total{kind=\"timeout\",upstream=\"app\"} 1\n",
            counted.as_str(),
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
