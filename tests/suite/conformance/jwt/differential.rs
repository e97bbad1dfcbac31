//! Another implementation agrees, and no change of a good token ever verifies.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation, decode};
use portreeve::core::credential::Algorithm;
use proptest::prelude::*;
use serde_json::Value;

use super::{NOW, STAND, claims};

/// What both implementations know; jsonwebtoken has no ES512.
const SHARED: [(Algorithm, jsonwebtoken::Algorithm); 9] = [
    (Algorithm::Rs256, jsonwebtoken::Algorithm::RS256),
    (Algorithm::Rs384, jsonwebtoken::Algorithm::RS384),
    (Algorithm::Rs512, jsonwebtoken::Algorithm::RS512),
    (Algorithm::Ps256, jsonwebtoken::Algorithm::PS256),
    (Algorithm::Ps384, jsonwebtoken::Algorithm::PS384),
    (Algorithm::Ps512, jsonwebtoken::Algorithm::PS512),
    (Algorithm::Es256, jsonwebtoken::Algorithm::ES256),
    (Algorithm::Es384, jsonwebtoken::Algorithm::ES384),
    (Algorithm::EdDsa, jsonwebtoken::Algorithm::EdDSA),
];

fn good(algorithm: Algorithm) -> String {
    let key = STAND.key(algorithm);
    key.sign(&key.header(), &claims())
}

fn is_accepted_here(token: &[u8]) -> bool {
    STAND.verify(token, NOW).is_ok()
}

fn is_accepted_there(token: &[u8], ours: Algorithm, theirs: jsonwebtoken::Algorithm) -> bool {
    let jwk: Jwk = serde_json::from_value(STAND.key(ours).jwk()).unwrap();
    let mut validation = Validation::new(theirs);
    validation.validate_exp = false;
    validation.set_audience(&["orders"]);
    decode::<Value>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).is_ok()
}

#[test]
fn jsonwebtoken_agrees() {
    for (ours, theirs) in SHARED {
        let token = good(ours).into_bytes();
        assert!(is_accepted_here(&token) && is_accepted_there(&token, ours, theirs), "{ours}");
        for place in (0..token.len()).step_by(11) {
            let mut changed = token.clone();
            changed[place] ^= 1 << (place % 7);
            assert!(!is_accepted_here(&changed), "{ours}, byte {place}");
            assert!(!is_accepted_there(&changed, ours, theirs), "{ours}, byte {place}, theirs");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn one_changed_byte_never_verifies(kind in 0..Algorithm::ALL.len(), place: prop::sample::Index, byte: u8) {
        let token = good(Algorithm::ALL[kind]).into_bytes();
        let mut changed = token.clone();
        let place = place.index(token.len());
        prop_assume!(changed[place] != byte);
        changed[place] = byte;
        prop_assert!(!is_accepted_here(&changed));
    }

    #[test]
    fn a_byte_more_or_less_never_verifies(kind in 0..Algorithm::ALL.len(), place: prop::sample::Index, byte: u8) {
        let token = good(Algorithm::ALL[kind]).into_bytes();
        let mut longer = token.clone();
        longer.insert(place.index(token.len() + 1), byte);
        prop_assert!(!is_accepted_here(&longer));
        let mut shorter = token.clone();
        shorter.remove(place.index(token.len()));
        prop_assert!(!is_accepted_here(&shorter));
    }

    #[test]
    fn noise_is_refused_without_panic(noise: Vec<u8>) {
        prop_assert!(!is_accepted_here(&noise));
    }

    #[test]
    fn dotted_noise_is_refused_without_panic(noise in "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,90}") {
        prop_assert!(!is_accepted_here(noise.as_bytes()));
    }
}
