//! The local, durable log of decisions: written on the request's own thread, kept by one other.
//!
//! A decision is encoded into a buffer of its thread, takes a short lock that gives it its
//! sequence number, and is then written by whoever finds the file free, for everyone that waits.
//! No request ever waits for a lock that is held during a system call, and none calls fsync; what
//! must be on stable storage waits as a future for the keeper. docs/decisions/0004 says why.
//!
//! Deliberately absent: what a record means to a sink, and any judgement about a request.
//!
//! INVARIANT: `decisions = records + rolled_up + lost`; [`Stats`] and the last record of a log
//! show it.

mod consumer;
mod error;
pub mod format;
mod io;
mod keeper;
mod log;
mod options;
mod reader;
mod recover;
mod refusals;
mod scan;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::evidence::{
    EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement, Severance, Slot, Withdrawal,
};
use crate::core::id::{DecisionId, LogId, Position};
use crate::core::policy::Verdict;
use crate::wire::evidence::{self as encode, Closing};
use log::Core;
use state::Health;

pub use consumer::{Delivered, Woken};
pub use error::SpoolError;
pub use io::{Io, SystemIo};
pub use options::{Drive, SpoolOptions};
pub use reader::{LogReader, Read, Records};
pub use recover::{Opened, Predecessor};
pub use scan::Damage;
pub use state::Counts;

/// A log being written.
#[derive(Debug)]
pub struct SpoolLog {
    core: Arc<Core>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What a log counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Decisions and what became of them.
    pub counts: Counts,
    /// Bytes of all logs on disk.
    pub disk_bytes: u64,
    /// All records below this are with the kernel.
    pub written: u64,
    /// The first record that some sink has not yet; `None` without sinks.
    pub oldest_undelivered: Option<Delivered>,
    /// Segments removed to keep within the budget, no sink being configured.
    pub expired_segments: u64,
    /// Segments given up after a failed write or fsync.
    pub suspect_segments: u64,
    /// Nothing can be written just now; it is tried again.
    pub stalled: bool,
    /// Nothing will be written any more.
    pub failed: bool,
}

impl SpoolLog {
    /// Takes the directory, looks at what earlier processes left, and begins a log.
    ///
    /// # Errors
    /// [`SpoolError`]: the directory is in use, the budget is too small, or the disk refuses.
    pub fn open(options: SpoolOptions) -> Result<(Arc<Self>, Opened), SpoolError> {
        let spool = options.dir.join("spool");
        let lock = recover::lock(&spool)?;
        let (core, opened) = recover::begin(&options, &spool, lock)?;
        let core = Arc::new(core);
        let keeper = match options.drive {
            Drive::Caller => None,
            Drive::Thread => {
                let name = "spool-keeper".to_owned();
                let core = Arc::clone(&core);
                let thread = std::thread::Builder::new().name(name.clone());
                let started = thread.spawn(move || keeper::run(&core));
                Some(started.map_err(|source| SpoolError::Thread { name, source })?)
            }
        };
        Ok((Arc::new(Self { core, keeper: Mutex::new(keeper) }), opened))
    }

    /// The log's name.
    pub fn id(&self) -> LogId {
        self.core.id
    }

    /// The directory that all logs lie in.
    pub fn directory(&self) -> &Path {
        &self.core.spool
    }

    /// Where a sink may keep its cursor.
    pub fn cursor_path(&self, sink: &str) -> PathBuf {
        self.core.spool.join("cursors").join(sink)
    }

    /// One round of housekeeping, for [`Drive::Caller`]. May wait for the disk.
    pub fn drive(&self) {
        self.core.round();
    }

    /// Counts and conditions.
    pub fn stats(&self) -> Stats {
        let core = &self.core;
        let (counts, health) = core.counts();
        let ahead = core.prepared.lock().as_ref().map_or(0, |prepared| prepared.bytes);
        Stats {
            counts,
            disk_bytes: ahead + core.inventory.lock().iter().map(|found| found.bytes).sum::<u64>(),
            written: core.written(),
            oldest_undelivered: core.consumers.slowest(),
            expired_segments: core.expired_segments.load(Ordering::Acquire),
            suspect_segments: core.suspect_segments.load(Ordering::Acquire),
            stalled: matches!(health, Health::NoSegment | Health::Suspect),
            failed: health == Health::Failed,
        }
    }

