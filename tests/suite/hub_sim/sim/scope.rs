//! Which tenants an enforcement point may hold: the operator takes one away, and gives it back.
//!
//! Drawn from a stream of chance of its own, so that worlds without it are as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portreeve::core::id::Name;
use serde_json::json;

use super::host::{SECOND, Us};
use super::hubs::Asked;
use super::random::Random;
use super::world::{Event, World};

/// What the operator told of scopes.
#[derive(Debug)]
pub(crate) struct Scopes {
    random: Random,
    /// Of enforcement points whose scope was ever set, by name.
    told: BTreeMap<String, Told>,
    /// Tenants that were taken from someone, ever.
    taken: BTreeSet<(String, Name)>,
}

#[derive(Clone, Debug)]
struct Told {
    /// What is taken away; `None`: nothing.
    without: Option<Name>,
    /// Since when a hub has said so; `None`: the answer, or the store that took it, was lost.
    since: Option<Us>,
    /// Of the newest answer: two changes may be committed in another order than they were asked for.
    version: u64,
}

impl Scopes {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x5343_4f50_4553);
        Self { random, told: BTreeMap::new(), taken: BTreeSet::new() }
    }

    /// Whether an enforcement point shall hold a tenant in the end.
    pub(crate) fn hold(&self, edge: &str, tenant: &Name) -> bool {
        self.told.get(edge).is_none_or(|told| told.without.as_ref() != Some(tenant))
    }

    /// Since when a tenant is out of an enforcement point's scope, as far as a hub has said so.
    pub(crate) fn out_since(&self, edge: &str, tenant: &Name) -> Option<Us> {
        let told = self.told.get(edge)?;
        told.since.filter(|_| told.without.as_ref() == Some(tenant))
    }

    /// Whether an enforcement point may ever have had to drop a tenant.
    pub(crate) fn may_be_gone(&self, edge: &str, tenant: &Name) -> bool {
        self.taken.contains(&(edge.to_owned(), tenant.clone()))
    }

    /// The store that took them may be another now.
    pub(crate) fn forget(&mut self) {
        self.told.values_mut().for_each(|told| (told.since, told.version) = (None, 0));
    }

    /// A hub has answered.
    pub(crate) fn answered(&mut self, edge: &str, without: Option<Name>, at: Us, version: u64) {
        if self.told.get(edge).is_none_or(|told| told.version <= version) {
            self.told.insert(edge.to_owned(), Told { without, since: Some(at), version });
        }
    }
}

/// After a change at one hub another one reads it within this.
const READ_WITHIN: Us = 2 * SECOND;

impl World {
    /// Draws when scopes change, if they do in this world.
    pub(crate) fn schedule_scopes(&mut self, end: Us) {
        if !self.scopes.random.percent(35) {
            return;
        }
        for _ in 0..self.scopes.random.between(1, 4) {
            let at = self.scopes.random.between(self.now + SECOND, end);
            self.at(at, Event::Scope);
        }
    }

    /// Takes a tenant from an enforcement point, or gives it back what was taken.
    pub(crate) fn change_scope(&mut self) {
        let edge = self.scopes.random.place(self.edges.len());
        let edge = self.edges[edge].name.clone();
        let narrowed = self.scopes.told.get(&edge).is_some_and(|told| told.without.is_some());
        let tenants: BTreeSet<Name> =
            self.truth.lock().now().identities.keys().map(|(tenant, _)| tenant.clone()).collect();
        let tenants: Vec<Name> = tenants.into_iter().collect();
        let without = (!narrowed && !tenants.is_empty()).then(|| self.scopes.random.pick(&tenants).clone());
        self.report.count(if without.is_some() { "scope narrowed" } else { "scope widened" });
        self.tell_scope(&edge, without);
    }

    fn tell_scope(&mut self, edge: &str, without: Option<Name>) {
        let every = ["alpha", "beta"];
        let scope = match &without {
            None => json!({ "all": true }),
            Some(gone) => {
                json!({ "tenants": every.iter().filter(|it| **it != gone.as_str()).collect::<Vec<_>>() })
            }
        };
        self.trace(format_args!("scope of {edge}: {scope}"));
        self.scopes.taken.extend(without.iter().map(|gone| (edge.to_owned(), gone.clone())));
        let version = self.scopes.told.get(edge).map_or(0, |told| told.version);
        self.scopes.told.insert(edge.to_owned(), Told { without: without.clone(), since: None, version });
        let hub = self.primary;
        self.step(hub);
        let asked = Asked::Scope { edge: edge.to_owned(), without };
        self.hubs[hub].ask(asked, "PUT", &format!("/v1/fleet/{edge}/scope"), Some(scope));
    }

    /// Tells once more what may have been lost.
    pub(crate) fn tell_scopes_again(&mut self) {
        let unsure = self.scopes.told.iter().filter(|(_, told)| told.since.is_none());
        let unsure: Vec<_> = unsure.map(|(edge, told)| (edge.clone(), told.without.clone())).collect();
        for (edge, without) in unsure {
            self.tell_scope(&edge, without);
        }
    }

    /// An allow that had its effect must not be by a tenant that left the scope a lease ago.
    pub(crate) fn was_in_scope(&mut self, edge: usize, tenant: &Name) {
        let name = self.edges[edge].name.clone();
        let deny_after = self.edges[edge].settings.deny_after;
        let Some(since) = self.scopes.out_since(&name, tenant) else { return };
        self.report.count("allowed while the scope leaves");
        let lease = u64::try_from((deny_after + deny_after / 2000).as_micros()).unwrap();
        if self.now > since + READ_WITHIN + lease {
            let late = Duration::from_micros(self.now - since - lease);
            self.violated(format!("{name} allowed by {tenant}, {late:?} after it had to be dropped"));
        }
    }
}
