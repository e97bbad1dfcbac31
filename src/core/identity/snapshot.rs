//! One immutable state: everything a decision reads.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::digest::{StateDigest, Sum};
use crate::core::identity::record::{
    Batch, Change, Credential, CredentialStatus, Exception, Identity, IdentityStatus, Issuer, PolicySet,
    Record, RecordKind, Resource, Revocation, RevocationTarget,
};
use crate::core::identity::table::Table;
use crate::core::policy::{PolicyError, TenantPolicy};

/// Keys the tables of one process: nobody outside can choose names that share a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keyer(u64, u64);

impl std::fmt::Debug for Keyer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyer(redacted)")
    }
}

impl Keyer {
    /// Takes 128 random bits.
    pub const fn new(key: u128) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = key.to_le_bytes();
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest))
    }

    fn key(self, space: Space, parts: &[&[u8]]) -> u128 {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        hasher.write_u8(space as u8);
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    }
}

/// What a table key stands for. Spaces never share keys.
#[derive(Clone, Copy)]
enum Space {
    Identity,
    Credential,
    Issuer,
    Revocation,
    PolicySet,
    Exception,
    Resource,
    IssuerByIss,
    Subject,
    Fingerprint,
    KilledToken,
    KilledDigest,
    KilledCredential,
    KilledBefore,
    KilledIdentity,
}

impl From<RecordKind> for Space {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Identity => Self::Identity,
            RecordKind::Credential => Self::Credential,
            RecordKind::Issuer => Self::Issuer,
            RecordKind::Revocation => Self::Revocation,
            RecordKind::PolicySet => Self::PolicySet,
            RecordKind::Exception => Self::Exception,
            RecordKind::Resource => Self::Resource,
        }
    }
}

/// A record as held: its value with its name, generation and revision.
#[derive(Clone, PartialEq, Debug)]
pub struct Held<T> {
    /// The tenant.
    pub tenant: Name,
    /// The record's name.
    pub name: Name,
    /// Its generation.
    pub generation: u32,
    /// The revision of its last change.
    pub revision: u64,
    /// Its value; `None`: a tombstone, kept so that an older value cannot return.
    pub value: Option<Arc<T>>,
}

/// How far one cell has been applied.
#[derive(Clone, Debug)]
pub struct CellState {
    /// The tenant.
    pub cell: Name,
    /// The lineage.
    pub epoch: Epoch,
    /// The last applied revision.
    pub revision: u64,
    /// Up to here every revocation is in force, in the table or ahead of it.
    pub kill_revision: u64,
    /// History hash there.
    pub history_hash: [u8; 32],
    /// The digest of its records, tombstones included.
    pub state_digest: StateDigest,
    /// The tenant's policies, compiled.
    pub policy: Arc<TenantPolicy>,
    sum: Arc<Sum>,
    exceptions: Arc<[Arc<Held<Exception>>]>,
    policy_sets: Arc<BTreeMap<Name, PolicySet>>,
}

type Kills = Arc<[Arc<Held<Revocation>>]>;

/// An immutable state. Cloning it copies pointers.
#[derive(Clone, Debug)]
pub struct Snapshot {
    keyer: Keyer,
    root: u64,
    position: Position,
    cells: Arc<[CellState]>,
    records: Tables,
    by_iss: Table<Arc<Held<Issuer>>>,
    subjects: Table<Name>,
    fingerprints: Table<Name>,
    kills: Table<Kills>,
    overlay: Overlay,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    identities: Table<Arc<Held<Identity>>>,
    credentials: Table<Arc<Held<Credential>>>,
    issuers: Table<Arc<Held<Issuer>>>,
    revocations: Table<Arc<Held<Revocation>>>,
    policy_sets: Table<Arc<Held<PolicySet>>>,
    exceptions: Table<Arc<Held<Exception>>>,
    resources: Table<Arc<Held<Resource>>>,
}

/// Counts for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotStats {
    /// Identities, tombstones included.
    pub identities: usize,
    /// Credentials, tombstones included.
    pub credentials: usize,
    /// Issuers, tombstones included.
    pub issuers: usize,
    /// Revocations, tombstones included.
    pub revocations: usize,
    /// Policy sets, tombstones included.
    pub policy_sets: usize,
    /// Exceptions, tombstones included.
    pub exceptions: usize,
    /// Resources, tombstones included.
    pub resources: usize,
    /// Bindings.
    pub bindings: usize,
}

