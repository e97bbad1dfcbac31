//! What is remembered of a token, and what is judged again (T30, T31).

use std::sync::Arc;
use std::time::Duration;

use portreeve::core::credential::{
    Algorithm, Expected, FingerprintKey, Possession, Presented, TokenCache, Verification, Verified, verify,
};
use portreeve::core::identity::Issuer;
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;

use super::{HERE, MapCache, NOW, STAND, check, claims, issuer, name, with};
use crate::support::issuer::{TestIssuer, jwks};

struct Case {
    key: TestIssuer,
    cache: MapCache,
    token: String,
}

impl Case {
    fn new() -> Self {
        let key = TestIssuer::es256();
        let token = key.sign(&key.header(), &claims());
        Self { key, cache: MapCache::default(), token }
    }

    fn ask(&self, record: &str, issuer: Option<&Issuer>, now: i64) -> Result<Verification, Reason> {
        let found =
            |iss: &str| issuer.filter(|issuer| *issuer.iss == *iss).map(|issuer| (name(record), issuer));
        check(self.token.as_bytes(), &found, Timestamp::from_seconds(now), &self.cache)
    }

    fn stored(&self) -> usize {
        self.cache.0.lock().unwrap().len()
    }
}

#[test]
fn a_hit_gives_the_same_credential() {
    let case = Case::new();
    let record = case.key.record();
    let first = case.ask("here", Some(&record), NOW).unwrap();
    let second = case.ask("here", Some(&record), NOW).unwrap();
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(first.verified, second.verified);
    let fresh = STAND.key(Algorithm::Es256);
    assert_ne!(fresh.jwk()["x"], case.key.jwk()["x"]);
}

#[test]
fn a_hit_ends_with_the_token() {
    let case = Case::new();
    let record = case.key.record();
    case.ask("here", Some(&record), NOW).unwrap();
    assert!(case.ask("here", Some(&record), NOW + 329).unwrap().cached);
    assert_eq!(case.ask("here", Some(&record), NOW + 330).err(), Some(Reason::CredentialExpired));
    assert_eq!(case.ask("here", Some(&record), NOW - 41).err(), Some(Reason::CredentialExpired));
}

#[test]
fn a_hit_ends_with_its_issuer() {
    let case = Case::new();
    let record = case.key.record();
    case.ask("here", Some(&record), NOW).unwrap();
    assert_eq!(case.ask("here", None, NOW).err(), Some(Reason::IssuerUnknown));
    let empty = issuer(HERE, &Algorithm::ALL, &jwks(&[]));
    assert_eq!(case.ask("here", Some(&empty), NOW).err(), Some(Reason::CredentialUnverified));
    let replaced = TestIssuer::es256().record();
    assert_eq!(case.ask("here", Some(&replaced), NOW).err(), Some(Reason::CredentialUnverified));
    let narrowed = issuer(HERE, &[Algorithm::Rs256], &case.key.jwks());
    assert_eq!(case.ask("here", Some(&narrowed), NOW).err(), Some(Reason::CredentialUnverified));
    assert!(case.ask("here", Some(&record), NOW).unwrap().cached);
}

#[test]
fn a_changed_issuer_is_asked_anew() {
    let case = Case::new();
    let record = case.key.record();
    case.ask("here", Some(&record), NOW).unwrap();
    let wider = issuer(HERE, &[Algorithm::Es256, Algorithm::Es384], &case.key.jwks());
    let anew = case.ask("here", Some(&wider), NOW).unwrap();
    assert!(!anew.cached);
    assert_eq!(*anew.verified.depends_on(), wider.digest);
    let renamed = case.ask("elsewhere", Some(&wider), NOW).unwrap();
    assert!(!renamed.cached);
    assert_eq!(renamed.verified.issuer().unwrap().as_str(), "elsewhere");
}

#[test]
fn a_shorter_cap_counts_at_once() {
    let case = Case::new();
    let record = case.key.record();
    case.ask("here", Some(&record), NOW).unwrap();
    let mut shorter = record.clone();
    shorter.max_lifetime_s = 309;
    let shorter = Issuer::new(
        shorter.iss,
        shorter.profile,
        shorter.algorithms,
        shorter.audiences,
        shorter.max_lifetime_s,
        shorter.jwks,
    );
    assert_eq!(case.ask("here", Some(&shorter), NOW).err(), Some(Reason::CredentialExpired));
}

