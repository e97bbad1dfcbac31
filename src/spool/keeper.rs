//! Housekeeping, off every request's path: the thread `spool-keeper`, or whoever drives the log.
//!
//! One round, in order: repair what failed, make the next segment ahead, write counts that are
//! due, write what waits, bring it to stable storage, remove what was delivered, wake the sinks.
//!
//! A failed fsync is never tried again on the same file: the kernel may have dropped the pages and
//! called them clean. The segment is left as it is, a new one is begun at the first record that is
//! not known to be durable, and everything from there is written again from memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::time::{BootInstant, Now};
use crate::spool::format::HEADER_BYTES;
use crate::spool::log::Core;
use crate::spool::segment::{Prepared, Segment, sweep};
use crate::spool::state::{Health, State, answer};
use crate::spool::writer::Writer;
use crate::wire::evidence::{self as encode, Loss};

/// How long `best_effort` records wait for company.
const GATHER: Duration = Duration::from_millis(5);

/// How long what was written waits to be told to sinks.
const TELL: Duration = Duration::from_millis(50);

/// How long written records wait for stable storage when nobody asks for it.
const SYNC: Duration = Duration::from_secs(1);

/// How often a stalled log tries again.
const RETRY: Duration = Duration::from_millis(500);

/// Wakes the keeper. Requests call it at most once a nap.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    flags: Mutex<Flags>,
    wake: Condvar,
    nap: AtomicU8,
}

#[derive(Debug, Default)]
struct Flags {
    urgent: bool,
    nudged: bool,
    stop: bool,
}

/// The keeper is awake, or will be within [`GATHER`].
const SHORT: u8 = 0;
/// It sleeps for [`TELL`].
const MEDIUM: u8 = 1;
/// It sleeps for as long as nothing is written.
const LONG: u8 = 2;

impl Signal {
    /// Asks for a round now.
    pub(crate) fn urge(&self) {
        self.flags.lock().urgent = true;
        self.wake.notify_one();
    }

    /// Says that something was appended; `queued`: and that nobody is writing it.
    pub(crate) fn appended(&self, queued: bool) {
        let nap = self.nap.load(Ordering::Acquire);
        if nap == LONG || (queued && nap == MEDIUM) {
            self.nap.store(SHORT, Ordering::Release);
            self.flags.lock().nudged = true;
            self.wake.notify_one();
        }
    }

    /// Asks the thread to end.
    pub(crate) fn stop(&self) {
        self.flags.lock().stop = true;
        self.wake.notify_one();
    }

    /// Sleeps; `false`: the thread is to end.
    fn sleep(&self, span: Duration) -> bool {
        let mut flags = self.flags.lock();
        let quiet = |flags: &mut Flags| !flags.urgent && !flags.stop && !flags.nudged;
        _ = self.wake.wait_while_for(&mut flags, quiet, span);
        if flags.nudged && !flags.urgent && !flags.stop {
            let quiet = |flags: &mut Flags| !flags.urgent && !flags.stop;
            _ = self.wake.wait_while_for(&mut flags, quiet, GATHER);
        }
        flags.nudged = false;
        flags.urgent = false;
        !flags.stop
    }
}

/// What the keeper remembers between rounds.
#[derive(Debug)]
pub(crate) struct Rounds {
    synced: BootInstant,
}

impl Rounds {
    pub(crate) const fn new(now: Now) -> Self {
        Self { synced: now.boot }
    }
}

/// The body of the thread.
pub(crate) fn run(core: &Core) {
    loop {
        let wrote = core.round();
        let span = core.nap(wrote);
        if !core.signal.sleep(span) {
            return;
        }
    }
}

impl Core {
    /// One round. Says whether it wrote records.
    pub(crate) fn round(&self) -> bool {
        let mut rounds = self.rounds.lock();
        let now = self.clock.now();
        self.repair();
        self.prepare_ahead();
        self.tell_counts(now);
        let before = self.written();
        self.flush_after_others();
        let wrote = self.written() > before;
        if self.sync_is_due(&rounds, now) {
            self.sync();
            rounds.synced = now.boot;
        }
        self.remove_delivered();
        self.prepare_ahead();
        self.consumers.announce(self.written());
        wrote
    }

