//! What only the tenant's other records can judge: references, uniqueness, policies as a whole.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Faults, TenantImage, exception};
use crate::core::id::Name;
use crate::core::identity::{
    Credential, CredentialKind, CredentialStatus, Exception, Identity, Issuer, Record, RecordKind,
    RevocationTarget,
};
use crate::core::policy::TenantPolicy;
use crate::core::time::Timestamp;

/// One edit under judgement.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposed {
    /// Which kind of record.
    pub kind: RecordKind,
    /// Its name.
    pub name: Name,
    /// Its new value; `None`: it is removed.
    pub record: Option<Record>,
    /// Where it stands in the request, such as `documents[2].spec`.
    pub at: String,
}

/// Judges edits together against what the tenant would hold after them.
///
/// # Errors
/// Every fault found, each with its path.
pub fn check(image: &TenantImage, edits: &[Proposed], now: Timestamp) -> Result<(), Faults> {
    let after = After::new(image, edits);
    let mut faults = Faults::at("");
    let mut claims = Claims::default();
    for edit in edits {
        let mut own = Faults::at(&edit.at);
        match &edit.record {
            Some(Record::Identity(identity)) => {
                check_bindings(&after, &mut claims, &edit.name, identity, &mut own);
            }
            Some(Record::Issuer(issuer)) => {
                check_iss(&after, &mut claims, &edit.name, issuer, &mut own);
                check_prefix(&after, &edit.name, issuer, &mut own);
            }
            Some(Record::Credential(credential)) => {
                check_credential(&after, &mut claims, &edit.name, credential, &mut own);
                check_overlap(&after, &edit.name, credential, now, &mut own);
            }
            Some(Record::Exception(value)) => {
                exception::check_span(value, now, &mut own);
                check_exception(&after, value, &mut own);
            }
            Some(
                Record::PolicySet(_) | Record::Resource(_) | Record::Revocation(_) | Record::StatusList(_),
            )
            | None => {}
        }
        faults.absorb(own);
    }
    check_policies(image, edits, &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// The tenant as it would be.
struct After<'a> {
    image: &'a TenantImage,
    edited: HashMap<(RecordKind, &'a Name), Option<&'a Record>>,
}

impl<'a> After<'a> {
    fn new(image: &'a TenantImage, edits: &'a [Proposed]) -> Self {
        let edited = edits.iter().map(|e| ((e.kind, &e.name), e.record.as_ref())).collect();
        Self { image, edited }
    }

    fn has(&self, kind: RecordKind, name: &Name) -> bool {
        match self.edited.get(&(kind, name)) {
            Some(record) => record.is_some(),
            None => self.image.live(kind, name).is_some(),
        }
    }

    /// A credential as it would be.
    fn credential(&self, name: &Name) -> Option<&'a Credential> {
        let record = match self.edited.get(&(RecordKind::Credential, name)) {
            Some(record) => *record,
            None => self.image.live(RecordKind::Credential, name),
        };
        match record {
            Some(Record::Credential(credential)) => Some(credential),
            _ => None,
        }
    }

    /// Every API key that would be an identity's, once each.
    fn api_keys<'s>(&'s self, identity: &'s Name) -> BTreeSet<&'s Name> {
        let edited = self.edited.keys().filter(|(kind, _)| *kind == RecordKind::Credential);
        let names = edited.map(|(_, name)| *name).chain(self.image.api_keys(identity));
        let is_its = |name: &&Name| {
            let credential = self.credential(name);
            credential
                .is_some_and(|c| c.kind == CredentialKind::ApiKey && c.identity.as_ref() == Some(identity))
        };
        names.filter(is_its).collect()
    }

    /// Who holds something and keeps it: an edited record claims anew what it still holds.
    fn keeps<'n>(&self, kind: RecordKind, holder: Option<&'n Name>) -> Option<&'n Name> {
        holder.filter(|name| !self.edited.contains_key(&(kind, *name)))
    }
}

/// What the edits claim for themselves.
#[derive(Default)]
struct Claims {
    subjects: HashMap<(Name, Arc<str>), Name>,
    issuers: HashMap<Arc<str>, Name>,
    fingerprints: HashMap<[u8; 32], Name>,
}

fn check_bindings(
    after: &After<'_>,
    claims: &mut Claims,
    name: &Name,
    identity: &Identity,
    faults: &mut Faults,
) {
    for (place, binding) in identity.bindings.iter().enumerate() {
        let at = format!("bindings[{place}]");
        let issuer = &binding.issuer;
        if !after.has(RecordKind::Issuer, issuer) {
            faults.push(format_args!("{at}.issuer"), format_args!("no issuer is named `{issuer}`"));
        }
        let held = after.keeps(RecordKind::Identity, after.image.subject(issuer, &binding.subject));
        let key = (issuer.clone(), binding.subject.clone());
        let claimed = claims.subjects.insert(key, name.clone());
        if let Some(other) = claimed.as_ref().or(held) {
            let subject = binding.subject.escape_debug();
            let message = if other == name {
                format!("subject `{subject}` of issuer `{issuer}` is there twice")
            } else {
                format!("subject `{subject}` of issuer `{issuer}` is bound to identity `{other}`")
            };
            faults.push(at, message);
        }
    }
}

