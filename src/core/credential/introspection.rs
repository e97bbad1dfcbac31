//! Opaque tokens: what their issuer says of them when it is asked (RFC 7662).
//!
//! Asking is an edge's work, and done before the decision. Here is said whom to ask
//! ([`TokenQuestion`]), what an answer is worth ([`Asking::read`]), and on each request whether it is
//! good for that one ([`verify_opaque`]): an answer is a verified credential like any other, and what
//! it asserts is looked up in the state each time.
//!
//! Deliberately absent: the network, and any memory of answers.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::api_key::API_KEY_PREFIX;
use super::claims::Claims;
use super::digest::sha256;
use super::json::{self, Object, Value};
use super::jwt::{Expected, Verification, judge, possesses};
use super::presented::{Presented, TOKEN_BYTES_MAX};
use super::verified::{FingerprintKey, Kind, Verified};
use crate::core::id::Name;
use crate::core::identity::{Held, Introspection, Issuer, SubjectMember};
use crate::core::policy::Reason;
use crate::core::time::{BootInstant, Now};

/// Asks issuers about opaque tokens; implemented at an edge.
pub trait Introspect: Send + Sync {
    /// What was said of this very token a moment ago, if that still counts.
    fn remembered(&self, question: &TokenQuestion<'_>) -> Option<Introspected>;

    /// What was last said of it, whether or not that still counts: for an exchange that is open.
    fn last(&self, question: &TokenQuestion<'_>) -> Option<Introspected>;

    /// Asks. This begins at the call: whether the answer is waited for makes no difference to it.
    fn ask(&self, question: &TokenQuestion<'_>) -> Pin<Box<dyn Future<Output = Introspected> + Send>>;
}

/// A question to the one issuer that may have issued an opaque token.
pub struct TokenQuestion<'a> {
    token: &'a [u8],
    tenant: &'a Name,
    held: Arc<Held<Issuer>>,
    introspection: Arc<Introspection>,
    fingerprint: &'a FingerprintKey,
    key: [u8; 32],
}

impl fmt::Debug for TokenQuestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenQuestion").field("issuer", &self.held.name).finish_non_exhaustive()
    }
}

impl<'a> TokenQuestion<'a> {
    /// The question about what is presented; `None`: it is no opaque token, or nobody is asked about it.
    ///
    /// `issuers` are those of the tenant that are asked at all. Where several may have issued it, the one
    /// whose prefix says most is asked.
    ///
    /// # Errors
    /// `issuer.undecided` when two of them say as much.
    pub fn of(
        presented: &'a Presented,
        tenant: &'a Name,
        issuers: &[Arc<Held<Issuer>>],
        fingerprint: &'a FingerprintKey,
    ) -> Option<Result<Self, Reason>> {
        if issuers.is_empty() {
            return None;
        }
        let token = opaque(presented)?;
        let mut best: Option<(&Arc<Held<Issuer>>, &Arc<Introspection>)> = None;
        let mut tied = false;
        for held in issuers {
            let Some(asked) = held.value.as_deref().and_then(|issuer| issuer.introspection.as_ref()) else {
                continue;
            };
            if !token.starts_with(asked.token_prefix.as_bytes()) {
                continue;
            }
            let says = asked.token_prefix.len();
            let before = best.map(|(_, best)| best.token_prefix.len());
            tied = before == Some(says) || (tied && before > Some(says));
            if before < Some(says) {
                best = Some((held, asked));
            }
        }
        let (held, introspection) = best?;
        if tied {
            return Some(Err(Reason::IssuerUndecided));
        }
        let (held, introspection) = (Arc::clone(held), Arc::clone(introspection));
        let key = key_of(tenant, &held, &introspection, token);
        Some(Ok(Self { token, tenant, held, introspection, fingerprint, key }))
    }

    /// Names token, issuer and how it is asked; nothing else has the same.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The URL that is asked.
    pub fn endpoint(&self) -> &Arc<str> {
        &self.introspection.endpoint
    }

    /// The same, to be kept while the answer is waited for.
    pub fn asking(&self) -> Asking {
        let iss = self.held.value.as_ref().map(|issuer| Arc::clone(&issuer.iss)).unwrap_or_default();
        Asking {
            token: Zeroizing::new(self.token.to_vec()),
            tenant: self.tenant.clone(),
            issuer: self.held.name.clone(),
            iss,
            introspection: Arc::clone(&self.introspection),
            fingerprint: self.fingerprint.fingerprint(self.token),
            key: self.key,
        }
    }

