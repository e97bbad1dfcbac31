//! The memory of proofs of possession that were taken (RFC 9449 §11.1).
//!
//! Two sets, each filled for the span in which a proof counts; the older is dropped when the younger has
//! been filled so long. When a set is full, proofs are refused until it ages: a memory that forgot under
//! load would take every proof again. Each enforcement point has its own, and takes no
//! proof that was made before it began: one before it may have taken that.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::credential::{PROOF_SPAN, Proof, ReplayMemory, Seen};
use crate::core::time::{BootInstant, Clock, Timestamp};

/// Proofs remembered by default in each span: some 800 a second, 10 MiB.
pub const PROOFS_MAX: usize = 100_000;

/// A bounded memory of proofs.
pub struct Proofs {
    sets: Mutex<Sets>,
    clock: Arc<dyn Clock>,
    start: Timestamp,
    proofs_max: usize,
}

#[derive(Default)]
struct Sets {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
    began: Option<BootInstant>,
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs").field("proofs_max", &self.proofs_max).finish_non_exhaustive()
    }
}

impl Proofs {
    /// Begins empty; remembers at most `proofs_max` of each span.
    pub fn new(clock: Arc<dyn Clock>, proofs_max: usize) -> Self {
        Self { sets: Mutex::default(), start: clock.now().wall, clock, proofs_max }
    }
}

impl ReplayMemory for Proofs {
    fn first(&self, proof: &Proof) -> Seen {
        if proof.made < self.start {
            return Seen::Again;
        }
        let now = self.clock.now().boot;
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let age = sets.began.and_then(|began| now.since(began)).unwrap_or_default();
        if age >= PROOF_SPAN {
            let young = std::mem::take(&mut sets.young);
            sets.old = if age >= PROOF_SPAN * 2 { HashSet::new() } else { young };
            sets.began = None;
        }
        sets.began.get_or_insert(now);
        if sets.old.contains(&proof.id) || sets.young.contains(&proof.id) {
            return Seen::Again;
        }
        if sets.young.len() >= self.proofs_max {
            return Seen::Full;
        }
        sets.young.insert(proof.id);
        Seen::First
    }
}
