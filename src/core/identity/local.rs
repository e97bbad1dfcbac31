//! Keys of issuers that an enforcement point has from elsewhere than its hub.
//!
//! They take the place of the keys in an issuer's record, and of nothing else in it. Which record they were
//! put in is part of them: a record that has changed since counts as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::core::id::Name;
use crate::core::identity::record::Issuer;

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
pub struct LocalKeys(HashMap<Name, HashMap<[u8; 32], Arc<Issuer>>>);

impl LocalKeys {
    /// Puts `jwks` in place of the keys of `tenant`'s `issuer`.
    pub fn put(&mut self, tenant: &Name, issuer: &Issuer, jwks: Arc<[u8]>) {
        let of_tenant = self.0.entry(tenant.clone()).or_default();
        of_tenant.insert(issuer.digest, Arc::new(issuer.with_jwks(jwks)));
    }

    /// The issuer by which tokens are verified where the state has `issuer`.
    pub fn of<'a>(&'a self, tenant: &Name, issuer: &'a Issuer) -> &'a Issuer {
        let found = self.0.get(tenant).and_then(|of_tenant| of_tenant.get(&issuer.digest));
        found.map_or(issuer, |local| local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::TokenProfile;

    #[test]
    fn keys_are_put_in_the_record_they_were_made_for_and_no_other() {
        let name = |text: &str| Name::parse(text).unwrap();
        let issuer = |audience: &str| {
            let jwks = Arc::from(&b"{\"keys\":[]}"[..]);
            Issuer::new("spiffe://a".into(), TokenProfile::JwtSvid, vec![], vec![audience.into()], 60, jwks)
        };
        let (held, changed) = (issuer("x"), issuer("y"));
        let trust = LocalTrust::default();
        assert_eq!(trust.keys().of(&name("a"), &held), &held);
        let mut keys = LocalKeys::default();
        keys.put(&name("a"), &held, Arc::from(&b"{}"[..]));
        trust.publish(keys);
        let now = trust.keys();
        assert_eq!(&*now.of(&name("a"), &held).jwks, b"{}");
        assert_ne!(
            now.of(&name("a"), &held).digest,
            held.digest,
            "what was verified before is not remembered"
        );
        assert_eq!(now.of(&name("b"), &held), &held, "another tenant's");
        assert_eq!(now.of(&name("a"), &changed), &changed, "a record that has changed");
        assert_eq!(trust.edition(), 1);
    }
}
