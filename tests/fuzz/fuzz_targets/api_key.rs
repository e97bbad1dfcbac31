//! API keys and SPIFFE IDs: never a panic; what is accepted is one text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portreeve::core::credential::{
    FingerprintKey, Presented, SpiffeId, api_key_fingerprint, api_key_id, verify_api_key,
};
use portreeve::core::id::Name;

fuzz_target!(|bytes: &[u8]| {
    let tenant = Name::parse("t").expect("a name");
    let nobody = |_: &[u8; 32]| None;
    assert!(verify_api_key(&Presented::key(bytes), &tenant, &nobody, &FingerprintKey::new([0; 32])).is_err());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(id) = SpiffeId::parse(text) {
        assert!(text.starts_with(id.domain()) && id.as_str() == text && text.len() <= 2048);
    }
    if let Some(fingerprint) = api_key_fingerprint(text) {
        assert_eq!(api_key_id(&fingerprint).as_deref(), Some(text));
    }
});
