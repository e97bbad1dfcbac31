//! What the log's short lock holds: records not yet written, counts, and who waits.
//!
//! Nothing here makes a system call, except that waking a waiter may.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::core::id::LogId;
use crate::spool::format::BlockBuffer;
use crate::spool::refusals::Refusals;
use crate::spool::segment::Segment;

/// Size of one piece of retained bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// Most empty block buffers kept for use again.
const POOL_MAX: usize = 8;

/// Most empty pieces kept for use again.
const SPARE_MAX: usize = 16;

/// Whether the log can write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// It can.
    Running,
    /// The segment is full and there is no other; tried again at every round.
    NoSegment,
    /// A write or an fsync failed: the segment is not trusted any more.
    Suspect,
    /// Two failures in a row: this log writes nothing more.
    Failed,
}

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Decisions made.
    pub decisions: u64,
    /// Of these, recorded one by one.
    pub records: u64,
    /// Of these, counted in roll-ups.
    pub rolled_up: u64,
    /// Of these, lost.
    pub lost: u64,
    /// Requests that went away before a verdict.
    pub abandoned: u64,
    /// Records of other kinds (withdrawals, abandonments) for which there was no room.
    pub notes_lost: u64,
}

/// Someone waiting for a record to be safe.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) sequence: u64,
    pub(crate) answer: oneshot::Sender<bool>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) log: LogId,
    open: BlockBuffer,
    full: VecDeque<BlockBuffer>,
    pool: Vec<BlockBuffer>,
    spare: Vec<Vec<u8>>,
    /// The next number to give out.
    pub(crate) next_seq: u64,
    /// All below are with the kernel.
    pub(crate) written: u64,
    /// All below are on stable storage.
    pub(crate) durable: u64,
    /// Blocks from `durable` to `written`, as written, for the case that an fsync fails.
    pub(crate) retained: VecDeque<Vec<u8>>,
    /// How many bytes these are.
    pub(crate) retained_bytes: usize,
    /// Segments with bytes that are not on stable storage, oldest first.
    pub(crate) dirty: Vec<Arc<Segment>>,
    pub(crate) written_waiters: Vec<Waiter>,
    pub(crate) durable_waiters: Vec<Waiter>,
    pub(crate) counts: Counts,
    /// Lost decisions that no record tells of yet.
    pub(crate) lost_untold: u64,
    /// Lost notes that no record tells of yet.
    pub(crate) notes_untold: u64,
    pub(crate) refusals: Refusals,
    pub(crate) health: Health,
    pub(crate) closed: bool,
}

impl State {
    pub(crate) fn new(log: LogId, refusals: Refusals) -> Self {
        let mut open = BlockBuffer::default();
        open.begin(0);
        Self {
            log,
            open,
            full: VecDeque::new(),
            pool: Vec::new(),
            spare: Vec::new(),
            next_seq: 0,
            written: 0,
            durable: 0,
            retained: VecDeque::new(),
            retained_bytes: 0,
            dirty: Vec::new(),
            written_waiters: Vec::new(),
            durable_waiters: Vec::new(),
            counts: Counts::default(),
            lost_untold: 0,
            notes_untold: 0,
            refusals,
            health: Health::Running,
            closed: false,
        }
    }

    /// Appends a record and gives its sequence number.
    pub(crate) fn append(&mut self, record: &[u8]) -> u64 {
        if !self.open.fits(record.len()) && self.open.count() > 0 {
            let mut next = self.pool.pop().unwrap_or_default();
            next.begin(self.next_seq);
            self.full.push_back(std::mem::replace(&mut self.open, next));
        }
        let sequence = self.next_seq;
        self.open.push(record);
        self.next_seq += 1;
        sequence
    }

    /// Whether records wait to be written.
    pub(crate) const fn has_pending(&self) -> bool {
        self.written < self.next_seq
    }

    /// Takes every block that is to be written, in order.
    pub(crate) fn take_blocks(&mut self, into: &mut VecDeque<BlockBuffer>) {
        into.append(&mut self.full);
        if self.open.count() > 0 {
            let mut next = self.pool.pop().unwrap_or_default();
            next.begin(self.next_seq);
            into.push_back(std::mem::replace(&mut self.open, next));
        }
    }

    /// Puts blocks that could not be written back before all others.
    pub(crate) fn return_blocks(&mut self, from: &mut VecDeque<BlockBuffer>) {
        while let Some(block) = from.pop_back() {
            self.full.push_front(block);
        }
    }

    /// Notes that a block was written, and keeps its bytes until they are durable.
    pub(crate) fn wrote(&mut self, mut block: BlockBuffer) {
        self.written = block.end_seq();
        self.retain(block.finish(self.log));
        if self.pool.len() < POOL_MAX {
            self.pool.push(block);
        }
    }

    fn retain(&mut self, bytes: &[u8]) {
        self.retained_bytes += bytes.len();
        match self.retained.back_mut() {
            Some(chunk) if chunk.len() + bytes.len() <= CHUNK_BYTES => chunk.extend_from_slice(bytes),
            _ => {
                let fresh = || Vec::with_capacity(CHUNK_BYTES.max(bytes.len()));
                let mut chunk = self.spare.pop().unwrap_or_else(fresh);
                chunk.extend_from_slice(bytes);
                self.retained.push_back(chunk);
            }
        }
    }

    /// Notes that everything below `end` is durable: the bytes that had been set aside.
    pub(crate) fn made_durable(&mut self, end: u64, set_aside: VecDeque<Vec<u8>>) {
        self.durable = self.durable.max(end);
        for mut chunk in set_aside {
            self.retained_bytes = self.retained_bytes.saturating_sub(chunk.len());
            if self.spare.len() < SPARE_MAX {
                chunk.clear();
                self.spare.push(chunk);
            }
        }
    }

    /// Notes that a segment was written to.
    pub(crate) fn dirtied(&mut self, segment: &Arc<Segment>) {
        if !self.dirty.last().is_some_and(|last| Arc::ptr_eq(last, segment)) {
            self.dirty.push(Arc::clone(segment));
        }
    }

    /// Takes the waiters whose records are now as safe as they asked.
    pub(crate) fn satisfied(&mut self) -> Vec<Waiter> {
        if self.written_waiters.is_empty() && self.durable_waiters.is_empty() {
            return Vec::new();
        }
        let (written, durable) = (self.written, self.durable);
        let mut done: Vec<Waiter> =
            self.written_waiters.extract_if(.., |waiter| waiter.sequence < written).collect();
        done.extend(self.durable_waiters.extract_if(.., |waiter| waiter.sequence < durable));
        done
    }

    /// Takes every waiter: what they wait for will not come in time.
    pub(crate) fn disappointed(&mut self) -> Vec<Waiter> {
        let mut all = std::mem::take(&mut self.written_waiters);
        all.append(&mut self.durable_waiters);
        all
    }
}

/// Answers waiters. One that went away meanwhile does not matter.
pub(crate) fn answer(waiters: Vec<Waiter>, safe: bool) {
    for waiter in waiters {
        _ = waiter.answer.send(safe);
    }
}
