//! Tokens as they come, against an issuer of each profile without keys: never a panic, never accepted.

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, NO_KEYS, Possession, Presented, TokenCache, Verified, verify,
};
use portreeve::core::id::Name;
use portreeve::core::identity::{Issuer, TokenProfile};
use portreeve::core::time::Timestamp;

struct Forgetful;

impl TokenCache for Forgetful {
    fn lookup(&self, _: &[u8; 32]) -> Option<Arc<Verified>> {
        None
    }

    fn store(&self, _: [u8; 32], _: Arc<Verified>) {}
}

pub(crate) fn run((profile, token): (u8, &[u8])) {
    let profile = TokenProfile::ALL[usize::from(profile) % TokenProfile::ALL.len()];
    let issuer =
        Issuer::new("i".into(), profile, Algorithm::ALL.to_vec(), Vec::new(), 60, Arc::from(NO_KEYS));
    let tenant = Name::parse("t").expect("a name");
    let issuers = |_: &str| Some((tenant.clone(), &issuer));
    let (now, key) = (Timestamp::from_seconds(1_800_000_000), FingerprintKey::new([0; 32]));
    let expected = Expected {
        tenant: &tenant,
        audiences: &[],
        clock_skew: Duration::from_secs(30),
        possession: Possession::default(),
    };
    assert!(verify(&Presented::bearer(token), &expected, &issuers, now, &Forgetful, &key).is_err());
}
