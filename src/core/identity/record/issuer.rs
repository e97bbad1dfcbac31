//! Trust anchors for tokens.

use std::sync::Arc;

use crate::core::credential::{Algorithm, KeySet, KeyUse};
use crate::core::time::Timestamp;

/// What tokens of an issuer look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenProfile {
    /// A JSON Web Token with `iss`, `sub`, `aud`, `exp`; `typ` absent, `JWT` or `at+jwt`.
    Generic,
    /// An OAuth access token (RFC 9068).
    AccessToken,
    /// A JWT-SVID; the issuer's `iss` is its trust domain, `spiffe://` and its name.
    JwtSvid,
    /// A Kubernetes service account token.
    Kubernetes,
    /// A GitHub Actions job's token.
    GitHub,
    /// A GitLab CI job's token.
    GitLab,
    /// No tokens: client certificates only. The issuer has no keys here.
    X509,
}

impl TokenProfile {
    /// Every profile.
    pub const ALL: [Self; 7] = [
        Self::Generic,
        Self::AccessToken,
        Self::JwtSvid,
        Self::Kubernetes,
        Self::GitHub,
        Self::GitLab,
        Self::X509,
    ];

    /// The profile's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::AccessToken => "rfc9068",
            Self::JwtSvid => "jwt-svid",
            Self::Kubernetes => "kubernetes",
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
            Self::X509 => "x509",
        }
    }

    /// The profile with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == text)
    }

    /// What keys that verify its tokens say they are for.
    pub const fn key_use(self) -> KeyUse {
        match self {
            Self::JwtSvid => KeyUse::JwtSvid,
            _ => KeyUse::Signature,
        }
    }
}

/// Where an issuer's keys come from. A hub acts on it; what verifies are the keys alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum KeySource {
    /// Whoever wrote the record gave them.
    #[default]
    Given,
    /// A JSON Web Key Set that a hub fetches from this `https` URL.
    Url(Arc<str>),
    /// A JSON Web Key Set that a hub finds by OpenID Connect discovery at `iss`.
    Discovery,
}

impl KeySource {
    /// Whether a hub fetches the keys.
    pub const fn is_fetched(&self) -> bool {
        !matches!(self, Self::Given)
    }
}

/// How enforcement points ask an issuer about its opaque tokens (RFC 7662).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introspection {
    /// The `https` URL that is asked, exactly as the enforcement point's own configuration has it.
    pub endpoint: Arc<str>,
    /// Which member of the answer is the subject.
    pub subject: SubjectMember,
    /// What its opaque tokens begin with; empty: that does not tell them.
    pub token_prefix: Arc<str>,
}

/// Which member of an answer about a token is the subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SubjectMember {
    /// `sub`.
    #[default]
    Sub,
    /// `client_id`, of tokens that act for nobody else.
    ClientId,
}

impl SubjectMember {
    /// Every member.
    pub const ALL: [Self; 2] = [Self::Sub, Self::ClientId];

    /// The member's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sub => "sub",
            Self::ClientId => "client_id",
        }
    }

    /// The member with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|member| member.as_str() == text)
    }
}

/// Where an issuer's status lists may be, and how long one counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StatusLists {
    /// `https` URIs, as tokens name them; one that ends with `/` stands for those below it.
    pub uris: Vec<Arc<str>>,
    /// Longest time that a list counts after it was fetched, in seconds.
    pub max_age_s: u32,
}

impl StatusLists {
    /// Whether a list of this URI is taken.
    ///
    /// Below a URI is only what no server can read as another place: no query, no escape, no dot segment.
    pub fn takes(&self, uri: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/');
        let below = |rest: &str| !rest.is_empty() && rest.bytes().all(plain) && !rest.contains("..");
        self.uris.iter().any(|taken| match taken.ends_with('/') {
            true => uri.strip_prefix(&**taken).is_some_and(below),
            false => **taken == *uri,
        })
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
    /// Where the keys come from.
    pub key_source: KeySource,
    /// How it is asked about opaque tokens; `None`: it has none.
    pub introspection: Option<Arc<Introspection>>,
    /// Where its status lists may be; `None`: it has none.
    pub status_lists: Option<StatusLists>,
    /// The first instant at which its keys count no more, unless they are fetched again; `None`: they have no bound.
    pub keys_until: Option<Timestamp>,
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
        let keys = Arc::new(KeySet::parse_for(&jwks, &algorithms, profile.key_use()));
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
        let key_source = KeySource::Given;
        let introspection = None;
        let status_lists = None;
        let keys_until = None;
        Self {
            iss,
            profile,
            algorithms,
            audiences,
            max_lifetime_s,
            jwks,
            keys,
            digest,
            key_source,
            introspection,
            status_lists,
            keys_until,
        }
    }

    /// The same with keys from elsewhere.
    #[must_use]
    pub fn with_source(self, key_source: KeySource) -> Self {
        Self { key_source, ..self }
    }

    /// The same with opaque tokens, or without.
    #[must_use]
    pub fn with_introspection(self, introspection: Option<Arc<Introspection>>) -> Self {
        Self { introspection, ..self }
    }

    /// The same with status lists. What was verified without them is verified anew.
    #[must_use]
    pub fn with_status_lists(self, status_lists: StatusLists) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        hasher.update(&status_lists.max_age_s.to_le_bytes());
        for uri in &status_lists.uris {
            hasher.update(&(uri.len() as u64).to_le_bytes());
            hasher.update(uri.as_bytes());
        }
        Self { digest: *hasher.finalize().as_bytes(), status_lists: Some(status_lists), ..self }
    }

    /// The same with keys that count until then. What was verified with them stays verified, for as long.
    #[must_use]
    pub fn with_keys_until(self, keys_until: Option<Timestamp>) -> Self {
        Self { keys_until, ..self }
    }

    /// Whether its keys count at `now`.
    pub fn keys_count(&self, now: Timestamp) -> bool {
        self.keys_until.is_none_or(|until| now < until)
    }

    /// The same with other keys, which have no bound.
    #[must_use]
    pub fn with_jwks(&self, jwks: Arc<[u8]>) -> Self {
        let Self { iss, profile, algorithms, audiences, max_lifetime_s, .. } = self.clone();
        let issuer = Self::new(iss, profile, algorithms, audiences, max_lifetime_s, jwks)
            .with_source(self.key_source.clone())
            .with_introspection(self.introspection.clone());
        match self.status_lists.clone() {
            Some(status_lists) => issuer.with_status_lists(status_lists),
            None => issuer,
        }
    }
}

impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.key_source == other.key_source
            && self.introspection == other.introspection
            && self.keys_until == other.keys_until
    }
}
