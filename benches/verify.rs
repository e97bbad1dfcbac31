//! Verifying one credential: a token by its signature's algorithm and from memory, an API key, an opaque
//! token from memory.
//!
//! `cargo bench --profile dist --bench verify`

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use portreeve::core::credential::{
    Algorithm, AnswerLife, Expected, FingerprintKey, Introspected, MintedKey, Possession, Presented,
    TokenCache, TokenQuestion, Verified, api_key_fingerprint, verify, verify_api_key, verify_opaque,
};
use portreeve::core::identity::{
    CredentialKind, CredentialStatus, CredentialView, Held, Introspection, SubjectMember,
};
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
    opaque(criterion);
}

/// An opaque token whose issuer was asked a moment ago: whom to ask, what it said, whether that is good here.
fn opaque(criterion: &mut Criterion) {
    let clock: Arc<ManualClock> = Arc::new(ManualClock::new());
    let (now, tenant, evidence) = (clock.now(), name("demo"), FingerprintKey::new([9; 32]));
    let endpoint: Arc<str> = "https://issuer.test/introspect".into();
    let introspection = Introspection {
        endpoint: Arc::clone(&endpoint),
        subject: SubjectMember::Sub,
        token_prefix: "".into(),
    };
    let record = TestIssuer::es256().record().with_introspection(Some(Arc::new(introspection)));
    let issuers = [Arc::new(Held {
        tenant: tenant.clone(),
        name: name("main"),
        generation: 1,
        revision: 1,
        value: Some(Arc::new(record)),
    })];
    let (seconds, life) = (now.wall.as_seconds(), Duration::from_secs(30));
    let answer = serde_json::json!({
        "active": true, "iss": "https://issuer.test", "sub": "ledger", "client_id": "ledger", "aud": AUDIENCE,
        "token_type": "Bearer", "scope": "orders:read", "iat": seconds, "exp": seconds + 300,
    });
    let presented = Presented::bearer(b"2YotnFZFEjr1zCsicMWpAA9d3xkT0bqLw5vUeHsRjKg");
    let question =
        || TokenQuestion::of(black_box(&presented), &tenant, &issuers, &evidence).unwrap().unwrap();
    let life = AnswerLife { active: life, refused: life };
    let said = question().asking().read(answer.to_string().as_bytes(), now, life).unwrap();
    let memory = HashMap::from([(*said.key(), said)]);
    let audiences = [Arc::from(AUDIENCE)];
    let expected = Expected {
        tenant: &tenant,
        audiences: &audiences,
        clock_skew: life.active,
        possession: Possession::default(),
    };
    let once = || {
        let question = question();
        let remembered = memory.get(question.key()).map(Introspected::again);
        verify_opaque(&question, &presented, Some(remembered), &expected, now)
    };
    assert!(once().is_ok());
    criterion.bench_function("verify/opaque, introspection remembered", |b| b.iter(once));
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
