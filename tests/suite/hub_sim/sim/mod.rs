//! A world of hubs and enforcement points in virtual time, on a network that fails as networks do.
//!
//! The hub, the client, the last-known-good and the decision are the real ones; the network, the
//! clocks and the hub's disk are made up, and everything that chance decides comes from one seed.
//! The same seed gives the same run. What must hold is looked at throughout ([`oracle`]), and once
//! more when every fault is over.

mod edge;
mod fault;
mod host;
mod hubs;
mod issuer;
mod liar;
mod net;
mod operator;
mod oracle;
mod random;
mod scope;
pub(crate) mod store;
mod truth;
mod world;

use std::collections::BTreeMap;

use world::World;

/// What a run shall be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// What is broken in it on purpose.
    pub(crate) broken: Option<Broken>,
    /// Whether each step is printed.
    pub(crate) trace: bool,
}

/// A fault of the product itself, or of what it relies on, that the oracles must see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// The clock that freshness rests on stands still while the machine sleeps.
    ClockStopsInSuspend,
    /// A deposed primary names heads of its own memory, without a write that would be refused.
    HeartbeatLies,
    /// What was acknowledged was not on disk: a restart begins with older state, under its lease.
    AcknowledgedUnwritten,
    /// A new epoch makes enforcement points forget what they knew to be revoked.
    ForgetsAtNewEpoch,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// What did not hold.
    pub(crate) violations: Vec<String>,
    /// How often what happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// A hash over everything that happened, in order.
    pub(crate) trace: u64,
}

impl Report {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// Runs one world.
pub(crate) fn run(seed: u64, options: Options) -> Report {
    World::new(seed, options).run()
}
