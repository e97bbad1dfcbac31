//! Tokens and proofs against an issuer of each profile without keys: never a panic, never accepted.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, Possession, Presented, ProvenRequest, TokenCache, Verified, verify,
};
use portreeve::core::id::Name;
use portreeve::core::identity::{Issuer, TokenProfile};
use portreeve::core::policy::CanonicalPath;
use portreeve::core::time::Timestamp;

struct Forgetful;

impl TokenCache for Forgetful {
    fn lookup(&self, _: &[u8; 32]) -> Option<Arc<Verified>> {
        None
    }

    fn store(&self, _: [u8; 32], _: Arc<Verified>) {}
}

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (profile, token, proof) = input;
    let profile = TokenProfile::ALL[usize::from(profile) % TokenProfile::ALL.len()];
    let algorithms = Algorithm::ALL.to_vec();
    let issuer = Issuer::new("i".into(), profile, algorithms, Vec::new(), 60, Arc::from(*br#"{"keys":[]}"#));
    let (tenant, path) = (Name::parse("t").expect("a name"), CanonicalPath::parse("/a").expect("a path"));
    let issuers = |_: &str| Some((tenant.clone(), &issuer));
    let (now, key) = (Timestamp::from_seconds(1_800_000_000), FingerprintKey::new([0; 32]));
    let request = ProvenRequest { method: "GET", origin: "https://a", path: &path, at: now };
    let possession = Possession { certificate: Some(&[0; 32]), request: Some(request) };
    let expected =
        Expected { tenant: &tenant, audiences: &[], clock_skew: Duration::from_secs(30), possession };
    let presented = Presented::dpop(token, Some(proof));
    assert!(verify(&presented, &expected, &issuers, now, &Forgetful, &key).is_err());
});