    fn nap(&self, wrote: bool) -> Duration {
        let signal = &self.signal;
        // First said, then looked: who appends after the look sees what was said.
        signal.nap.store(if wrote { SHORT } else { LONG }, Ordering::SeqCst);
        let state = self.state.lock();
        let (stalled, pending) = (state.health != Health::Running, state.has_pending());
        let waiting = !state.durable_waiters.is_empty();
        let active = !state.dirty.is_empty() || state.refusals.is_open() || state.lost_untold > 0;
        drop(state);
        let (nap, span) = match () {
            () if stalled => (SHORT, RETRY),
            () if waiting => (SHORT, Duration::ZERO),
            () if wrote || pending => (SHORT, GATHER),
            () if active => (MEDIUM, TELL),
            () => (LONG, SYNC),
        };
        signal.nap.store(nap, Ordering::SeqCst);
        span
    }

    /// Makes the next segment, if there is none and the budget holds it.
    pub(crate) fn prepare_ahead(&self) {
        if self.prepared.lock().as_ref().is_some_and(|prepared| !prepared.reserve) {
            return self.judge_room(true);
        }
        let ordinary = self.make_room();
        let kept = self.prepared.lock().as_mut().map(|kept| kept.reserve = !ordinary).is_some();
        let affordable = || self.disk_bytes() + self.limits.segment_bytes <= self.limits.max_bytes;
        if !kept && (ordinary || affordable()) {
            // Without it the log runs on to its segment's end and then stalls, which is tried again.
            self.prepare(self.limits.segment_bytes, !ordinary).ok();
        }
        self.judge_room(ordinary);
    }

    fn prepare(&self, bytes: u64, reserve: bool) -> io::Result<()> {
        let dir = self.spool.join(self.id.to_string());
        let made = Prepared::create(&*self.io, &dir, bytes, reserve)?;
        *self.prepared.lock() = Some(made);
        Ok(())
    }

    /// Whether one more segment leaves another in the budget. Without sinks, makes it so.
    fn make_room(&self) -> bool {
        let fits = || self.disk_bytes() + 2 * self.limits.segment_bytes <= self.limits.max_bytes;
        if self.consumers.slowest().is_none() {
            while !fits() && self.remove_oldest() {
                self.expired_segments.fetch_add(1, Ordering::AcqRel);
            }
        }
        fits()
    }

