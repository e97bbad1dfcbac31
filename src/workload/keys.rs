//! Keys of trust domains, put in the place of those that issuers' records have.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::WorkloadClient;
use crate::core::credential::NO_KEYS;
use crate::core::id::Name;
use crate::core::identity::{Issuer, LocalTrust, Snapshot, SourceKeys, TokenProfile};

/// The sets that were last said, by trust domain.
type Sets = HashMap<Arc<str>, Arc<[u8]>>;

/// Keys of the trust domains that are wanted; none of them has any before something was said.
#[derive(Debug)]
pub struct JwtBundles {
    domains: Vec<Arc<str>>,
    said: ArcSwap<Sets>,
    edition: AtomicU64,
}

/// A record whose keys are replaced: its tenant, itself, the set.
type Place = (Name, Arc<Issuer>, Arc<[u8]>);

impl JwtBundles {
    /// For these domains, each `spiffe://` and its name.
    pub fn new(domains: Vec<Arc<str>>) -> Self {
        Self { domains, said: ArcSwap::default(), edition: AtomicU64::new(0) }
    }

    /// Takes the domains' records away from `trust`: from now on only what is said of them counts.
    pub fn govern(&self, trust: &LocalTrust) {
        trust.publish(self.none());
    }

    fn none(&self) -> SourceKeys {
        SourceKeys::governing(self.domains.iter().cloned())
    }

    pub(super) fn replace(&self, sets: Sets) {
        self.said.store(Arc::new(sets));
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Where a record of `snapshot` is of a domain that is wanted, and which set takes the place of its
    /// keys. A domain that was not said has none.
    fn places(&self, snapshot: &Snapshot) -> Vec<Place> {
        let sets = self.said.load();
        let mut places = Vec::new();
        for cell in snapshot.cells() {
            for domain in &self.domains {
                let held = snapshot.issuer_of(&cell.cell, domain);
                let issuer = held.and_then(|held| held.value.clone());
                if let Some(issuer) = issuer.filter(|it| it.profile == TokenProfile::JwtSvid) {
                    let set = sets.get(domain).cloned().unwrap_or_else(|| Arc::from(NO_KEYS));
                    places.push((cell.cell.clone(), issuer, set));
                }
            }
        }
        places
    }
}

/// Puts the keys in again whenever they, or the records, have changed.
pub(super) async fn keep(bundles: &JwtBundles, client: &WorkloadClient, stop: &CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let (mut seen, mut put) = (None, Vec::new());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let edition = bundles.edition.load(Ordering::Acquire);
        let snapshot = Arc::clone(&client.state.load());
        let now = Some((edition, snapshot.root()));
        if seen == now {
            continue;
        }
        let places = bundles.places(&snapshot);
        // Not across a wait: the writer waits until nobody holds it.
        drop(snapshot);
        seen = now;
        if places == put {
            continue;
        }
        let mut keys = bundles.none();
        for (tenant, issuer, set) in &places {
            keys.put(tenant, issuer, issuer.with_jwks(Arc::clone(set)));
        }
        put = places;
        client.trust.publish(keys);
        (client.moved)();
    }
}

/// How soon a change is put in.
const LOOK_EVERY: Duration = Duration::from_millis(50);
