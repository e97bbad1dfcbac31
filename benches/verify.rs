//! Verifying one bearer token: the signature's algorithm, and from memory.
//!
//! `cargo bench --profile dist --bench verify`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, Presented, TokenCache, Verified, verify,
};
use portreeve::core::time::Clock as _;

use support::clock::ManualClock;
use support::issuer::TestIssuer;
use support::world::{AUDIENCE, MapCache, name};

#[path = "../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

/// Remembers nothing.
struct NoCache;

impl TokenCache for NoCache {
    fn lookup(&self, _key: &[u8; 32]) -> Option<Arc<Verified>> {
        None
    }

    fn store(&self, _key: [u8; 32], _verified: Arc<Verified>) {}
}

fn verification(criterion: &mut Criterion) {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        run(criterion, &format!("verify/{algorithm}"), algorithm, &NoCache);
    }
    run(criterion, "verify/from memory", Algorithm::Es256, &MapCache::default());
}

fn run(criterion: &mut Criterion, label: &str, algorithm: Algorithm, cache: &dyn TokenCache) {
    let issuer = TestIssuer::new("https://issuer.test", "key-1", algorithm);
    let record = issuer.record();
    let now = ManualClock::new().now().wall;
    let claims = serde_json::json!({
        "iss": issuer.iss(), "sub": "ledger", "aud": AUDIENCE,
        "iat": now.as_seconds(), "exp": now.as_seconds() + 300, "jti": "0b9f6a4e-7d0c-4c56-9a52-7a4fb8f0a3c1",
    });
    let presented = Presented::bearer(issuer.sign(&issuer.header(), &claims).as_bytes());
    let tenant = name("demo");
    let audiences = [Arc::from(AUDIENCE)];
    let expected = Expected { tenant: &tenant, audiences: &audiences, clock_skew: Duration::from_secs(30) };
    let issuers = |iss: &str| (iss == issuer.iss()).then(|| (name("main"), &record));
    let fingerprint = FingerprintKey::new([9; 32]);
    let once = || verify(black_box(&presented), &expected, &issuers, now, cache, &fingerprint);
    assert!(once().is_ok(), "{label}");
    criterion.bench_function(label, |b| b.iter(once));
}

criterion_group!(benches, verification);
criterion_main!(benches);
