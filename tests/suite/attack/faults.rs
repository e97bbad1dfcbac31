//! Faults of ours, wherever they happen: S15 and F25. None opens a request, none ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portreeve::core::evidence::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use portreeve::core::id::DecisionId;
use portreeve::core::policy::Verdict;
use portreeve::core::time::{Clock, Now};

use crate::support::clock::ManualClock;
use crate::support::evidence::MemoryLog;
use crate::support::front::{Gate, Parts};
use crate::support::upstream::Upstream;
use crate::support::world::World;

/// Requests of the test; `PORTREEVE_FAULTS` asks for more.
const REQUESTS: u64 = 3000;

fn requests() -> u64 {
    std::env::var("PORTREEVE_FAULTS").map_or(REQUESTS, |more| more.parse().expect("a number of requests"))
}

/// Counts the calls of the log and the clock; meets a fault at one of them.
struct Faults {
    calls: AtomicU64,
    at: AtomicU64,
}

impl Faults {
    fn pass(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at.load(Ordering::SeqCst) {
            // As a panic, but without its report.
            std::panic::resume_unwind(Box::new("a fault made by the test"));
        }
    }

    /// The next fault is at the call after so many.
    fn arm(&self, after: u64) {
        self.at.store(self.calls.load(Ordering::SeqCst) + after, Ordering::SeqCst);
    }
}

struct FaultyLog(Arc<MemoryLog>, Arc<Faults>);

impl EvidenceLog for FaultyLog {
    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        self.1.pass();
        self.0.reserve(mode)
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        // What is on record stays there; whoever asked does not learn of it.
        let decided = self.0.decided(slot, mode, facts, verdict);
        self.1.pass();
        decided
    }

    fn abandoned(&self, slot: Option<Slot>, facts: &ExchangeFacts) {
        self.0.abandoned(slot, facts);
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) {
        self.0.withdrawn(withdrawal);
    }

    fn severed(&self, severance: &Severance) {
        self.0.severed(severance);
    }
}

struct FaultyClock(Arc<ManualClock>, Arc<Faults>);

impl Clock for FaultyClock {
    fn now(&self) -> Now {
        self.1.pass();
        self.0.now()
    }
}

/// Each request meets a fault at another of the calls that lead to its effect; some meet none.
#[test]
fn a_fault_allows_nothing_and_ends_nothing() {
    let world = World::new();
    let faults = Arc::new(Faults { calls: AtomicU64::new(0), at: AtomicU64::new(u64::MAX) });
    let log = Arc::new(FaultyLog(Arc::clone(&world.log), Arc::clone(&faults)));
    let clock = Arc::new(FaultyClock(Arc::clone(&world.clock), Arc::clone(&faults)));
    let upstream = Upstream::hello();
    let gate = Gate::over(world, Parts { log, clock }, upstream.address(), |_, _| {});
    let request = gate.order_text("GET", "");
    let mut caller = gate.caller();
    // From the second on its connection to the upstream is there.
    assert_eq!(caller.ask(&request).status, 200);
    upstream.next();
    let begun = faults.calls.load(Ordering::SeqCst);
    assert_eq!(caller.ask(&request).status, 200);
    upstream.next();
    let calls = faults.calls.load(Ordering::SeqCst) - begun;
    assert!(calls >= 3, "there is something to fail: {calls}");
    let mut statuses = std::collections::BTreeMap::<u16, u64>::new();
    for at in 0..requests() {
        let after = at % (calls + 1);
        faults.arm(after);
        let status = caller.ask(&request).status;
        let allowed = status == 200;
        assert_eq!(allowed, after == calls, "a fault at {after} of {calls}: {status}");
        assert_eq!(upstream.is_untouched(), !allowed, "a fault at {after}");
        *statuses.entry(status).or_default() += 1;
    }
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 500], "{statuses:?}");
    faults.at.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(gate.world.log.held(), 0, "no slot is lost");
    assert_eq!(caller.ask(&request).status, 200, "process and connection stay");
}
