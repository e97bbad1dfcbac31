//! The log as requests see it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::core::evidence::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use crate::core::id::{DecisionId, LogId, Place, Position};
use crate::core::policy::{Effect, Verdict};
use crate::core::time::{Clock, Now};
use crate::spool::consumer::Consumers;
use crate::spool::io::Io;
use crate::spool::keeper::{Rounds, Signal};
use crate::spool::options::Limits;
use crate::spool::segment::{Found, Prepared};
use crate::spool::state::{Counts, Health, State, Waiter};
use crate::spool::writer::Writer;
use crate::wire::evidence as encode;

/// Everything the log's threads share.
pub(crate) struct Core {
    pub(crate) id: LogId,
    pub(crate) incarnation: [u8; 16],
    pub(crate) boot_id: [u8; 16],
    /// `<data>/spool`.
    pub(crate) spool: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) io: Arc<dyn Io>,
    pub(crate) state: Mutex<State>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) prepared: Mutex<Option<Prepared>>,
    /// Every segment on disk, of every log, oldest first; the current one last.
    pub(crate) inventory: Mutex<VecDeque<Found>>,
    pub(crate) consumers: Consumers,
    pub(crate) signal: Signal,
    pub(crate) rounds: Mutex<Rounds>,
    /// Slots given out and not given back.
    pub(crate) held: AtomicUsize,
    /// Whether reservations may be granted at all.
    pub(crate) room: AtomicBool,
    /// Whether a segment's name may not be on stable storage.
    pub(crate) unsynced_names: AtomicBool,
    next_seq: AtomicU64,
    written: AtomicU64,
    retained: AtomicUsize,
    pub(crate) expired_segments: AtomicU64,
    pub(crate) suspect_segments: AtomicU64,
    /// Held for as long as anything may write here.
    _lock: File,
}

/// What [`Core`] is made of at first.
pub(crate) struct CoreParts {
    pub(crate) id: LogId,
    pub(crate) incarnation: [u8; 16],
    pub(crate) boot_id: [u8; 16],
    pub(crate) spool: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) io: Arc<dyn Io>,
    pub(crate) state: State,
    pub(crate) inventory: VecDeque<Found>,
    pub(crate) consumers: Consumers,
    pub(crate) lock: File,
}