    /// That there is no answer, and why.
    pub const fn unanswered(&self, reason: Reason, now: BootInstant) -> Introspected {
        Introspected { key: self.key, said: Err(reason), cached: false, renew: now, until: now }
    }
}

/// The token, if it has no form of its own. Three or five parts are a JWT's, whatever they hold; our own
/// API keys, put in the wrong place, are nobody else's to see.
fn opaque(presented: &Presented) -> Option<&[u8]> {
    let token = presented.token().filter(|token| token.len() <= TOKEN_BYTES_MAX)?;
    let parts = 1 + token.iter().filter(|byte| **byte == b'.').count();
    let other = matches!(parts, 3 | 5) || token.starts_with(API_KEY_PREFIX.as_bytes());
    (!other).then_some(token)
}

fn key_of(tenant: &Name, held: &Held<Issuer>, asked: &Introspection, token: &[u8]) -> [u8; 32] {
    let iss = held.value.as_ref().map_or(&b""[..], |issuer| issuer.iss.as_bytes());
    let parts = [
        tenant.as_str().as_bytes(),
        held.name.as_str().as_bytes(),
        iss,
        asked.endpoint.as_bytes(),
        asked.subject.as_str().as_bytes(),
        token,
    ];
    let lengths = parts.map(|part| (part.len() as u64).to_le_bytes());
    let [a, b, c, d, e, f] = parts;
    let [la, lb, lc, ld, le, lf] = &lengths;
    sha256(&[la, a, lb, b, lc, c, ld, d, le, e, lf, f])
}

/// A question under way. Holds the token.
pub struct Asking {
    token: Zeroizing<Vec<u8>>,
    tenant: Name,
    issuer: Name,
    iss: Arc<str>,
    introspection: Arc<Introspection>,
    fingerprint: [u8; 16],
    key: [u8; 32],
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// For how long an answer counts, at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerLife {
    /// That a token is active; never beyond its `exp`.
    pub active: Duration,
    /// That it is not, or nothing that is taken.
    pub refused: Duration,
}

/// An answer that is none: it says nothing about the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the answer is no JSON object with a boolean `active` and members that are there once")]
pub struct NoAnswer;

impl Asking {
    /// What [`TokenQuestion::key`] is.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The issuer's record.
    pub const fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// The token, for its issuer and nobody else.
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// Reads the answer's body; `asked` is when the question was sent.
    ///
    /// # Errors
    /// [`NoAnswer`] when it is none.
    ///
    /// # Standard
    /// RFC 7662 §2.2. Stricter: `token_type`, `exp` and the subject are required.
    pub fn read(&self, body: &[u8], asked: Now, life: AnswerLife) -> Result<Introspected, NoAnswer> {
        let mut answer = json::parse_object(body).map_err(|_| NoAnswer)?;
        let said = match answer.get("active") {
            Some(Value::Bool(true)) => self.active(&mut answer),
            Some(Value::Bool(false)) => Err(Reason::CredentialInactive),
            _ => return Err(NoAnswer),
        };
        let counts = match &said {
            Ok(verified) => life.active.min(verified.expires_at.since(asked.wall)),
            Err(_) => life.refused,
        };
        let (renew, until) = (asked.boot.after(counts / 2), asked.boot.after(counts));
        Ok(Introspected { key: self.key, said: said.map(Arc::new), cached: false, renew, until })
    }

    fn active(&self, answer: &mut Object<'_>) -> Result<Verified, Reason> {
        let text = |member: &str| match answer.get(member) {
            None => Ok(None),
            Some(value) => value.as_text().map(Some).ok_or(Reason::CredentialMalformed),
        };
        if text("iss")?.is_some_and(|iss| *iss != *self.iss) {
            return Err(Reason::CredentialUnverified);
        }
        // Refresh tokens are active, too, and have none.
        let kind = text("token_type")?.ok_or(Reason::CredentialUnverified)?;
        let proven = kind.eq_ignore_ascii_case("DPoP");
        let access = text("token_use")?.is_none_or(|used| used == "access_token");
        if !(proven || kind.eq_ignore_ascii_case("Bearer")) || !access {
            return Err(Reason::CredentialUnverified);
        }
        if self.introspection.subject == SubjectMember::ClientId {
            let client = text("client_id")?.ok_or(Reason::CredentialMalformed)?.to_owned();
            if text("sub")?.is_some_and(|subject| *subject != *client) {
                return Err(Reason::CredentialUnverified);
            }
            answer.insert(Cow::Borrowed("sub"), Value::Text(Cow::Owned(client)));
        }
        let claims = Claims::read(answer, &self.iss)?;
        if proven && claims.confirmation.is_none_or(|bound| bound.key.is_none()) {
            return Err(Reason::CredentialUnbound);
        }
        // No list is taken here: its issuer is asked about the token itself.
        if claims.status.is_some() {
            return Err(Reason::StatusUnlisted);
        }
        Ok(self.verified(claims))
    }

