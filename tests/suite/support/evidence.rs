//! A decision log in memory, whose room and fate a test sets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portreeve::core::evidence::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use portreeve::core::id::{DecisionId, LogId, Place};
use portreeve::core::policy::{Reason, Verdict};

/// What was written.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A decision.
    Decided(Box<Verdict>),
    /// A request that went away.
    Abandoned,
    /// An allow taken back.
    Withdrawn(Reason),
    /// An open exchange ended.
    Severed(DecisionId, Reason),
}

/// The log.
#[derive(Default)]
pub(crate) struct MemoryLog {
    entries: Mutex<Vec<Entry>>,
    lost: AtomicU64,
    held: AtomicU64,
    full: AtomicBool,
    failing: AtomicBool,
}

impl MemoryLog {
    /// From now on there is no room.
    pub(crate) fn fill(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    /// From now on no record gets as safe as asked.
    pub(crate) fn fail(&self) {
        self.failing.store(true, Ordering::SeqCst);
    }

    /// Everything written so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// The last decision.
    pub(crate) fn last_verdict(&self) -> Verdict {
        let last = self.entries().into_iter().rev().find_map(|entry| match entry {
            Entry::Decided(verdict) => Some(*verdict),
            _ => None,
        });
        last.expect("a decision was recorded")
    }

    /// Decisions made without a record.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    /// Slots not yet given back.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    fn push(&self, entry: Entry) -> u64 {
        let mut entries = self.entries.lock().unwrap();
        entries.push(entry);
        entries.len() as u64 - 1
    }
}

impl EvidenceLog for MemoryLog {
    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        match (self.full.load(Ordering::SeqCst), mode) {
            (false, _) => {
                self.held.fetch_add(1, Ordering::SeqCst);
                Reserved::Held(Slot::new())
            }
            (true, EvidenceMode::BestEffort) => Reserved::Lossy,
            (true, _) => Reserved::Exhausted,
        }
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        _mode: EvidenceMode,
        _facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        let log = LogId::new(1, 1);
        if slot.is_none() {
            let n = self.lost.fetch_add(1, Ordering::SeqCst);
            return (DecisionId { log, place: Place::Lost(n) }, Settlement::Settled);
        }
        self.held.fetch_sub(1, Ordering::SeqCst);
        let place = Place::Recorded(self.push(Entry::Decided(Box::new(verdict.clone()))));
        let failing = self.failing.load(Ordering::SeqCst);
        (DecisionId { log, place }, if failing { Settlement::Failed } else { Settlement::Settled })
    }

    fn abandoned(&self, slot: Option<Slot>, _facts: &ExchangeFacts) {
        if slot.is_some() {
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
        self.push(Entry::Abandoned);
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) {
        self.push(Entry::Withdrawn(withdrawal.reason));
    }

    fn severed(&self, severance: &Severance) {
        self.push(Entry::Severed(severance.decision, severance.reason));
    }
}
