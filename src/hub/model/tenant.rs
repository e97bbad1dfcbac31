//! One tenant's records as the authority sees them while it judges an edit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::core::id::Name;
use crate::core::identity::{
    Change, CredentialKind, Identity, IdentityStatus, PolicySet, Record, RecordKind, RevocationTarget,
};
use crate::core::time::Timestamp;
use crate::hub::store::{CellImage, StoredRecord};
use crate::wire::state::WireError;

/// Every record of a tenant, with the indexes that uniqueness is judged by.
#[derive(Clone, Debug)]
pub struct TenantImage {
    revision: u64,
    records: BTreeMap<RecordKind, BTreeMap<Name, Change>>,
    /// Live identities among them.
    identities: usize,
    subjects: HashMap<(Name, Arc<str>), Name>,
    issuers: HashMap<Arc<str>, Name>,
    fingerprints: HashMap<[u8; 32], Name>,
    api_keys: HashMap<Name, BTreeSet<Name>>,
    kills: HashMap<Killed, Vec<Name>>,
}

/// What revocations are found by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Killed {
    Token(Name, Arc<str>),
    Digest([u8; 32]),
    Credential(Name),
    IssuedBefore(Name),
    Identity(Name),
}

impl From<&RevocationTarget> for Killed {
    fn from(target: &RevocationTarget) -> Self {
        match target {
            RevocationTarget::TokenId { issuer, jti, .. } => Self::Token(issuer.clone(), jti.clone()),
            RevocationTarget::TokenDigest { digest, .. } => Self::Digest(*digest),
            RevocationTarget::Credential(name) => Self::Credential(name.clone()),
            RevocationTarget::IssuedBefore { identity, .. } => Self::IssuedBefore(identity.clone()),
            RevocationTarget::Identity { identity, .. } => Self::Identity(identity.clone()),
        }
    }
}

impl TenantImage {
    /// A tenant without records.
    pub fn empty() -> Self {
        Self {
            revision: 0,
            records: BTreeMap::new(),
            identities: 0,
            subjects: HashMap::new(),
            issuers: HashMap::new(),
            fingerprints: HashMap::new(),
            api_keys: HashMap::new(),
            kills: HashMap::new(),
        }
    }

    /// Reads a stored cell, and the names that were let go of.
    ///
    /// # Errors
    /// [`WireError`] for a record this build cannot read.
    pub fn load(cell: &CellImage, dropped: &[StoredRecord]) -> Result<Self, WireError> {
        let all = cell.records.iter().chain(dropped);
        let changes = all.map(StoredRecord::change).collect::<Result<Vec<_>, _>>()?;
        let mut image = Self::empty();
        image.take(&changes, cell.position.revision);
        Ok(image)
    }

    /// The revision of the last commit; 0: there was none.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes over what was committed.
    pub fn take(&mut self, changes: &[Change], revision: u64) {
        for change in changes {
            self.release(change.kind, &change.name);
        }
        for change in changes {
            self.claim(change);
            let of_kind = self.records.entry(change.kind).or_default();
            let before = match change.kind {
                // Its name is a revision, which does not come again.
                RecordKind::Revocation if change.dropped => of_kind.remove(&change.name),
                _ => of_kind.insert(change.name.clone(), change.clone()),
            };
            let lives = |change: &Change| change.kind == RecordKind::Identity && change.record.is_some();
            self.identities += usize::from(lives(change));
            self.identities -= usize::from(before.as_ref().is_some_and(lives));
        }
        self.revision = revision;
    }

    /// A record by name, tombstones included, also those that were let go of.
    pub fn get(&self, kind: RecordKind, name: &Name) -> Option<&Change> {
        self.records.get(&kind)?.get(name)
    }

    /// A live record by name.
    pub fn live(&self, kind: RecordKind, name: &Name) -> Option<&Record> {
        self.get(kind, name).and_then(|change| change.record.as_ref())
    }

    /// A live identity, and the change that made it what it is.
    pub fn identity(&self, name: &Name) -> Option<(&Change, &Arc<Identity>)> {
        let change = self.get(RecordKind::Identity, name)?;
        match &change.record {
            Some(Record::Identity(identity)) => Some((change, identity)),
            _ => None,
        }
    }

    /// The tenant's policy sets.
    pub fn policy_sets(&self) -> BTreeMap<Name, PolicySet> {
        let set = |change: &Change| match &change.record {
            Some(Record::PolicySet(set)) => Some((change.name.clone(), PolicySet::clone(set))),
            _ => None,
        };
        self.of_kind(RecordKind::PolicySet).filter_map(set).collect()
    }