    fn verified(&self, claims: Claims) -> Verified {
        let digest = sha256(&[&self.token]);
        Verified {
            issuer: Some(self.issuer.clone()),
            iss: Arc::clone(&self.iss),
            subject: claims.subject,
            actors: claims.actors,
            audiences: claims.audiences,
            token_id: claims.token_id,
            confirmation: claims.confirmation,
            key_thumbprint: digest,
            issued_at: claims.issued_at,
            not_before: claims.not_before,
            expires_at: claims.expires_at,
            signing_input_digest: digest,
            fingerprint: self.fingerprint,
            depends_on: self.key,
            ..Verified::bare(Kind::Opaque, &self.tenant)
        }
    }
}

/// What an issuer said of an opaque token, or why it said nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introspected {
    key: [u8; 32],
    said: Result<Arc<Verified>, Reason>,
    cached: bool,
    renew: BootInstant,
    until: BootInstant,
}

impl Introspected {
    /// That nothing was said, and why.
    pub const fn unanswered(asking: &Asking, reason: Reason, now: BootInstant) -> Self {
        Self { key: asking.key, said: Err(reason), cached: false, renew: now, until: now }
    }

    /// The same, from memory.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { cached: true, ..self.clone() }
    }

    /// What [`TokenQuestion::key`] is.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// From when on its issuer is asked again for exchanges that are open.
    pub const fn renew(&self) -> BootInstant {
        self.renew
    }

    /// Until when it counts.
    pub const fn until(&self) -> BootInstant {
        self.until
    }

    /// What it says the token is; `Err`: why it is refused.
    pub fn said(&self) -> Result<&Arc<Verified>, Reason> {
        self.said.as_ref().map_err(|reason| *reason)
    }
}

/// Judges an opaque token by what its issuer said of it. Whether that one may act is not asked here.
///
/// `open`: the exchange was allowed before; the second is what was said since. It goes on for at most
/// [`ANSWER_GRACE`] beyond what was said last.
///
/// # Errors
/// - `introspection.unconfigured`, `introspection.failed`: nothing was said, or it counts no more
/// - `credential.inactive`: the issuer says that it is not active
/// - `credential.malformed`, `credential.unverified`: what it says is not taken
/// - `credential.expired`, `credential.audience`, `credential.unbound`: as for a JWT; `exp` has no leeway
pub fn verify_opaque(
    question: &TokenQuestion<'_>,
    presented: &Presented,
    open: Option<Option<Introspected>>,
    expected: &Expected<'_>,
    now: Now,
) -> Result<Verification, Reason> {
    let of_this = |answer: &&Introspected| answer.key == question.key;
    let answer = open.as_ref().and_then(Option::as_ref).or(presented.introspected());
    let answer = answer.ok_or(Reason::IntrospectionUnconfigured)?;
    // The issuer's record has changed since it was asked.
    let answer = Some(answer).filter(of_this).ok_or(Reason::IntrospectionFailed)?;
    let verified = answer.said()?;
    let over = now.boot.since(answer.until);
    if open.is_some() && over.is_some_and(|over| over > ANSWER_GRACE) {
        return Err(Reason::IntrospectionFailed);
    }
    if now.wall >= verified.expires_at {
        return Err(Reason::CredentialExpired);
    }
    let issuer = question.held.value.as_deref().ok_or(Reason::IssuerUnknown)?;
    judge(verified, expected, issuer, now.wall)?;
    let proof = possesses(verified, presented, question.token, expected, now.wall)?;
    let left = answer.renew.since(now.boot).unwrap_or_default();
    Ok(Verification {
        verified: Arc::clone(verified),
        cached: answer.cached,
        proof,
        asked_until: Some(now.wall.after(left)),
        keys_until: None,
    })
}

/// How long an open exchange goes on beyond the last answer, whose issuer was asked again before that.
pub const ANSWER_GRACE: Duration = Duration::from_secs(1);
