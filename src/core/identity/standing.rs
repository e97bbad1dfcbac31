//! Who a verified credential is, and whether that one may act at all.

use std::sync::Arc;
use std::time::Duration;

use crate::core::credential::{Confirmation, Verified};
use crate::core::id::Name;
use crate::core::identity::packed::{CredentialView, IdentityView, Row};
use crate::core::identity::record::{CredentialStatus, IdentityStatus, RevocationTarget};
use crate::core::identity::snapshot::Snapshot;
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// A verified subject resolved in a snapshot. Made only by [`Snapshot::resolve`].
///
/// ```compile_fail,E0451
/// use portreeve::core::identity::Principal;
/// let forged = Principal { caller: todo!(), actors: vec![] };
/// ```
#[derive(Clone, Debug)]
pub struct Principal<'a> {
    caller: Resolved<'a>,
    actors: Vec<Resolved<'a>>,
}

#[derive(Clone, Debug)]
struct Resolved<'a> {
    name: Name,
    generation: u32,
    revision: u64,
    identity: IdentityView<'a>,
}

impl<'a> Principal<'a> {
    /// The identity's name.
    pub const fn name(&self) -> &Name {
        &self.caller.name
    }

    /// The identity's generation.
    pub const fn generation(&self) -> u32 {
        self.caller.generation
    }

    /// The revision of its record's last change.
    pub const fn revision(&self) -> u64 {
        self.caller.revision
    }

    /// The identity.
    pub const fn identity(&self) -> &IdentityView<'a> {
        &self.caller.identity
    }

    /// The first instant at which it, or one that acts for it, may act no more.
    pub fn end(&self) -> Option<Timestamp> {
        std::iter::once(&self.caller).chain(&self.actors).filter_map(|party| party.identity.end).min()
    }

    /// What a record says of it.
    pub fn facts(&self) -> PrincipalFacts {
        PrincipalFacts {
            name: self.caller.name.clone(),
            generation: self.caller.generation,
            owner: self.caller.identity.owner.name().map(Arc::from),
            actors: self.actors.iter().map(|actor| actor.name.clone()).collect(),
        }
    }
}

/// What is left of a [`Principal`] once the state it was resolved in is let go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrincipalFacts {
    name: Name,
    generation: u32,
    owner: Option<Arc<str>>,
    actors: Vec<Name>,
}

impl PrincipalFacts {
    /// The identity's name.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The identity's generation.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Its owner's team, or else person.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// The identities that act for it, outermost first.
    pub fn actors(&self) -> impl ExactSizeIterator<Item = &Name> {
        self.actors.iter()
    }
}

/// That a principal may act at all, and the record of the credential it used, if the hub keeps one.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// The record of the key that verified the credential.
    pub credential: Option<Row<'a, CredentialView<'a>>>,
    /// The first instant at which a record that was looked at ends.
    pub end: Option<Timestamp>,
}