    /// Notes that a change came into force here: no decision can read older state any more. `counts`:
    /// remembered verifications dropped, open exchanges ended.
    pub fn note_in_force(&self, cell: &str, position: Position, revocations: &[Arc<str>], counts: [u64; 2]) {
        self.core.note_in_force(cell, position, revocations, counts);
    }

    /// The logs on disk, oldest first; this one is the last.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn logs(&self) -> Result<Vec<LogId>, SpoolError> {
        segment::logs(&self.core.spool)
    }

    /// Reads a log from a sequence number on.
    ///
    /// # Errors
    /// As [`LogReader::open`].
    pub fn reader(&self, log: LogId, from: u64) -> Result<LogReader, SpoolError> {
        LogReader::open(&self.core.spool, log, from)
    }

    /// How far the live log can be read just now.
    pub fn written(&self) -> u64 {
        self.core.written()
    }

    /// Waits until there is more to read than `seen`, at most `at_most`. Never called by requests.
    pub fn wait(&self, seen: Woken, at_most: Duration) -> Woken {
        self.core.consumers.wait(seen, at_most)
    }

    /// Ends every [`Self::wait`] under way.
    pub fn interrupt(&self) {
        self.core.consumers.interrupt();
    }

    /// Notes that a sink has everything before `to`, and that its cursor says so durably.
    pub fn delivered(&self, sink: &str, to: Delivered) {
        self.core.consumers.delivered(sink, to);
    }

    /// Writes the last record, brings all to stable storage and ends the keeper.
    ///
    /// `false`: not everything is on stable storage. Decisions after it are counted as lost.
    pub fn close(&self) -> bool {
        let core = &self.core;
        core.signal.stop();
        if let Some(thread) = self.keeper.lock().take() {
            // A keeper that panicked leaves its work to the round below.
            thread.join().ok();
        }
        core.round();
        let rounds = core.rounds.lock();
        let now = core.clock.now();
        let mut state = core.state.lock();
        if !state.closed {
            keeper::tell_refusals(&mut state, now);
            keeper::tell_losses(&mut state, now);
            let counts = state.counts;
            let mut record = Vec::new();
            let closing = Closing {
                decisions: counts.decisions,
                records: counts.records,
                rolled_up: counts.rolled_up,
                lost: counts.lost,
            };
            encode::log_close(&mut record, now, &closing);
            state.append(&record);
            state.closed = true;
            core.publish(&state);
        }
        drop(state);
        core.room.store(false, Ordering::Release);
        core.flush_after_others();
        core.sync();
        drop(rounds);
        core.consumers.announce(core.written());
        let state = core.state.lock();
        state.health == Health::Running && state.durable == state.next_seq
    }

    /// Closes a log that nothing was decided by, and removes it: what its first record tells of the log
    /// before, the next log tells. A log with decisions is closed and kept.
    pub fn abandon(&self) {
        self.close();
        let core = &self.core;
        if core.state.lock().counts.decisions > 0 {
            return;
        }
        let folder = core.spool.join(core.id.to_string());
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "a log without decisions stays");
        }
    }
}

impl EvidenceLog for SpoolLog {
    fn reserve(&self, mode: EvidenceMode) -> Reserved {
        EvidenceLog::reserve(&*self.core, mode)
    }

    fn decided(
        &self,
        slot: Option<Slot>,
        mode: EvidenceMode,
        facts: &ExchangeFacts,
        verdict: &Verdict,
    ) -> (DecisionId, Settlement) {
        EvidenceLog::decided(&*self.core, slot, mode, facts, verdict)
    }

    fn abandoned(&self, slot: Option<Slot>, facts: &ExchangeFacts) {
        self.core.abandoned(slot, facts);
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) {
        self.core.withdrawn(withdrawal);
    }

    fn severed(&self, severance: &Severance) {
        self.core.severed(severance);
    }
}

impl Drop for SpoolLog {
    /// Ends the keeper. Without [`SpoolLog::close`] the log's end counts as unclean.
    fn drop(&mut self) {
        self.core.signal.stop();
    }
}
