//! The head of the store, read when asked: one read answers every ping that waits for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::core::time::{Clock, Timestamp};
use crate::hub::blocking;
use crate::hub::store::{StateStore, StoreError};

/// A head, and when reading it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) revision: u64,
    pub(super) read_at: Timestamp,
}

/// Reads heads.
pub(super) struct Pulse {
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    /// Orders arrivals and the beginnings of reads.
    turn: AtomicU64,
    last: Mutex<Option<(u64, Head)>>,
}

impl Pulse {
    pub(super) fn new(store: Arc<dyn StateStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, turn: AtomicU64::new(0), last: Mutex::new(None) }
    }

    /// A head whose reading began after this was called.
    ///
    /// INVARIANT: an answer is shared only with those who came before its read began.
    pub(super) async fn head(&self) -> Result<Head, StoreError> {
        let arrived = self.turn.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((began, head)) = *last
            && began > arrived
        {
            return Ok(head);
        }
        let began = self.turn.fetch_add(1, Ordering::SeqCst);
        let read_at = self.clock.now().wall;
        let store = Arc::clone(&self.store);
        let position = blocking(&*self.store, move || store.head()).await?;
        let head = Head { revision: position.revision, read_at };
        *last = Some((began, head));
        Ok(head)
    }
}
