//! When the state counts as fresh: our own ping, answered with a head that is applied here.
//!
//! INVARIANT (I6): the lease's time is that of the latest ping whose answer named a head of
//! every cell held, and only heads that are in force here. An answer may overtake its deltas; it then waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::core::id::Name;
use crate::core::identity::{Lease, Snapshot};
use crate::core::time::{Anchor, Now};

/// Most unanswered pings and uncovered answers kept.
const KEPT_MAX: usize = 64;

/// Follows pings and answers of one stream.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    sent: VecDeque<(u64, Now, Anchor)>,
    heads: BTreeMap<Name, Heads>,
    uncovered: VecDeque<Answer>,
    next_nonce: u64,
}

#[derive(Debug)]
struct Answer {
    lease: Lease,
    heads: BTreeMap<Name, Heads>,
}

/// How far a cell has come, as an answer names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Heads {
    /// The order.
    pub(super) revision: u64,
    /// The revocations, which may be ahead of the order that is offered.
    pub(super) kill_revision: u64,
}

/// What an answer tells beside the heads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// When the hub began to read them, microseconds since the Unix epoch.
    pub(super) hub_time_us: u64,
    /// The longest `deny_after` granted.
    pub(super) deny_after_max: Duration,
}

impl Freshness {
    /// Notes that a ping is sent now, and gives its nonce.
    pub(super) fn ping(&mut self, now: Now, anchor: Anchor) -> u64 {
        self.next_nonce += 1;
        keep(&mut self.sent, (self.next_nonce, now, anchor));
        self.next_nonce
    }

    /// Takes an answer; heads it does not name are as in the answer before.
    ///
    /// An answer to a ping that was not sent here is ignored.
    pub(super) fn answered(&mut self, nonce: u64, heads: Vec<(Name, Heads)>, told: Told) {
        let Told { hub_time_us, deny_after_max } = told;
        self.heads.extend(heads);
        let Some(at) = self.sent.iter().position(|(sent, ..)| *sent == nonce) else { return };
        let Some((_, sent, anchor)) = self.sent.drain(..=at).next_back() else { return };
        let lease =
            Lease { fresh_at: Some(sent.boot), wall_at: sent.wall, anchor, hub_time_us, deny_after_max };
        keep(&mut self.uncovered, Answer { lease, heads: self.heads.clone() });
    }

    /// Forgets every answer that waits: it was given under another scope.
    pub(super) fn rescope(&mut self) {
        self.uncovered.clear();
    }

    /// Forgets a cell that is held no more.
    pub(super) fn forget(&mut self, cell: &Name) {
        self.heads.remove(cell);
        self.uncovered.iter_mut().for_each(|answer| {
            answer.heads.remove(cell);
        });
    }

