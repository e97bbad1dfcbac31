//! The mass-revocation guard: what denies too many identities too fast is held before it is committed.
//!
//! What a change denies is weighed by the identities it takes something away from, whichever way it
//! does: see [`denied`]. What was denied before it, within the window, is read from the change log
//! itself, and the commit is compared with where the log stood: so no two hubs of one store can each
//! use up the whole limit. Deliberately absent: changes of policies, entitlements, bindings and key
//! sets; they deny too, but nobody calls them revocations, and every deployment makes them in bulk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::model::TenantImage;
use super::store::{Edit, EditName, Logged, StateStore, StoreError};
use crate::core::id::Name;
use crate::core::identity::{
    Change, Credential, CredentialStatus, Identity, IdentityStatus, Record, RecordKind, RevocationTarget,
};
use crate::core::time::Timestamp;
use crate::wire::state::decode_body;

/// From how many identities on a change is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardLimits {
    /// At least so many may be denied within the window; at least 1.
    pub count: u32,
    /// Or so many of the tenant's identities, in percent; at most 100.
    pub percent: u32,
    /// How far back what was denied counts.
    pub window: Duration,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self { count: 50, percent: 1, window: Duration::from_secs(60) }
    }
}

impl GuardLimits {
    /// How many of a tenant's `identities` may be denied within the window.
    fn limit(&self, identities: usize) -> usize {
        let share = identities.saturating_mul(self.percent as usize) / 100;
        share.max(self.count as usize)
    }
}

/// A change that is held, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Excess {
    /// Identities that it and what was denied within the window come to.
    pub(crate) denied: usize,
    /// Most that may be.
    pub(crate) limit: usize,
}

/// Whether `edits` deny more than may be, with what the log says was denied within the window. Blocks.
///
/// `known` is what commits of this process came to. A commit of another is weighed by what the log says
/// of it, which is never less: an identity that may not act counts whatever was changed of it.
pub(crate) fn exceeds(
    limits: &GuardLimits,
    store: &dyn StateStore,
    (tenant, image): (&Name, &TenantImage),
    edits: &[Edit],
    (now, known): (Timestamp, &Weighed),
) -> Result<Option<Excess>, StoreError> {
    let mut denied = denied(image, edits, now);
    if denied.is_empty() {
        return Ok(None);
    }
    let limit = limits.limit(image.identities());
    since(store, tenant, now.before(limits.window), |logged| match known.0.get(&logged.revision) {
        Some(weighed) => denied.extend(weighed.iter().cloned()),
        // A body that cannot be read is refused where it is taken over.
        None => decode_body(&logged.body)
            .unwrap_or_default()
            .iter()
            .filter(|change| !was_never_let_in(change))
            .for_each(|change| {
                taken_away(image, None, Some(&change.name), change.record.as_ref(), now, &mut denied);
            }),
    })?;
    Ok((denied.len() > limit).then_some(Excess { denied: denied.len(), limit }))
}

/// What the newest commits of this process came to, by revision; those that were let through to nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weighed(BTreeMap<u64, BTreeSet<String>>);

impl Weighed {
    /// Notes one commit.
    pub(crate) fn note(&mut self, revision: u64, denied: BTreeSet<String>) {
        self.0.insert(revision, denied);
        if self.0.len() > WEIGHED_MAX {
            self.0.pop_first();
        }
    }

    /// Notes what others let through: it uses nothing up.
    pub(crate) fn let_through(&mut self, revisions: impl Iterator<Item = u64>) {
        revisions.for_each(|revision| self.note(revision, BTreeSet::new()));
    }
}

/// Whether an identity was made as one that may not act yet, and never was any other.
fn was_never_let_in(change: &Change) -> bool {
    match &change.record {
        Some(Record::Identity(identity)) => {
            change.generation == 1 && identity.status == IdentityStatus::Pending
        }
        _ => false,
    }
}

/// What edits take away that was not taken away before: identities by name, single tokens each for itself.
pub(crate) fn denied(image: &TenantImage, edits: &[Edit], now: Timestamp) -> BTreeSet<String> {
    let mut denied = BTreeSet::new();
    for edit in edits {
        let name = match &edit.name {
            EditName::Given(name) => Some(name),
            EditName::ByRevision => None,
        };
        let before = name.and_then(|name| image.live(edit.kind, name));
        taken_away(image, Some(before), name, edit.record.as_ref(), now, &mut denied);
    }
    denied
}

/// Adds whom `after` denies. `before` is the record it replaces; `None`: not known, as in a log.
fn taken_away(
    image: &TenantImage,
    before: Option<Option<&Record>>,
    name: Option<&Name>,
    after: Option<&Record>,
    now: Timestamp,
    denied: &mut BTreeSet<String>,
) {
    match after {
        Some(Record::Identity(next)) => {
            let held = match before {
                None => None,
                Some(Some(Record::Identity(held))) => Some(&**held),
                // One that is new denies nobody who was let in.
                Some(_) => return,
            };
            if let Some(name) = name.filter(|_| stops(held, next, now)) {
                denied.insert(format!("identity {name}"));
            }
        }
        Some(Record::Credential(next)) if next.status == CredentialStatus::Revoked => {
            let was_so = |held: &Record| match held {
                Record::Credential(held) => held.status == CredentialStatus::Revoked,
                _ => false,
            };
            if !before.flatten().is_some_and(was_so) {
                whose(image, next, denied);
            }
        }
        Some(Record::Revocation(revocation)) => target(image, &revocation.target, denied),
        _ => {}
    }
}

