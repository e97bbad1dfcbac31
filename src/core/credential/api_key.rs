//! API keys: made once, kept as a digest, verified without a look-up that tells anything.
//!
//! ```text
//! ptrv_<id: 16 hex digits>_<secret: 64 hex digits>_<checksum: 8 hex digits>
//! ```
//!
//! All digits are lower-case. The prefix is for secret scanners. The id is public and finds the
//! record; the secret is 256 random bits, so a plain SHA-256 of the whole key is enough to keep. The
//! checksum, the first 32 bits of the SHA-256 of all before its underscore, refuses a mistyped key
//! before anything is looked up. It is no secret.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::digest::sha256;
use super::presented::Presented;
use super::verified::{FingerprintKey, Kind, Verified};
use crate::core::id::Name;
use crate::core::identity::CredentialView;
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// What every key begins with.
pub const API_KEY_PREFIX: &str = "ptrv_";

/// A key just made. The text is shown once and kept nowhere.
pub struct MintedKey {
    /// The key.
    pub text: Zeroizing<String>,
    /// Its id, 16 hex digits.
    pub id: String,
    /// What the hub keeps to know it by.
    pub digest: [u8; 32],
}

impl MintedKey {
    /// Makes a key of 40 random bytes: 8 for the id, 32 for the secret.
    pub fn new(random: &Zeroizing<[u8; 40]>) -> Self {
        let (id, secret) = random.split_at(ID_BYTES);
        let id = hex(id).to_string();
        let body = Zeroizing::new(format!("{API_KEY_PREFIX}{id}_{}", *hex(secret)));
        let text = Zeroizing::new(format!("{}_{}", *body, *checksum(body.as_bytes())));
        let digest = sha256(&[text.as_bytes()]);
        Self { text, id, digest }
    }

    /// The digest in base64url without padding.
    pub fn digest_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.digest)
    }
}

impl fmt::Debug for MintedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The fingerprint of the record that a key id finds: the id's bytes, then zeros. `None`: it is no id.
pub fn api_key_fingerprint(id: &str) -> Option<[u8; 32]> {
    let digits = id.as_bytes();
    if digits.len() != 2 * ID_BYTES || !digits.iter().all(is_digit) {
        return None;
    }
    let number = u64::from_str_radix(id, 16).ok()?;
    let mut fingerprint = [0; 32];
    fingerprint.iter_mut().zip(number.to_be_bytes()).for_each(|(to, from)| *to = from);
    Some(fingerprint)
}

/// The key id of a record's fingerprint; `None`: it is none of an API key.
pub fn api_key_id(fingerprint: &[u8; 32]) -> Option<String> {
    let (id, rest) = fingerprint.split_at(ID_BYTES);
    rest.iter().all(|byte| *byte == 0).then(|| hex(id).to_string())
}

/// Verifies an API key. `known` finds the tenant's record of an API key by its fingerprint.
///
/// An unknown id takes the same path as a wrong secret: one look-up, one comparison of 32 bytes in
/// constant time. Whether the key is still good is the record's to say, and judged with its standing.
///
/// # Errors
/// - `credential.malformed`: not the form above, or a checksum that does not fit
/// - `credential.unverified`: nobody's key
/// - `credential.expired`: made later than now, beyond the skew
pub fn verify_api_key<'s>(
    presented: &Presented,
    tenant: &Name,
    known: &dyn Fn(&[u8; 32]) -> Option<CredentialView<'s>>,
    clock_skew: Duration,
    now: Timestamp,
    fingerprint: &FingerprintKey,
) -> Result<Verified, Reason> {
    let key = presented.api_key().ok_or(Reason::CredentialMalformed)?;
    let id = id_of(key).ok_or(Reason::CredentialMalformed)?;
    let place = api_key_fingerprint(id).ok_or(Reason::CredentialMalformed)?;
    let digest = sha256(&[key]);
    let held = known(&place);
    let expected = held.and_then(|held| held.digest).unwrap_or(&NOBODYS);
    let equal = bool::from(digest.ct_eq(expected));
    let held = held.filter(|_| equal).ok_or(Reason::CredentialUnverified)?;
    if held.issued.is_some_and(|at| at > now.after(clock_skew)) {
        return Err(Reason::CredentialExpired);
    }
    let identity = held.identity.map(Name::parse).transpose().map_err(|_| Reason::Internal)?;
    Ok(Verified {
        identity,
        key_id: id.into(),
        key_thumbprint: place,
        issued_at: held.issued,
        expires_at: held.expires.unwrap_or(Timestamp::from_micros(i64::MAX)),
        signing_input_digest: digest,
        fingerprint: fingerprint.fingerprint(key),
        ..Verified::bare(Kind::ApiKey, tenant)
    })
}

/// The id of a well-formed key.
fn id_of(key: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(key).ok().filter(|text| text.len() == KEY_BYTES)?;
    let (body, sum) = text.rsplit_once('_')?;
    let (id, secret) = body.strip_prefix(API_KEY_PREFIX)?.split_once('_')?;
    let digits = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| is_digit(&b));
    (digits && *checksum(body.as_bytes()) == sum).then_some(id)
}

fn checksum(body: &[u8]) -> Zeroizing<String> {
    let digest = sha256(&[body]);
    hex(digest.get(..CHECKSUM_BYTES).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

const fn is_digit(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// What a key of nobody is compared with: no text has this digest.
const NOBODYS: [u8; 32] = [0; 32];
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const KEY_BYTES: usize = API_KEY_PREFIX.len() + 2 * (ID_BYTES + SECRET_BYTES + CHECKSUM_BYTES) + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back() {
        let minted = MintedKey::new(&Zeroizing::new([7; 40]));
        assert_eq!(minted.text.len(), KEY_BYTES);
        assert_eq!(id_of(minted.text.as_bytes()), Some(minted.id.as_str()));
        let fingerprint = api_key_fingerprint(&minted.id).unwrap();
        assert_eq!(api_key_id(&fingerprint).as_deref(), Some(minted.id.as_str()));
        assert!(!format!("{minted:?}").contains(&minted.text[30..60]));
    }

    #[test]
    fn any_changed_character_is_refused() {
        let minted = MintedKey::new(&Zeroizing::new([0xa5; 40]));
        for place in 0..minted.text.len() {
            for other in [b'0', b'g', b'A', b'_', b' '] {
                let mut key = minted.text.as_bytes().to_vec();
                if key[place] != other {
                    key[place] = other;
                    assert_eq!(id_of(&key), None, "{place} {other}");
                }
            }
        }
        let text = minted.text.as_str();
        for wrong in [&text[1..], &text[..text.len() - 1], "", "ptrv_"] {
            assert_eq!(id_of(wrong.as_bytes()), None, "{wrong}");
        }
        for wrong in ["0e1f", "0123456789abcdeF", "0123456789abcde_", "+123456789abcdef", ""] {
            assert_eq!(api_key_fingerprint(wrong), None, "{wrong}");
        }
        assert_eq!(api_key_id(&[1; 32]), None);
    }
}
