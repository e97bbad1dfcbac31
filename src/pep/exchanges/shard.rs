//! One worker's open exchanges, found by what their decisions read.
//!
//! Most exchanges are over in a moment. A new one is only listed, and indexed once it has been
//! seen open by two rounds; until then a change compares it itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::evidence::Allowed;
use crate::core::policy::{Exchange, Staleness, Verdict};
use crate::core::time::Timestamp;
use crate::pep::exchanges::open::Open;
use crate::pep::exchanges::reads::Reads;
use crate::pep::line::Turn;

/// The open exchanges of one worker of one listener.
#[derive(Debug)]
pub(crate) struct Shard {
    reads: Reads,
    next: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    round: u64,
    young: HashMap<u64, Young>,
    old: HashMap<u64, Old>,
    /// By what was read: (number, exchange).
    index: BTreeSet<(u64, u64)>,
    /// By when it is to be judged again.
    due: BTreeSet<(Timestamp, u64)>,
    /// How many there are of each `deny_after`.
    limits: BTreeMap<Option<Duration>, usize>,
}

#[derive(Debug)]
struct Young {
    since: u64,
    open: Weak<Open>,
}

#[derive(Debug)]
struct Old {
    open: Weak<Open>,
    numbers: Vec<u64>,
    due: Option<Timestamp>,
    limit: Option<Duration>,
}

/// Where an exchange is listed.
#[derive(Debug)]
pub(super) struct Place {
    shard: Arc<Shard>,
    id: u64,
}

impl Place {
    /// Lists it by what it rests on now.
    pub(super) fn relist(&self, verdict: &Verdict, staleness: Staleness) {
        let numbers = self.shard.reads.of_verdict(verdict, staleness);
        self.shard.inside.lock().relist(self.id, numbers, verdict.basis().until);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.shard.inside.lock();
        if inside.young.remove(&self.id).is_none() {
            inside.remove(self.id);
        }
    }
}

impl Shard {
    pub(super) fn new(reads: Reads) -> Self {
        Self { reads, next: AtomicU64::new(0), inside: Mutex::default() }
    }

    /// Lists an allowed exchange. One that was asked for no credential rests on no state: it is not listed.
    ///
    /// INVARIANT: this comes before the last look, which compares the state with the one that it was
    /// judged by. A writer publishes first and then asks who is listed: one of the two sees the other.
    pub(crate) fn enter(self: &Arc<Self>, exchange: Exchange, allowed: &Allowed, turn: Turn) -> Arc<Open> {
        if exchange.rules.anonymous {
            return Arc::new(Open::new(None, exchange, allowed, turn));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let place = Place { shard: Arc::clone(self), id };
        let open = Arc::new(Open::new(Some(place), exchange, allowed, turn));
        let mut inside = self.inside.lock();
        let since = inside.round;
        inside.young.insert(id, Young { since, open: Arc::downgrade(&open) });
        drop(inside);
        open
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        let inside = self.inside.lock();
        inside.young.len() + inside.old.len()
    }

    /// Those that rest on any of `touched`.
    pub(super) fn resting_on(&self, touched: &HashSet<u64>) -> Vec<Arc<Open>> {
        let inside = self.inside.lock();
        let mut found = inside.indexed(touched.iter().copied());
        let young: Vec<_> = inside.young.values().filter_map(|young| young.open.upgrade()).collect();
        drop(inside);
        let rests = |open: &Arc<Open>| {
            let numbers = self.reads.of_verdict(&open.judged(), open.exchange().rules.staleness);
            numbers.iter().any(|number| touched.contains(number))
        };
        found.extend(young.into_iter().filter(rests));
        found
    }

    /// A round: indexes what has become old, and gives what is to be judged again at `now`, or because
    /// its route's limit `is_over`.
    pub(super) fn round(&self, now: Timestamp, is_over: impl Fn(Option<Duration>) -> bool) -> Vec<Arc<Open>> {
        let mut inside = self.inside.lock();
        inside.round += 1;
        let round = inside.round;
        let aged = inside.young.iter().filter(|(_, young)| young.since + 1 < round);
        let aged: Vec<_> = aged.filter_map(|(id, young)| Some((*id, young.open.upgrade()?))).collect();
        drop(inside);
        for (id, open) in &aged {
            let (verdict, limits) = (open.judged(), open.exchange().rules.staleness);
            let numbers = self.reads.of_verdict(&verdict, limits);
            self.inside.lock().grow_old(*id, numbers, verdict.basis().until, limits.deny_after);
            let now = open.judged();
            if !Arc::ptr_eq(&now, &verdict) {
                // It was judged again between reading and listing.
                let numbers = self.reads.of_verdict(&now, limits);
                self.inside.lock().relist(*id, numbers, now.basis().until);
            }
        }
        drop(aged);
        let mut inside = self.inside.lock();
        let over = inside.limits.keys().copied().filter(|limit| is_over(*limit));
        let over: Vec<_> = over.map(|limit| self.reads.deny_after(limit)).collect();
        let mut found = inside.indexed(over.into_iter());
        found.extend(inside.take_due(now));
        found
    }
}

impl Inside {
    fn indexed(&self, numbers: impl Iterator<Item = u64>) -> Vec<Arc<Open>> {
        let ids: HashSet<u64> = numbers
            .flat_map(|number| self.index.range((number, 0)..=(number, u64::MAX)).map(|(_, id)| *id))
            .collect();
        ids.iter().filter_map(|id| self.old.get(id)?.open.upgrade()).collect()
    }

    fn take_due(&mut self, now: Timestamp) -> Vec<Arc<Open>> {
        let later = now.after(Duration::from_micros(1));
        let rest = self.due.split_off(&(later, 0));
        let due = std::mem::replace(&mut self.due, rest);
        let open = |(_, id): (Timestamp, u64)| {
            let old = self.old.get_mut(&id)?;
            old.due = None;
            old.open.upgrade()
        };
        due.into_iter().filter_map(open).collect()
    }

    fn grow_old(&mut self, id: u64, numbers: Vec<u64>, due: Option<Timestamp>, limit: Option<Duration>) {
        let Some(young) = self.young.remove(&id) else { return };
        self.index.extend(numbers.iter().map(|number| (*number, id)));
        self.due.extend(due.map(|due| (due, id)));
        *self.limits.entry(limit).or_default() += 1;
        self.old.insert(id, Old { open: young.open, numbers, due, limit });
    }

    fn relist(&mut self, id: u64, numbers: Vec<u64>, due: Option<Timestamp>) {
        let Some(old) = self.old.get_mut(&id) else { return };
        if old.due != due {
            old.due.and_then(|due| self.due.take(&(due, id)));
            self.due.extend(due.map(|due| (due, id)));
            old.due = due;
        }
        if old.numbers != numbers {
            for number in std::mem::replace(&mut old.numbers, numbers) {
                self.index.remove(&(number, id));
            }
            self.index.extend(old.numbers.iter().map(|number| (*number, id)));
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(old) = self.old.remove(&id) else { return };
        for number in old.numbers {
            self.index.remove(&(number, id));
        }
        old.due.and_then(|due| self.due.take(&(due, id)));
        if let Some(count) = self.limits.get_mut(&old.limit) {
            *count -= 1;
            if *count == 0 {
                self.limits.remove(&old.limit);
            }
        }
    }
}