    /// Every record of a kind, by name, tombstones included.
    pub fn of_kind(&self, kind: RecordKind) -> impl Iterator<Item = &Change> {
        self.records.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// How many live identities there are.
    pub const fn identities(&self) -> usize {
        self.identities
    }

    /// The identity bound to a subject of an issuer.
    pub fn subject(&self, issuer: &Name, subject: &Arc<str>) -> Option<&Name> {
        self.subjects.get(&(issuer.clone(), Arc::clone(subject)))
    }

    /// The issuer record with this `iss`.
    pub fn issuer_of(&self, iss: &str) -> Option<&Name> {
        self.issuers.get(iss)
    }

    /// The credential with this fingerprint.
    pub fn fingerprint(&self, fingerprint: &[u8; 32]) -> Option<&Name> {
        self.fingerprints.get(fingerprint)
    }

    /// The API keys of an identity, live or not.
    pub fn api_keys(&self, identity: &Name) -> impl Iterator<Item = &Name> {
        self.api_keys.get(identity).into_iter().flatten()
    }

    /// Revocations of the same thing as `target`, with what they take away exactly.
    pub fn revocations_like<'a>(
        &'a self,
        target: &RevocationTarget,
    ) -> impl Iterator<Item = (&'a Change, &'a RevocationTarget)> {
        let names = self.kills.get(&Killed::from(target));
        names.into_iter().flatten().filter_map(|name| {
            let change = self.get(RecordKind::Revocation, name)?;
            match &change.record {
                Some(Record::Revocation(revocation)) => Some((change, &revocation.target)),
                _ => None,
            }
        })
    }

    /// Revocations that take away the whole identity as it is now.
    pub fn identity_kills(&self, name: &Name) -> Vec<&Change> {
        let Some((held, identity)) = self.identity(name) else { return Vec::new() };
        let like = RevocationTarget::Identity { identity: name.clone(), generation: 0 };
        let stands = |change: &&Change| match &change.record {
            Some(Record::Revocation(kill)) => !kill.is_lifted(held.generation, identity.not_before),
            _ => false,
        };
        self.revocations_like(&like).map(|(change, _)| change).filter(stands).collect()
    }

    /// Credentials issued to an identity before this are refused, by its record or by revocation.
    pub fn cut_off(&self, name: &Name, held: &Identity) -> Option<Timestamp> {
        let any = Timestamp::from_micros(0);
        let like = RevocationTarget::IssuedBefore { identity: name.clone(), not_before: any };
        let cuts = self.revocations_like(&like).filter_map(|(_, target)| match target {
            RevocationTarget::IssuedBefore { not_before, .. } => Some(*not_before),
            _ => None,
        });
        cuts.chain(held.not_before).max()
    }

    /// How many identities are in a status.
    pub fn identities_in(&self, status: IdentityStatus) -> u64 {
        let held = |change: &&Change| match &change.record {
            Some(Record::Identity(identity)) => identity.status == status,
            _ => false,
        };
        self.of_kind(RecordKind::Identity).filter(held).count() as u64
    }

    fn release(&mut self, kind: RecordKind, name: &Name) {
        match self.live(kind, name).cloned() {
            Some(Record::Identity(identity)) => {
                for binding in &identity.bindings {
                    drop_if(&mut self.subjects, &(binding.issuer.clone(), binding.subject.clone()), name);
                }
            }
            Some(Record::Issuer(issuer)) => drop_if(&mut self.issuers, &issuer.iss, name),
            Some(Record::Credential(credential)) => {
                drop_if(&mut self.fingerprints, &credential.fingerprint, name);
                if let Some(keys) = credential.identity.as_ref().and_then(|id| self.api_keys.get_mut(id)) {
                    keys.remove(name);
                }
            }
            Some(Record::Revocation(revocation)) => {
                if let Some(names) = self.kills.get_mut(&Killed::from(&revocation.target)) {
                    names.retain(|held| held != name);
                }
            }
            _ => {}
        }
    }

    fn claim(&mut self, change: &Change) {
        let name = || change.name.clone();
        match &change.record {
            Some(Record::Identity(identity)) => {
                for binding in &identity.bindings {
                    self.subjects.insert((binding.issuer.clone(), binding.subject.clone()), name());
                }
            }
            Some(Record::Issuer(issuer)) => {
                self.issuers.insert(issuer.iss.clone(), name());
            }
            Some(Record::Credential(credential)) => {
                self.fingerprints.insert(credential.fingerprint, name());
                if let (CredentialKind::ApiKey, Some(identity)) = (credential.kind, &credential.identity) {
                    self.api_keys.entry(identity.clone()).or_default().insert(name());
                }
            }
            Some(Record::Revocation(revocation)) => {
                self.kills.entry(Killed::from(&revocation.target)).or_default().push(name());
            }
            _ => {}
        }
    }
}

fn drop_if<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Name>, key: &K, name: &Name) {
    if index.get(key) == Some(name) {
        index.remove(key);
    }
}
