//! How an issuer is asked about its opaque tokens.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::core::identity::{Introspection, SubjectMember, TokenProfile};
use crate::outbound::Target;

/// How enforcement points ask an issuer about its opaque tokens (RFC 7662). With whose credentials, each
/// enforcement point's own configuration says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `endpoint`, `subject`, `token_prefix`")]
pub struct IntrospectionSpec {
    /// The `https` URL that is asked.
    pub endpoint: String,
    /// Which member of the answer is the subject: `sub`, or `client_id` for tokens that act for nobody else.
    #[serde(default = "sub")]
    pub subject: String,
    /// What its opaque tokens begin with: needed where a tenant has several such issuers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_prefix: Option<String>,
}

fn sub() -> String {
    SubjectMember::default().as_str().to_owned()
}

impl IntrospectionSpec {
    pub(super) fn read(
        &self,
        profile: Option<TokenProfile>,
        faults: &mut Faults,
    ) -> Option<Arc<Introspection>> {
        if profile.is_some_and(|profile| !OPAQUE.contains(&profile)) {
            faults.push("introspection", "is for the profiles `generic` and `rfc9068`: others are JWTs only");
        }
        if let Err(error) = Target::parse(&self.endpoint) {
            let given = self.endpoint.escape_debug();
            let message = format_args!("`{given}` {error}: expected an `https` URL");
            faults.push("introspection.endpoint", message);
        }
        let subject = SubjectMember::parse(&self.subject);
        if subject.is_none() {
            let given = self.subject.escape_debug();
            let message = format_args!("`{given}` is unknown: expected `sub` or `client_id`");
            faults.push("introspection.subject", message);
        }
        let prefix = self.token_prefix.as_deref().unwrap_or_default();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~' | b'+' | b'/');
        let given = self.token_prefix.is_some();
        if given && !((1..=PREFIX_BYTES_MAX).contains(&prefix.len()) && prefix.bytes().all(plain)) {
            let message = "expected 1 to 64 letters, digits or `-_~+/`";
            faults.push("introspection.token_prefix", message);
        }
        Some(Arc::new(Introspection {
            endpoint: Arc::from(self.endpoint.as_str()),
            subject: subject?,
            token_prefix: Arc::from(prefix),
        }))
    }
}

impl From<&Introspection> for IntrospectionSpec {
    fn from(v: &Introspection) -> Self {
        Self {
            endpoint: v.endpoint.to_string(),
            subject: v.subject.as_str().to_owned(),
            token_prefix: (!v.token_prefix.is_empty()).then(|| v.token_prefix.to_string()),
        }
    }
}

const OPAQUE: [TokenProfile; 2] = [TokenProfile::Generic, TokenProfile::AccessToken];
const PREFIX_BYTES_MAX: usize = 64;
