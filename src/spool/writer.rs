//! Writing: whoever finds the file free writes everything that waits, for everyone.
//!
//! Lock order: file, then state. The flusher gives the file back while it still holds the state
//! in which it saw nothing left, so a record appended later finds the file free, and one appended
//! earlier was seen: none is left behind without somebody to write it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use crate::spool::format::{BlockBuffer, HEADER_BYTES, SegmentHeader};
use crate::spool::log::Core;
use crate::spool::segment::{Found, Prepared, Segment};
use crate::spool::state::{Health, answer};

/// The file being written, under its own lock.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) current: Option<Arc<Segment>>,
    pub(crate) offset: u64,
    batch: VecDeque<BlockBuffer>,
}

enum Fault {
    NoSegment,
    Suspect,
}

impl Core {
    /// Writes what waits, unless somebody else is already at it. Never waits for the disk's cache.
    pub(crate) fn flush(&self) {
        if let Some(writer) = self.writer.try_lock() {
            self.flush_with(writer);
        }
    }

    /// Writes what waits, after whoever is at it.
    pub(crate) fn flush_after_others(&self) {
        self.flush_with(self.writer.lock());
    }

    /// Writes what waits with the file in hand.
    pub(crate) fn flush_with(&self, mut writer: MutexGuard<'_, Writer>) {
        loop {
            let mut state = self.state.lock();
            let fit = state.health == Health::Running;
            if !fit || !state.has_pending() {
                drop(writer);
                return;
            }
            state.take_blocks(&mut writer.batch);
            drop(state);
            let fault = self.write_batch(&mut writer);
            if let Err(fault) = fault {
                let mut state = self.state.lock();
                state.return_blocks(&mut writer.batch);
                state.health = match fault {
                    Fault::NoSegment => Health::NoSegment,
                    Fault::Suspect => Health::Suspect,
                };
                self.room.store(false, Ordering::Release);
                drop(writer);
                drop(state);
                self.signal.urge();
                return;
            }
        }
    }

    /// Writes the batch; what could not be written stays in it.
    fn write_batch(&self, writer: &mut Writer) -> Result<(), Fault> {
        while let Some(mut block) = writer.batch.pop_front() {
            match self.write_block(writer, &mut block) {
                Ok(segment) => {
                    let mut state = self.state.lock();
                    state.wrote(block);
                    state.dirtied(&segment);
                    self.publish(&state);
                    let done = state.satisfied();
                    drop(state);
                    answer(done, true);
                }
                Err(fault) => {
                    writer.batch.push_front(block);
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    fn write_block(&self, writer: &mut Writer, block: &mut BlockBuffer) -> Result<Arc<Segment>, Fault> {
        let first_seq = block.end_seq() - u64::from(block.count());
        let bytes = block.finish(self.id);
        let length = bytes.len() as u64;
        let segment = match &writer.current {
            Some(segment) if writer.offset + length <= segment.bytes => Arc::clone(segment),
            _ => self.rotate(writer, first_seq)?,
        };
        self.io.write_at(&segment.file, bytes, writer.offset).map_err(|_| Fault::Suspect)?;
        writer.offset += length;
        Ok(segment)
    }

    /// Goes on in the segment made ahead: one small write and one rename on the caller's thread.
    fn rotate(&self, writer: &mut Writer, first_seq: u64) -> Result<Arc<Segment>, Fault> {
        let prepared = self.prepared.lock().take().ok_or(Fault::NoSegment)?;
        if prepared.reserve {
            self.room.store(false, Ordering::Release);
        }
        let segment = self.begin(writer, prepared, first_seq).map_err(|_| Fault::Suspect)?;
        // The next one is made ahead by the keeper, soon.
        self.signal.urge();
        Ok(segment)
    }

    /// Makes a prepared segment the current one.
    pub(crate) fn begin(
        &self,
        writer: &mut Writer,
        prepared: Prepared,
        first_seq: u64,
    ) -> io::Result<Arc<Segment>> {
        let header = SegmentHeader {
            log: self.id,
            incarnation: self.incarnation,
            boot_id: self.boot_id,
            first_seq,
            created_us: self.clock.now().wall.as_micros(),
            loss_bound_process: self.limits.loss_bound_process(),
            loss_bound_host: self.limits.loss_bound_host(),
        };
        let segment = Arc::new(prepared.begin(&*self.io, &header.to_bytes(), first_seq)?);
        let path = segment.path.clone();
        let mut inventory = self.inventory.lock();
        // The same place can be begun twice when the first attempt failed.
        inventory.retain(|known| known.path != path);
        inventory.push_back(Found { log: self.id, first_seq, path, bytes: segment.bytes });
        drop(inventory);
        self.unsynced_names.store(true, Ordering::Release);
        writer.offset = HEADER_BYTES as u64;
        writer.current = Some(Arc::clone(&segment));
        Ok(segment)
    }
}
