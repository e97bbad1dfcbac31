//! A record's fields as digests take them: each with its length, in one order for ever.
//!
//! Written from what decisions read: for identities and credentials that is the view of the packed
//! form, not the record it was made from.
//!
//! INVARIANT: every field that a decision can read is written. Records are taken apart without
//! `..`, so that a field added to one does not compile before it is written here.

use super::*;
use crate::core::identity::packed::{BindingView, CredentialView, EntitlementView, IdentityView, OwnerView};
use crate::core::time::Timestamp;

/// A record's value, whose fields can be written.
pub(in crate::core::identity) trait Written {
    /// Writes every field.
    fn write(&self, fields: &mut Fields);
}

/// Takes fields.
pub(in crate::core::identity) struct Fields {
    context: &'static str,
    /// Gathered first: hashing many small pieces costs more than the hash.
    bytes: Vec<u8>,
}

impl Fields {
    pub(in crate::core::identity) fn new(context: &'static str) -> Self {
        Self { context, bytes: Vec::with_capacity(1024) }
    }

    pub(in crate::core::identity) fn finish(self) -> blake3::OutputReader {
        blake3::Hasher::new_derive_key(self.context).update(&self.bytes).finalize_xof()
    }

    pub(in crate::core::identity) fn number(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub(in crate::core::identity) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
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

    /// A text that lies in several pieces.
    fn joined(&mut self, pieces: &[&str]) {
        self.number(pieces.iter().map(|piece| piece.len() as u64).sum());
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece.as_bytes()));
    }

    fn list<T>(&mut self, values: impl ExactSizeIterator<Item = T>, write: impl FnMut(&mut Self, T)) {
        self.items(values.len(), values, write);
    }

    fn items<T>(
        &mut self,
        count: usize,
        values: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.number(count as u64);
        values.for_each(|value| write(self, value));
    }

    fn time(&mut self, at: Timestamp) {
        self.number(at.as_micros().cast_unsigned());
    }

    fn owner(&mut self, owner: &Owner) {
        let Owner { team, person, contact } = owner;
        let (team, person, contact) = (team.as_deref(), person.as_deref(), contact.as_deref());
        self.owner_view(OwnerView { team, person, contact });
    }

    fn owner_view(&mut self, owner: OwnerView<'_>) {
        let OwnerView { team, person, contact } = owner;
        for part in [team, person, contact] {
            self.option(part, Self::text);
        }
    }
}

impl Written for IdentityView<'_> {
    fn write(&self, fields: &mut Fields) {
        let Self {
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
        } = *self;
        fields.text(kind.as_str());
        fields.text(environment);
        fields.text(status.as_str());
        fields.owner_view(owner);
        fields.option(ticket, Fields::text);
        fields.option(end, Fields::time);
        fields.option(review_due, Fields::time);
        fields.number(u64::from(third_party));
        fields.option(risk.map(RiskLevel::as_str), Fields::text);
        fields.items(labels.len(), labels.iter(), |fields, (key, value)| {
            fields.text(key);
            fields.text(value);
        });
        fields.items(entitlements.len(), entitlements.iter(), |fields, entitlement| {
            let EntitlementView { name, source, granted, expires } = entitlement;
            fields.text(name);
            fields.option(source, Fields::text);
            fields.option(granted, Fields::time);
            fields.option(expires, Fields::time);
        });
        fields.items(bindings.len(), bindings.iter(), |fields, binding| {
            let BindingView { issuer, subject } = binding;
            fields.text(issuer);
            fields.joined(&subject);
        });
        fields.option(not_before, Fields::time);
    }
}

impl Written for CredentialView<'_> {
    fn write(&self, fields: &mut Fields) {
        let Self { kind, identity, fingerprint, digest, issued, rotate_by, expires, status, source } = *self;
        fields.text(kind.as_str());
        fields.option(identity, Fields::text);
        fields.bytes(fingerprint);
        fields.option(issued, Fields::time);
        fields.option(rotate_by, Fields::time);
        fields.option(expires, Fields::time);
        fields.text(status.as_str());
        fields.option(source, Fields::text);
        // Nothing where there is none: records of before it was there keep their digest.
        if let Some(digest) = digest {
            fields.bytes(digest);
        }
    }
}

