//! Join tokens: shown once, used once, good for one enforcement point and one cluster.
//!
//! `prt_join_` and base64url of: version (1 byte), cluster (16), SHA-256 of the public key of the
//! cluster's authority (32), the token's number (8), its secret (24), the id it is for, CRC-32C of
//! all before it (4, little-endian). The prefix and the checksum let a scanner tell a leaked one;
//! the digest lets its bearer know the hub before it has been told whom to trust.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::name::Cluster;
use crate::core::id::Name;

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    cluster: Cluster,
    authority: [u8; 32],
    number: [u8; 8],
    secret: Zeroizing<[u8; 24]>,
    spoke_id: Name,
}

/// Why a text is no join token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// Another kind of text.
    #[error("it does not begin with `prt_join_`")]
    Prefix,
    /// Cut short, or with something else in it.
    #[error("it is damaged: copy the whole of it")]
    Damaged,
    /// Of a later build.
    #[error("it is of a form that this build does not know")]
    Version,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("spoke_id", &self.spoke_id).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// A new one for `spoke_id`; `None`: the system has no random bytes.
    pub fn mint(cluster: Cluster, authority: [u8; 32], spoke_id: Name) -> Option<Self> {
        let (mut number, mut secret) = ([0; 8], Zeroizing::new([0; 24]));
        rand::fill(&mut number).ok()?;
        rand::fill(&mut *secret).ok()?;
        Some(Self { cluster, authority, number, secret, spoke_id })
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`JoinTokenError`] says what is wrong, and nothing of what it holds.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(JoinTokenError::Prefix)?;
        if encoded.len() > ENCODED_MAX {
            return Err(JoinTokenError::Damaged);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JoinTokenError::Damaged)?);
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(JoinTokenError::Damaged)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(JoinTokenError::Damaged);
        }
        match body.split_first() {
            Some((&VERSION, rest)) => Self::read(rest).ok_or(JoinTokenError::Damaged),
            _ => Err(JoinTokenError::Version),
        }
    }

    fn read(rest: &[u8]) -> Option<Self> {
        let (cluster, rest) = rest.split_first_chunk::<16>()?;
        let (authority, rest) = rest.split_first_chunk::<32>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (secret, id) = rest.split_first_chunk::<24>()?;
        let spoke_id = Name::parse(std::str::from_utf8(id).ok()?).ok()?;
        Some(Self {
            cluster: Cluster::new(*cluster),
            authority: *authority,
            number: *number,
            secret: Zeroizing::new(*secret),
            spoke_id,
        })
    }

    /// The token itself, to be shown once.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(vec![VERSION]);
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.number);
        bytes.extend_from_slice(&*self.secret);
        bytes.extend_from_slice(self.spoke_id.as_str().as_bytes());
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }

    /// Whose token it is.
    pub const fn cluster(&self) -> Cluster {
        self.cluster
    }

    /// SHA-256 of the public key of the authority that a hub must show.
    pub const fn authority(&self) -> &[u8; 32] {
        &self.authority
    }

    /// Which enforcement point it is for.
    pub const fn spoke_id(&self) -> &Name {
        &self.spoke_id
    }

    /// Its number, which is no secret, in hexadecimal.
    pub fn number(&self) -> String {
        self.number.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What is kept to recognise it: BLAKE3 of its secret, bound to its number.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("portreeve join token v1");
        hasher.update(&self.number);
        hasher.update(&*self.secret);
        *hasher.finalize().as_bytes()
    }
}

const PREFIX: &str = "prt_join_";
const VERSION: u8 = 1;
/// Base64 of the longest: 85 bytes and an id of 128.
const ENCODED_MAX: usize = 288;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_never_with_a_letter_changed() {
        let id = Name::parse("orders-1").unwrap();
        let token = JoinToken::mint(Cluster::new([7; 16]), [8; 32], id).unwrap();
        let text = token.reveal();
        assert_eq!(JoinToken::parse(&text).unwrap(), token);
        assert!(!format!("{token:?}").contains(&text[20..]), "{token:?}");
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert!(JoinToken::parse(std::str::from_utf8(&other).unwrap()).is_err(), "{at}");
            assert!(JoinToken::parse(&text[..at]).is_err(), "{at}");
        }
        let long = JoinToken { spoke_id: Name::parse(&"x".repeat(128)).unwrap(), ..token };
        assert_eq!(JoinToken::parse(&long.reveal()).unwrap(), long);
    }
}
