//! Issuers.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::introspection::IntrospectionSpec;
use super::status_list::StatusListsSpec;
use super::time::{parse_span, show_span};
use super::{Fault, Faults, Read, text};
use crate::core::credential::{Algorithm, NO_KEYS, SpiffeId};
use crate::core::identity::{Issuer, KeySource, Record, TokenProfile};
use crate::jwks::discovery_address;
use crate::outbound::Target;

/// A trust anchor for tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an issuer's spec")]
pub struct IssuerSpec {
    /// The exact `iss`.
    pub iss: String,
    /// What its tokens look like: `generic`, `rfc9068`, `jwt-svid`, `kubernetes`, `github`, `gitlab`; or `x509`, an
    /// issuer of client certificates, which has no `algorithms`, `audiences` and `keys`.
    pub profile: String,
    /// The only algorithms taken from it, in order of preference. Absent, as `keys`, where all its tokens are opaque.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
    /// Audiences it may issue for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Its public keys.
    #[serde(default, skip_serializing_if = "KeysSpec::is_none")]
    pub keys: KeysSpec,
    /// How it is asked about opaque tokens; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionSpec>,
    /// Longest time from issue to expiry, such as `1h`; at least `1s`, at most `365d`.
    pub max_lifetime: String,
    /// Where its status lists may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_lists: Option<StatusListsSpec>,
}

/// Where an issuer's keys are: one of these.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `inline`, `url` or `discovery`")]
pub struct KeysSpec {
    /// A JSON Web Key Set, public keys only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub inline: Option<Value>,
    /// A file; the command line turns it into `inline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The `https` URL of a JSON Web Key Set, which the hub fetches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `true`: the hub finds the URL by OpenID Connect discovery at `iss`, and fetches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<bool>,
}

impl IssuerSpec {
    pub(super) fn read(self, faults: &mut Faults) -> Option<Read> {
        let iss = text::needed(&self.iss, "iss", faults);
        let profile = TokenProfile::parse(&self.profile);
        if profile.is_none() {
            let given = self.profile.escape_debug();
            let known = TokenProfile::ALL.map(|profile| format!("`{}`", profile.as_str())).join(", ");
            faults.push("profile", format_args!("`{given}` is unknown: expected one of {known}"));
        }
        if profile == Some(TokenProfile::X509) {
            return self.read_x509(iss, faults);
        }
        let introspection = self.introspection.as_ref().map(|asked| asked.read(profile, faults));
        let opaque_only = introspection.is_some() && self.algorithms.is_empty() && self.keys.is_none();
        let algorithms = if opaque_only { Vec::new() } else { self.algorithms(faults) };
        let audiences = self.audiences(faults);
        let max_lifetime_s = self.max_lifetime_s(faults);
        if let Some(profile) = profile {
            self.fits(profile, &algorithms, faults);
        }
        if opaque_only {
            if self.status_lists.is_some() {
                faults.push("status_lists", "is not for opaque tokens: they name no list");
            }
            let none = Arc::from(Vec::new());
            let issuer = Issuer::new(iss, profile?, algorithms, audiences, max_lifetime_s?, none);
            let issuer = issuer.with_introspection(introspection?);
            return Some(Read::plain(Record::Issuer(Arc::new(issuer))));
        }
        let status_lists = self.status_lists.as_ref().map(|lists| lists.read(faults));
        let (key_source, jwks) = self.keys.read(&iss, faults)?;
        if algorithms.is_empty() {
            return None;
        }
        let issuer = Issuer::new(iss, profile?, algorithms, audiences, max_lifetime_s?, Arc::from(jwks));
        let issuer = issuer.with_source(key_source).with_introspection(introspection.flatten());
        let issuer = match status_lists {
            Some(lists) => issuer.with_status_lists(lists?),
            None => issuer,
        };
        let refused = issuer.keys.refused();
        if issuer.keys.is_empty() && !issuer.key_source.is_fetched() {
            let why: Vec<_> = refused.iter().map(ToString::to_string).collect();
            let why = if why.is_empty() { "the set is empty".to_owned() } else { why.join("; ") };
            faults.push("keys.inline", format_args!("has no usable key: {why}"));
        }
        let warn = |key: &crate::core::credential::RefusedKey| Fault {
            path: "spec.keys.inline".to_owned(),
            message: format!("{key}; the key is not used"),
        };
        let warnings = refused.iter().map(warn).collect();
        Some(Read { warnings, ..Read::plain(Record::Issuer(Arc::new(issuer))) })
    }

