//! Which steps an edit may take in the life of a record.
//!
//! INVARIANT: what was suspended, retired or revoked does not come back by an edit of fields.
//! Only `portreeve identity resume`, which says so, brings an identity back; nor does what it was
//! known by pass to another record while that would bring it back under another name.

use std::sync::Arc;
use std::time::Duration;

use super::issuer::LIFETIME_MAX;
use super::{Read, TenantImage, Time};
use crate::core::id::Name;
use crate::core::identity::{
    Binding, Change, Credential, CredentialKind, CredentialStatus, Identity, IdentityStatus, Record,
    RecordKind, Revocation, RevocationTarget,
};
use crate::core::time::Timestamp;

/// Why a step is refused: where in the spec, and what to do instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The path below the spec.
    pub path: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The record that a document makes of what is held.
///
/// # Errors
/// [`Refused`] for a step that a document may not take.
pub fn settle(
    image: &TenantImage,
    held: Option<&Change>,
    name: &Name,
    read: Read,
    now: Timestamp,
) -> Result<Record, Refused> {
    match (held.and_then(|change| change.record.as_ref()), read.record) {
        (Some(Record::Identity(held)), Record::Identity(next)) => {
            let settled = settle_identity(held, name, &next, read.names_status)?;
            keeps_subjects(image, name, held, &settled, now)?;
            Ok(Record::Identity(Arc::new(settled)))
        }
        (Some(Record::Credential(held)), Record::Credential(next)) => settle_credential(held, next),
        (_, Record::Credential(next)) if next.kind == CredentialKind::ApiKey => {
            // A cut-off looks at it: written ahead, it would outlive cut-offs to come.
            if next.issued.is_some_and(|at| at > now.after(LEEWAY_MAX)) {
                let message = "is yet to come: expected when the key was made".to_owned();
                return Err(Refused { path: "issued", message });
            }
            Ok(Record::Credential(next))
        }
        (Some(Record::Issuer(held)), Record::Issuer(next)) if held.iss != next.iss => {
            // Revoked tokens and bound subjects are found by the record's name: they must not lose it.
            let message = "is fixed once written: write a new issuer under another name".to_owned();
            Err(Refused { path: "iss", message })
        }
        // What was fetched stays while it is fetched from the same place.
        (Some(Record::Issuer(held)), Record::Issuer(next))
            if next.key_source.is_fetched() && held.key_source == next.key_source =>
        {
            Ok(Record::Issuer(Arc::new(
                next.with_jwks(Arc::clone(&held.jwks)).with_keys_until(held.keys_until),
            )))
        }
        (_, record) => Ok(record),
    }
}

fn settle_identity(
    held: &Identity,
    name: &Name,
    next: &Identity,
    names_status: bool,
) -> Result<Identity, Refused> {
    let mut settled = next.clone();
    if !names_status {
        settled.status = held.status;
    }
    step(held.status, settled.status, name)?;
    settled.not_before = match (held.not_before, next.not_before) {
        (held, None) => held,
        (Some(held), Some(next)) if next < held => {
            let message = "may only rise: leave it out to keep it".to_owned();
            return Err(Refused { path: "not_before", message });
        }
        (_, next) => next,
    };
    Ok(settled)
}

/// Refuses to let go of a subject whose credentials are refused because of this identity: bound to
/// another one, they would be good again.
fn keeps_subjects(
    image: &TenantImage,
    name: &Name,
    held: &Identity,
    next: &Identity,
    now: Timestamp,
) -> Result<(), Refused> {
    let dropped = || held.bindings.iter().filter(|binding| !next.bindings.contains(binding));
    let refuse = |binding: &Binding, why: &str| {
        let (issuer, subject) = (&binding.issuer, binding.subject.escape_debug());
        let message = format!("subject `{subject}` of issuer `{issuer}` stays with identity `{name}`: {why}");
        Err(Refused { path: "bindings", message })
    };
    if let (Some(binding), Some(why)) = (dropped().next(), stopped(image, name, held, next)) {
        return refuse(binding, why);
    }
    // Not what its issuer may grant today: that can be raised again once the subject is another's.
    let ends = |cut: Timestamp| cut.after(LIFETIME_MAX).after(LEEWAY_MAX);
    match (dropped().next(), image.cut_off(name, held).map(ends)) {
        (Some(binding), Some(ends)) if now <= ends => {
            let ends = Time(ends);
            refuse(binding, &format!("what it was issued before its `not_before` may live until {ends}"))
        }
        _ => Ok(()),
    }
}

fn stopped(image: &TenantImage, name: &Name, held: &Identity, next: &Identity) -> Option<&'static str> {
    let is = |status| held.status == status || next.status == status;
    if !image.identity_kills(name).is_empty() {
        Some("it is revoked")
    } else if is(IdentityStatus::Retired) {
        Some("it is retired")
    } else {
        is(IdentityStatus::Suspended).then_some("it is suspended")
    }
}

