//! Where a token's status is asked for, and the lists that answer (Token Status List, draft 20).
//!
//! Deliberately absent: fetching a list (the hub's), and what it says of a token (the state's).

use std::sync::Arc;
use std::time::Duration;

use super::claims::numeric_date;
use super::json::{self, Object, Value};
use super::jws::{self, Jws, JwsError};
use super::jwt::signer;
use super::profile::is_one_of;
use crate::core::id::Name;
use crate::core::identity::{Issuer, PACKED_BYTES_MAX, StatusBits};
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// A place in a status list that its issuer's record takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusRef {
    /// The list's name in the state.
    pub list: Name,
    /// Its URI.
    pub uri: Arc<str>,
    /// Which of its values is the token's.
    pub index: u64,
}

/// What a token's `status` says.
#[derive(Debug)]
pub(super) enum StatusClaim {
    /// A place in a list.
    List { uri: Arc<str>, index: u64 },
    /// Only ways that are not known here.
    Other,
}

impl StatusClaim {
    /// Reads the claim. Of several ways to ask, the list is one that suffices.
    pub(super) fn read(payload: &Object<'_>) -> Result<Option<Self>, Reason> {
        let members = match payload.get("status") {
            None => return Ok(None),
            Some(Value::Object(members)) if !members.is_empty() => members,
            Some(_) => return Err(Reason::CredentialMalformed),
        };
        let list = match members.get("status_list") {
            None => return Ok(Some(Self::Other)),
            Some(Value::Object(list)) => list,
            Some(_) => return Err(Reason::CredentialMalformed),
        };
        let plain = |uri: &&str| !uri.is_empty() && json::is_plain(uri, URI_BYTES_MAX);
        match (list.get("uri").and_then(Value::as_text).filter(plain), list.get("idx")) {
            (Some(uri), Some(Value::Whole(index))) => {
                Ok(Some(Self::List { uri: Arc::from(uri), index: *index }))
            }
            _ => Err(Reason::CredentialMalformed),
        }
    }

    /// The place, if the issuer's record takes it.
    pub(super) fn listed(self, name: &Name, issuer: &Issuer) -> Result<StatusRef, Reason> {
        let Self::List { uri, index } = self else { return Err(Reason::StatusUnlisted) };
        let taken = issuer.status_lists.as_ref().is_some_and(|lists| lists.takes(&uri));
        let list = status_list_name(name, &uri).filter(|_| taken).ok_or(Reason::StatusUnlisted)?;
        Ok(StatusRef { list, uri, index })
    }
}

/// The name of the record of an issuer's list; there always is one.
pub fn status_list_name(issuer: &Name, uri: &str) -> Option<Name> {
    let mut hasher = blake3::Hasher::new_derive_key("portreeve status list name");
    hasher.update(issuer.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(uri.as_bytes());
    Name::parse(hasher.finalize().to_hex().get(..NAME_DIGITS)?).ok()
}

/// A status list token that verifies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListToken {
    /// How many bits a value has.
    pub bits: StatusBits,
    /// The values, compressed.
    pub packed: Arc<[u8]>,
    /// When it was made.
    pub issued: Timestamp,
    /// The first instant at which it counts no more, if it says.
    pub expires: Option<Timestamp>,
    /// After how long it is to be fetched again, if it says.
    pub ttl: Option<Duration>,
    /// RFC 7638 thumbprint of the key that signed it.
    pub signed_by: [u8; 32],
}

