//! Refusals of callers that resolved to no identity: a budget a listener, and beyond it a count.
//!
//! Strangers choose how many of these there are. Within the budget each has a record; beyond it
//! they are counted by listener, resource, route and reason, none of which a stranger can invent,
//! and the counts become one record every ten seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::evidence::ExchangeFacts;
use crate::core::id::Name;
use crate::core::policy::{Reason, Verdict};
use crate::core::time::Now;
use crate::wire::evidence::{ROLLED_UP_GROUPS_MAX, RolledUp, RolledUpGroup};

/// How long a window of counts stays open.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Most refusals one window holds; a fuller one is closed early, which bounds what a crash can lose.
pub(crate) const WINDOW_COUNT_MAX: u64 = 65_536;

/// Most listeners with a budget of their own; the rest share one.
const LISTENERS_MAX: usize = 256;

const TOKEN: u64 = 1_000_000;

/// The budgets and the open window.
#[derive(Debug)]
pub(crate) struct Refusals {
    per_second: u32,
    rates: HashMap<Arc<str>, u32>,
    budgets: HashMap<Arc<str>, Budget>,
    shared: Budget,
    window: Option<Window>,
    numbered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Millionths of a record.
    tokens: u64,
    at_us: u64,
}

#[derive(Debug)]
struct Window {
    began: Now,
    rolled: RolledUp,
}

impl Refusals {
    /// Begins with full budgets: of `per_second` records, or of what `rates` says of a listener.
    pub(crate) fn new(per_second: u32, rates: HashMap<Arc<str>, u32>, now: Now) -> Self {
        let shared = Budget::full(per_second, now);
        Self { per_second, rates, budgets: HashMap::new(), shared, window: None, numbered: 0 }
    }

    /// Takes one record's worth from a listener's budget; `false`: it is spent.
    pub(crate) fn admit(&mut self, listener: &Arc<str>, now: Now) -> bool {
        let rate = self.rates.get(listener).copied().unwrap_or(self.per_second);
        if !self.budgets.contains_key(listener) && self.budgets.len() < LISTENERS_MAX {
            self.budgets.insert(Arc::clone(listener), Budget::full(rate, now));
        }
        self.budgets.get_mut(listener).unwrap_or(&mut self.shared).take(rate, now)
    }

    /// Counts one and gives its place number, from 1.
    pub(crate) fn count(&mut self, facts: &ExchangeFacts, verdict: &Verdict, now: Now) -> u64 {
        self.numbered += 1;
        let first = self.numbered;
        let window = self.window.get_or_insert_with(|| Window {
            began: now,
            rolled: RolledUp { first, from_us: now.wall.as_micros(), ..RolledUp::default() },
        });
        window.rolled.count += 1;
        window.rolled.to_us = now.wall.as_micros();
        // A refusal always has a reason.
        let reason = verdict.reason().unwrap_or(Reason::Internal);
        let basis = verdict.basis();
        window.add(&facts.listener, basis.resource.as_ref(), basis.route.as_ref(), reason);
        self.numbered
    }

    /// Whether the window should be written now.
    pub(crate) fn due(&self, now: Now) -> bool {
        self.window.as_ref().is_some_and(|window| {
            window.rolled.count >= WINDOW_COUNT_MAX
                || now.boot.since(window.began.boot).is_none_or(|age| age >= WINDOW)
        })
    }

    /// Whether any count waits.
    pub(crate) const fn is_open(&self) -> bool {
        self.window.is_some()
    }

    /// Closes the window and gives what to write.
    pub(crate) fn take(&mut self) -> Option<RolledUp> {
        self.window.take().map(|window| window.rolled)
    }
}

impl Window {
    fn add(
        &mut self,
        listener: &Arc<str>,
        resource: Option<&Name>,
        route: Option<&Arc<str>>,
        reason: Reason,
    ) {
        let groups = &mut self.rolled.groups;
        let same = |group: &&mut RolledUpGroup| {
            group.reason == reason
                && group.listener == *listener
                && group.resource.as_ref() == resource
                && group.route.as_ref() == route
        };
        if let Some(group) = groups.iter_mut().find(same) {
            group.count += 1;
            return;
        }
        let rest = |group: &&mut RolledUpGroup| group.reason == reason && group.listener.is_empty();
        if groups.len() >= ROLLED_UP_GROUPS_MAX {
            if let Some(group) = groups.iter_mut().find(rest) {
                group.count += 1;
                return;
            }
            let listener = Arc::from("");
            groups.push(RolledUpGroup { listener, resource: None, route: None, reason, count: 1 });
            return;
        }
        groups.push(RolledUpGroup {
            listener: Arc::clone(listener),
            resource: resource.cloned(),
            route: route.cloned(),
            reason,
            count: 1,
        });
    }
}

impl Budget {
    fn full(per_second: u32, now: Now) -> Self {
        Self { tokens: u64::from(per_second) * TOKEN, at_us: now.boot.as_micros() }
    }

    fn take(&mut self, per_second: u32, now: Now) -> bool {
        let now_us = now.boot.as_micros();
        let gained = now_us.saturating_sub(self.at_us).saturating_mul(u64::from(per_second));
        self.at_us = self.at_us.max(now_us);
        self.tokens = self.tokens.saturating_add(gained).min(u64::from(per_second) * TOKEN);
        match self.tokens.checked_sub(TOKEN) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}
