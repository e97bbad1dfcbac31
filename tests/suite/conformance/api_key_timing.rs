//! Whether the time an API key's refusal takes tells anything (T32). Statistics need a quiet machine:
//! `cargo test --test suite -- --ignored timing`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use portreeve::core::credential::{
    FingerprintKey, MintedKey, Presented, api_key_fingerprint, verify_api_key,
};
use portreeve::core::identity::{CredentialKind, CredentialStatus, CredentialView};
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;
use zeroize::Zeroizing;

use crate::support::world::name;

const ROUNDS: usize = 200_000;

/// Keys that differ from the right one in the first or the last byte of the secret, and one of another id.
fn keys() -> [MintedKey; 4] {
    let key = |place: Option<usize>| {
        let mut random = [7; 40];
        if let Some(place) = place {
            random[place] = 8;
        }
        MintedKey::new(&Zeroizing::new(random))
    };
    [key(None), key(Some(8)), key(Some(39)), key(Some(0))]
}

#[test]
#[ignore = "statistics need a quiet machine"]
fn timing_of_a_refusal_tells_nothing() {
    let [right, first, last, unknown] = keys();
    let place = api_key_fingerprint(&right.id).unwrap();
    let held = CredentialView {
        kind: CredentialKind::ApiKey,
        identity: Some("ledger"),
        fingerprint: &place,
        digest: Some(&right.digest),
        issued: None,
        rotate_by: None,
        expires: None,
        status: CredentialStatus::Active,
        source: None,
    };
    let known = |asked: &[u8; 32]| (*asked == place).then_some(held);
    let (tenant, fingerprint) = (name("demo"), FingerprintKey::new([9; 32]));
    let (skew, now) = (Duration::from_secs(30), Timestamp::from_micros(0));
    let shown = [&first, &last, &unknown].map(|key| Presented::key(key.text.as_bytes()));
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS * 3 {
        let which = (round * 7 + round / 3) % 3;
        let begun = Instant::now();
        let found = verify_api_key(black_box(&shown[which]), &tenant, &known, skew, now, &fingerprint);
        times[which].push(begun.elapsed().as_nanos() as f64);
        assert_eq!(found.err(), Some(Reason::CredentialUnverified));
    }
    for (what, one, other) in [("first or last byte", 0, 1), ("known or unknown id", 0, 2)] {
        let t = welch(&mut times[one].clone(), &mut times[other].clone());
        assert!(t.abs() < 4.5, "{what}: t = {t:.1}");
    }
}

/// Welch's t of two samples, each without its slowest twentieth.
fn welch(one: &mut [f64], other: &mut [f64]) -> f64 {
    let moments = |times: &mut [f64]| {
        times.sort_by(f64::total_cmp);
        let kept = &times[..times.len() * 19 / 20];
        let count = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / count;
        (mean, kept.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (count - 1.0) / count)
    };
    let ((a, spread_a), (b, spread_b)) = (moments(one), moments(other));
    (a - b) / (spread_a + spread_b).sqrt()
}