fn settle_credential(held: &Credential, next: Arc<Credential>) -> Result<Record, Refused> {
    let refuse = |path, message: &str| Err(Refused { path, message: message.to_owned() });
    let fixed = "is fixed once written: write a new credential under another name";
    if held.kind != next.kind {
        return refuse("kind", fixed);
    }
    if (held.fingerprint, held.digest) != (next.fingerprint, next.digest)
        && held.kind == CredentialKind::ApiKey
    {
        return refuse("digest", fixed);
    }
    if held.identity != next.identity && held.kind != CredentialKind::SigningKey {
        return refuse("identity", "it stays with its identity: make the other one its own");
    }
    if held.fingerprint != next.fingerprint {
        return refuse("fingerprint", fixed);
    }
    if held.status == CredentialStatus::Revoked && next.status != CredentialStatus::Revoked {
        return refuse("status", "a revoked credential stays revoked: write the new one under another name");
    }
    if next.kind == CredentialKind::ApiKey { keeps_times(held, &next) } else { Ok(Record::Credential(next)) }
}

/// An API key's times are only what its record says: an edit gives it no later life.
fn keeps_times(held: &Credential, next: &Credential) -> Result<Record, Refused> {
    let refuse = |path, message: &str| Err(Refused { path, message: message.to_owned() });
    if next.issued.is_some() && next.issued != held.issued {
        return refuse("issued", "is fixed once written: leave it out to keep it");
    }
    if next.expires.zip(held.expires).is_some_and(|(next, held)| next > held) {
        return refuse("expires", "may only fall: leave it out to keep it, or rotate the key");
    }
    let (issued, expires) = (held.issued, next.expires.or(held.expires));
    Ok(Record::Credential(Arc::new(Credential { issued, expires, ..next.clone() })))
}

/// Whether an edit of fields may take an identity from one status to another.
///
/// # Errors
/// [`Refused`] names the command that may.
pub fn step(from: IdentityStatus, to: IdentityStatus, name: &Name) -> Result<(), Refused> {
    use IdentityStatus::{Active, Pending, Retired, Suspended};
    let message = match (from, to) {
        (from, to) if from == to => return Ok(()),
        (Retired, _) => "a retired identity does not come back: create one under another name".to_owned(),
        (Suspended, Active | Pending) => {
            format!(
                "the identity is suspended and an edit does not lift that: `portreeve identity resume {name}`"
            )
        }
        _ => return Ok(()),
    };
    Err(Refused { path: "status", message })
}

/// A change of an identity's status, asked for by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// The status asked for.
    pub to: IdentityStatus,
    /// Revocations it lifts, by name.
    pub lifts: Vec<Name>,
}

/// What a transition makes of an identity; `None`: it is so already.
///
/// # Errors
/// [`Refused`] when the step is not open, or the identity is revoked and not every revocation is named.
pub fn transition(
    image: &TenantImage,
    name: &Name,
    held: &Identity,
    asked: &Transition,
    now: Timestamp,
) -> Result<Option<Identity>, Refused> {
    let refuse = |path, message| Err(Refused { path, message });
    let kills = image.identity_kills(name);
    if let Some(unknown) = asked.lifts.iter().find(|lifted| !kills.iter().any(|k| k.name == **lifted)) {
        return refuse("lifts", format!("`{unknown}` is no revocation in force of identity `{name}`"));
    }
    match (held.status, asked.to) {
        (_, IdentityStatus::Pending) => {
            return refuse("status", "expected `active`, `suspended` or `retired`".to_owned());
        }
        (IdentityStatus::Retired, to) if to != IdentityStatus::Retired => {
            return refuse(
                "status",
                "a retired identity does not come back: create one under another name".to_owned(),
            );
        }
        _ => {}
    }
    let returns = asked.to == IdentityStatus::Active;
    if !returns && !asked.lifts.is_empty() {
        return refuse("lifts", "only a return to `active` lifts a revocation".to_owned());
    }
    let unnamed: Vec<_> = kills.iter().filter(|k| !asked.lifts.contains(&k.name)).map(|k| &k.name).collect();
    if returns && !unnamed.is_empty() {
        let names: Vec<_> = unnamed.iter().map(|name| format!("`{name}`")).collect();
        let names = names.join(", ");
        return refuse("lifts", format!("identity `{name}` is revoked: name {names} to lift that"));
    }
    if held.status == asked.to && asked.lifts.is_empty() {
        return Ok(None);
    }
    let mut next = Identity { status: asked.to, ..held.clone() };
    if !asked.lifts.is_empty() {
        // What was issued before stays refused: only later tokens are of the new generation. No clock that
        // was set back since makes it earlier than what it lifts.
        let lifted = kills.iter().filter_map(|kill| match &kill.record {
            Some(Record::Revocation(kill)) => Some(kill.at),
            _ => None,
        });
        next.not_before = next.not_before.max(lifted.max()).max(Some(now));
    }
    Ok(Some(next))
}

