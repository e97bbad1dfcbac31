//! One immutable state: everything a decision reads.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::digest::{StateDigest, Sum};
use crate::core::identity::links::Links;
use crate::core::identity::packed::{CredentialView, IdentityView, Row, Texts, View, read};
use crate::core::identity::record::{
    Batch, Change, CredentialKind, CredentialStatus, Exception, Identity, IdentityStatus, Issuer, PolicySet,
    Record, RecordKind, Resource, Revocation, RevocationTarget, StatusList,
};
use crate::core::identity::rows::Rows;
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
        self.key_of_pieces(space, parts.iter().map(|part| [*part, &[]]))
    }

    /// The key of a text that records share.
    pub(super) fn text_key(self, text: &str) -> u128 {
        self.key(Space::Text, &[text.as_bytes()])
    }

    /// The key of parts each of which may lie in two pieces: where one is cut makes no difference.
    fn key_of_pieces<'p>(self, space: Space, parts: impl IntoIterator<Item = [&'p [u8]; 2]>) -> u128 {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        hasher.write_u8(space as u8);
        for [first, rest] in parts {
            hasher.write_u64((first.len() + rest.len()) as u64);
            hasher.write(first);
            hasher.write(rest);
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
    StatusList,
    IssuerByIss,
    Subject,
    Fingerprint,
    KilledToken,
    KilledDigest,
    KilledCredential,
    KilledBefore,
    KilledIdentity,
    Text,
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
            RecordKind::StatusList => Self::StatusList,
        }
    }
}

