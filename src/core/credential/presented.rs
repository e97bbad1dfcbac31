//! A credential before verification.

use std::fmt;

use zeroize::Zeroizing;

use super::introspection::Introspected;
use super::verified::Kind;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A credential as a caller presented it. Nothing it claims can be read from here.
///
/// ```compile_fail,E0616
/// fn peek(presented: portreeve::core::credential::Presented) {
///     let _ = presented.0;
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn subject(presented: portreeve::core::credential::Presented) {
///     let _ = presented.subject();
/// }
/// ```
pub struct Presented(Material, Option<Introspected>);

enum Material {
    Token(Zeroizing<Vec<u8>>),
    /// A token, and the proof that came with it if any did.
    Proven(Zeroizing<Vec<u8>>, Option<Vec<u8>>),
    ApiKey(Zeroizing<Vec<u8>>),
}

impl Presented {
    /// Takes a bearer token (RFC 6750 §2.1), the scheme already removed.
    pub fn bearer(token: &[u8]) -> Self {
        Self(Material::Token(Zeroizing::new(token.to_vec())), None)
    }

    /// Takes a token under the scheme `DPoP` (RFC 9449 §7.1), with its proof.
    pub fn dpop(token: &[u8], proof: Option<&[u8]>) -> Self {
        Self(Material::Proven(Zeroizing::new(token.to_vec()), proof.map(<[u8]>::to_vec)), None)
    }

    /// Takes an API key.
    pub fn key(key: &[u8]) -> Self {
        Self(Material::ApiKey(Zeroizing::new(key.to_vec())), None)
    }

    /// What kind it is, by how it was presented.
    pub const fn kind(&self) -> Kind {
        match self.0 {
            Material::Token(_) | Material::Proven(..) => Kind::Jwt,
            Material::ApiKey(_) => Kind::ApiKey,
        }
    }

    /// Notes what the issuer of an opaque token said of it.
    pub(crate) fn answered(&mut self, answer: Introspected) {
        self.1 = Some(answer);
    }

    /// What the issuer of an opaque token said of it.
    pub(super) const fn introspected(&self) -> Option<&Introspected> {
        self.1.as_ref()
    }

    /// The bytes of a token, for verification and nothing else.
    pub(super) fn token(&self) -> Option<&[u8]> {
        match &self.0 {
            Material::Token(token) | Material::Proven(token, _) => Some(token),
            Material::ApiKey(_) => None,
        }
    }

    /// The bytes of an API key, for verification and nothing else.
    pub(super) fn api_key(&self) -> Option<&[u8]> {
        match &self.0 {
            Material::ApiKey(key) => Some(key),
            Material::Token(_) | Material::Proven(..) => None,
        }
    }

    /// Whether it came under the scheme `DPoP`, and the proof.
    pub(super) fn proof(&self) -> Option<Option<&[u8]>> {
        match &self.0 {
            Material::Proven(_, proof) => Some(proof.as_deref()),
            Material::Token(_) | Material::ApiKey(_) => None,
        }
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Presented::bearer(b"s3cret")), "Presented(redacted)");
        assert_eq!(format!("{:?}", Presented::key(b"s3cret")), "Presented(redacted)");
    }
}
