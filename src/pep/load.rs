//! How much is taken on at once: requests under way, and memory.
//!
//! Memory is that of the whole process, as the operating system counts it, identity state and
//! buffers of every kind alike: nothing that callers can make grow is left out of the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What one listener takes on.
#[derive(Debug)]
pub struct Load {
    requests: AtomicUsize,
    requests_max: AtomicUsize,
    memory: Arc<Memory>,
}

impl Load {
    /// At most `requests_max` requests under way, and no more than there is memory for.
    pub const fn new(requests_max: usize, memory: Arc<Memory>) -> Self {
        Self { requests: AtomicUsize::new(0), requests_max: AtomicUsize::new(requests_max), memory }
    }

    /// A place for one more request, until it is dropped; `None`: there is none.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        // Counted first: two that come at once do not both find the last place.
        let place = InFlight(Arc::clone(self));
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let most = self.requests_max.load(Ordering::Relaxed);
        (before < most && !self.memory.is_spent()).then_some(place)
    }

    /// From now on at most so many requests under way.
    pub fn set_requests_max(&self, most: usize) {
        self.requests_max.store(most, Ordering::Relaxed);
    }

    /// Whether there is memory for one more connection.
    pub(crate) fn takes_connections(&self) -> bool {
        !self.memory.is_short()
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::new(20_000, Arc::default())
    }
}

/// The place of a request under way.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much memory the process has, and may have.
#[derive(Debug, Default)]
pub struct Memory {
    /// 0: any.
    budget: u64,
    resident: AtomicU64,
}

impl Memory {
    /// At most `budget` bytes; `None`: any.
    pub fn new(budget: Option<u64>) -> Self {
        Self { budget: budget.unwrap_or(0), resident: AtomicU64::new(0) }
    }

    /// Notes how many bytes are resident now.
    pub fn observe(&self, resident: u64) {
        self.resident.store(resident, Ordering::Relaxed);
    }

    /// The budget; `None`: any.
    pub fn budget(&self) -> Option<u64> {
        (self.budget > 0).then_some(self.budget)
    }

    /// Bytes resident when last observed.
    pub fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// More than nine tenths of the budget are resident: no further connections.
    fn is_short(&self) -> bool {
        self.budget().is_some_and(|budget| self.resident() > budget - budget / 10)
    }

    /// More than the budget is resident: no further requests.
    fn is_spent(&self) -> bool {
        self.budget().is_some_and(|budget| self.resident() > budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_given_once() {
        let load = Arc::new(Load::new(2, Arc::default()));
        let first = load.enter();
        let second = load.enter();
        assert!(first.is_some() && second.is_some());
        for _ in 0..3 {
            assert!(load.enter().is_none());
        }
        drop(first);
        assert!(load.enter().is_some());
        load.set_requests_max(3);
        let third = (load.enter(), load.enter());
        assert!(third.0.is_some() && third.1.is_some());
        assert!(load.enter().is_none());
    }

    #[test]
    fn memory_bounds_are_exact() {
        let memory = Arc::new(Memory::new(Some(1000)));
        let load = Arc::new(Load::new(1, Arc::clone(&memory)));
        for (resident, connections, requests) in [
            (0, true, true),
            (900, true, true),
            (901, false, true),
            (1000, false, true),
            (1001, false, false),
        ] {
            memory.observe(resident);
            assert_eq!(load.takes_connections(), connections, "{resident}");
            assert_eq!(load.enter().is_some(), requests, "{resident}");
        }
        let any = Load::new(1, Arc::new(Memory::new(None)));
        any.memory.observe(u64::MAX);
        assert!(any.takes_connections() && Arc::new(any).enter().is_some());
    }
}