impl Written for Issuer {
    fn write(&self, fields: &mut Fields) {
        // The parsed keys are made from `jwks`, the digest from all the others.
        let Issuer {
            iss,
            profile,
            algorithms,
            audiences,
            max_lifetime_s,
            jwks,
            keys: _,
            digest: _,
            key_source,
            introspection,
            status_lists,
            keys_until,
        } = self;
        fields.text(iss);
        fields.text(profile.as_str());
        fields.list(algorithms.iter(), |fields, algorithm| fields.text(algorithm.as_str()));
        fields.list(audiences.iter(), |fields, audience| fields.text(audience));
        fields.number(u64::from(*max_lifetime_s));
        fields.bytes(jwks);
        match key_source {
            KeySource::Given => fields.number(0),
            KeySource::Url(url) => {
                fields.number(1);
                fields.text(url);
            }
            KeySource::Discovery => fields.number(2),
        }
        // Nothing where there is none: records of before it was there keep their digest.
        if let Some(introspection) = introspection {
            let Introspection { endpoint, subject, token_prefix } = &**introspection;
            fields.text("introspection");
            fields.text(endpoint);
            fields.text(subject.as_str());
            fields.text(token_prefix);
        }
        if let Some(StatusLists { uris, max_age_s }) = status_lists {
            fields.list(uris.iter(), |fields, uri| fields.text(uri));
            fields.number(u64::from(*max_age_s));
        }
        if let Some(until) = keys_until {
            fields.text("keys-until");
            fields.time(*until);
        }
    }
}

impl Written for Revocation {
    fn write(&self, fields: &mut Fields) {
        let Revocation { target, reason, requested_by, at } = self;
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
}

impl Written for PolicySet {
    fn write(&self, fields: &mut Fields) {
        let PolicySet { cedar, mode, hygiene } = self;
        let Hygiene { ownerless, rotation_overdue, review_lapsed, environment } = hygiene;
        fields.text(cedar);
        fields.text(mode.as_str());
        for rule in [ownerless, rotation_overdue, review_lapsed, environment] {
            let HygieneRule { mode, deny_from } = rule;
            fields.text(mode.as_str());
            fields.option(*deny_from, Fields::time);
        }
    }
}

impl Written for Exception {
    fn write(&self, fields: &mut Fields) {
        let Exception { identities, resources, lifts, reason, ticket, owner, approver, expires } = self;
        fields.list(identities.iter(), |fields, name| fields.text(name.as_str()));
        fields.list(resources.iter(), |fields, name| fields.text(name.as_str()));
        fields.list(lifts.iter(), |fields, code| fields.text(code));
        fields.text(reason);
        fields.option(ticket.as_deref(), Fields::text);
        fields.owner(owner);
        fields.owner(approver);
        fields.time(*expires);
    }
}

impl Written for Resource {
    fn write(&self, fields: &mut Fields) {
        let Resource { environment, owner, routes } = self;
        fields.text(environment);
        fields.owner(owner);
        fields.list(routes.iter(), |fields, route| {
            let ResourceRoute { methods, path, requires } = route;
            fields.list(methods.iter(), |fields, method| fields.text(method));
            fields.text(path.as_str());
            fields.option(requires.as_deref(), Fields::text);
        });
    }
}

impl Written for StatusList {
    fn write(&self, fields: &mut Fields) {
        fields.text(self.issuer.as_str());
        fields.text(&self.uri);
        fields.number(u64::from(self.bits.count()));
        fields.time(self.issued);
        fields.time(self.valid_until);
        fields.bytes(&self.signed_by);
        // What they are packed as, whoever takes it reads anew.
        fields.bytes(self.values());
    }
}