    /// The newest lease that the state now in force covers, if one newer than the last taken has become so.
    pub(super) fn covered(&mut self, snapshot: &Snapshot) -> Option<Lease> {
        let covers = |answer: &Answer| {
            let in_force = |(cell, heads): (&Name, &Heads)| {
                snapshot.cell(cell).is_some_and(|held| {
                    held.revision >= heads.revision && held.kill_revision >= heads.kill_revision
                })
            };
            // A cell that no answer has named yet may have moved on.
            snapshot.cells().iter().all(|held| answer.heads.contains_key(&held.cell))
                && answer.heads.iter().all(in_force)
        };
        let newest = self.uncovered.iter().rposition(covers)?;
        self.uncovered.drain(..=newest).next_back().map(|answer| answer.lease)
    }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT_MAX {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Epoch;
    use crate::core::identity::{Batch, Keyer};
    use crate::core::time::BootInstant;

    fn state(revision: u64) -> Snapshot {
        let batch = Batch {
            cell: cell(),
            epoch: Epoch::from_bytes([1; 16]),
            from_revision: 0,
            to_revision: revision,
            history_hash: [0; 32],
            state_digest: None,
            changes: Vec::new(),
        };
        Snapshot::empty(Keyer::new(1)).apply(&batch).unwrap()
    }

    fn cell() -> Name {
        Name::parse("demo").unwrap()
    }

    fn head(revision: u64) -> Heads {
        Heads { revision, kill_revision: 0 }
    }

    fn ping(freshness: &mut Freshness, us: u64) -> u64 {
        freshness.ping(Now { boot: BootInstant::from_micros(us), ..Now::default() }, Anchor::default())
    }

    fn told(hub_time_us: u64) -> Told {
        Told { hub_time_us, deny_after_max: Duration::from_secs(hub_time_us) }
    }

    fn at(us: u64) -> Option<BootInstant> {
        Some(BootInstant::from_micros(us))
    }

    #[test]
    fn an_answer_counts_only_once_its_head_is_in_force() {
        let mut freshness = Freshness::default();
        let nonce = ping(&mut freshness, 10);
        freshness.answered(nonce, vec![(cell(), head(5))], told(1));
        assert_eq!(freshness.covered(&state(4)), None);
        assert_eq!(freshness.covered(&state(5)).unwrap().fresh_at, at(10));
        assert_eq!(freshness.covered(&state(5)), None, "taken once");
    }

    #[test]
    fn heads_are_sparse_and_carry_over() {
        let mut freshness = Freshness::default();
        let first = ping(&mut freshness, 10);
        freshness.answered(first, vec![(cell(), head(5))], told(1));
        let second = ping(&mut freshness, 20);
        freshness.answered(second, Vec::new(), told(2));
        assert_eq!(freshness.covered(&state(4)), None, "the second answer still means head 5");
        let lease = freshness.covered(&state(6)).unwrap();
        assert_eq!(lease.fresh_at, at(20), "the newest covered one counts");
        assert_eq!(lease.deny_after_max, Duration::from_secs(2), "under its own terms");
    }

    #[test]
    fn answers_to_strangers_pings_do_not_count() {
        let mut freshness = Freshness::default();
        freshness.answered(1, vec![(cell(), head(0))], told(1));
        assert_eq!(freshness.covered(&state(1)), None);
        let nonce = ping(&mut freshness, 10);
        freshness.answered(nonce, Vec::new(), told(1));
        freshness.answered(nonce, Vec::new(), told(9));
        assert_eq!(freshness.covered(&state(1)).unwrap().hub_time_us, 1, "each nonce once");
    }

    #[test]
    fn an_answer_that_leaves_out_a_cell_held_does_not_count() {
        let mut freshness = Freshness::default();
        let nonce = ping(&mut freshness, 10);
        freshness.answered(nonce, Vec::new(), told(1));
        assert_eq!(freshness.covered(&state(1)), None, "nobody said how far the cell has come");
        assert_eq!(freshness.covered(&Snapshot::empty(Keyer::new(1))).unwrap().fresh_at, at(10));
    }

    #[test]
    fn answers_under_another_scope_do_not_count() {
        let mut freshness = Freshness::default();
        let nonce = ping(&mut freshness, 10);
        freshness.answered(nonce, vec![(cell(), head(5))], told(1));
        freshness.rescope();
        assert_eq!(freshness.covered(&state(5)), None);
        let nonce = ping(&mut freshness, 20);
        freshness.answered(nonce, Vec::new(), told(2));
        assert_eq!(freshness.covered(&state(5)).unwrap().fresh_at, at(20), "the heads still stand");
    }

    #[test]
    fn revocations_ahead_of_the_order_count_too() {
        for (kill_revision, fresh) in [(5, true), (6, false)] {
            let mut freshness = Freshness::default();
            let nonce = ping(&mut freshness, 10);
            freshness.answered(nonce, vec![(cell(), Heads { revision: 4, kill_revision })], told(1));
            assert_eq!(freshness.covered(&state(5)).is_some(), fresh, "{kill_revision}");
        }
    }
}
