//! What a decision read and what a change touches, as numbers that can be compared.
//!
//! Where a record can be asked for by several names, a decision is kept under all of them: an
//! identity by its name and by each subject that leads to it, an issuer by its name and its `iss`.
//! A number too many costs a needless judgement; one too few would leave a stream open.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::Duration;

use crate::core::credential::Confirmation;
use crate::core::id::Name;
use crate::core::identity::{Change, Record, RevocationTarget, Snapshot};
use crate::core::policy::{Staleness, Verdict};

#[derive(Hash)]
enum Read<'a> {
    /// Everything of a tenant: its policies are read by every decision.
    Tenant(&'a str),
    Identity(&'a str, &'a str),
    Subject(&'a str, &'a str, &'a str),
    /// A subject in a delegation chain, whoever its issuer.
    Actor(&'a str, &'a str),
    Key(&'a str, &'a [u8; 32]),
    Credential(&'a str, &'a str),
    Issuer(&'a str, &'a str),
    Iss(&'a str, &'a str),
    Resource(&'a str, &'a str),
    Exception(&'a str, &'a str),
    StatusList(&'a str, &'a str),
    Token(&'a str, &'a str, &'a str),
    Digest(&'a str, &'a [u8; 32]),
    DenyAfter(Option<Duration>),
}

/// Makes the numbers of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads(RandomState);

impl Reads {
    fn of(&self, read: Read<'_>) -> u64 {
        self.0.hash_one(read)
    }

    /// Everything of a tenant.
    pub(super) fn tenant(&self, cell: &Name) -> u64 {
        self.of(Read::Tenant(cell.as_str()))
    }

    /// Every route with this limit.
    pub(super) fn deny_after(&self, limit: Option<Duration>) -> u64 {
        self.of(Read::DenyAfter(limit))
    }

    /// Everything that an allow rests on.
    pub(super) fn of_verdict(&self, verdict: &Verdict, staleness: Staleness) -> Vec<u64> {
        let basis = verdict.basis();
        let mut numbers = vec![self.deny_after(staleness.deny_after)];
        let Some(tenant) = basis.tenant.as_ref().map(Name::as_str) else { return numbers };
        let mut add = |read: Read<'_>| numbers.push(self.of(read));
        add(Read::Tenant(tenant));
        if let Some(resource) = &basis.resource {
            add(Read::Resource(tenant, resource.as_str()));
        }
        if let Some(principal) = &basis.principal {
            add(Read::Identity(tenant, principal.name().as_str()));
            principal.actors().for_each(|actor| add(Read::Identity(tenant, actor.as_str())));
        }
        if let Some(verified) = &basis.verified {
            add(Read::Key(tenant, verified.key_thumbprint()));
            let bound = verified.confirmation().into_iter().flat_map(Confirmation::thumbprints);
            bound.for_each(|thumbprint| add(Read::Key(tenant, thumbprint)));
            add(Read::Digest(tenant, verified.signing_input_digest()));
            if let Some(issuer) = verified.issuer().map(Name::as_str) {
                add(Read::Subject(tenant, issuer, verified.subject()));
                add(Read::Issuer(tenant, issuer));
                add(Read::Iss(tenant, verified.iss()));
                let tokens = [verified.token_id(), verified.instance()];
                tokens.into_iter().flatten().for_each(|jti| add(Read::Token(tenant, issuer, jti)));
            }
            if let Some(status) = verified.status() {
                add(Read::StatusList(tenant, status.list.as_str()));
            }
            for actor in verified.actors() {
                add(Read::Actor(tenant, &actor.subject));
                add(Read::Iss(tenant, &actor.iss));
            }
        }
        if let Some(credential) = &basis.credential {
            add(Read::Credential(tenant, credential.as_str()));
        }
        basis.exceptions.iter().for_each(|name| add(Read::Exception(tenant, name.as_str())));
        numbers
    }

    /// Everything whose answer a change may turn, into `numbers`. `snapshot` is the state with it.
    pub(super) fn of_change(
        &self,
        cell: &Name,
        change: &Change,
        snapshot: &Snapshot,
        numbers: &mut HashSet<u64>,
    ) {
        use crate::core::identity::RecordKind;
        let (tenant, name) = (cell.as_str(), change.name.as_str());
        let mut add = |read: Read<'_>| {
            numbers.insert(self.of(read));
        };
        match change.kind {
            RecordKind::Identity => add(Read::Identity(tenant, name)),
            RecordKind::Issuer => add(Read::Issuer(tenant, name)),
            RecordKind::PolicySet => add(Read::Tenant(tenant)),
            RecordKind::Exception => add(Read::Exception(tenant, name)),
            RecordKind::Resource => add(Read::Resource(tenant, name)),
            RecordKind::StatusList => add(Read::StatusList(tenant, name)),
            RecordKind::Credential => add(Read::Credential(tenant, name)),
            RecordKind::Revocation => {}
        }
        match &change.record {
            Some(Record::Identity(identity)) => {
                for binding in &identity.bindings {
                    add(Read::Subject(tenant, binding.issuer.as_str(), &binding.subject));
                    add(Read::Actor(tenant, &binding.subject));
                }
            }
            Some(Record::Issuer(issuer)) => add(Read::Iss(tenant, &issuer.iss)),
            Some(Record::Credential(credential)) => add(Read::Key(tenant, &credential.fingerprint)),
            Some(Record::Revocation(revocation)) => match &revocation.target {
                RevocationTarget::TokenId { issuer, jti, .. } => {
                    add(Read::Token(tenant, issuer.as_str(), jti));
                }
                RevocationTarget::TokenDigest { digest, .. } => add(Read::Digest(tenant, digest)),
                RevocationTarget::Credential(name) => {
                    let held = snapshot.credential(cell, name).and_then(|held| held.value);
                    if let Some(credential) = held {
                        add(Read::Key(tenant, credential.fingerprint));
                    }
                }
                RevocationTarget::IssuedBefore { identity, .. }
                | RevocationTarget::Identity { identity, .. } => {
                    add(Read::Identity(tenant, identity.as_str()));
                }
            },
            _ => {}
        }
    }
}
