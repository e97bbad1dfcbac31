//! Verifying one credential: a token by its signature's algorithm and from memory, an API key.
//!
//! `cargo bench --profile dist --bench verify`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, MintedKey, Possession, Presented, TokenCache, Verified,
    api_key_fingerprint, verify, verify_api_key,
};
use portreeve::core::identity::{CredentialKind, CredentialStatus, CredentialView};
use portreeve::core::time::{Clock as _, Timestamp};
use zeroize::Zeroizing;

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
    for algorithm in Algorithm::ALL {
        run(criterion, &format!("verify/{algorithm}"), algorithm, &NoCache);
    }
    run(criterion, "verify/from memory", Algorithm::Es256, &MapCache::default());
    api_key(criterion);
}

fn api_key(criterion: &mut Criterion) {
    let key = MintedKey::new(&Zeroizing::new([7; 40]));
    let fingerprint = api_key_fingerprint(&key.id).expect("a key's id");
    let held = CredentialView {
        kind: CredentialKind::ApiKey,
        identity: Some("ledger"),
        fingerprint: &fingerprint,
        digest: Some(&key.digest),
        issued: None,
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Active,
        source: None,
    };
    let known = |asked: &[u8; 32]| (*asked == fingerprint).then_some(held);
    let (tenant, evidence) = (name("demo"), FingerprintKey::new([9; 32]));
    let presented = Presented::key(key.text.as_bytes());
    let (skew, now) = (Duration::from_secs(30), Timestamp::from_micros(0));
    let once = || verify_api_key(black_box(&presented), &tenant, &known, skew, now, &evidence);
    assert!(once().is_ok());
    criterion.bench_function("verify/api key", |b| b.iter(once));
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
    let expected = Expected {
        tenant: &tenant,
        audiences: &audiences,
        clock_skew: Duration::from_secs(30),
        possession: Possession::default(),
    };
    let issuers = |iss: &str| (iss == issuer.iss()).then(|| (name("main"), &record));
    let fingerprint = FingerprintKey::new([9; 32]);
    let once = || verify(black_box(&presented), &expected, &issuers, now, cache, &fingerprint);
    assert!(once().is_ok(), "{label}");
    criterion.bench_function(label, |b| b.iter(once));
}

criterion_group!(benches, verification);
criterion_main!(benches);