/// Why a batch is refused. Nothing of it has been applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// It does not begin where the cell stands.
    #[error("cell `{cell}` stands at revision {at}, the batch begins at {from}")]
    Gap {
        /// The cell.
        cell: Name,
        /// Where it stands.
        at: u64,
        /// Where the batch begins.
        from: u64,
    },
    /// It is of an older lineage, or of another than the cell's.
    #[error("cell `{cell}` is of epoch {held}, the batch of {given}")]
    Epoch {
        /// The cell.
        cell: Name,
        /// The epoch held.
        held: Epoch,
        /// The batch's.
        given: Epoch,
    },
    /// A revocation before it is missing.
    #[error("cell `{cell}` has every revocation up to {at}, the one before this is {previous}")]
    KillGap {
        /// The cell.
        cell: Name,
        /// Up to where every revocation is in force.
        at: u64,
        /// The one before the batch's.
        previous: u64,
    },
    /// The cell's digest would be another than the hub's.
    #[error("cell `{cell}` would have the digest {found}, the hub's is {said}")]
    Digest {
        /// The cell.
        cell: Name,
        /// What came out.
        found: StateDigest,
        /// What the hub says.
        said: StateDigest,
    },
    /// A change would lower a generation, a record's kind is not its change's, or a record is changed twice.
    #[error("{kind} `{name}`: {why}", kind = kind.as_str())]
    Record {
        /// The record's kind.
        kind: RecordKind,
        /// Its name.
        name: Name,
        /// What is wrong.
        why: &'static str,
    },
    /// Policies do not compile.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Snapshot {
    /// The state before anything arrived: every decision on it is refused.
    pub fn empty(keyer: Keyer) -> Self {
        Self {
            keyer,
            root: 0,
            position: Position::default(),
            cells: Arc::from(Vec::new()),
            records: Tables::default(),
            by_iss: Table::default(),
            subjects: Table::default(),
            fingerprints: Table::default(),
            kills: Table::default(),
            overlay: Table::default(),
        }
    }

    /// How far it goes: the highest revision applied in any cell.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// How far the cell of `tenant` goes.
    pub fn position_of(&self, tenant: &Name) -> Option<Position> {
        self.cell(tenant).map(|held| Position { epoch: held.epoch, revision: held.revision })
    }

    /// Which state of this process it is: one more than that of the state it was made from.
    ///
    /// Positions do not tell states apart: a cell can move behind the highest revision of
    /// another, and a whole cell can be put in place of itself.
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Whether nothing has arrived yet.
    pub fn is_absent(&self) -> bool {
        self.position.epoch.is_none()
    }

    /// Its cells, by tenant.
    pub fn cells(&self) -> &[CellState] {
        &self.cells
    }

    /// The cell of `tenant`.
    pub fn cell(&self, tenant: &Name) -> Option<&CellState> {
        self.cells.binary_search_by(|held| held.cell.cmp(tenant)).ok().and_then(|at| self.cells.get(at))
    }

    /// Counts for operators.
    pub fn stats(&self) -> SnapshotStats {
        SnapshotStats {
            identities: self.records.identities.len(),
            credentials: self.records.credentials.len(),
            issuers: self.records.issuers.len(),
            revocations: self.records.revocations.len(),
            policy_sets: self.records.policy_sets.len(),
            exceptions: self.records.exceptions.len(),
            resources: self.records.resources.len(),
            bindings: self.subjects.len(),
        }
    }

    /// An identity by name.
    pub fn identity(&self, tenant: &Name, name: &Name) -> Option<&Arc<Held<Identity>>> {
        self.records.identities.at(self.named(Space::Identity, tenant, name))
    }

    /// The identity bound to a subject of an issuer.
    pub fn identity_of(&self, tenant: &Name, issuer: &Name, subject: &str) -> Option<&Arc<Held<Identity>>> {
        let key = self.subject_key(tenant, issuer, subject);
        self.identity(tenant, self.subjects.at(key)?)
    }

    /// A credential by name.
    pub fn credential(&self, tenant: &Name, name: &Name) -> Option<&Arc<Held<Credential>>> {
        self.records.credentials.at(self.named(Space::Credential, tenant, name))
    }

    /// The credential with this fingerprint.
    pub fn credential_with(&self, tenant: &Name, fingerprint: &[u8; 32]) -> Option<&Arc<Held<Credential>>> {
        let key = self.keyer.key(Space::Fingerprint, &[tenant.as_str().as_bytes(), fingerprint]);
        self.credential(tenant, self.fingerprints.at(key)?)
    }

    /// The issuer with exactly this `iss`.
    pub fn issuer_of(&self, tenant: &Name, iss: &str) -> Option<&Arc<Held<Issuer>>> {
        self.by_iss.at(self.keyer.key(Space::IssuerByIss, &[tenant.as_str().as_bytes(), iss.as_bytes()]))
    }

    /// A resource by name.
    pub fn resource(&self, tenant: &Name, name: &Name) -> Option<&Arc<Held<Resource>>> {
        self.records.resources.at(self.named(Space::Resource, tenant, name))
    }

    /// The tenant's exceptions, live and lapsed.
    pub fn exceptions(&self, tenant: &Name) -> &[Arc<Held<Exception>>] {
        self.cell(tenant).map_or(&[], |cell| &cell.exceptions)
    }

    /// Revocations of a token, by id and by digest.
    pub(super) fn kills_of_token(
        &self,
        tenant: &Name,
        issuer: &Name,
        jti: Option<&str>,
        digest: &[u8; 32],
    ) -> impl Iterator<Item = &Arc<Held<Revocation>>> {
        let tenant = tenant.as_str().as_bytes();
        let by_id: &[_] = jti.map_or(&[], |jti| {
            let parts = [tenant, issuer.as_str().as_bytes(), jti.as_bytes()];
            self.kills_at(self.keyer.key(Space::KilledToken, &parts))
        });
        let by_digest = self.kills_at(self.keyer.key(Space::KilledDigest, &[tenant, digest]));
        by_id.iter().chain(by_digest)
    }

    /// Revocations of a credential.
    pub(super) fn kills_of_credential(
        &self,
        tenant: &Name,
        name: &Name,
    ) -> impl Iterator<Item = &Arc<Held<Revocation>>> {
        self.kills_at(self.named(Space::KilledCredential, tenant, name)).iter()
    }

    /// Revocations of an identity and of what it was issued before a time.
    pub(super) fn kills_of_identity(
        &self,
        tenant: &Name,
        name: &Name,
    ) -> impl Iterator<Item = &Arc<Held<Revocation>>> {
        let whole = self.kills_at(self.named(Space::KilledIdentity, tenant, name));
        let before = self.kills_at(self.named(Space::KilledBefore, tenant, name));
        whole.iter().chain(before)
    }

    fn kills_at(&self, key: u128) -> &[Arc<Held<Revocation>>] {
        if self.kills.is_empty() { &[] } else { self.kills.at(key).map_or(&[], |kills| kills) }
    }

    fn kill_key(&self, cell: &Name, target: &RevocationTarget) -> u128 {
        let tenant = cell.as_str().as_bytes();
        let key = |space, parts: &[&[u8]]| self.keyer.key(space, parts);
        match target {
            RevocationTarget::TokenId { issuer, jti, .. } => {
                key(Space::KilledToken, &[tenant, issuer.as_str().as_bytes(), jti.as_bytes()])
            }
            RevocationTarget::TokenDigest { digest, .. } => key(Space::KilledDigest, &[tenant, digest]),
            RevocationTarget::Credential(name) => self.named(Space::KilledCredential, cell, name),
            RevocationTarget::IssuedBefore { identity, .. } => {
                self.named(Space::KilledBefore, cell, identity)
            }
            RevocationTarget::Identity { identity, .. } => self.named(Space::KilledIdentity, cell, identity),
        }
    }

    fn named(&self, space: Space, tenant: &Name, name: &Name) -> u128 {
        self.keyer.key(space, &[tenant.as_str().as_bytes(), name.as_str().as_bytes()])
    }

    fn subject_key(&self, tenant: &Name, issuer: &Name, subject: &str) -> u128 {
        let parts = [tenant.as_str().as_bytes(), issuer.as_str().as_bytes(), subject.as_bytes()];
        self.keyer.key(Space::Subject, &parts)
    }
}

mod apply;
mod export;
mod overlay;
mod repair;

use overlay::{Overlaid, Overlay};

#[cfg(test)]
mod tests;

#[cfg(test)]
impl Snapshot {
    /// This state with a flipped bit: one identity's third-party mark, behind the table's back.
    pub(crate) fn damaged(&self, cell: &Name, identity: &Name) -> Self {
        let mut held = self.clone();
        let key = self.named(Space::Identity, cell, identity);
        if let Some(record) = self.records.identities.at(key) {
            let mut flipped = Held::clone(record);
            flipped.value = flipped.value.map(|value| {
                Arc::new(Identity { third_party: !value.third_party, ..Identity::clone(&value) })
            });
            held.records.identities = held.records.identities.with(vec![(key, Some(Arc::new(flipped)))]);
        }
        held
    }
}
