//! JSON Web Tokens: standards §3 and §4, threats T1 to T28 and T31.

mod bound;
mod cache;
mod claims;
mod differential;
mod forgery;
mod jose;
mod keys;
mod missing;
mod padding;
mod profiles;
mod rows;
mod vectors;
mod verify_jws;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, Possession, Presented, TokenCache, Verification, Verified, verify,
};
use portreeve::core::id::Name;
use portreeve::core::identity::{Issuer, TokenProfile};
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::issuer::{TestIssuer, jwks};

const NOW: i64 = 1_800_000_000;
const SKEW: i64 = 30;
const LIFETIME: i64 = 3600;
const HERE: &str = "https://issuer.test";
const THERE: &str = "https://other.test";

/// Two issuers of one tenant: one with a key for each algorithm, one with a key of the same id.
struct Stand {
    keys: HashMap<Algorithm, TestIssuer>,
    other: TestIssuer,
    long_id: TestIssuer,
    issuers: HashMap<&'static str, (Name, Issuer)>,
}

static STAND: LazyLock<Stand> = LazyLock::new(Stand::new);

impl Stand {
    fn new() -> Self {
        let keys: HashMap<_, _> = Algorithm::ALL
            .map(|algorithm| (algorithm, TestIssuer::new(HERE, algorithm.as_str(), algorithm)))
            .into();
        let long_id = TestIssuer::new(HERE, &"k".repeat(256), Algorithm::Es256);
        let other = TestIssuer::new(THERE, "ES256", Algorithm::Es256);
        let mut set: Vec<_> = keys.values().map(TestIssuer::jwk).collect();
        set.push(long_id.jwk());
        let here = issuer(HERE, &Algorithm::ALL, &jwks(&set));
        let there = other.record();
        let issuers = [(HERE, (name("here"), here)), (THERE, (name("there"), there))].into();
        Self { keys, other, long_id, issuers }
    }

    fn key(&self, algorithm: Algorithm) -> &TestIssuer {
        &self.keys[&algorithm]
    }

    fn verify(&self, token: &[u8], now: i64) -> Result<Verification, Reason> {
        self.verify_at(token, Timestamp::from_seconds(now))
    }

    fn verify_at(&self, token: &[u8], now: Timestamp) -> Result<Verification, Reason> {
        let issuers = |iss: &str| self.issuers.get(iss).map(|(name, issuer)| (name.clone(), issuer));
        check(token, &issuers, now, &NoCache)
    }
}

fn check<'s>(
    token: &[u8],
    issuers: &dyn Fn(&str) -> Option<(Name, &'s Issuer)>,
    now: Timestamp,
    cache: &dyn TokenCache,
) -> Result<Verification, Reason> {
    let (tenant, audiences) = (name("acme"), [Arc::from("orders"), Arc::from("billing")]);
    let expected = Expected {
        tenant: &tenant,
        audiences: &audiences,
        clock_skew: Duration::from_secs(30),
        possession: Possession::default(),
    };
    verify(&Presented::bearer(token), &expected, issuers, now, cache, &FingerprintKey::new([7; 32]))
}

fn issuer(iss: &str, algorithms: &[Algorithm], jwks: &[u8]) -> Issuer {
    let lifetime = u32::try_from(LIFETIME).unwrap();
    Issuer::new(iss.into(), TokenProfile::Generic, algorithms.to_vec(), Vec::new(), lifetime, jwks.into())
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// The claims of a good token.
fn claims() -> Value {
    json!({ "iss": HERE, "sub": "spiffe://acme/ci", "aud": "orders", "iat": NOW - 10, "exp": NOW + 300, "jti": "t-1" })
}

/// `object` with one member changed or added.
fn with(mut object: Value, member: &str, value: Value) -> Value {
    object[member] = value;
    object
}

/// `object` with one member less.
fn without(mut object: Value, member: &str) -> Value {
    object.as_object_mut().unwrap().remove(member).unwrap();
    object
}

/// Remembers nothing.
struct NoCache;

impl TokenCache for NoCache {
    fn lookup(&self, _: &[u8; 32]) -> Option<Arc<Verified>> {
        None
    }

    fn store(&self, _: [u8; 32], _: Arc<Verified>) {}
}

/// Remembers everything.
#[derive(Default)]
struct MapCache(Mutex<HashMap<[u8; 32], Arc<Verified>>>);

impl TokenCache for MapCache {
    fn lookup(&self, key: &[u8; 32]) -> Option<Arc<Verified>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn store(&self, key: [u8; 32], verified: Arc<Verified>) {
        self.0.lock().unwrap().insert(key, verified);
    }
}
