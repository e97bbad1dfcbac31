//! Compact JWS: never a panic, and one text for what is accepted.

use portreeve::core::credential::{Jws, TOKEN_BYTES_MAX};

pub(crate) fn run(bytes: &[u8]) {
    let Ok(jws) = Jws::parse(bytes) else { return };
    assert!(bytes.len() <= TOKEN_BYTES_MAX);
    assert_eq!(bytes.iter().filter(|byte| **byte == b'.').count(), 2);
    assert!(bytes.starts_with(jws.signing_input()));
    assert!(!jws.payload().is_empty() && !jws.signature().is_empty());
}
