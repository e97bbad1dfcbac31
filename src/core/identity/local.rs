//! Keys of issuers that an enforcement point has from elsewhere than its hub.
//!
//! They take the place of the keys in an issuer's record, and of nothing else in it. Which record they were
//! put in is part of them: by one that has changed since nothing is verified until they are put in again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::core::id::Name;
use crate::core::identity::record::{Issuer, TokenProfile};

/// Keys from elsewhere, as they are now, and how often anything that is trusted locally has changed.
///
/// INVARIANT: [`Self::edition`] counts up after a change is in place. A decision reads it first.
#[derive(Debug, Default)]
pub struct LocalTrust {
    keys: ArcSwap<LocalKeys>,
    edition: AtomicU64,
}

impl LocalTrust {
    /// The keys now. Hold the guard for one decision.
    pub fn keys(&self) -> Guard<Arc<LocalKeys>> {
        self.keys.load()
    }

    /// Puts the keys that a Workload API said in place of those before.
    pub fn publish(&self, keys: SourceKeys) {
        let said = Arc::new(keys);
        self.keys.rcu(|now| LocalKeys { said: Arc::clone(&said), fetched: Arc::clone(&now.fetched) });
        self.moved();
    }

    /// Puts the keys that were fetched here in place of those before.
    pub fn publish_fetched(&self, keys: SourceKeys) {
        let fetched = Arc::new(keys);
        self.keys.rcu(|now| LocalKeys { said: Arc::clone(&now.said), fetched: Arc::clone(&fetched) });
        self.moved();
    }

    /// Notes that something that is trusted locally has changed.
    pub fn moved(&self) {
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Counts up with each change.
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}

/// Issuers with keys from elsewhere, by where that is.
#[derive(Clone, Debug, Default)]
pub struct LocalKeys {
    said: Arc<SourceKeys>,
    fetched: Arc<SourceKeys>,
}

impl LocalKeys {
    /// The issuer by which tokens are verified where the state has `issuer`; `None`: its keys come from
    /// elsewhere, and have not.
    pub fn of<'a>(&'a self, tenant: &Name, issuer: &'a Issuer) -> Option<&'a Issuer> {
        match [&self.said, &self.fetched].into_iter().find(|source| source.governs(tenant, issuer)) {
            Some(source) => source.put.get(tenant)?.get(&issuer.digest).map(|local| &**local),
            None => Some(issuer),
        }
    }
}

/// Issuers whose keys come from one place.
#[derive(Clone, Debug, Default)]
pub struct SourceKeys {
    /// Of JWT-SVIDs by these `iss` nothing is verified by the keys of a record, in any tenant.
    domains: HashSet<Arc<str>>,
    /// And of these issuers of a tenant.
    issuers: HashMap<Name, HashSet<Arc<str>>>,
    put: HashMap<Name, HashMap<[u8; 32], Arc<Issuer>>>,
}

impl SourceKeys {
    /// Without any; of JWT-SVIDs by these `iss` nothing is verified by the keys of a record.
    pub fn governing(domains: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { domains: domains.into_iter().collect(), ..Self::default() }
    }

    /// Without any; of these issuers, by tenant and `iss`, nothing is verified by the keys of a record.
    pub fn of_issuers(issuers: impl IntoIterator<Item = (Name, Arc<str>)>) -> Self {
        let mut keys = Self::default();
        for (tenant, iss) in issuers {
            keys.issuers.entry(tenant).or_default().insert(iss);
        }
        keys
    }

    /// Puts `local` in the place of `tenant`'s `issuer`: the same with other keys.
    pub fn put(&mut self, tenant: &Name, issuer: &Issuer, local: Issuer) {
        self.put.entry(tenant.clone()).or_default().insert(issuer.digest, Arc::new(local));
    }

    fn governs(&self, tenant: &Name, issuer: &Issuer) -> bool {
        (issuer.profile == TokenProfile::JwtSvid && self.domains.contains(&issuer.iss))
            || self.issuers.get(tenant).is_some_and(|of_tenant| of_tenant.contains(&issuer.iss))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::credential::NO_KEYS;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn issuer(audience: &str) -> Issuer {
        let (jwks, profile) = (Arc::from(NO_KEYS), TokenProfile::JwtSvid);
        Issuer::new("spiffe://a".into(), profile, vec![], vec![audience.into()], 60, jwks)
    }

    fn with_keys(issuer: &Issuer) -> Issuer {
        issuer.with_jwks(Arc::from(&b"{}"[..]))
    }

    #[test]
    fn keys_are_put_in_the_record_they_were_made_for_and_no_other() {
        let (held, changed) = (issuer("x"), issuer("y"));
        let trust = LocalTrust::default();
        assert_eq!(trust.keys().of(&name("a"), &held), Some(&held));
        let mut keys = SourceKeys::governing(["spiffe://a".into()]);
        trust.publish(keys.clone());
        assert_eq!(trust.keys().of(&name("a"), &held), None, "before they have come");
        keys.put(&name("a"), &held, with_keys(&held));
        trust.publish(keys);
        let now = trust.keys();
        let of = |tenant: &str, issuer| now.of(&name(tenant), issuer).cloned();
        assert_eq!(&*of("a", &held).unwrap().jwks, b"{}");
        assert_ne!(of("a", &held).unwrap().digest, held.digest, "what was verified before is not remembered");
        assert_eq!(of("b", &held), None, "another tenant's");
        assert_eq!(of("a", &changed), None, "a record that has changed");
        let elsewhere = Issuer { iss: "spiffe://b".into(), ..held.clone() };
        assert_eq!(of("a", &elsewhere), Some(elsewhere.clone()), "another domain's");
        let other = Issuer { profile: TokenProfile::Generic, ..held.clone() };
        assert_eq!(of("a", &other), Some(other.clone()), "another profile's");
        assert_eq!(trust.edition(), 2);
    }

    #[test]
    fn keys_that_were_fetched_are_of_one_tenants_issuer_and_beside_those_that_were_said() {
        let held = Issuer { profile: TokenProfile::Generic, ..issuer("x") };
        let trust = LocalTrust::default();
        let mut keys = SourceKeys::of_issuers([(name("a"), Arc::from("spiffe://a"))]);
        trust.publish_fetched(keys.clone());
        let of = |tenant: &str, issuer: &Issuer| trust.keys().of(&name(tenant), issuer).cloned();
        assert_eq!(of("a", &held), None, "before they have come");
        assert_eq!(of("b", &held), Some(held.clone()), "another tenant's");
        keys.put(&name("a"), &held, with_keys(&held));
        trust.publish_fetched(keys);
        assert_eq!(&*of("a", &held).unwrap().jwks, b"{}");
        trust.publish(SourceKeys::governing(["spiffe://b".into()]));
        assert_eq!(&*of("a", &held).unwrap().jwks, b"{}", "what was said takes none of them away");
        trust.publish_fetched(SourceKeys::default());
        let said = Issuer { iss: "spiffe://b".into(), ..issuer("x") };
        assert_eq!((of("a", &held), of("a", &said)), (Some(held), None), "nor the other way round");
    }
}
