//! What operators see of the state client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counters and facts, readable at any time.
#[derive(Debug, Default)]
pub struct StateStatus {
    connected: AtomicBool,
    changes_applied: AtomicU64,
    batches_refused: AtomicU64,
    resyncs: AtomicU64,
    connections: AtomicU64,
    urgent_connected: AtomicBool,
    kills_applied: AtomicU64,
    drift_found: AtomicU64,
    drift_mended: AtomicU64,
    detail: Mutex<Detail>,
}

#[derive(Debug, Default, Clone)]
struct Detail {
    endpoint: String,
    last_error: Option<String>,
}

impl StateStatus {
    /// Whether a hub's stream is open and welcomed.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Changes applied since start.
    pub fn changes_applied(&self) -> u64 {
        self.changes_applied.load(Ordering::Relaxed)
    }

    /// Batches refused since start.
    pub fn batches_refused(&self) -> u64 {
        self.batches_refused.load(Ordering::Relaxed)
    }

    /// Cells replaced by a snapshot since start.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// Streams opened since start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether the connection for revocations alone is open.
    pub fn urgent_connected(&self) -> bool {
        self.urgent_connected.load(Ordering::Relaxed)
    }

    /// Revocations put in force ahead of the order since start.
    pub fn kills_applied(&self) -> u64 {
        self.kills_applied.load(Ordering::Relaxed)
    }

    /// Tables found to be other than their digest since start.
    pub fn drift_found(&self) -> u64 {
        self.drift_found.load(Ordering::Relaxed)
    }

    /// Of these, repaired.
    pub fn drift_mended(&self) -> u64 {
        self.drift_mended.load(Ordering::Relaxed)
    }

    /// The hub last tried.
    pub fn endpoint(&self) -> String {
        self.detail.lock().endpoint.clone()
    }

    /// Why the last stream ended, if it ended badly.
    pub fn last_error(&self) -> Option<String> {
        self.detail.lock().last_error.clone()
    }

    pub(super) fn trying(&self, endpoint: &str) {
        endpoint.clone_into(&mut self.detail.lock().endpoint);
    }

    pub(super) fn welcomed(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
        self.detail.lock().last_error = None;
    }

    pub(super) fn lost(&self, error: Option<String>) {
        self.connected.store(false, Ordering::Relaxed);
        if error.is_some() {
            self.detail.lock().last_error = error;
        }
    }

    pub(super) fn applied(&self, changes: usize) {
        self.changes_applied.fetch_add(changes as u64, Ordering::Relaxed);
    }

    pub(super) fn killed(&self, changes: usize) {
        self.kills_applied.fetch_add(changes as u64, Ordering::Relaxed);
    }

    pub(super) fn urgent(&self, connected: bool) {
        self.urgent_connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn drifted(&self) {
        self.drift_found.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mended(&self) {
        self.drift_mended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.batches_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }
}