    /// An issuer of certificates: who vouches for them is the listener's to know.
    fn read_x509(&self, iss: Arc<str>, faults: &mut Faults) -> Option<Read> {
        let given = [
            ("algorithms", !self.algorithms.is_empty()),
            ("audiences", !self.audiences.is_empty()),
            ("keys", !self.keys.is_none()),
            ("introspection", self.introspection.is_some()),
            ("status_lists", self.status_lists.is_some()),
        ];
        for (member, _) in given.iter().filter(|(_, there)| *there) {
            faults.push(member, "is not for `x509`: certificates are verified by the listener's `client_ca`");
        }
        if self.iss.starts_with("spiffe:") && SpiffeId::parse(&self.iss).is_none_or(|id| id.has_path()) {
            faults.push("iss", "is no trust domain: expected such as `spiffe://acme.example`");
        }
        let max_lifetime_s = self.max_lifetime_s(faults)?;
        let none = Arc::from(Vec::new());
        let issuer = Issuer::new(iss, TokenProfile::X509, Vec::new(), Vec::new(), max_lifetime_s, none);
        Some(Read::plain(Record::Issuer(Arc::new(issuer))))
    }

    /// What a profile asks of its issuer. Platforms that issue for everyone need the profile that tells
    /// one customer from another.
    fn fits(&self, profile: TokenProfile, algorithms: &[Algorithm], faults: &mut Faults) {
        let shared = SHARED_ISSUERS.iter().find(|(iss, needed)| *iss == self.iss && *needed != profile);
        if let Some((_, needed)) = shared {
            let needed = needed.as_str();
            faults.push("profile", format_args!("this issuer signs for everyone: expected `{needed}`"));
        }
        if self.iss == LEGACY_KUBERNETES {
            faults.push("iss", "names tokens that never expire: expected the cluster's own issuer");
        }
        if profile == TokenProfile::JwtSvid {
            let domain = SpiffeId::parse(&self.iss).is_some_and(|id| !id.has_path());
            if !domain {
                faults.push("iss", "is no trust domain: expected such as `spiffe://acme.example`");
            }
            if algorithms.contains(&Algorithm::EdDsa) {
                faults.push("algorithms", "JWT-SVIDs are not signed with EdDSA: expected such as [ES256]");
            }
        }
        let ordinary = |audience: &String| audience.starts_with(GITHUB_DEFAULT_AUDIENCE);
        if profile == TokenProfile::GitHub && self.audiences.iter().any(ordinary) {
            faults.push("audiences", "the owner's address is every job's default: expected one of your own");
        }
    }

    fn algorithms(&self, faults: &mut Faults) -> Vec<Algorithm> {
        if self.algorithms.is_empty() {
            faults.push("algorithms", "is empty: expected such as [RS256, ES256, EdDSA]");
        }
        let mut known = Vec::new();
        for (place, name) in self.algorithms.iter().enumerate() {
            let at = format!("algorithms[{place}]");
            match Algorithm::parse(name) {
                Some(algorithm) if known.contains(&algorithm) => faults.push(at, "is there twice"),
                Some(algorithm) => known.push(algorithm),
                None => {
                    let given = name.escape_debug();
                    faults
                        .push(at, format_args!("`{given}` is unknown: expected such as RS256, ES256, EdDSA"));
                }
            }
        }
        known
    }

    fn audiences(&self, faults: &mut Faults) -> Vec<Arc<str>> {
        if self.audiences.is_empty() {
            faults.push("audiences", "is empty: tokens without an expected audience are never accepted");
        }
        text::bounded(self.audiences.len(), text::LIST_MAX, "audiences", faults);
        let mut audience =
            |(place, value): (usize, &String)| text::needed(value, &format!("audiences[{place}]"), faults);
        self.audiences.iter().enumerate().map(&mut audience).collect()
    }