/// Revocations that must be written again beside a change of status, so that the generation
/// it begins is revoked as well.
pub fn kills_to_carry(image: &TenantImage, name: &Name, next: &Identity) -> Vec<(Name, Record)> {
    let Some((held, identity)) = image.identity(name) else { return Vec::new() };
    if identity.status == next.status {
        return Vec::new();
    }
    let generation = held.generation.saturating_add(1);
    let carried = |kill: &Change| match &kill.record {
        Some(Record::Revocation(revocation)) => {
            let target = RevocationTarget::Identity { identity: name.clone(), generation };
            let record = Revocation { target, ..revocation.as_ref().clone() };
            Some((kill.name.clone(), Record::Revocation(Arc::new(record))))
        }
        _ => None,
    };
    image.identity_kills(name).into_iter().filter_map(carried).collect()
}

/// Whether a record may be removed.
///
/// # Errors
/// [`Refused`] when something still needs it, or its removal would undo a revocation.
pub fn removal(image: &TenantImage, kind: RecordKind, name: &Name, now: Timestamp) -> Result<(), Refused> {
    let refuse = |message: String| Err(Refused { path: "", message });
    match image.live(kind, name) {
        Some(Record::Credential(credential)) => {
            let like = RevocationTarget::Credential(name.clone());
            let killed = image.revocations_like(&like).next().is_some();
            if killed || credential.status == CredentialStatus::Revoked {
                return refuse(format!("credential `{name}` is revoked: its record keeps it so"));
            }
            if let Some((owner, why)) = stopped_owner(image, credential) {
                return refuse(format!("identity `{owner}` of credential `{name}` cannot act: {why}"));
            }
            if let Some((owner, cut)) = cut_off_from(image, credential) {
                let cut = Time(cut);
                return refuse(format!("identity `{owner}` of credential `{name}` has a cut-off at {cut}"));
            }
        }
        Some(Record::Issuer(_)) => {
            if let Some(user) = bound_to(image, name) {
                return refuse(format!("identity `{user}` is bound to issuer `{name}`: change it first"));
            }
            if has_revoked_tokens(image, name, now) {
                return refuse(format!("revoked tokens of issuer `{name}` have not ended: its record stays"));
            }
        }
        Some(Record::Resource(_)) => {
            if let Some(user) = excepted(image, name) {
                return refuse(format!("exception `{user}` names resource `{name}`: remove it first"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// The identity of a credential that names its identity itself, if that is stopped: under another record
/// the credential would be good again.
fn stopped_owner<'c>(image: &TenantImage, credential: &'c Credential) -> Option<(&'c Name, &'static str)> {
    let owner = credential.identity.as_ref().filter(|_| credential.kind != CredentialKind::SigningKey)?;
    let (_, identity) = image.identity(owner)?;
    stopped(image, owner, identity, identity).map(|why| (owner, why))
}

/// The owner and its cut-off, if that stops such a credential: removed, it could be written again as a
/// later one. What a certificate says of its time, its record does not know.
fn cut_off_from<'c>(image: &TenantImage, credential: &'c Credential) -> Option<(&'c Name, Timestamp)> {
    let owner = credential.identity.as_ref().filter(|_| credential.kind != CredentialKind::SigningKey)?;
    let (_, identity) = image.identity(owner)?;
    let later = |cut: Timestamp| credential.issued.is_some_and(|at| at >= cut.after(LEEWAY_MAX));
    let cut = image.cut_off(owner, identity)?;
    (credential.kind == CredentialKind::Certificate || !later(cut)).then_some((owner, cut))
}

fn bound_to<'a>(image: &'a TenantImage, issuer: &Name) -> Option<&'a Name> {
    let bound = |change: &&Change| match &change.record {
        Some(Record::Identity(identity)) => identity.bindings.iter().any(|b| b.issuer == *issuer),
        _ => false,
    };
    image.of_kind(RecordKind::Identity).find(bound).map(|change| &change.name)
}

fn has_revoked_tokens(image: &TenantImage, issuer: &Name, now: Timestamp) -> bool {
    let of_it = |change: &Change| match &change.record {
        Some(Record::Revocation(revocation)) => match &revocation.target {
            RevocationTarget::TokenId { issuer: named, expires, .. } => {
                named == issuer && now <= expires.after(LEEWAY_MAX)
            }
            _ => false,
        },
        _ => false,
    };
    image.of_kind(RecordKind::Revocation).any(of_it)
}

fn excepted<'a>(image: &'a TenantImage, resource: &Name) -> Option<&'a Name> {
    let names = |change: &&Change| match &change.record {
        Some(Record::Exception(exception)) => exception.resources.contains(resource),
        _ => false,
    };
    image.of_kind(RecordKind::Exception).find(names).map(|change| &change.name)
}

/// Most that an enforcement point forgives an issuer's clock.
pub const LEEWAY_MAX: Duration = Duration::from_secs(600);