/// Whether an identity loses what it could do; of one whose past is not known, whether it cannot do it.
fn stops(held: Option<&Identity>, next: &Identity, now: Timestamp) -> bool {
    let ended = |identity: &Identity| identity.end.is_some_and(|end| end <= now);
    match held {
        None => next.status != IdentityStatus::Active || ended(next) || next.not_before.is_some(),
        Some(held) => {
            let could = held.status == IdentityStatus::Active && !ended(held);
            let cannot = next.status != IdentityStatus::Active || ended(next);
            could && (cannot || next.not_before > held.not_before)
        }
    }
}

fn target(image: &TenantImage, target: &RevocationTarget, denied: &mut BTreeSet<String>) {
    match target {
        RevocationTarget::Identity { identity, .. } | RevocationTarget::IssuedBefore { identity, .. } => {
            denied.insert(format!("identity {identity}"));
        }
        RevocationTarget::Credential(credential) => {
            if let Some(Record::Credential(held)) = image.live(RecordKind::Credential, credential) {
                whose(image, held, denied);
            }
        }
        RevocationTarget::TokenId { issuer, jti, .. } => {
            denied.insert(format!("token {issuer} {jti}"));
        }
        RevocationTarget::TokenDigest { digest, .. } => {
            denied.insert(format!("token {digest:?}"));
        }
    }
}

/// Whose credential it is: its identity's, or everybody's who is bound to an issuer that signs by it.
fn whose(image: &TenantImage, credential: &Credential, denied: &mut BTreeSet<String>) {
    if let Some(identity) = &credential.identity {
        denied.insert(format!("identity {identity}"));
        return;
    }
    let signs = |change: &&Change| match &change.record {
        Some(Record::Issuer(issuer)) => {
            issuer.keys.keys().iter().any(|key| *key.thumbprint() == credential.fingerprint)
        }
        _ => false,
    };
    let issuers: BTreeSet<&Name> =
        image.of_kind(RecordKind::Issuer).filter(signs).map(|change| &change.name).collect();
    for change in image.of_kind(RecordKind::Identity) {
        if let Some(Record::Identity(identity)) = &change.record
            && identity.bindings.iter().any(|binding| issuers.contains(&binding.issuer))
        {
            denied.insert(format!("identity {}", change.name));
        }
    }
}

/// Every commit to a tenant since a time that the log still holds, newest part first.
fn since(
    store: &dyn StateStore,
    tenant: &Name,
    from: Timestamp,
    mut each: impl FnMut(&Logged),
) -> Result<(), StoreError> {
    let oldest = store.oldest()?;
    // Everything up to here is still to be read.
    let mut end = store.head()?.revision;
    while end >= oldest && end > 0 {
        let begin = end.saturating_sub(READ_MAX as u64).max(oldest.saturating_sub(1));
        let part = match store.tail(begin, READ_MAX) {
            Ok(part) => part,
            // Trimmed meanwhile: by its rule that is longer ago than any window.
            Err(StoreError::Compacted { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let part = part.iter().filter(|logged| logged.revision <= end);
        let mut reaches = false;
        for logged in part {
            reaches |= logged.at < from;
            if logged.tenant == *tenant && logged.at >= from {
                each(logged);
            }
        }
        if reaches || begin < oldest {
            return Ok(());
        }
        end = begin;
    }
    Ok(())
}

/// Edits in the parts that they are released in: what denies first, each part at most `most` identities,
/// as far as an edit can be told from another; what goes along with an identity's change stays with it.
pub(crate) fn slices(image: &TenantImage, edits: Vec<Edit>, most: usize, now: Timestamp) -> Vec<Vec<Edit>> {
    let mut rest = Vec::new();
    let mut denying: Vec<Vec<Edit>> = Vec::new();
    let mut carried: Vec<(Name, Edit)> = Vec::new();
    for edit in edits {
        let of = carried_for(image, &edit);
        let denies = !denied(image, std::slice::from_ref(&edit), now).is_empty();
        match (of, denies) {
            (Some(identity), _) => carried.push((identity, edit)),
            (None, true) => denying.push(vec![edit]),
            (None, false) => rest.push(edit),
        }
    }
    for (identity, edit) in carried {
        let own = EditName::Given(identity);
        let is_its = |first: &Edit| first.kind == RecordKind::Identity && first.name == own;
        match denying.iter_mut().find(|group| group.first().is_some_and(is_its)) {
            Some(group) => group.push(edit),
            None => rest.push(edit),
        }
    }
    let mut parts: Vec<Vec<Edit>> = Vec::new();
    let mut denying = denying.into_iter().peekable();
    while denying.peek().is_some() {
        parts.push(denying.by_ref().take(most.max(1)).flatten().collect());
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

/// The identity whose revocation an edit writes again, beside a change of its status.
fn carried_for(image: &TenantImage, edit: &Edit) -> Option<Name> {
    let EditName::Given(name) = &edit.name else { return None };
    image.live(edit.kind, name)?;
    match &edit.record {
        Some(Record::Revocation(revocation)) => match &revocation.target {
            RevocationTarget::Identity { identity, .. } => Some(identity.clone()),
            _ => None,
        },
        _ => None,
    }
}

const READ_MAX: usize = 256;
/// More than a hub commits within the longest window that is worth being exact about.
const WEIGHED_MAX: usize = 4096;
