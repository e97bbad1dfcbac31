//! A credential before verification.

use std::fmt;

use zeroize::Zeroizing;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A credential as a caller presented it. Nothing it claims can be read from here.
///
/// ```compile_fail,E0616
/// fn peek(presented: portreeve::core::credential::Presented) {
///     let _ = presented.token;
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn subject(presented: portreeve::core::credential::Presented) {
///     let _ = presented.subject();
/// }
/// ```
pub struct Presented {
    token: Zeroizing<Vec<u8>>,
}

impl Presented {
    /// Takes a bearer token (RFC 6750 §2.1), the scheme already removed.
    pub fn bearer(token: &[u8]) -> Self {
        Self { token: Zeroizing::new(token.to_vec()) }
    }

    /// The bytes, for verification and nothing else.
    pub(super) fn token(&self) -> &[u8] {
        &self.token
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
    }
}
