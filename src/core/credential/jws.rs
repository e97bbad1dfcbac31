//! JSON Web Signatures in compact form (RFC 7515 §3.1), parsed but not verified.
//!
//! Deliberately absent: the JSON serialisation, encryption (RFC 7516), unencoded
//! payloads (RFC 7797), compression, any critical extension, and keys from the header.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::json::{self, Object};
use super::presented::TOKEN_BYTES_MAX;

/// A compact JWS: well formed, its signature not looked at.
#[derive(Clone)]
pub struct Jws<'a> {
    signing_input: &'a [u8],
    algorithm: String,
    key_id: Option<String>,
    kind: Option<String>,
    bare: bool,
    payload: Vec<u8>,
    signature: Zeroizing<Vec<u8>>,
}

impl<'a> Jws<'a> {
    /// Parses a token of at most [`TOKEN_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// A [`JwsError`] that names the first rule broken.
    ///
    /// # Standard
    /// RFC 7515 §5.2 steps 1 to 5. Stricter: `crit`, `b64` and `zip` are refused in any
    /// form, and so are empty parts and duplicate header members.
    pub fn parse(token: &'a [u8]) -> Result<Self, JwsError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwsError::Size);
        }
        Self::parse_any_size(token)
    }

    /// The same for a token whose size its caller has bounded.
    pub(super) fn parse_any_size(token: &'a [u8]) -> Result<Self, JwsError> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwsError::Parts);
        };
        let signing_input = token.get(..header.len() + 1 + payload.len()).ok_or(JwsError::Parts)?;
        let header = decode(header)?;
        let header = json::parse_object(&header).map_err(|_| JwsError::Header)?;
        let payload = decode(payload)?;
        let signature = Zeroizing::new(decode(signature)?);
        if ["crit", "b64", "zip"].iter().any(|name| header.contains_key(*name)) {
            return Err(JwsError::Extension);
        }
        let algorithm = text(&header, "alg", JwsError::Algorithm)?.ok_or(JwsError::Algorithm)?;
        let key_id = text(&header, "kid", JwsError::KeyId)?;
        if key_id.as_ref().is_some_and(|kid| !json::is_plain(kid, KEY_ID_BYTES_MAX)) {
            return Err(JwsError::KeyId);
        }
        let kind = text(&header, "typ", JwsError::Kind)?;
        let bare = header.keys().all(|name| matches!(&**name, "alg" | "kid" | "typ"));
        Ok(Self { signing_input, algorithm, key_id, kind, bare, payload, signature })
    }

    /// What was signed: header and payload as they came, with the dot between.
    pub const fn signing_input(&self) -> &'a [u8] {
        self.signing_input
    }

    /// The header's `alg`: a claim, to be compared and never obeyed.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The header's `kid`, at most 256 bytes and without control characters.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The header's `typ`.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// Whether the header has no member but `alg`, `kid` and `typ`.
    pub const fn is_bare(&self) -> bool {
        self.bare
    }

    /// The payload's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signature's bytes.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
}

impl fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jws(redacted)")
    }
}

/// Why bytes are no acceptable compact JWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("token is longer than 16 KiB")]
    Size,
    /// Not exactly three parts, or an empty one.
    #[error("token is not three non-empty parts")]
    Parts,
    /// A part is not canonical base64url without padding.
    #[error("token part is not canonical base64url")]
    Encoding,
    /// The header is not a strict JSON object.
    #[error("token header is not a strict JSON object")]
    Header,
    /// The header has `crit`, `b64` or `zip`.
    #[error("token header asks for an extension")]
    Extension,
    /// `alg` is absent or no string.
    #[error("token header has no `alg` string")]
    Algorithm,
    /// `kid` is no string, too long, or has control characters.
    #[error("token header has a malformed `kid`")]
    KeyId,
    /// `typ` is no string.
    #[error("token header has a malformed `typ`")]
    Kind,
}

/// Longest key id, in bytes.
pub(super) const KEY_ID_BYTES_MAX: usize = 256;

/// Strict base64url: no padding, no foreign byte, no set bit behind the last byte.
pub(super) fn decode(part: &[u8]) -> Result<Vec<u8>, JwsError> {
    if part.is_empty() {
        return Err(JwsError::Parts);
    }
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Encoding)
}

fn text(header: &Object<'_>, name: &str, fault: JwsError) -> Result<Option<String>, JwsError> {
    header.get(name).map(|value| value.as_text().map(str::to_owned).ok_or(fault)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_token() {
        let token = format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#));
        assert_eq!(format!("{:?}", Jws::parse(token.as_bytes()).unwrap()), "Jws(redacted)");
    }
}
