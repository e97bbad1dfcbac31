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

    /// Puts keys in place of those before.
    pub fn publish(&self, keys: LocalKeys) {
        self.keys.store(Arc::new(keys));
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

/// Issuers with keys from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct LocalKeys {
    /// Whose keys come from elsewhere or from nowhere.
    governed: HashSet<Arc<str>>,
    put: HashMap<Name, HashMap<[u8; 32], Arc<Issuer>>>,
}

impl LocalKeys {
    /// Without any; of JWT-SVIDs by these `iss` nothing is verified by the keys of a record.
    pub fn governing(iss: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { governed: iss.into_iter().collect(), put: HashMap::new() }
    }

    /// Puts `jwks` in place of the keys of `tenant`'s `issuer`.
    pub fn put(&mut self, tenant: &Name, issuer: &Issuer, jwks: Arc<[u8]>) {
        let of_tenant = self.put.entry(tenant.clone()).or_default();
        of_tenant.insert(issuer.digest, Arc::new(issuer.with_jwks(jwks)));
    }

    /// The issuer by which tokens are verified where the state has `issuer`; `None`: its keys come from
    /// elsewhere, and have not.
    pub fn of<'a>(&'a self, tenant: &Name, issuer: &'a Issuer) -> Option<&'a Issuer> {
        let governed = issuer.profile == TokenProfile::JwtSvid && self.governed.contains(&issuer.iss);
        if !governed {
            return Some(issuer);
        }
        self.put.get(tenant)?.get(&issuer.digest).map(|local| &**local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_put_in_the_record_they_were_made_for_and_no_other() {
        let name = |text: &str| Name::parse(text).unwrap();
        let issuer = |audience: &str| {
            let jwks = Arc::from(&b"{\"keys\":[]}"[..]);
            Issuer::new("spiffe://a".into(), TokenProfile::JwtSvid, vec![], vec![audience.into()], 60, jwks)
        };
        let (held, changed) = (issuer("x"), issuer("y"));
        let trust = LocalTrust::default();
        assert_eq!(trust.keys().of(&name("a"), &held), Some(&held));
        let mut keys = LocalKeys::governing(["spiffe://a".into()]);
        assert_eq!(keys.of(&name("a"), &held), None, "before they have come");
        keys.put(&name("a"), &held, Arc::from(&b"{}"[..]));
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
        assert_eq!(trust.edition(), 1);
    }
}
