//! The change log as streams read it: the newest part from memory, the rest from the store.
//!
//! A commit is read back from the store once and shared by every stream; a stream is a
//! cursor, not a queue, so a slow one costs nothing and only reads later.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::blocking;
use super::store::{Logged, StateStore, StoreError};
use crate::core::time::{BootInstant, Clock, Now};

/// The change log and its head.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Arc<dyn StateStore>,
    ring: RwLock<Ring>,
    head: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The newest commits, contiguous, oldest first.
    entries: VecDeque<Arc<Logged>>,
    bytes: usize,
    /// The last revision in the ring, or from which it begins.
    head: u64,
    /// When each commit of this process was known to be acknowledged, oldest first.
    times: VecDeque<(u64, Now)>,
    /// When the store was opened: whatever is not among them was acknowledged by then.
    opened: Now,
}

impl Feed {
    /// Begins at the store's head.
    pub(crate) fn new(store: Arc<dyn StateStore>, clock: &dyn Clock) -> Result<Self, StoreError> {
        let head = store.head()?.revision;
        let ring = Ring { head, opened: clock.now(), ..Ring::default() };
        Ok(Self { store, ring: RwLock::new(ring), head: watch::Sender::new(head) })
    }

    /// The store.
    pub(crate) const fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    /// The newest revision offered.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Tells when the head moves.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Takes over what the store has committed since; called after each commit. Blocks.
    pub(crate) fn advance(&self, now: Now) -> Result<(), StoreError> {
        let mut ring = self.ring.write();
        loop {
            let more = self.store.tail(ring.head, READ_MAX)?;
            if more.is_empty() {
                break;
            }
            more.into_iter().for_each(|logged| ring.push(logged, now));
        }
        let head = ring.head;
        drop(ring);
        self.head.send_if_modified(|held| {
            let moved = *held < head;
            *held = head.max(*held);
            moved
        });
        Ok(())
    }

    /// Commits after `from`, in order, at least one unless there is none.
    pub(crate) async fn read(&self, from: u64) -> Result<Vec<Arc<Logged>>, StoreError> {
        if let Some(ready) = self.ring.read().after(from) {
            return Ok(ready);
        }
        let store = Arc::clone(&self.store);
        let older = blocking(&*self.store, move || store.tail(from, READ_MAX)).await?;
        Ok(older.into_iter().map(Arc::new).collect())
    }

    /// When a commit of this process was acknowledged.
    pub(crate) fn acknowledged(&self, revision: u64) -> Option<Now> {
        let ring = self.ring.read();
        let place = ring.times.binary_search_by_key(&revision, |(held, _)| *held).ok()?;
        ring.times.get(place).map(|(_, at)| *at)
    }

    /// An instant by which a commit had been acknowledged: never too early.
    pub(crate) fn acknowledged_by(&self, revision: u64) -> BootInstant {
        let ring = self.ring.read();
        let known = ring.times.iter().find(|(held, _)| *held >= revision);
        let forgotten = ring.times.len() >= TIMES_MAX;
        match known {
            Some((held, at)) if *held == revision || forgotten => at.boot,
            _ => ring.opened.boot,
        }
    }
}

impl Ring {
    fn push(&mut self, logged: Logged, now: Now) {
        self.head = logged.revision;
        self.times.push_back((logged.revision, now));
        if self.times.len() > TIMES_MAX {
            self.times.pop_front();
        }
        self.bytes += logged.body.len();
        self.entries.push_back(Arc::new(logged));
        while self.entries.len() > RING_MAX || self.bytes > RING_BYTES_MAX {
            match self.entries.pop_front() {
                Some(oldest) => self.bytes -= oldest.body.len(),
                None => break,
            }
        }
    }

    /// Commits after `from`; `None` when the ring does not reach back so far.
    fn after(&self, from: u64) -> Option<Vec<Arc<Logged>>> {
        if from >= self.head {
            // The store may have more by now.
            return None;
        }
        let first = self.entries.front()?.revision;
        let skip = usize::try_from((from + 1).checked_sub(first)?).ok()?;
        Some(self.entries.iter().skip(skip).take(READ_MAX).cloned().collect())
    }
}

const READ_MAX: usize = 256;
const RING_MAX: usize = 4096;
const RING_BYTES_MAX: usize = 16 * 1024 * 1024;
const TIMES_MAX: usize = 16 * 1024;
