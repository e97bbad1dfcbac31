//! JSON Web Key Sets: never a panic; what is kept has one algorithm of those allowed, and an id of its own.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use portreeve::core::credential::{Algorithm, KeySet};

fuzz_target!(|bytes: &[u8]| {
    let allowed = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa];
    let set = KeySet::parse(bytes, &allowed);
    assert!(set.keys().iter().all(|key| allowed.contains(&key.algorithm())));
    let ids: Vec<_> = set.keys().iter().filter_map(|key| key.key_id()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
});