fn check_iss(after: &After<'_>, claims: &mut Claims, name: &Name, issuer: &Issuer, faults: &mut Faults) {
    let held = after.keeps(RecordKind::Issuer, after.image.issuer_of(&issuer.iss));
    let claimed = claims.issuers.insert(issuer.iss.clone(), name.clone());
    if let Some(other) = claimed.as_ref().or(held) {
        let iss = issuer.iss.escape_debug();
        faults.push("iss", format_args!("`{iss}` is the `iss` of issuer `{other}`"));
    }
}

/// Who issued an opaque token, only its beginning tells.
fn check_prefix(after: &After<'_>, name: &Name, issuer: &Issuer, faults: &mut Faults) {
    let Some(asked) = &issuer.introspection else { return };
    let like = |other: &Name, record: Option<&Record>| match record {
        Some(Record::Issuer(issuer)) if other != name => {
            issuer.introspection.as_ref().is_some_and(|held| held.token_prefix == asked.token_prefix)
        }
        _ => false,
    };
    let edited = after.edited.iter().filter(|((kind, _), _)| *kind == RecordKind::Issuer);
    let mut edited = edited.map(|((_, other), record)| (*other, *record));
    let kept = after.image.of_kind(RecordKind::Issuer).map(|change| (&change.name, change.record.as_ref()));
    let mut kept = kept.filter(|(other, _)| !after.edited.contains_key(&(RecordKind::Issuer, *other)));
    let found = edited.find(|(other, record)| like(other, *record));
    if let Some((other, _)) = found.or_else(|| kept.find(|(other, record)| like(other, *record))) {
        let message = format_args!("issuer `{other}` has opaque tokens that begin like these");
        faults.push("introspection.token_prefix", message);
    }
}

fn check_credential(
    after: &After<'_>,
    claims: &mut Claims,
    name: &Name,
    credential: &Credential,
    faults: &mut Faults,
) {
    if let Some(identity) = &credential.identity
        && !after.has(RecordKind::Identity, identity)
    {
        faults.push("identity", format_args!("no identity is named `{identity}`"));
    }
    let held = after.keeps(RecordKind::Credential, after.image.fingerprint(&credential.fingerprint));
    let claimed = claims.fingerprints.insert(credential.fingerprint, name.clone());
    if let Some(other) = claimed.as_ref().or(held) {
        faults.push("fingerprint", format_args!("is that of credential `{other}`"));
    }
}

/// While keys are rotated two of them may be live, and no more.
fn check_overlap(
    after: &After<'_>,
    name: &Name,
    credential: &Credential,
    now: Timestamp,
    faults: &mut Faults,
) {
    let live = |name: &Name, credential: &Credential| {
        let killed = RevocationTarget::Credential(name.clone());
        credential.status == CredentialStatus::Active
            && credential.expires.is_none_or(|end| now < end)
            && after.image.revocations_like(&killed).next().is_none()
    };
    let (CredentialKind::ApiKey, Some(identity)) = (credential.kind, &credential.identity) else { return };
    if !live(name, credential) {
        return;
    }
    let keys = after.api_keys(identity);
    let others: Vec<_> = keys
        .into_iter()
        .filter(|other| *other != name && after.credential(other).is_some_and(|c| live(other, c)))
        .map(|other| format!("`{other}`"))
        .collect();
    if others.len() >= LIVE_KEYS_MAX {
        let others = others.join(", ");
        let message = format_args!(
            "identity `{identity}` has {others} already, and {LIVE_KEYS_MAX} API keys may live at once: revoke or end one"
        );
        faults.push("identity", message);
    }
}

/// Most API keys of an identity that may be live at once.
const LIVE_KEYS_MAX: usize = 2;

fn check_exception(after: &After<'_>, exception: &Exception, faults: &mut Faults) {
    let lists = [
        ("identities", RecordKind::Identity, &exception.identities),
        ("resources", RecordKind::Resource, &exception.resources),
    ];
    for (list, kind, names) in lists {
        for (place, name) in names.iter().enumerate() {
            if !after.has(kind, name) {
                let message = format_args!("no {} is named `{name}`", kind.as_str());
                faults.push(format_args!("{list}[{place}]"), message);
            }
        }
    }
}

/// Compiles the tenant's policies as they would be. A fault is laid at the edited set it names,
/// or at the first edited one.
fn check_policies(image: &TenantImage, edits: &[Proposed], faults: &mut Faults) {
    let edited: Vec<_> = edits.iter().filter(|edit| edit.kind == RecordKind::PolicySet).collect();
    let Some(first) = edited.first() else { return };
    let mut sets = image.policy_sets();
    for edit in &edited {
        match &edit.record {
            Some(Record::PolicySet(set)) => {
                sets.insert(edit.name.clone(), set.as_ref().clone());
            }
            _ => {
                sets.remove(&edit.name);
            }
        }
    }
    if let Err(error) = TenantPolicy::compile(&sets) {
        let message = error.to_string();
        let named = |edit: &&&Proposed| message.starts_with(&format!("policy set `{}`", edit.name));
        let at = &edited.iter().find(named).unwrap_or(first).at;
        faults.absorb(Faults::one(&format!("{at}.cedar"), message));
    }
}
