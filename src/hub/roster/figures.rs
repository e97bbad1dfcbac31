//! Sums over the roster, for metrics.

use std::collections::HashMap;
use std::time::Duration;

use super::member::Member;
use crate::core::id::Name;
use crate::core::time::BootInstant;

/// The fleet in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FleetFigures {
    /// Members that may hold state under a lease, live or not.
    pub(crate) members: u64,
    /// Of these, with a live stream.
    pub(crate) connected: u64,
    /// Of these, some cell of theirs lacks a revocation that has been committed.
    pub(crate) pending: u64,
    /// The longest time since a connected member's last ping was answered.
    pub(crate) quietest: Duration,
    /// Tables found to differ, ever, by members still listed.
    pub(crate) drift_found: u64,
    /// Of these, repaired.
    pub(crate) drift_mended: u64,
    /// Revocations kept from an older epoch that the store does not restate.
    pub(crate) carried: u64,
}

impl FleetFigures {
    pub(super) fn add(&mut self, member: &Member, kills: &HashMap<Name, u64>, now: BootInstant) {
        self.members += 1;
        let lacks = |(cell, held): (&Name, &super::member::InForce)| {
            let may_hold = member.holdings.of(cell).is_some();
            may_hold && kills.get(cell).is_some_and(|last| held.kill_revision < *last)
        };
        self.pending += u64::from(member.positions().any(lacks));
        self.drift_found = self.drift_found.saturating_add(member.drift.0);
        self.drift_mended = self.drift_mended.saturating_add(member.drift.1);
        self.carried = self.carried.saturating_add(member.carried);
        if member.is_connected() {
            self.connected += 1;
            let quiet = member.last_answer().and_then(|at| now.since(at)).unwrap_or_default();
            self.quietest = self.quietest.max(quiet);
        }
    }
}
