//! Trust anchors for tokens.

use std::sync::Arc;

use crate::core::credential::{Algorithm, KeySet};

/// What tokens of an issuer look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenProfile {
    /// A JSON Web Token with `iss`, `sub`, `aud`, `exp`; `typ` absent, `JWT` or `at+jwt`.
    Generic,
}

impl TokenProfile {
    /// The profile's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
        }
    }

    /// The profile with this name.
    pub fn parse(text: &str) -> Option<Self> {
        (text == "generic").then_some(Self::Generic)
    }
}

/// A trust anchor for tokens.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The exact `iss`.
    pub iss: Arc<str>,
    /// What its tokens look like.
    pub profile: TokenProfile,
    /// The only algorithms taken from it, in order of preference.
    pub algorithms: Vec<Algorithm>,
    /// Audiences it may issue for; a token needs one that the route accepts as well.
    pub audiences: Vec<Arc<str>>,
    /// Longest time from issue to expiry, in seconds; at least 1.
    pub max_lifetime_s: u32,
    /// Its public keys as received.
    pub jwks: Arc<[u8]>,
    /// Its public keys, parsed; from `jwks` and `algorithms` alone.
    pub keys: Arc<KeySet>,
    /// Digest of all the above: what a verification depended on.
    pub digest: [u8; 32],
}

impl Issuer {
    /// Joins the parts, parsing the keys and computing the digest.
    pub fn new(
        iss: Arc<str>,
        profile: TokenProfile,
        algorithms: Vec<Algorithm>,
        audiences: Vec<Arc<str>>,
        max_lifetime_s: u32,
        jwks: Arc<[u8]>,
    ) -> Self {
        let keys = Arc::new(KeySet::parse(&jwks, &algorithms));
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(iss.as_bytes());
        field(profile.as_str().as_bytes());
        field(&(algorithms.len() as u64).to_le_bytes());
        algorithms.iter().for_each(|a| field(a.as_str().as_bytes()));
        field(&(audiences.len() as u64).to_le_bytes());
        audiences.iter().for_each(|a| field(a.as_bytes()));
        field(&max_lifetime_s.to_le_bytes());
        field(&jwks);
        let digest = *hasher.finalize().as_bytes();
        Self { iss, profile, algorithms, audiences, max_lifetime_s, jwks, keys, digest }
    }
}

impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}
