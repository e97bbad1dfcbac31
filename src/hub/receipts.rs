//! Receipts that survive the hub: each acknowledgement that completes a revocation, as it was signed.
//!
//! Off the stream's path: what arrives within a moment is saved in one transaction. What is lost
//! by a crash in between costs no more than waiting for the member's next acknowledgement, or its lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::blocking;
use super::store::{StateStore, StoredReceipt};

/// Takes receipts to be saved.
#[derive(Clone, Debug)]
pub(crate) struct Receipts(mpsc::Sender<StoredReceipt>);

/// Saves them.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Arc<dyn StateStore>,
    waiting: mpsc::Receiver<StoredReceipt>,
}

impl Receipts {
    /// Both ends.
    pub(crate) fn new(store: Arc<dyn StateStore>) -> (Self, Keeper) {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        (Self(sender), Keeper { store, waiting })
    }

    /// Has a receipt saved; never waits. Whether there was room.
    pub(crate) fn keep(&self, receipt: StoredReceipt) -> bool {
        self.0.try_send(receipt).is_ok()
    }
}

impl Keeper {
    /// Saves what comes until `stop`, and then what is still waiting.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let came = tokio::select! {
                biased;
                came = self.waiting.recv_many(&mut batch, BATCH_MAX) => came,
                () = stop.cancelled() => 0,
            };
            if came == 0 {
                while let Ok(receipt) = self.waiting.try_recv() {
                    batch.push(receipt);
                }
                return self.save(batch).await;
            }
            self.save(batch).await;
            // Others are on their way: they make the next transaction.
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn save(&self, batch: Vec<StoredReceipt>) {
        if batch.is_empty() {
            return;
        }
        let (store, count) = (Arc::clone(&self.store), batch.len());
        if let Err(error) = blocking(&*self.store, move || store.save_receipts(&batch)).await {
            tracing::error!(%error, count, "receipts could not be kept; they hold until this hub stops");
        }
    }
}

const WAITING_MAX: usize = 16 * 1024;
const BATCH_MAX: usize = 4096;
const GATHER: Duration = Duration::from_millis(50);