thread_local! {
    /// The buffer a thread encodes its records in.
    static ENCODED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Encodes into the thread's buffer and hands the bytes on.
pub(crate) fn encoded<T>(write: impl FnOnce(&mut Vec<u8>), then: impl FnOnce(&[u8]) -> T) -> T {
    // Taken out and put back: usable from a `Drop` at the end of a thread, when it is gone already.
    let mut buffer = ENCODED.try_with(Cell::take).unwrap_or_default();
    buffer.clear();
    write(&mut buffer);
    let result = then(&buffer);
    _ = ENCODED.try_with(|cell| cell.set(buffer));
    result
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let now = parts.clock.now();
        Self {
            id: parts.id,
            incarnation: parts.incarnation,
            boot_id: parts.boot_id,
            spool: parts.spool,
            limits: parts.limits,
            clock: parts.clock,
            io: parts.io,
            state: Mutex::new(parts.state),
            writer: Mutex::new(Writer::default()),
            prepared: Mutex::new(None),
            inventory: Mutex::new(parts.inventory),
            consumers: parts.consumers,
            signal: Signal::default(),
            rounds: Mutex::new(Rounds::new(now)),
            held: AtomicUsize::new(0),
            room: AtomicBool::new(true),
            unsynced_names: AtomicBool::new(true),
            next_seq: AtomicU64::new(0),
            written: AtomicU64::new(0),
            retained: AtomicUsize::new(0),
            expired_segments: AtomicU64::new(0),
            suspect_segments: AtomicU64::new(0),
            _lock: parts.lock,
        }
    }

    /// Copies what [`Self::has_place`] reads out of the state. Called by whoever changed it.
    pub(crate) fn publish(&self, state: &State) {
        self.next_seq.store(state.next_seq, Ordering::Release);
        self.written.store(state.written, Ordering::Release);
        self.retained.store(state.retained_bytes, Ordering::Release);
    }

    /// All records below are with the kernel.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn pending(&self) -> usize {
        let next = self.next_seq.load(Ordering::Acquire);
        let count = next.saturating_sub(self.written.load(Ordering::Acquire));
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        let held = self.held.fetch_add(1, Ordering::AcqRel);
        let fits = held.saturating_add(self.pending()) < self.limits.pending_records_max
            && self.retained.load(Ordering::Acquire) < self.limits.retained_bytes_max();
        if fits && self.room.load(Ordering::Acquire) {
            return Reserved::Held(Slot::new());
        }
        self.held.fetch_sub(1, Ordering::AcqRel);
        match mode {
            EvidenceMode::BestEffort => Reserved::Lossy,
            EvidenceMode::Require | EvidenceMode::ProcessSafe => Reserved::Exhausted,
        }
    }

    /// Appends a record of ours or a note about a request: one that has no slot.
    pub(crate) fn note(&self, write: impl FnOnce(&mut Vec<u8>)) {
        encoded(write, |record| {
            let mut state = self.state.lock();
            let over = self.pending() >= self.limits.pending_records_max.saturating_mul(2);
            if over || state.closed || state.health == Health::Failed {
                state.counts.notes_lost += 1;
                state.notes_untold += 1;
            } else {
                state.append(record);
                self.publish(&state);
            }
        });
        self.signal.appended(true);
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (Place, Settlement) {
        let held = slot.is_some();
        let judged = verdict.basis().now;
        let now = if judged == Now::default() { self.clock.now() } else { judged };
        let refused = verdict.effect() == Effect::Deny;
        let resolved = verdict.basis().principal.is_some();
        let write = |out: &mut Vec<u8>| encode::decision(out, now, mode, facts, verdict);
        let place = encoded(write, |record| {
            let mut state = self.state.lock();
            state.counts.decisions += 1;
            // A known identity's refusal goes to the segment kept back when there is no slot.
            let may = held || (refused && resolved && self.keeps_refusals(&state));
            if !may || state.closed || state.health == Health::Failed {
                state.counts.lost += 1;
                state.lost_untold += 1;
                return Place::Lost(state.counts.lost);
            }
            if refused && !resolved && !state.refusals.admit(&facts.listener, now) {
                state.counts.rolled_up += 1;
                return Place::RolledUp(state.refusals.count(facts, verdict, now));
            }
            state.counts.records += 1;
            let sequence = state.append(record);
            self.publish(&state);
            Place::Recorded(sequence)
        });
        if held {
            self.held.fetch_sub(1, Ordering::AcqRel);
        }
        let settlement = match place {
            Place::Recorded(sequence) => self.settle(mode, sequence),
            // A count lives in memory; the refusal it stands for needs nothing safer.
            Place::RolledUp(_) => {
                self.signal.appended(false);
                Settlement::Settled
            }
            Place::Lost(_) if mode == EvidenceMode::BestEffort => Settlement::Settled,
            Place::Lost(_) => Settlement::Failed,
        };
        (place, settlement)
    }

    /// Whether the queue still takes refusals without a slot: up to twice its bound.
    fn keeps_refusals(&self, state: &State) -> bool {
        state.health == Health::Running && self.pending() < self.limits.pending_records_max.saturating_mul(2)
    }

    fn settle(&self, mode: EvidenceMode, sequence: u64) -> Settlement {
        if mode == EvidenceMode::BestEffort {
            self.signal.appended(true);
            if self.pending() == self.limits.pending_records_max / 2 {
                self.signal.urge();
            }
            return Settlement::Settled;
        }
        self.flush();
        let require = mode == EvidenceMode::Require;
        if !require && self.written() > sequence {
            self.signal.appended(false);
            return Settlement::Settled;
        }
        let mut state = self.state.lock();
        let reached = if require { state.durable } else { state.written };
        if reached > sequence {
            return Settlement::Settled;
        }
        if state.health == Health::Failed {
            return Settlement::Failed;
        }
        let (answer, wait) = oneshot::channel();
        let waiter = Waiter { sequence, answer };
        let stalled = state.health != Health::Running;
        if require {
            state.durable_waiters.push(waiter);
        } else {
            state.written_waiters.push(waiter);
        }
        drop(state);
        if require || stalled {
            self.signal.urge();
        }
        Settlement::Waiting(Box::pin(async move { wait.await.unwrap_or(false) }))
    }

    pub(crate) fn counts(&self) -> (Counts, Health) {
        let state = self.state.lock();
        (state.counts, state.health)
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("id", &self.id).finish_non_exhaustive()
    }
}

impl EvidenceLog for Core {
    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        self.reserve(mode)
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        let (place, settlement) = self.decided(slot, mode, facts, verdict);
        (DecisionId { log: self.id, place }, settlement)
    }

    fn abandoned(&self, slot: Option<Slot>, facts: &ExchangeFacts) {
        let now = self.clock.now();
        self.state.lock().counts.abandoned += 1;
        if slot.is_some() {
            self.note(|out| encode::abandoned(out, now, facts));
            self.held.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) {
        self.note(|out| encode::withdrawn(out, withdrawal));
    }

    fn severed(&self, severance: &Severance) {
        self.note(|out| encode::severed(out, severance));
    }
}

impl Core {
    /// Notes that a change came into force, in as many records as its revocations need.
    pub(crate) fn note_in_force(
        &self,
        cell: &str,
        position: Position,
        revocations: &[Arc<str>],
        counts: [u64; 2],
    ) {
        let now = self.clock.now();
        let mut rest = revocations;
        loop {
            let (some, after) = rest.split_at(rest.len().min(encode::LIST_ITEMS_MAX));
            // The counts stand in the first one only, so that they can be added up.
            let counts = if rest.len() == revocations.len() { counts } else { [0; 2] };
            self.note(|out| encode::in_force(out, now, cell, position, some, counts));
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }
}
