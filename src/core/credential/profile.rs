//! Token profiles: which kind of token an issuer's are, what they must say, and which of
//! their claims is the subject.
//!
//! | Profile | `typ` | Must say, beside `aud` and `exp` | Subject |
//! |---|---|---|---|
//! | `generic` | absent, `JWT`, `at+jwt` | `sub` | `sub` |
//! | `rfc9068` | `at+jwt` | `sub`, `client_id`, `iat`, `jti` | `sub` |
//! | `jwt-svid` | absent, `JWT`, `JOSE` | `sub`, a SPIFFE ID of the issuer's trust domain | `sub` |
//! | `kubernetes` | absent, `JWT` | `kubernetes.io` with the service account | the service account's UID |
//! | `github` | absent, `JWT` | the ids of repository and owner | `OWNER_ID/REPOSITORY_ID` and for what |
//! | `gitlab` | absent, `JWT` | the ids of project and namespace | `NAMESPACE_ID/PROJECT_ID` and for what |
//!
//! Subjects are made of what a platform never gives to another: ids, not names.

use std::sync::Arc;

use super::algorithm::Algorithm;
use super::claims::{Claims, numeric_date};
use super::json::{self, Object, Value};
use super::jws::Jws;
use super::spiffe::SpiffeId;
use crate::core::identity::{Issuer, TokenProfile};
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// What a profile makes of a token's claims.
#[derive(Debug, Default)]
pub(super) struct Profiled {
    /// The subject, where it is not `sub`.
    pub(super) subject: Option<Arc<str>>,
    /// An end before `exp`.
    pub(super) ends: Option<Timestamp>,
    /// What the token ends with: the pod it was made for.
    pub(super) instance: Option<Arc<str>>,
}

/// Whether a token with this header is of the kind that the issuer's tokens are.
///
/// Kinds exclude each other: a `typ` that is not the profile's own is refused, whoever signed it.
pub(super) fn takes_header(profile: TokenProfile, jws: &Jws<'_>, algorithm: Algorithm) -> bool {
    let kinds: &[&str] = match profile {
        TokenProfile::Generic => &["JWT", "at+jwt"],
        TokenProfile::AccessToken => &["at+jwt"],
        TokenProfile::JwtSvid => &["JWT", "JOSE"],
        TokenProfile::Kubernetes | TokenProfile::GitHub | TokenProfile::GitLab => &["JWT"],
        TokenProfile::X509 => return false,
    };
    let named = match jws.kind() {
        Some(kind) => is_one_of(kind, kinds),
        None => profile != TokenProfile::AccessToken,
    };
    // JWT-SVID §2: no other header parameter, and no algorithm but those of RFC 7518.
    let plain = profile != TokenProfile::JwtSvid || (jws.is_bare() && algorithm != Algorithm::EdDsa);
    named && plain
}

/// Whether `kind` is one of `known`, in any case, as a media type in full or in short (RFC 7515 §4.1.9).
pub(super) fn is_one_of(kind: &str, known: &[&str]) -> bool {
    let full = kind.get(..MEDIA_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_PREFIX));
    let short = if full { kind.get(MEDIA_PREFIX.len()..).unwrap_or_default() } else { kind };
    known.iter().any(|known| short.eq_ignore_ascii_case(known))
}

/// Reads what the issuer's profile asks of the claims beyond those of every token.
pub(super) fn read(issuer: &Issuer, payload: &Object<'_>, claims: &Claims) -> Result<Profiled, Reason> {
    if OTHER_KINDS.iter().any(|claim| payload.contains_key(*claim)) {
        return Err(Reason::CredentialUnverified);
    }
    match issuer.profile {
        TokenProfile::Generic => generic(payload),
        TokenProfile::AccessToken => access_token(payload, claims),
        TokenProfile::JwtSvid => jwt_svid(issuer, claims),
        TokenProfile::Kubernetes => kubernetes(payload, claims),
        TokenProfile::GitHub => github(payload),
        TokenProfile::GitLab => gitlab(payload),
        TokenProfile::X509 => Err(Reason::CredentialUnverified),
    }
}

fn generic(payload: &Object<'_>) -> Result<Profiled, Reason> {
    // A scope beside a directory's tenant: a token that acts for a person.
    if payload.contains_key("tid") && payload.contains_key("scp") {
        return Err(Reason::CredentialUnverified);
    }
    Ok(Profiled::default())
}

/// # Standard
/// RFC 9068 §2.2.
fn access_token(payload: &Object<'_>, claims: &Claims) -> Result<Profiled, Reason> {
    text(payload, "client_id")?;
    if claims.issued_at.is_none() || claims.token_id.as_ref().is_none_or(|id| id.is_empty()) {
        return Err(Reason::CredentialMalformed);
    }
    Ok(Profiled::default())
}

