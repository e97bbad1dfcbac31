//! The head of the store, read when asked: one read answers every ping that waits for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::core::time::{Clock, Timestamp};
use crate::hub::blocking;
use crate::hub::feed::Feed;
use crate::hub::store::StoreError;
use crate::wire::state_proto as proto;

/// A head, and when reading it began.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) revision: u64,
    pub(super) read_at: Timestamp,
    /// The same, signed.
    pub(super) signed: proto::Signed,
}

/// Reads heads.
pub(super) struct Pulse {
    feed: Arc<Feed>,
    clock: Arc<dyn Clock>,
    /// Orders arrivals and the beginnings of reads.
    turn: AtomicU64,
    last: Mutex<Option<(u64, Head)>>,
}

impl Pulse {
    pub(super) fn new(feed: Arc<Feed>, clock: Arc<dyn Clock>) -> Self {
        Self { feed, clock, turn: AtomicU64::new(0), last: Mutex::new(None) }
    }

    /// A head whose reading began after this was called.
    ///
    /// INVARIANT: an answer is shared only with those who came before its read began.
    pub(super) async fn head(&self) -> Result<Head, StoreError> {
        let arrived = self.turn.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((began, head)) = &*last
            && *began > arrived
        {
            return Ok(head.clone());
        }
        let began = self.turn.fetch_add(1, Ordering::SeqCst);
        let read_at = self.clock.now().wall;
        let (feed, clock) = (Arc::clone(&self.feed), Arc::clone(&self.clock));
        let read = blocking(&**self.feed.store(), move || {
            let read = feed.follow(&*clock)?;
            // Witnessed before it is named to anybody.
            Ok::<_, StoreError>((read.position, feed.name(&read, read_at)?))
        });
        let (position, signed) = read.await?;
        let head = Head { revision: position.revision, read_at, signed };
        *last = Some((began, head.clone()));
        Ok(head)
    }
}
