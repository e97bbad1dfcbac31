//! Keys in the place of those that issuers' records have.

use std::sync::Arc;

use super::{DirectKeys, Held, Place};
use crate::core::credential::NO_KEYS;
use crate::core::id::Name;
use crate::core::identity::Issuer;
use crate::core::time::Timestamp;

/// What was put in last.
#[derive(Default)]
pub(super) struct Put(Vec<Replaced>);

/// A record whose keys are replaced.
#[derive(Clone, PartialEq)]
struct Replaced {
    tenant: Name,
    name: Name,
    source: usize,
    issuer: Arc<Issuer>,
    jwks: Arc<[u8]>,
    until: Option<Timestamp>,
}

impl Put {
    /// Puts the keys in again if they, or the records, have changed.
    pub(super) fn bring(&mut self, keys: &DirectKeys, held: &[Held], place: &Place) {
        let now = keys.replaced(held);
        if now == self.0 {
            return;
        }
        let mut put = keys.none();
        for it in &now {
            let Some(of) = keys.sources.get(it.source) else { continue };
            let local = it.issuer.with_jwks(Arc::clone(&it.jwks)).with_source(of.source.clone());
            put.put(&it.tenant, &it.issuer, local.with_keys_until(it.until));
        }
        let records = now.iter().map(|it| ((it.tenant.clone(), it.name.clone()), it.source));
        keys.records.store(Arc::new(records.collect()));
        place.trust.publish_fetched(put);
        // That the same keys count for longer turns nobody's verdict.
        let verify_alike = |one: &Replaced, other: &Replaced| {
            Replaced { until: None, ..one.clone() } == Replaced { until: None, ..other.clone() }
        };
        let same = now.len() == self.0.len() && now.iter().zip(&self.0).all(|(a, b)| verify_alike(a, b));
        self.0 = now;
        if !same {
            (place.moved)();
        }
    }
}

impl DirectKeys {
    /// The records that are there, and which set takes the place of their keys. Whose was not fetched has none.
    fn replaced(&self, held: &[Held]) -> Vec<Replaced> {
        let standings = self.standings.lock();
        let sources = self.sources.iter().zip(&*standings).zip(held).enumerate();
        let replaced = sources.filter_map(|(source, ((of, standing), held))| {
            let (name, issuer) = held.clone()?;
            let found = standing.keys(issuer.profile.key_use(), &self.pace);
            let (jwks, until) = match found {
                Some((jwks, until)) => (jwks, Some(until)),
                None => (Arc::from(NO_KEYS), None),
            };
            Some(Replaced { tenant: of.tenant.clone(), name, source, issuer, jwks, until })
        });
        replaced.collect()
    }
}
