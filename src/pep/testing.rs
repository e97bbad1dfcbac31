//! What the unit tests of this room share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::evidence::{
    Door, EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use crate::core::id::{DecisionId, LogId, Place};
use crate::core::policy::{RouteRules, Staleness, Verdict};

/// Rules of an anonymous route.
pub(crate) fn rules(upstream: &str) -> RouteRules {
    RouteRules {
        staleness: Staleness::default(),
        evidence: EvidenceMode::default(),
        audiences: Arc::from(Vec::new()),
        clock_skew: Duration::from_secs(30),
        anonymous: true,
        public_origin: None,
        proof_nonces: false,
        upstream: Arc::from(upstream),
    }
}

/// What is known of some request.
pub(crate) fn facts() -> ExchangeFacts {
    ExchangeFacts {
        listener: Arc::from("inbound"),
        door: Door::Proxy,
        method: Arc::from("GET"),
        peer: None,
        trace_id: [0; 16],
        span_id: [0; 8],
    }
}

/// A log that only counts.
pub(crate) fn log() -> Arc<dyn EvidenceLog> {
    Arc::new(Counting::default())
}

#[derive(Default)]
struct Counting(AtomicU64);

impl EvidenceLog for Counting {
    fn reserve(&self, _: EvidenceMode) -> Reserved {
        Reserved::Held(Slot::new())
    }

    fn decided(
        &self,
        _: Option<Slot>,
        _: EvidenceMode,
        _: &ExchangeFacts,
        _: &Verdict,
    ) -> (DecisionId, Settlement) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        (DecisionId { log: LogId::new(1, 1), place: Place::Recorded(number) }, Settlement::Settled)
    }

    fn abandoned(&self, _: Option<Slot>, _: &ExchangeFacts) {}

    fn withdrawn(&self, _: &Withdrawal) {}

    fn severed(&self, _: &Severance) {}
}
