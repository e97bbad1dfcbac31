//! API keys and SPIFFE IDs: never a panic; what is accepted is one text.

use std::time::Duration;

use portreeve::core::credential::{
    FingerprintKey, Presented, SpiffeId, api_key_fingerprint, api_key_id, verify_api_key,
};
use portreeve::core::id::Name;
use portreeve::core::time::Timestamp;

pub(crate) fn run(bytes: &[u8]) {
    let tenant = Name::parse("t").expect("a name");
    let nobody = |_: &[u8; 32]| None;
    let (skew, now) = (Duration::from_secs(30), Timestamp::from_seconds(1_800_000_000));
    let key = FingerprintKey::new([0; 32]);
    assert!(verify_api_key(&Presented::key(bytes), &tenant, &nobody, skew, now, &key).is_err());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(id) = SpiffeId::parse(text) {
        assert!(text.starts_with(id.domain()) && id.as_str() == text && text.len() <= 2048);
    }
    if let Some(fingerprint) = api_key_fingerprint(text) {
        assert_eq!(api_key_id(&fingerprint).as_deref(), Some(text));
    }
}