impl Snapshot {
    /// Finds the identity a credential asserts, and each identity of its delegation chain.
    ///
    /// # Errors
    /// [`Reason::IdentityUnknown`] when any of them is bound to no identity of the tenant.
    pub fn resolve<'a>(&'a self, tenant: &Name, verified: &Verified) -> Result<Principal<'a>, Reason> {
        let caller = match (verified.identity(), verified.issuer()) {
            (Some(name), _) => resolved(self.identity(tenant, name)),
            (None, Some(issuer)) => self.resolve_one(tenant, issuer, verified.subject()),
            (None, None) => Err(Reason::IdentityUnknown),
        }?;
        let actor = |iss: &str, subject: &str| {
            let issuer = self.issuer_of(tenant, iss).ok_or(Reason::IdentityUnknown)?;
            self.resolve_one(tenant, &issuer.name, subject)
        };
        let actors = verified.actors().iter().map(|a| actor(&a.iss, &a.subject));
        Ok(Principal { caller, actors: actors.collect::<Result<_, _>>()? })
    }

    fn resolve_one(&self, tenant: &Name, issuer: &Name, subject: &str) -> Result<Resolved<'_>, Reason> {
        resolved(self.identity_of(tenant, issuer, subject))
    }

    /// Whether the credential and every identity behind it stand at `now`.
    ///
    /// `leeway` is the tolerated difference between the issuer's clock and ours: a token
    /// issued within it after a cut-off is refused too.
    ///
    /// # Errors
    /// The reason of the first that does not stand; revocations are looked at first. A key that
    /// belongs to another identity verifies nothing for this one, nor does a token that is bound to it.
    /// [`Reason::Internal`] when the key's
    /// record cannot be read.
    pub fn standing(
        &self,
        tenant: &Name,
        principal: &Principal<'_>,
        verified: &Verified,
        leeway: Duration,
        now: Timestamp,
    ) -> Result<Standing<'_>, Reason> {
        let jti = verified.token_id().map(|id| &**id);
        let digest = verified.signing_input_digest();
        let instance = verified.instance().map(|id| &**id);
        let killed =
            |id: Option<&str>| self.kills_of_token(tenant, verified.issuer(), id, digest).next().is_some();
        if killed(jti) || (instance.is_some() && killed(instance)) {
            return Err(Reason::CredentialRevoked);
        }
        let (mut credential, mut end) = (None, None::<Timestamp>);
        let bound = verified.confirmation().into_iter().flat_map(Confirmation::thumbprints);
        for thumbprint in std::iter::once(verified.key_thumbprint()).chain(bound) {
            if self.overlaid_print(tenant, thumbprint) {
                return Err(Reason::CredentialRevoked);
            }
            for held in self.credentials_with(tenant, thumbprint) {
                let held = held.map_err(|_| Reason::Internal)?;
                self.credential_stands(tenant, &held, now)?;
                let owner = held.value.and_then(|credential| credential.identity);
                if owner.is_some_and(|owner| owner != principal.name().as_str()) {
                    return Err(Reason::CredentialUnverified);
                }
                let expires = held.value.and_then(|credential| credential.expires);
                end = end.into_iter().chain(expires).min();
                if thumbprint == verified.key_thumbprint() {
                    credential = Some(held);
                }
            }
        }
        let parties = || std::iter::once(&principal.caller).chain(&principal.actors);
        for party in parties() {
            self.not_revoked(tenant, party, verified, leeway)?;
        }
        for party in parties() {
            may_act(&party.identity, now)?;
        }
        Ok(Standing { credential, end })
    }

    fn credential_stands(
        &self,
        tenant: &Name,
        held: &Row<'_, CredentialView<'_>>,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let revoked = self.kills_of_credential(tenant, held.name).next().is_some();
        if revoked || self.overlaid_credential(tenant, held.name) {
            return Err(Reason::CredentialRevoked);
        }
        match held.value {
            Some(value) if value.status == CredentialStatus::Revoked => Err(Reason::CredentialRevoked),
            Some(value) if value.expires.is_some_and(|end| now >= end) => Err(Reason::CredentialExpired),
            _ => Ok(()),
        }
    }

    fn not_revoked(
        &self,
        tenant: &Name,
        party: &Resolved<'_>,
        verified: &Verified,
        leeway: Duration,
    ) -> Result<(), Reason> {
        let issued_in_time = |cut: Timestamp| verified.issued_at().is_some_and(|at| at >= cut.after(leeway));
        for kill in self.kills_of_identity(tenant, party.name.as_str()) {
            let Some(revocation) = kill.value.as_deref() else { continue };
            match &revocation.target {
                RevocationTarget::Identity { .. }
                    if !revocation.is_lifted(party.generation, party.identity.not_before) =>
                {
                    return Err(Reason::IdentityRevoked);
                }
                RevocationTarget::IssuedBefore { not_before, .. } if !issued_in_time(*not_before) => {
                    return Err(Reason::CredentialRevoked);
                }
                _ => {}
            }
        }
        for (generation, identity) in self.overlaid_identity(tenant, party.name.as_str()) {
            if identity.not_before.is_some_and(|cut| !issued_in_time(cut)) {
                return Err(Reason::CredentialRevoked);
            }
            if party.generation <= generation {
                stands(identity.status)?;
            }
        }
        match party.identity.not_before {
            Some(cut) if !issued_in_time(cut) => Err(Reason::CredentialRevoked),
            _ => Ok(()),
        }
    }
}

fn resolved<'a>(row: Option<Row<'a, IdentityView<'a>>>) -> Result<Resolved<'a>, Reason> {
    let row = row.ok_or(Reason::IdentityUnknown)?;
    let identity = row.value.ok_or(Reason::IdentityUnknown)?;
    let name = Name::parse(row.name).map_err(|_| Reason::IdentityUnknown)?;
    Ok(Resolved { name, generation: row.generation, revision: row.revision, identity })
}

fn stands(status: IdentityStatus) -> Result<(), Reason> {
    match status {
        IdentityStatus::Active => Ok(()),
        IdentityStatus::Pending | IdentityStatus::Suspended => Err(Reason::IdentitySuspended),
        IdentityStatus::Retired => Err(Reason::IdentityRetired),
    }
}

fn may_act(identity: &IdentityView<'_>, now: Timestamp) -> Result<(), Reason> {
    stands(identity.status)?;
    if identity.end.is_some_and(|end| now >= end) { Err(Reason::IdentityExpired) } else { Ok(()) }
}
