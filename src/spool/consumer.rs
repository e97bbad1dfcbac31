//! How far each sink is, and how a sink learns that there is more.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::id::LogId;

/// A place in the row of all logs: the first record not yet delivered.
pub type Delivered = (LogId, u64);

#[derive(Debug, Default)]
pub(crate) struct Consumers {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    positions: Vec<(String, Delivered)>,
    /// Told to the consumers by the keeper.
    written: u64,
    /// Rises with every call of [`Consumers::interrupt`].
    interrupts: u64,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// All records of the live log below this can be read.
    pub written: u64,
    /// Rises when waits are interrupted.
    pub interrupts: u64,
}

impl Consumers {
    pub(crate) fn new(names: &[String]) -> Self {
        let start = (LogId::default(), 0);
        let positions = names.iter().map(|name| (name.clone(), start)).collect();
        Self { inner: Mutex::new(Inner { positions, ..Inner::default() }), changed: Condvar::new() }
    }

    /// The place that every sink has reached; `None` without sinks.
    pub(crate) fn slowest(&self) -> Option<Delivered> {
        self.inner.lock().positions.iter().map(|(_, position)| *position).min()
    }

    /// Notes how far a sink is; going back is ignored.
    pub(crate) fn delivered(&self, name: &str, to: Delivered) {
        let mut inner = self.inner.lock();
        if let Some((_, position)) = inner.positions.iter_mut().find(|(known, _)| known == name) {
            *position = to.max(*position);
        }
    }

    /// Tells waiting sinks how far they can read.
    pub(crate) fn announce(&self, written: u64) {
        let mut inner = self.inner.lock();
        if inner.written != written {
            inner.written = written;
            self.changed.notify_all();
        }
    }

    pub(crate) fn interrupt(&self) {
        self.inner.lock().interrupts += 1;
        self.changed.notify_all();
    }

    /// Waits until more than `seen` is written, a wait is interrupted, or time is up.
    pub(crate) fn wait(&self, seen: Woken, at_most: Duration) -> Woken {
        let mut inner = self.inner.lock();
        let same = |inner: &mut Inner| inner.written <= seen.written && inner.interrupts == seen.interrupts;
        _ = self.changed.wait_while_for(&mut inner, same, at_most);
        Woken { written: inner.written, interrupts: inner.interrupts }
    }
}