/// # Standard
/// JWT-SVID §3.1: `sub` is a SPIFFE ID, of the trust domain whose keys verify the token.
fn jwt_svid(issuer: &Issuer, claims: &Claims) -> Result<Profiled, Reason> {
    let id = SpiffeId::parse(&claims.subject).ok_or(Reason::CredentialMalformed)?;
    if id.has_path() && id.domain() == &*issuer.iss {
        Ok(Profiled::default())
    } else {
        Err(Reason::CredentialUnverified)
    }
}

/// Bound service account tokens. Those of old, kept in secrets, lack the claim and are refused.
fn kubernetes(payload: &Object<'_>, claims: &Claims) -> Result<Profiled, Reason> {
    let bound = object(payload, "kubernetes.io")?;
    let account = object(bound, "serviceaccount")?;
    let (namespace, name, uid) = (text(bound, "namespace")?, text(account, "name")?, text(account, "uid")?);
    let asserted = claims.subject.strip_prefix("system:serviceaccount:").and_then(|s| s.split_once(':'));
    if asserted != Some((namespace, name)) {
        return Err(Reason::CredentialMalformed);
    }
    let pod = bound.contains_key("pod").then(|| object(bound, "pod")).transpose()?;
    Ok(Profiled {
        subject: Some(Arc::from(uid)),
        ends: bound.get("warnafter").map(numeric_date).transpose()?,
        instance: pod.map(|pod| text(pod, "uid").map(Arc::from)).transpose()?,
    })
}

/// `OWNER_ID/REPOSITORY_ID:` and then `pull_request`, `environment:NAME` or `ref:REF`: the platform's
/// own default subject with ids in place of names, however `sub` is customised.
fn github(payload: &Object<'_>) -> Result<Profiled, Reason> {
    let (owner, repository) = (id(payload, "repository_owner_id")?, id(payload, "repository_id")?);
    let purpose = if text(payload, "event_name")?.starts_with("pull_request") {
        "pull_request".to_owned()
    } else if payload.contains_key("environment") {
        format!("environment:{}", text(payload, "environment")?)
    } else {
        format!("ref:{}", text(payload, "ref")?)
    };
    Ok(mapped(owner, repository, &purpose))
}

/// `NAMESPACE_ID/PROJECT_ID:` and then `merge_request`, or `ref_type:TYPE:ref:REF`.
fn gitlab(payload: &Object<'_>) -> Result<Profiled, Reason> {
    let (namespace, project) = (id(payload, "namespace_id")?, id(payload, "project_id")?);
    for claim in ["ref_protected", "environment_protected"] {
        if payload.get(claim).is_some_and(|value| !matches!(value.as_text(), Some("true" | "false"))) {
            return Err(Reason::CredentialMalformed);
        }
    }
    let purpose = match text(payload, "pipeline_source")? {
        "merge_request_event" | "external_pull_request_event" => "merge_request".to_owned(),
        _ => format!("ref_type:{}:ref:{}", text(payload, "ref_type")?, text(payload, "ref")?),
    };
    Ok(mapped(namespace, project, &purpose))
}

fn mapped(owner: &str, repository: &str, purpose: &str) -> Profiled {
    let subject = Arc::from(format!("{owner}/{repository}:{purpose}"));
    Profiled { subject: Some(subject), ..Profiled::default() }
}

fn object<'o, 'a>(members: &'o Object<'a>, name: &str) -> Result<&'o Object<'a>, Reason> {
    match members.get(name) {
        Some(Value::Object(inner)) => Ok(inner),
        _ => Err(Reason::CredentialMalformed),
    }
}

fn text<'o>(members: &'o Object<'_>, name: &str) -> Result<&'o str, Reason> {
    let plain = |text: &&str| !text.is_empty() && json::is_plain(text, PART_BYTES_MAX);
    members.get(name).and_then(Value::as_text).filter(plain).ok_or(Reason::CredentialMalformed)
}

/// A number that the platform writes as a string.
fn id<'o>(members: &'o Object<'_>, name: &str) -> Result<&'o str, Reason> {
    let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
    text(members, name).ok().filter(digits).ok_or(Reason::CredentialMalformed)
}

/// Claims by which identity tokens and event tokens are known, whatever their `typ`.
const OTHER_KINDS: [&str; 4] = ["nonce", "at_hash", "c_hash", "events"];
const MEDIA_PREFIX: &str = "application/";
const PART_BYTES_MAX: usize = 1024;