/// Why a status list token is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StatusListError {
    /// Longer than is taken.
    #[error("the list's token is longer than {LIST_TOKEN_BYTES_MAX} bytes")]
    Size,
    /// No strict JWS.
    #[error("the list is no signed token: {0}")]
    Jws(#[from] JwsError),
    /// Another kind of token.
    #[error("the token is not of the type `statuslist+jwt`")]
    Kind,
    /// Signed by nobody known, or with an algorithm that is not the issuer's.
    #[error("no key and algorithm of the issuer signed the list")]
    Signature,
    /// The payload is no strict JSON object.
    #[error("the list's claims are no strict JSON object")]
    Claims,
    /// A claim that must be there is not, or is of another type.
    #[error("the list's `{0}` is missing or malformed")]
    Claim(&'static str),
    /// It is the list of another URI.
    #[error("the list's `sub` is not its URI")]
    Subject,
    /// It is of another issuer.
    #[error("the list's `iss` is another issuer")]
    Issuer,
    /// Its `iat` lies ahead.
    #[error("the list is from the future")]
    Future,
    /// Its `exp` is over.
    #[error("the list has expired")]
    Expired,
}

/// Verifies the token of the list `uri` of `issuer`. Its values are still compressed.
///
/// # Errors
/// [`StatusListError`] names the first rule broken.
///
/// # Standard
/// Token Status List §5.1, §8.3. Stricter: `iss`, if it is there, is the issuer's.
pub fn verify_status_list(
    token: &[u8],
    uri: &str,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<ListToken, StatusListError> {
    if token.len() > LIST_TOKEN_BYTES_MAX {
        return Err(StatusListError::Size);
    }
    let jws = Jws::parse_any_size(token)?;
    if !jws.kind().is_some_and(|kind| is_one_of(kind, &["statuslist+jwt"])) {
        return Err(StatusListError::Kind);
    }
    let key = signer(&jws, &issuer.keys, &issuer.algorithms).ok_or(StatusListError::Signature)?;
    let claims = json::parse_object(jws.payload()).map_err(|_| StatusListError::Claims)?;
    let text = |name: &'static str| {
        claims.get(name).map(|value| value.as_text().ok_or(StatusListError::Claim(name)))
    };
    let date = |name: &'static str| {
        claims
            .get(name)
            .map(|value| numeric_date(value).map_err(|_| StatusListError::Claim(name)))
            .transpose()
    };
    if text("sub").ok_or(StatusListError::Claim("sub"))?? != uri {
        return Err(StatusListError::Subject);
    }
    if text("iss").transpose()?.is_some_and(|iss| *iss != *issuer.iss) {
        return Err(StatusListError::Issuer);
    }
    let issued = date("iat")?.ok_or(StatusListError::Claim("iat"))?;
    let expires = date("exp")?;
    if issued > now.after(SKEW) {
        return Err(StatusListError::Future);
    }
    if expires.is_some_and(|end| now >= end) {
        return Err(StatusListError::Expired);
    }
    // A number of seconds, with the same bounds as a date.
    let ttl = date("ttl")?.map(|ttl| Duration::from_micros(ttl.as_micros().unsigned_abs()));
    if ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(StatusListError::Claim("ttl"));
    }
    let Some(Value::Object(list)) = claims.get("status_list") else {
        return Err(StatusListError::Claim("status_list"));
    };
    let bits = match list.get("bits") {
        Some(Value::Whole(bits)) => StatusBits::of(*bits),
        _ => None,
    };
    let bits = bits.ok_or(StatusListError::Claim("bits"))?;
    let packed = list.get("lst").and_then(Value::as_text).map(|text| jws::decode(text.as_bytes()));
    let packed = packed.and_then(Result::ok).ok_or(StatusListError::Claim("lst"))?;
    Ok(ListToken { bits, packed: packed.into(), issued, expires, ttl, signed_by: *key.thumbprint() })
}

const URI_BYTES_MAX: usize = 2048;
/// Longest token of a list: what is largest in it, twice in base64, and room for the rest.
const LIST_TOKEN_BYTES_MAX: usize = PACKED_BYTES_MAX / 9 * 16 + 16 * 1024;
/// How far the clock of whoever signs a list and ours may differ.
const SKEW: Duration = Duration::from_secs(60);
const NAME_DIGITS: usize = 40;
