//! Nonces for proofs of possession: that a proof was made a moment ago, whatever its own clock says.
//!
//! A nonce is the keyed hash of a span of time. Nothing is remembered: whoever has the key can say of any
//! nonce whether it counts, so that several enforcement points behind one address may share one.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use zeroize::ZeroizeOnDrop;

use crate::core::time::Timestamp;

/// For how long one nonce is given out. It counts for as long again, so for one to two of these spans.
pub const NONCE_SPAN: Duration = Duration::from_secs(60);

/// Makes nonces and knows them again.
///
/// # Standard
/// RFC 9449 §8 and §9: chosen by the server, not to be guessed, the same for every caller of a span.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ProofNonces([u8; 32]);

/// What a nonce is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NonceAge {
    /// It is the one that is given out now.
    Current,
    /// It counts, and another is given out by now.
    Ending,
}

impl ProofNonces {
    /// Takes a secret of at least 32 bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self(blake3::derive_key("portreeve nonces of proofs of possession v1", secret))
    }

    /// The nonce that is given out at `now`.
    pub fn at(&self, now: Timestamp) -> String {
        URL_SAFE_NO_PAD.encode(self.of_span(span(now)))
    }

    /// What `nonce` is worth at `now`; `None`: it does not count. That of the span to come counts: a peer
    /// whose clock is a little ahead has given it out.
    pub(super) fn age(&self, nonce: &str, now: Timestamp) -> Option<NonceAge> {
        let mut given = [0; BUFFER];
        let length = URL_SAFE_NO_PAD.decode_slice(nonce, &mut given).ok()?;
        let given = given.get(..length)?;
        let span = span(now);
        let is = |span: i64| bool::from(self.of_span(span).as_slice().ct_eq(given));
        if is(span) || is(span.saturating_add(1)) {
            return Some(NonceAge::Current);
        }
        is(span.saturating_sub(1)).then_some(NonceAge::Ending)
    }

    fn of_span(&self, span: i64) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        let hash = blake3::keyed_hash(&self.0, &span.to_le_bytes());
        nonce.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        nonce
    }
}

impl fmt::Debug for ProofNonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofNonces(redacted)")
    }
}

fn span(now: Timestamp) -> i64 {
    let length = i64::try_from(NONCE_SPAN.as_secs()).unwrap_or(i64::MAX);
    now.as_seconds().div_euclid(length)
}

const NONCE_BYTES: usize = 16;
/// What the decoder asks for; a longer nonce does not fit, and is none.
const BUFFER: usize = NONCE_BYTES + 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_seconds(second)
    }

    #[test]
    fn a_nonce_counts_in_its_span_and_the_next() {
        let nonces = ProofNonces::new(&[7; 32]);
        let given = nonces.at(second(1200));
        assert_eq!(given.len(), 22);
        let rows = [
            (1139, None),
            (1140, Some(NonceAge::Current)),
            (1199, Some(NonceAge::Current)),
            (1200, Some(NonceAge::Current)),
            (1259, Some(NonceAge::Current)),
            (1260, Some(NonceAge::Ending)),
            (1319, Some(NonceAge::Ending)),
            (1320, None),
            (-1200, None),
        ];
        for (at, expected) in rows {
            assert_eq!(nonces.age(&given, second(at)), expected, "at {at}");
            let given_out = nonces.at(second(at)) == given;
            assert_eq!(given_out, (1200..1260).contains(&at), "given out at {at}");
        }
    }

    #[test]
    fn only_the_nonces_of_the_key_count() {
        let (nonces, same) = (ProofNonces::new(&[7; 32]), ProofNonces::new(&[7; 32]));
        let now = second(1200);
        assert_eq!(nonces.age(&same.at(now), now), Some(NonceAge::Current), "a peer with the key");
        let given = nonces.at(now);
        let rows = [
            ProofNonces::new(&[8; 32]).at(now),
            String::new(),
            given[..21].to_owned(),
            format!("{given}="),
            format!("{given}A"),
            format!("{given}AAAAAAAAAAAA"),
            given.to_lowercase(),
            "A".repeat(100_000),
        ];
        for nonce in rows.iter().filter(|nonce| **nonce != given) {
            assert_eq!(nonces.age(nonce, now), None, "{}", &nonce[..nonce.len().min(40)]);
        }
        assert_eq!(format!("{nonces:?}"), "ProofNonces(redacted)");
    }
}