    fn max_lifetime_s(&self, faults: &mut Faults) -> Option<u32> {
        let seconds = parse_span(&self.max_lifetime).and_then(|span| u32::try_from(span.as_secs()).ok());
        let within = seconds.filter(|s| (1..=LIFETIME_S_MAX).contains(s));
        if within.is_none() {
            let given = self.max_lifetime.escape_debug();
            faults.push("max_lifetime", format_args!("`{given}`: expected 1s to 365d, such as `1h`"));
        }
        within
    }
}

impl KeysSpec {
    /// Whether it says nothing.
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Where the keys come from, and those that are there already.
    fn read(&self, iss: &str, faults: &mut Faults) -> Option<(KeySource, Vec<u8>)> {
        if self.file.is_some() {
            faults.push("keys.file", "files are read by `portreeve apply`: expected `inline`");
            return None;
        }
        match (&self.inline, &self.url, self.discovery) {
            (Some(inline @ Value::Object(_)), None, None) => {
                Some((KeySource::Given, serde_json::to_vec(inline).ok()?))
            }
            (Some(_), None, None) => {
                faults.push("keys.inline", "expected a JSON Web Key Set, an object with `keys`");
                None
            }
            (None, Some(url), None) => match Target::parse(url) {
                Ok(_) => Some((KeySource::Url(Arc::from(url.as_str())), NO_KEYS.to_vec())),
                Err(error) => {
                    let given = url.escape_debug();
                    faults.push("keys.url", format_args!("`{given}` {error}: expected an `https` URL"));
                    None
                }
            },
            (None, None, Some(true)) => match discovery_address(iss) {
                Ok(_) => Some((KeySource::Discovery, NO_KEYS.to_vec())),
                Err(error) => {
                    faults.push("keys.discovery", format_args!("nothing is found at `iss`, which {error}"));
                    None
                }
            },
            (None, None, Some(false)) => {
                faults.push("keys.discovery", "expected `true`, or another place of keys");
                None
            }
            _ => {
                faults.push("keys", "expected one of `inline`, `url` and `discovery`");
                None
            }
        }
    }
}

impl From<&KeySource> for KeysSpec {
    fn from(source: &KeySource) -> Self {
        match source {
            KeySource::Given => Self::default(),
            KeySource::Url(url) => Self { url: Some(url.to_string()), ..Self::default() },
            KeySource::Discovery => Self { discovery: Some(true), ..Self::default() },
        }
    }
}

impl From<&Issuer> for IssuerSpec {
    fn from(v: &Issuer) -> Self {
        Self {
            iss: v.iss.to_string(),
            profile: v.profile.as_str().to_owned(),
            algorithms: v.algorithms.iter().map(|a| a.as_str().to_owned()).collect(),
            audiences: v.audiences.iter().map(ToString::to_string).collect(),
            keys: match &v.key_source {
                KeySource::Given => {
                    KeysSpec { inline: serde_json::from_slice(&v.jwks).ok(), ..KeysSpec::default() }
                }
                fetched => fetched.into(),
            },
            introspection: v.introspection.as_deref().map(Into::into),
            max_lifetime: show_span(v.max_lifetime_s.into()),
            status_lists: v.status_lists.as_ref().map(Into::into),
        }
    }
}

/// Issuers that sign for everyone, and the profile that pins whose tokens count.
const SHARED_ISSUERS: [(&str, TokenProfile); 2] = [
    ("https://token.actions.githubusercontent.com", TokenProfile::GitHub),
    ("https://gitlab.com", TokenProfile::GitLab),
];
const LEGACY_KUBERNETES: &str = "kubernetes/serviceaccount";
const GITHUB_DEFAULT_AUDIENCE: &str = "https://github.com/";
const LIFETIME_S_MAX: u32 = 365 * 86_400;
/// Longest time that any issuer may grant.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(LIFETIME_S_MAX as u64);