/// A record as held: its value with its name, generation and revision. Identities and credentials,
/// of which there are many, are held packed and read as a [`Row`].
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
    /// How many records it holds, tombstones included.
    pub records: u64,
    /// Whether an answer has named its head since it came: nothing is decided by it before.
    pub confirmed: bool,
    /// The tenant's policies, compiled.
    pub policy: Arc<TenantPolicy>,
    sum: Arc<Sum>,
    exceptions: Arc<[Arc<Held<Exception>>]>,
    introspecting: Arc<[Arc<Held<Issuer>>]>,
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
    texts: Texts,
    by_iss: Table<Arc<Held<Issuer>>>,
    subjects: Links,
    fingerprints: Links,
    kills: Table<Kills>,
    overlay: Overlay,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    identities: Rows,
    credentials: Rows,
    issuers: Table<Arc<Held<Issuer>>>,
    revocations: Table<Arc<Held<Revocation>>>,
    policy_sets: Table<Arc<Held<PolicySet>>>,
    exceptions: Table<Arc<Held<Exception>>>,
    resources: Table<Arc<Held<Resource>>>,
    status_lists: Table<Arc<Held<StatusList>>>,
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
    /// Status lists, withdrawn ones and tombstones included.
    pub status_lists: usize,
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
            texts: Texts::new(keyer),
            by_iss: Table::default(),
            subjects: Links::default(),
            fingerprints: Links::default(),
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
            status_lists: self.records.status_lists.len(),
            bindings: self.subjects.len(),
        }
    }

    /// An identity by name.
    pub fn identity(&self, tenant: &Name, name: &Name) -> Option<Row<'_, IdentityView<'_>>> {
        self.row(&self.records.identities, Space::Identity, tenant, name.as_str())
    }

    /// The identity bound to a subject of an issuer; `None`, too, when more than one claims it.
    pub fn identity_of(
        &self,
        tenant: &Name,
        issuer: &Name,
        subject: &str,
    ) -> Option<Row<'_, IdentityView<'_>>> {
        let key = self.subject_key(tenant, issuer.as_str(), [subject, ""]);
        let rows = self.subjects.places(key).flat_map(|place| self.records.identities.at(place));
        let bound = |row: &Row<'_, IdentityView<'_>>| {
            row.tenant == tenant.as_str()
                && row.value.is_some_and(|v| v.bindings.iter().any(|b| b.is_of(issuer.as_str(), subject)))
        };
        let mut found = rows.filter_map(|row| read(row, &self.texts)).filter(bound);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// A credential by name.
    pub fn credential(&self, tenant: &Name, name: &Name) -> Option<Row<'_, CredentialView<'_>>> {
        self.row(&self.records.credentials, Space::Credential, tenant, name.as_str())
    }

    /// The credentials with this fingerprint: one, unless a hub gave two the same. `Err`: what lies
    /// there cannot be read.
    pub(super) fn credentials_with(
        &self,
        tenant: &Name,
        fingerprint: &[u8; 32],
    ) -> impl Iterator<Item = Result<Row<'_, CredentialView<'_>>, Unreadable>> {
        let key = self.fingerprint_key(tenant, fingerprint);
        let rows = self.fingerprints.places(key).flat_map(|place| self.records.credentials.at(place));
        let is_it = move |row: &Row<'_, CredentialView<'_>>| {
            row.tenant == tenant.as_str() && row.value.is_some_and(|value| value.fingerprint == fingerprint)
        };
        rows.map(|row| read(row, &self.texts).ok_or(Unreadable))
            .filter(move |row| row.as_ref().map_or(true, is_it))
    }

    /// The credential of a kind with this fingerprint; `None`, too, when its record cannot be read.
    pub fn credential_of(
        &self,
        tenant: &Name,
        kind: CredentialKind,
        fingerprint: &[u8; 32],
    ) -> Option<CredentialView<'_>> {
        let found = self.credentials_with(tenant, fingerprint).filter_map(Result::ok);
        found.filter_map(|row| row.value).find(|value| value.kind == kind)
    }

    fn row<'a, V: View<'a>>(
        &'a self,
        rows: &'a Rows,
        space: Space,
        tenant: &Name,
        name: &str,
    ) -> Option<Row<'a, V>> {
        let place = place(self.named(space, tenant, name));
        rows.at(place).filter_map(|row| read(row, &self.texts)).find(|row| row.is_of(tenant, name))
    }

    /// A resource by name.
    pub fn resource(&self, tenant: &Name, name: &Name) -> Option<&Arc<Held<Resource>>> {
        self.records.resources.at(self.named(Space::Resource, tenant, name.as_str()))
    }

    /// The tenant's exceptions, live and lapsed.
    pub fn exceptions(&self, tenant: &Name) -> &[Arc<Held<Exception>>] {
        self.cell(tenant).map_or(&[], |cell| &cell.exceptions)
    }

    /// Revocations of a token, by id and by digest.
    pub(super) fn kills_of_token(
        &self,
        tenant: &Name,
        issuer: Option<&Name>,
        jti: Option<&str>,
        digest: &[u8; 32],
    ) -> impl Iterator<Item = &Arc<Held<Revocation>>> {
        let tenant = tenant.as_str().as_bytes();
        let by_id: &[_] = issuer.zip(jti).map_or(&[], |(issuer, jti)| {
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
        name: &str,
    ) -> impl Iterator<Item = &Arc<Held<Revocation>>> {
        self.kills_at(self.named(Space::KilledCredential, tenant, name)).iter()
    }

    /// Revocations of an identity and of what it was issued before a time.
    pub(super) fn kills_of_identity(
        &self,
        tenant: &Name,
        name: &str,
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
            RevocationTarget::Credential(name) => self.named(Space::KilledCredential, cell, name.as_str()),
            RevocationTarget::IssuedBefore { identity, .. } => {
                self.named(Space::KilledBefore, cell, identity.as_str())
            }
            RevocationTarget::Identity { identity, .. } => {
                self.named(Space::KilledIdentity, cell, identity.as_str())
            }
        }
    }

    fn named(&self, space: Space, tenant: &Name, name: &str) -> u128 {
        self.keyer.key(space, &[tenant.as_str().as_bytes(), name.as_bytes()])
    }

    fn subject_key(&self, tenant: &Name, issuer: &str, [first, rest]: [&str; 2]) -> u128 {
        let parts = [
            [tenant.as_str().as_bytes(), &[]],
            [issuer.as_bytes(), &[]],
            [first.as_bytes(), rest.as_bytes()],
        ];
        self.keyer.key_of_pieces(Space::Subject, parts)
    }

    fn fingerprint_key(&self, tenant: &Name, fingerprint: &[u8; 32]) -> u128 {
        self.keyer.key(Space::Fingerprint, &[tenant.as_str().as_bytes(), fingerprint])
    }
}

/// Where a packed record lies: the beginning of its key.
fn place(key: u128) -> u32 {
    u32::try_from(key >> 96).unwrap_or(0)
}

/// That a packed record cannot be read: memory was damaged.
#[derive(Debug)]
pub(super) struct Unreadable;

mod apply;
mod confirm;
mod draft;
mod export;
mod issuers;
mod overlay;
mod repair;
mod status;

use overlay::{Overlaid, Overlay};
pub use repair::Rebuild;

#[cfg(test)]
mod tests;

#[cfg(test)]
impl Snapshot {
    /// This state with a flipped bit: one identity's third-party mark, behind the table's back.
    pub(crate) fn damaged(&self, cell: &Name, identity: &Name) -> Self {
        let mut changes = self.export(cell);
        changes.retain(|change| change.name == *identity);
        for change in &mut changes {
            if let Some(Record::Identity(value)) = &mut change.record {
                let third_party = !value.third_party;
                *value = Arc::new(Identity { third_party, ..Identity::clone(value) });
            }
        }
        self.with_rows(cell, &changes)
    }

    /// This state with one bit of its identities' memory flipped; `None`: there are not so many.
    pub(crate) fn flipped(&self, at: usize) -> Option<Self> {
        let rows = &self.records.identities;
        (at < rows.bits()).then(|| {
            let identities = rows.flipped(at);
            Self { records: Tables { identities, ..self.records.clone() }, ..self.clone() }
        })
    }
}
