//! JSON Web Key Sets: never a panic; what is kept has one algorithm of those allowed, and an id of its own; the
//! form that a hub keeps is its own form, and has the same keys.

use std::collections::BTreeSet;

use portreeve::core::credential::{Algorithm, KeySet, KeyUse, canonical};

pub(crate) fn run(bytes: &[u8]) {
    let allowed = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa];
    let set = KeySet::parse(bytes, &allowed);
    assert!(set.keys().iter().all(|key| allowed.contains(&key.algorithm())));
    let ids: Vec<_> = set.keys().iter().filter_map(|key| key.key_id()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
    for key_use in [KeyUse::Signature, KeyUse::JwtSvid] {
        let Ok(kept) = canonical(bytes, key_use) else { continue };
        let again = canonical(&kept.jwks, key_use).expect("the own form is read");
        assert_eq!((&again.jwks, again.dropped.len()), (&kept.jwks, 0));
        let thumbprints = |set: &[u8]| -> BTreeSet<[u8; 32]> {
            let set = KeySet::parse_for(set, &allowed, key_use);
            set.keys().iter().map(|key| *key.thumbprint()).collect()
        };
        // What was left out for its private members may have had the id of another, which counts then.
        assert!(thumbprints(bytes).is_subset(&thumbprints(&kept.jwks)));
    }
}