    /// Grants reservations again once writing is possible outside the segment kept back.
    fn judge_room(&self, ordinary: bool) {
        let state = self.state.lock();
        if state.health != Health::Running || state.closed {
            return self.room.store(false, Ordering::Release);
        }
        drop(state);
        // With an ordinary segment ahead, or one kept back that has not been begun, there is room.
        let ahead = self.prepared.lock().is_some();
        if ordinary || ahead {
            self.room.store(true, Ordering::Release);
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.inventory.lock().iter().map(|segment| segment.bytes).sum()
    }

    fn remove_oldest(&self) -> bool {
        let mut inventory = self.inventory.lock();
        if inventory.len() < 2 {
            return false;
        }
        let Some(oldest) = inventory.pop_front() else {
            return false;
        };
        let last_of_log = inventory.front().is_none_or(|next| next.log != oldest.log);
        drop(inventory);
        // A file that cannot be removed is found again at the next start.
        let removed = self.io.remove(&oldest.path).is_ok();
        if last_of_log && oldest.log != self.id {
            sweep(&self.spool, oldest.log).ok();
        }
        removed
    }

    fn remove_delivered(&self) {
        let Some(slowest) = self.consumers.slowest() else {
            return;
        };
        loop {
            let inventory = self.inventory.lock();
            let (Some(oldest), Some(next)) = (inventory.front(), inventory.get(1)) else {
                return;
            };
            // A segment ends where the next one of its log begins, or with its log.
            let end = if next.log == oldest.log { next.first_seq } else { u64::MAX };
            if slowest < (oldest.log, end) {
                return;
            }
            drop(inventory);
            if !self.remove_oldest() {
                return;
            }
        }
    }

    /// Writes the roll-up and the losses that no record tells of yet.
    fn tell_counts(&self, now: Now) {
        let mut state = self.state.lock();
        if state.closed || state.health != Health::Running {
            return;
        }
        if state.refusals.due(now) {
            tell_refusals(&mut state, now);
        }
        tell_losses(&mut state, now);
        self.publish(&state);
    }

    fn sync_is_due(&self, rounds: &Rounds, now: Now) -> bool {
        let state = self.state.lock();
        if state.dirty.is_empty() || state.health != Health::Running {
            return false;
        }
        let aged = now.boot.since(rounds.synced).is_none_or(|age| age >= SYNC);
        let filling = state.retained_bytes >= self.limits.retained_bytes_max() / 2;
        !state.durable_waiters.is_empty() || aged || filling
    }

    /// Brings everything written to stable storage: one fsync for all that wait.
    pub(crate) fn sync(&self) {
        let mut state = self.state.lock();
        let end = state.written;
        let files = std::mem::take(&mut state.dirty);
        let set_aside = std::mem::take(&mut state.retained);
        drop(state);
        let synced = self.sync_files(&files);
        let mut state = self.state.lock();
        if synced.is_ok() {
            state.made_durable(end, set_aside);
            self.publish(&state);
            let done = state.satisfied();
            drop(state);
            return answer(done, true);
        }
        let newer = std::mem::replace(&mut state.retained, set_aside);
        state.retained.extend(newer);
        state.health = Health::Suspect;
        self.room.store(false, Ordering::Release);
        drop(state);
        self.repair();
    }

    fn sync_files(&self, files: &[Arc<Segment>]) -> io::Result<()> {
        if self.unsynced_names.swap(false, Ordering::AcqRel) {
            let dir = self.spool.join(self.id.to_string());
            self.io.sync_dir(&dir).inspect_err(|_| self.unsynced_names.store(true, Ordering::Release))?;
        }
        files.iter().try_for_each(|segment| self.io.sync(&segment.file))
    }

    /// Gets a stalled log going again, or tells those who wait that it will not.
    fn repair(&self) {
        let mut writer = self.writer.lock();
        let health = self.state.lock().health;
        let outcome = match health {
            Health::Running => return,
            Health::Failed => Err(Health::Failed),
            Health::NoSegment => {
                self.prepare_ahead();
                self.prepared.lock().as_ref().map(drop).ok_or(Health::NoSegment)
            }
            Health::Suspect => self.begin_anew(&mut writer).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Health::Suspect,
                _ => Health::Failed,
            }),
        };
        let mut state = self.state.lock();
        match outcome {
            Ok(()) => {
                state.health = Health::Running;
                let done = state.satisfied();
                self.publish(&state);
                drop(state);
                answer(done, true);
                self.flush_with(writer);
            }
            Err(health) => {
                state.health = health;
                let waiters = state.disappointed();
                drop(state);
                answer(waiters, false);
            }
        }
    }

    /// Writes all that is not durable into a new segment, and syncs that. With the file in hand.
    fn begin_anew(&self, writer: &mut crate::spool::writer::Writer) -> io::Result<()> {
        let (from, end, chunks) = {
            let mut state = self.state.lock();
            (state.durable, state.written, std::mem::take(&mut state.retained))
        };
        let result = self.rewrite(writer, from, &chunks);
        let mut state = self.state.lock();
        match result {
            Ok(segment) => {
                state.dirty.clear();
                state.made_durable(end, chunks);
                // What is written from now on goes there.
                state.dirtied(&segment);
                self.suspect_segments.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => {
                // With the file in hand nobody wrote meanwhile.
                state.retained = chunks;
                Err(error)
            }
        }
    }

    fn rewrite(
        &self,
        writer: &mut Writer,
        from: u64,
        chunks: &VecDeque<Vec<u8>>,
    ) -> io::Result<Arc<Segment>> {
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        let needed = (HEADER_BYTES + bytes) as u64;
        *self.prepared.lock() = None;
        self.prepare(self.limits.segment_bytes.max(2 * needed), true)?;
        let prepared = self.prepared.lock().take().ok_or(io::ErrorKind::NotFound)?;
        let segment = self.begin(writer, prepared, from)?;
        for chunk in chunks {
            self.io.write_at(&segment.file, chunk, writer.offset)?;
            writer.offset += chunk.len() as u64;
        }
        self.sync_files(std::slice::from_ref(&segment))?;
        Ok(segment)
    }
}

/// Appends the open roll-up, if any.
pub(crate) fn tell_refusals(state: &mut State, now: Now) {
    if let Some(rolled) = state.refusals.take() {
        let mut record = Vec::new();
        encode::rolled_up(&mut record, now, &rolled);
        state.append(&record);
    }
}

/// Appends the losses that no record tells of yet.
pub(crate) fn tell_losses(state: &mut State, now: Now) {
    let log = state.log;
    let lost = std::mem::take(&mut state.lost_untold);
    let notes = std::mem::take(&mut state.notes_untold);
    for (count, cause) in [(lost, "no_room"), (notes, "notes")] {
        if count > 0 {
            let mut record = Vec::new();
            let loss = Loss { count, cause, upper_bound: false, log };
            encode::loss(&mut record, now, &loss);
            state.append(&record);
        }
    }
}
