//! A record's fields as digests take them: each with its length, in one order for ever.
//!
//! INVARIANT: every field that a decision can read is written. Records are taken apart without
//! `..`, so that a field added to one does not compile before it is written here.

use super::*;
use crate::core::time::Timestamp;

/// Takes fields.
pub(in crate::core::identity) struct Fields(blake3::Hasher);

impl Fields {
    pub(in crate::core::identity) fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    pub(in crate::core::identity) fn finish(self) -> blake3::OutputReader {
        self.0.finalize_xof()
    }

    pub(in crate::core::identity) fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    pub(in crate::core::identity) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    pub(in crate::core::identity) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(in crate::core::identity) fn option<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Self, T),
    ) {
        match value {
            Some(value) => {
                self.number(1);
                write(self, value);
            }
            None => self.number(0),
        }
    }

    fn list<T>(&mut self, values: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.number(values.len() as u64);
        values.for_each(|value| write(self, value));
    }

    fn time(&mut self, at: Timestamp) {
        self.number(at.as_micros().cast_unsigned());
    }

    fn owner(&mut self, owner: &Owner) {
        let Owner { team, person, contact } = owner;
        for part in [team, person, contact] {
            self.option(part.as_deref(), Self::text);
        }
    }
}

impl Record {
    /// Writes every field.
    pub(in crate::core::identity) fn write(&self, fields: &mut Fields) {
        match self {
            Self::Identity(value) => identity(value, fields),
            Self::Credential(value) => credential(value, fields),
            Self::Issuer(value) => issuer(value, fields),
            Self::Revocation(value) => revocation(value, fields),
            Self::PolicySet(value) => policy_set(value, fields),
            Self::Exception(value) => exception(value, fields),
            Self::Resource(value) => resource(value, fields),
        }
    }
}

fn identity(value: &Identity, fields: &mut Fields) {
    let Identity {
        kind,
        environment,
        status,
        owner,
        ticket,
        end,
        review_due,
        third_party,
        risk,
        labels,
        entitlements,
        bindings,
        not_before,
    } = value;
    fields.text(kind.as_str());
    fields.text(environment);
    fields.text(status.as_str());
    fields.owner(owner);
    fields.option(ticket.as_deref(), Fields::text);
    fields.option(*end, Fields::time);
    fields.option(*review_due, Fields::time);
    fields.number(u64::from(*third_party));
    fields.option(risk.map(RiskLevel::as_str), Fields::text);
    fields.list(labels.iter(), |fields, (key, value)| {
        fields.text(key);
        fields.text(value);
    });
    fields.list(entitlements.iter(), |fields, entitlement| {
        let Entitlement { name, source, granted, expires } = entitlement;
        fields.text(name);
        fields.option(source.as_deref(), Fields::text);
        fields.option(*granted, Fields::time);
        fields.option(*expires, Fields::time);
    });
    fields.list(bindings.iter(), |fields, binding| {
        let Binding { issuer, subject } = binding;
        fields.text(issuer.as_str());
        fields.text(subject);
    });
    fields.option(*not_before, Fields::time);
}

fn credential(value: &Credential, fields: &mut Fields) {
    let Credential { kind, identity, fingerprint, issued, rotate_by, expires, status, source } = value;
    fields.text(kind.as_str());
    fields.option(identity.as_ref().map(Name::as_str), Fields::text);
    fields.bytes(fingerprint);
    fields.option(*issued, Fields::time);
    fields.option(*rotate_by, Fields::time);
    fields.option(*expires, Fields::time);
    fields.text(status.as_str());
    fields.option(source.as_deref(), Fields::text);
}

fn issuer(value: &Issuer, fields: &mut Fields) {
    // The parsed keys are made from `jwks`, the digest from all the others.
    let Issuer { iss, profile, algorithms, audiences, max_lifetime_s, jwks, keys: _, digest: _ } = value;
    fields.text(iss);
    fields.text(profile.as_str());
    fields.list(algorithms.iter(), |fields, algorithm| fields.text(algorithm.as_str()));
    fields.list(audiences.iter(), |fields, audience| fields.text(audience));
    fields.number(u64::from(*max_lifetime_s));
    fields.bytes(jwks);
}

fn revocation(value: &Revocation, fields: &mut Fields) {
    let Revocation { target, reason, requested_by, at } = value;
    match target {
        RevocationTarget::TokenId { issuer, jti, expires } => {
            fields.text("token-id");
            fields.text(issuer.as_str());
            fields.text(jti);
            fields.time(*expires);
        }
        RevocationTarget::TokenDigest { digest, expires } => {
            fields.text("token-digest");
            fields.bytes(digest);
            fields.time(*expires);
        }
        RevocationTarget::Credential(name) => {
            fields.text("credential");
            fields.text(name.as_str());
        }
        RevocationTarget::IssuedBefore { identity, not_before } => {
            fields.text("issued-before");
            fields.text(identity.as_str());
            fields.time(*not_before);
        }
        RevocationTarget::Identity { identity, generation } => {
            fields.text("identity");
            fields.text(identity.as_str());
            fields.number(u64::from(*generation));
        }
    }
    fields.text(reason);
    fields.text(requested_by);
    fields.time(*at);
}

fn policy_set(value: &PolicySet, fields: &mut Fields) {
    let PolicySet { cedar, mode, hygiene } = value;
    let Hygiene { ownerless, rotation_overdue, review_lapsed, environment } = hygiene;
    fields.text(cedar);
    fields.text(mode.as_str());
    for rule in [ownerless, rotation_overdue, review_lapsed, environment] {
        let HygieneRule { mode, deny_from } = rule;
        fields.text(mode.as_str());
        fields.option(*deny_from, Fields::time);
    }
}

fn exception(value: &Exception, fields: &mut Fields) {
    let Exception { identities, resources, lifts, reason, ticket, owner, approver, expires } = value;
    fields.list(identities.iter(), |fields, name| fields.text(name.as_str()));
    fields.list(resources.iter(), |fields, name| fields.text(name.as_str()));
    fields.list(lifts.iter(), |fields, code| fields.text(code));
    fields.text(reason);
    fields.option(ticket.as_deref(), Fields::text);
    fields.owner(owner);
    fields.owner(approver);
    fields.time(*expires);
}

fn resource(value: &Resource, fields: &mut Fields) {
    let Resource { environment, owner, routes } = value;
    fields.text(environment);
    fields.owner(owner);
    fields.list(routes.iter(), |fields, route| {
        let ResourceRoute { methods, path, requires } = route;
        fields.list(methods.iter(), |fields, method| fields.text(method));
        fields.text(path.as_str());
        fields.option(requires.as_deref(), Fields::text);
    });
}
