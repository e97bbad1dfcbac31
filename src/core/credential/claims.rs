//! The claims of a token whose signature holds (RFC 7519 §4, RFC 8693 §4.1).
//!
//! A claim that is read has its type or the token is malformed: a wrong type never
//! counts as absent.

use std::sync::Arc;
use std::time::Duration;

use super::json::{self, Object, Value};
use super::possession::Confirmation;
use super::status::StatusClaim;
use super::verified::Actor;
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// What is read of the claims, times and audiences not yet judged.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) subject: Arc<str>,
    pub(super) actors: Vec<Actor>,
    /// Empty when the claim is absent.
    pub(super) audiences: Vec<Arc<str>>,
    pub(super) token_id: Option<Arc<str>>,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires_at: Timestamp,
    /// What the token is bound to.
    pub(super) confirmation: Option<Confirmation>,
    /// Where to ask whether it still counts.
    pub(super) status: Option<StatusClaim>,
}

impl Claims {
    /// Reads the claims of a token of the issuer `iss`.
    pub(super) fn read(payload: &Object<'_>, iss: &Arc<str>) -> Result<Self, Reason> {
        Ok(Self {
            subject: subject(payload)?,
            actors: actors(payload, iss)?,
            audiences: payload.get("aud").map_or_else(|| Ok(Vec::new()), audiences)?,
            token_id: payload.get("jti").map(|value| plain(value, TOKEN_ID_BYTES_MAX)).transpose()?,
            issued_at: payload.get("iat").map(numeric_date).transpose()?,
            not_before: payload.get("nbf").map(numeric_date).transpose()?,
            expires_at: payload.get("exp").map(numeric_date).ok_or(Reason::CredentialMalformed)??,
            confirmation: Confirmation::read(payload)?,
            status: StatusClaim::read(payload)?,
        })
    }
}

fn subject(object: &Object<'_>) -> Result<Arc<str>, Reason> {
    let value = object.get("sub").ok_or(Reason::CredentialMalformed)?;
    plain(value, SUBJECT_BYTES_MAX).and_then(non_empty)
}

/// The chain of `act` claims, outermost first.
fn actors(payload: &Object<'_>, iss: &Arc<str>) -> Result<Vec<Actor>, Reason> {
    let mut actors = Vec::new();
    let mut outer = payload;
    while let Some(claim) = outer.get("act") {
        let Value::Object(act) = claim else { return Err(Reason::CredentialMalformed) };
        if actors.len() >= ACTORS_MAX {
            return Err(Reason::CredentialMalformed);
        }
        let iss = match act.get("iss") {
            Some(value) => plain(value, SUBJECT_BYTES_MAX).and_then(non_empty)?,
            None => Arc::clone(iss),
        };
        actors.push(Actor { iss, subject: subject(act)? });
        outer = act;
    }
    Ok(actors)
}

fn audiences(claim: &Value<'_>) -> Result<Vec<Arc<str>>, Reason> {
    let one = |value: &Value<'_>| {
        value.as_text().map(Arc::from).ok_or(Reason::CredentialMalformed).and_then(non_empty)
    };
    match claim {
        Value::Array(values) if (1..=AUDIENCES_MAX).contains(&values.len()) => {
            values.iter().map(one).collect()
        }
        value => Ok(vec![one(value)?]),
    }
}

/// A NumericDate (RFC 7519 §2) from 1970 to the end of 9999, rounded down to a microsecond.
pub(super) fn numeric_date(value: &Value<'_>) -> Result<Timestamp, Reason> {
    let span = match value {
        Value::Whole(seconds) => Some(Duration::from_secs(*seconds)),
        Value::Fraction(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    };
    let micros = span.filter(|span| *span <= DATE_MAX).and_then(|span| i64::try_from(span.as_micros()).ok());
    micros.map(Timestamp::from_micros).ok_or(Reason::CredentialMalformed)
}

fn plain(value: &Value<'_>, bytes_max: usize) -> Result<Arc<str>, Reason> {
    let text = value.as_text().filter(|text| json::is_plain(text, bytes_max));
    text.map(Arc::from).ok_or(Reason::CredentialMalformed)
}

fn non_empty(text: Arc<str>) -> Result<Arc<str>, Reason> {
    if text.is_empty() { Err(Reason::CredentialMalformed) } else { Ok(text) }
}

/// That of a SPIFFE ID.
const SUBJECT_BYTES_MAX: usize = 2048;
const TOKEN_ID_BYTES_MAX: usize = 256;
const ACTORS_MAX: usize = 8;
const AUDIENCES_MAX: usize = 32;
/// 9999-12-31T23:59:59Z.
const DATE_MAX: Duration = Duration::from_secs(253_402_300_799);
