//! Who a verified credential is, and whether that one may act at all.

use std::sync::Arc;
use std::time::Duration;

use crate::core::credential::Verified;
use crate::core::id::Name;
use crate::core::identity::record::{
    Credential, CredentialStatus, Identity, IdentityStatus, RevocationTarget,
};
use crate::core::identity::snapshot::{Held, Snapshot};
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// A verified subject resolved in a snapshot. Made only by [`Snapshot::resolve`].
///
/// ```compile_fail,E0451
/// use portreeve::core::identity::Principal;
/// let forged = Principal { caller: todo!(), actors: vec![] };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    caller: Resolved,
    actors: Vec<Resolved>,
}

#[derive(Clone, Debug, PartialEq)]
struct Resolved {
    held: Arc<Held<Identity>>,
    identity: Arc<Identity>,
}

impl Principal {
    /// The identity's name.
    pub fn name(&self) -> &Name {
        &self.caller.held.name
    }

    /// The identity's generation.
    pub fn generation(&self) -> u32 {
        self.caller.held.generation
    }

    /// The revision of its record's last change.
    pub fn revision(&self) -> u64 {
        self.caller.held.revision
    }

    /// The identity.
    pub fn identity(&self) -> &Identity {
        &self.caller.identity
    }

    /// The identities that act for it, outermost first.
    pub fn actors(&self) -> impl ExactSizeIterator<Item = &Name> {
        self.actors.iter().map(|actor| &actor.held.name)
    }
}

/// That a principal may act at all, and the record of the credential it used, if the hub keeps one.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The record of the key that verified the credential.
    pub credential: Option<Arc<Held<Credential>>>,
}

impl Snapshot {
    /// Finds the identity a credential asserts, and each identity of its delegation chain.
    ///
    /// # Errors
    /// [`Reason::IdentityUnknown`] when any of them is bound to no identity of the tenant.
    pub fn resolve(&self, tenant: &Name, verified: &Verified) -> Result<Principal, Reason> {
        let caller = self.resolve_one(tenant, verified.issuer(), verified.subject())?;
        let actor = |iss: &str, subject: &str| {
            let issuer = self.issuer_of(tenant, iss).ok_or(Reason::IdentityUnknown)?;
            self.resolve_one(tenant, &issuer.name, subject)
        };
        let actors = verified.actors().iter().map(|a| actor(&a.iss, &a.subject));
        Ok(Principal { caller, actors: actors.collect::<Result<_, _>>()? })
    }

    fn resolve_one(&self, tenant: &Name, issuer: &Name, subject: &str) -> Result<Resolved, Reason> {
        let held = self.identity_of(tenant, issuer, subject).ok_or(Reason::IdentityUnknown)?;
        let identity = held.value.as_ref().ok_or(Reason::IdentityUnknown)?;
        Ok(Resolved { held: Arc::clone(held), identity: Arc::clone(identity) })
    }

    /// Whether the credential and every identity behind it stand at `now`.
    ///
    /// `leeway` is the tolerated difference between the issuer's clock and ours: a token
    /// issued within it after a cut-off is refused too.
    ///
    /// # Errors
    /// The reason of the first that does not stand; revocations are looked at first. A key that
    /// belongs to another identity verifies nothing for this one.
    pub fn standing(
        &self,
        tenant: &Name,
        principal: &Principal,
        verified: &Verified,
        leeway: Duration,
        now: Timestamp,
    ) -> Result<Standing, Reason> {
        let jti = verified.token_id().map(|id| &**id);
        let digest = verified.signing_input_digest();
        if self.kills_of_token(tenant, verified.issuer(), jti, digest).next().is_some() {
            return Err(Reason::CredentialRevoked);
        }
        let credential = self.credential_with(tenant, verified.key_thumbprint()).cloned();
        if let Some(held) = &credential {
            self.credential_stands(tenant, held, now)?;
            let owner = held.value.as_deref().and_then(|credential| credential.identity.as_ref());
            if owner.is_some_and(|owner| owner != principal.name()) {
                return Err(Reason::CredentialUnverified);
            }
        }
        let parties = || std::iter::once(&principal.caller).chain(&principal.actors);
        for party in parties() {
            self.not_revoked(tenant, party, verified, leeway)?;
        }
        for party in parties() {
            may_act(&party.identity, now)?;
        }
        Ok(Standing { credential })
    }

    fn credential_stands(
        &self,
        tenant: &Name,
        held: &Held<Credential>,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let revoked = self.kills_of_credential(tenant, &held.name).next().is_some();
        if revoked || self.overlaid_credential(tenant, &held.name) {
            return Err(Reason::CredentialRevoked);
        }
        match held.value.as_deref() {
            Some(value) if value.status == CredentialStatus::Revoked => Err(Reason::CredentialRevoked),
            Some(value) if value.expires.is_some_and(|end| now >= end) => Err(Reason::CredentialExpired),
            _ => Ok(()),
        }
    }

    fn not_revoked(
        &self,
        tenant: &Name,
        party: &Resolved,
        verified: &Verified,
        leeway: Duration,
    ) -> Result<(), Reason> {
        let issued_in_time = |cut: Timestamp| verified.issued_at().is_some_and(|at| at >= cut.after(leeway));
        for kill in self.kills_of_identity(tenant, &party.held.name) {
            match kill.value.as_deref().map(|revocation| &revocation.target) {
                Some(RevocationTarget::Identity { generation, .. })
                    if party.held.generation <= *generation =>
                {
                    return Err(Reason::IdentityRevoked);
                }
                Some(RevocationTarget::IssuedBefore { not_before, .. }) if !issued_in_time(*not_before) => {
                    return Err(Reason::CredentialRevoked);
                }
                _ => {}
            }
        }
        for (generation, identity) in self.overlaid_identity(tenant, &party.held.name) {
            if identity.not_before.is_some_and(|cut| !issued_in_time(cut)) {
                return Err(Reason::CredentialRevoked);
            }
            if party.held.generation <= generation {
                stands(identity.status)?;
            }
        }
        match party.identity.not_before {
            Some(cut) if !issued_in_time(cut) => Err(Reason::CredentialRevoked),
            _ => Ok(()),
        }
    }
}

fn stands(status: IdentityStatus) -> Result<(), Reason> {
    match status {
        IdentityStatus::Active => Ok(()),
        IdentityStatus::Pending | IdentityStatus::Suspended => Err(Reason::IdentitySuspended),
        IdentityStatus::Retired => Err(Reason::IdentityRetired),
    }
}

fn may_act(identity: &Identity, now: Timestamp) -> Result<(), Reason> {
    stands(identity.status)?;
    if identity.end.is_some_and(|end| now >= end) { Err(Reason::IdentityExpired) } else { Ok(()) }
}