#[test]
fn tenants_and_routes_share_nothing() {
    let case = Case::new();
    let record = case.key.record();
    let issuers = |iss: &str| (*record.iss == *iss).then(|| (name("here"), &record));
    let ask = |tenant: &str, audience: &str| {
        let (tenant, audiences) = (name(tenant), [audience.into()]);
        let expected = Expected {
            tenant: &tenant,
            audiences: &audiences,
            clock_skew: Duration::from_secs(30),
            possession: Possession::default(),
        };
        let presented = Presented::bearer(case.token.as_bytes());
        let (now, key) = (Timestamp::from_seconds(NOW), FingerprintKey::new([7; 32]));
        verify(&presented, &expected, &issuers, now, &case.cache, &key)
    };
    assert!(!ask("acme", "orders").unwrap().cached);
    assert!(ask("acme", "orders").unwrap().cached);
    assert_eq!(ask("acme", "billing").err(), Some(Reason::CredentialAudience));
    let other = ask("globex", "orders").unwrap();
    assert!(!other.cached);
    assert_eq!(other.verified.tenant().as_str(), "globex");
    assert_eq!(case.stored(), 2);
}

/// Answers every question with the same credential.
struct Confused(Arc<Verified>);

impl TokenCache for Confused {
    fn lookup(&self, _: &[u8; 32]) -> Option<Arc<Verified>> {
        Some(Arc::clone(&self.0))
    }

    fn store(&self, _: [u8; 32], _: Arc<Verified>) {}
}

#[test]
fn a_hit_of_another_tenant_is_not_believed() {
    let case = Case::new();
    let record = case.key.record();
    let issuers = |_: &str| Some((name("here"), &record));
    let (globex, audiences) = (name("globex"), ["orders".into()]);
    let expected = Expected {
        tenant: &globex,
        audiences: &audiences,
        clock_skew: Duration::from_secs(30),
        possession: Possession::default(),
    };
    let presented = Presented::bearer(case.token.as_bytes());
    let (now, key) = (Timestamp::from_seconds(NOW), FingerprintKey::new([7; 32]));
    let confused = Confused(case.ask("here", Some(&record), NOW).unwrap().verified);
    let found = verify(&presented, &expected, &issuers, now, &confused, &key).unwrap();
    assert!(!found.cached);
    assert_eq!(found.verified.tenant(), &globex);
}

#[test]
fn an_issuer_keeps_to_its_audiences() {
    let case = Case::new();
    let mut record = case.key.record();
    let mut with_audiences = |audiences: &[&str]| {
        record.audiences = audiences.iter().map(|audience| (*audience).into()).collect();
        let record = record.clone();
        Issuer::new(record.iss, record.profile, record.algorithms, record.audiences, 3600, record.jwks)
    };
    let (own, foreign) = (with_audiences(&["orders"]), with_audiences(&["billing"]));
    assert!(case.ask("here", Some(&own), NOW).is_ok());
    assert_eq!(case.ask("here", Some(&foreign), NOW).err(), Some(Reason::CredentialAudience));
}

#[test]
fn nothing_refused_is_remembered() {
    let mut case = Case::new();
    let record = case.key.record();
    let cnf = with(claims(), "cnf", serde_json::json!({}));
    let old = with(claims(), "exp", serde_json::json!(NOW - 100));
    let strange = with(claims(), "aud", serde_json::json!("x"));
    for claims in [cnf, old, strange] {
        case.token = case.key.sign(&case.key.header(), &claims);
        assert!(case.ask("here", Some(&record), NOW).is_err());
        assert_eq!(case.stored(), 0, "{claims}");
    }
}

#[test]
fn equal_tokens_have_equal_fingerprints_and_aliases_do_not_exist() {
    let case = Case::new();
    let record = case.key.record();
    case.ask("here", Some(&record), NOW).unwrap();
    let again = TestIssuer::sign(&case.key, &case.key.header(), &claims());
    let issuers = |_: &str| Some((name("here"), &record));
    let second = check(again.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &case.cache).unwrap();
    let first = case.ask("here", Some(&record), NOW).unwrap();
    assert_eq!(first.verified.signing_input_digest(), second.verified.signing_input_digest());
    assert_ne!(first.verified.fingerprint(), second.verified.fingerprint(), "ECDSA signs anew each time");
}
