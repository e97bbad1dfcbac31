//! Making the next state from a batch: everything is checked beside the old one, then returned whole.

use std::collections::HashSet;

use super::*;
use crate::core::identity::digest::{Element, Sum};
use crate::core::identity::record::KillBatch;

/// Edits gathered for each table, applied in one pass each.
#[derive(Default)]
pub(super) struct Edits {
    identities: Vec<(u128, Option<Arc<Held<Identity>>>)>,
    credentials: Vec<(u128, Option<Arc<Held<Credential>>>)>,
    issuers: Vec<(u128, Option<Arc<Held<Issuer>>>)>,
    revocations: Vec<(u128, Option<Arc<Held<Revocation>>>)>,
    policy_sets: Vec<(u128, Option<Arc<Held<PolicySet>>>)>,
    exceptions: Vec<(u128, Option<Arc<Held<Exception>>>)>,
    resources: Vec<(u128, Option<Arc<Held<Resource>>>)>,
    by_iss: Links<Arc<Held<Issuer>>>,
    subjects: Links<Name>,
    fingerprints: Links<Name>,
    kills: BTreeMap<u128, Kills>,
}

/// Index edits of one batch. A claim wins over a release whatever their order in the batch,
/// so that a subject can move from one record to another in one transaction.
struct Links<V> {
    released: Vec<u128>,
    claimed: Vec<(u128, V)>,
}

impl<V> Default for Links<V> {
    fn default() -> Self {
        Self { released: Vec::new(), claimed: Vec::new() }
    }
}

impl<V> Links<V> {
    fn into_edits(self) -> Vec<(u128, Option<V>)> {
        let released = self.released.into_iter().map(|key| (key, None));
        released.chain(self.claimed.into_iter().map(|(key, value)| (key, Some(value)))).collect()
    }
}

/// One cell's way from where it stands to where it shall, already known to follow on.
pub(super) struct Step<'a> {
    pub(super) cell: &'a Name,
    pub(super) epoch: Epoch,
    pub(super) revision: u64,
    pub(super) history_hash: [u8; 32],
    pub(super) changes: &'a [Change],
    /// Records that vanish without a tombstone: repairs.
    pub(super) erased: &'a [(RecordKind, Name)],
    /// Whether a generation may fall: another lineage, or a table known to be damaged.
    pub(super) may_fall: bool,
}

impl Snapshot {
    /// The state after `batch`.
    ///
    /// # Errors
    /// [`ApplyError`] when it does not follow on, is inconsistent, its policies do not compile, or
    /// the cell's digest comes out otherwise than it says.
    pub fn apply(&self, batch: &Batch) -> Result<Self, ApplyError> {
        let (at, epoch) = self.cell(&batch.cell).map_or((0, batch.epoch), |cell| (cell.revision, cell.epoch));
        if epoch != batch.epoch {
            return Err(epoch_error(&batch.cell, epoch, batch.epoch));
        }
        if at != batch.from_revision || batch.to_revision < batch.from_revision {
            return Err(ApplyError::Gap { cell: batch.cell.clone(), at, from: batch.from_revision });
        }
        let step = Step {
            cell: &batch.cell,
            epoch: batch.epoch,
            revision: batch.to_revision,
            history_hash: batch.history_hash,
            changes: &batch.changes,
            erased: &[],
            may_fall: false,
        };
        let sum = self.sum_after(&step);
        let next = self.advance(&step, sum)?;
        next.is_as_said(&batch.cell, batch.state_digest)?;
        Ok(next.folded(&batch.cell))
    }

    /// The state with revocations in force ahead of the order they were committed in.
    ///
    /// Taking the same again, or what the cell already covers, changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`] when one before it is missing, the cell is absent or of another lineage, or a
    /// change could allow something.
    pub fn kill(&self, batch: &KillBatch) -> Result<Self, ApplyError> {
        let Some(held) = self.cell(&batch.cell) else {
            return Err(ApplyError::Gap { cell: batch.cell.clone(), at: 0, from: batch.previous });
        };
        if held.epoch != batch.epoch {
            return Err(epoch_error(&batch.cell, held.epoch, batch.epoch));
        }
        if batch.revision <= held.kill_revision {
            return Ok(self.clone());
        }
        if batch.previous > held.kill_revision {
            let (at, previous) = (held.kill_revision, batch.previous);
            return Err(ApplyError::KillGap { cell: batch.cell.clone(), at, previous });
        }
        for change in &batch.changes {
            let why = match change {
                change if !change.denies() => "it could allow something, and came among revocations",
                change if change.record.as_ref().is_some_and(|record| record.kind() != change.kind) => {
                    OF_ANOTHER_KIND
                }
                change if change.revision > batch.revision => "the record is newer than its batch",
                _ => continue,
            };
            return Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
        }
        let entries = batch.changes.iter().map(|change| Overlaid::new(&batch.cell, change, false));
        let mut next = self.overlaid(entries.collect());
        next.root = self.root + 1;
        next.in_cell(&batch.cell, |cell| cell.kill_revision = batch.revision);
        Ok(next)
    }

    pub(super) fn in_cell(&mut self, name: &Name, edit: impl FnOnce(&mut CellState)) {
        let mut cells = self.cells.to_vec();
        if let Some(cell) = cells.iter_mut().find(|cell| cell.cell == *name) {
            edit(cell);
        }
        self.cells = Arc::from(cells);
    }

    pub(super) fn is_as_said(&self, cell: &Name, said: Option<StateDigest>) -> Result<(), ApplyError> {
        let found = self.cell(cell).map(|held| held.state_digest);
        match (said, found) {
            (Some(said), Some(found)) if said != found => {
                Err(ApplyError::Digest { cell: cell.clone(), found, said })
            }
            _ => Ok(()),
        }
    }

    /// The cell's sum after a step: each touched record's element is taken out and the new one put in.
    fn sum_after(&self, step: &Step<'_>) -> Arc<Sum> {
        let mut sum = self.cell(step.cell).map(|held| Arc::clone(&held.sum)).unwrap_or_default();
        let edited = Arc::make_mut(&mut sum);
        for change in step.changes {
            if let Some(old) = self.held_as_change(step.cell, change.kind, &change.name) {
                edited.remove(element(&old));
            }
            edited.add(element(change));
        }
        sum
    }

    /// The state after a step, its digest the given sum's. The overlay is as before.
    pub(super) fn advance(&self, step: &Step<'_>, sum: Arc<Sum>) -> Result<Self, ApplyError> {
        let held = self.cell(step.cell);
        let mut edits = Edits::default();
        let mut named = HashSet::with_capacity(step.changes.len());
        for change in step.changes {
            self.check(step, change)?;
            if !named.insert(self.named(change.kind.into(), step.cell, &change.name)) {
                let why = "it is changed twice in one batch";
                return Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
            }
            self.gather(&mut edits, step.cell, change.kind, &change.name, Some(change));
        }
        for (kind, name) in step.erased {
            self.gather(&mut edits, step.cell, *kind, name, None);
        }
        let policy_sets = policy_sets_after(held, step);
        let policy = match held {
            Some(held) if !step.touches(RecordKind::PolicySet) => Arc::clone(&held.policy),
            _ => Arc::new(TenantPolicy::compile(&policy_sets)?),
        };
        let cell = CellState {
            cell: step.cell.clone(),
            epoch: step.epoch,
            revision: step.revision,
            // What the order brings covers every revocation up to there.
            kill_revision: match held {
                Some(held) if held.epoch == step.epoch => held.kill_revision.max(step.revision),
                _ => step.revision,
            },
            history_hash: step.history_hash,
            state_digest: sum.digest(),
            sum,
            policy,
            exceptions: exceptions_after(held, step),
            policy_sets,
        };
        Ok(self.assemble(edits, cell))
    }

    fn check(&self, step: &Step<'_>, change: &Change) -> Result<(), ApplyError> {
        let refuse = |why| Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
        if change.record.as_ref().is_some_and(|record| record.kind() != change.kind) {
            return refuse(OF_ANOTHER_KIND);
        }
        if change.revision > step.revision {
            return refuse("the record is newer than its batch");
        }
        let held = || self.held_as_change(step.cell, change.kind, &change.name);
        if !step.may_fall && held().is_some_and(|held| change.generation < held.generation) {
            return refuse("the generation would fall");
        }
        Ok(())
    }

    /// Takes one record over into the edits; without a change it is erased.
    fn gather(&self, edits: &mut Edits, cell: &Name, kind: RecordKind, name: &Name, change: Option<&Change>) {
        let key = self.named(kind.into(), cell, name);
        let record = change.and_then(|change| change.record.clone());
        match kind {
            RecordKind::Identity => {
                let value = record.and_then(|r| if let Record::Identity(v) = r { Some(v) } else { None });
                self.gather_bindings(edits, cell, name, value.as_deref(), key);
                edits.identities.push((key, held(cell, change, value)));
            }
            RecordKind::Credential => {
                let value = record.and_then(|r| if let Record::Credential(v) = r { Some(v) } else { None });
                self.gather_fingerprint(edits, cell, name, value.as_deref(), key);
                edits.credentials.push((key, held(cell, change, value)));
            }
            RecordKind::Issuer => {
                let value = record.and_then(|r| if let Record::Issuer(v) = r { Some(v) } else { None });
                let issuer = held(cell, change, value);
                self.gather_iss(edits, cell, name, issuer.as_ref(), key);
                edits.issuers.push((key, issuer));
            }
            RecordKind::Revocation => {
                let value = record.and_then(|r| if let Record::Revocation(v) = r { Some(v) } else { None });
                let revocation = held(cell, change, value);
                self.gather_kill(edits, cell, name, revocation.as_ref(), key);
                edits.revocations.push((key, revocation));
            }
            RecordKind::PolicySet => {
                let value = record.and_then(|r| if let Record::PolicySet(v) = r { Some(v) } else { None });
                edits.policy_sets.push((key, held(cell, change, value)));
            }
            RecordKind::Exception => {
                let value = record.and_then(|r| if let Record::Exception(v) = r { Some(v) } else { None });
                edits.exceptions.push((key, held(cell, change, value)));
            }
            RecordKind::Resource => {
                let value = record.and_then(|r| if let Record::Resource(v) = r { Some(v) } else { None });
                edits.resources.push((key, held(cell, change, value)));
            }
        }
    }

    fn gather_bindings(
        &self,
        edits: &mut Edits,
        cell: &Name,
        name: &Name,
        new: Option<&Identity>,
        key: u128,
    ) {
        let old = self.records.identities.at(key).and_then(|h| h.value.as_deref());
        for binding in old.iter().flat_map(|identity| &identity.bindings) {
            let subject = self.subject_key(cell, &binding.issuer, &binding.subject);
            if self.subjects.at(subject) == Some(name) {
                edits.subjects.released.push(subject);
            }
        }
        for binding in new.iter().flat_map(|identity| &identity.bindings) {
            let subject = self.subject_key(cell, &binding.issuer, &binding.subject);
            edits.subjects.claimed.push((subject, name.clone()));
        }
    }

    fn gather_fingerprint(
        &self,
        edits: &mut Edits,
        cell: &Name,
        name: &Name,
        new: Option<&Credential>,
        key: u128,
    ) {
        let place = |credential: &Credential| {
            self.keyer.key(Space::Fingerprint, &[cell.as_str().as_bytes(), &credential.fingerprint])
        };
        let old = self.records.credentials.at(key).and_then(|h| h.value.as_deref()).map(place);
        edits.fingerprints.released.extend(old.filter(|at| self.fingerprints.at(*at) == Some(name)));
        edits.fingerprints.claimed.extend(new.map(|credential| (place(credential), name.clone())));
    }

    fn gather_iss(
        &self,
        edits: &mut Edits,
        cell: &Name,
        name: &Name,
        new: Option<&Arc<Held<Issuer>>>,
        key: u128,
    ) {
        let place = |issuer: &Issuer| {
            self.keyer.key(Space::IssuerByIss, &[cell.as_str().as_bytes(), issuer.iss.as_bytes()])
        };
        let old = self.records.issuers.at(key).and_then(|h| h.value.as_deref()).map(place);
        edits.by_iss.released.extend(old.filter(|at| self.by_iss.at(*at).is_some_and(|h| h.name == *name)));
        let claimed =
            new.and_then(|held| held.value.as_deref().map(|issuer| (place(issuer), Arc::clone(held))));
        edits.by_iss.claimed.extend(claimed);
    }

    fn gather_kill(
        &self,
        edits: &mut Edits,
        cell: &Name,
        name: &Name,
        new: Option<&Arc<Held<Revocation>>>,
        key: u128,
    ) {
        let old = self.records.revocations.at(key);
        for gone in [old, new].into_iter().flatten() {
            let Some(revocation) = gone.value.as_deref() else { continue };
            let place = self.kill_key(cell, &revocation.target);
            let before =
                edits.kills.get(&place).or_else(|| self.kills.at(place)).cloned().unwrap_or_default();
            // By value, too: one of that name may be carried from another lineage.
            let others = before.iter().filter(|held| held.name != *name || held.value != gone.value);
            edits.kills.insert(place, others.cloned().collect());
        }
        if let Some((held, revocation)) = new.and_then(|held| Some((held, held.value.as_deref()?))) {
            let place = self.kill_key(cell, &revocation.target);
            let others = edits.kills.get(&place).cloned().unwrap_or_default();
            edits.kills.insert(place, others.iter().cloned().chain([Arc::clone(held)]).collect());
        }
    }

    fn assemble(&self, edits: Edits, cell: CellState) -> Self {
        let kills = edits.kills.into_iter().map(|(key, list)| (key, (!list.is_empty()).then_some(list)));
        let highest = Position { epoch: cell.epoch, revision: cell.revision };
        let mut cells: Vec<_> = self.cells.iter().filter(|held| held.cell != cell.cell).cloned().collect();
        cells.push(cell);
        cells.sort_by(|a, b| a.cell.cmp(&b.cell));
        Self {
            keyer: self.keyer,
            root: self.root + 1,
            position: self.position.max(highest),
            cells: Arc::from(cells),
            records: Tables {
                identities: self.records.identities.with(edits.identities),
                credentials: self.records.credentials.with(edits.credentials),
                issuers: self.records.issuers.with(edits.issuers),
                revocations: self.records.revocations.with(edits.revocations),
                policy_sets: self.records.policy_sets.with(edits.policy_sets),
                exceptions: self.records.exceptions.with(edits.exceptions),
                resources: self.records.resources.with(edits.resources),
            },
            by_iss: self.by_iss.with(edits.by_iss.into_edits()),
            subjects: self.subjects.with(edits.subjects.into_edits()),
            fingerprints: self.fingerprints.with(edits.fingerprints.into_edits()),
            kills: self.kills.with(kills.collect()),
            overlay: self.overlay.clone(),
        }
    }
}

impl Step<'_> {
    fn touches(&self, kind: RecordKind) -> bool {
        self.changes.iter().any(|change| change.kind == kind) || self.erased.iter().any(|(k, _)| *k == kind)
    }

    fn names(&self, kind: RecordKind, name: &Name) -> bool {
        self.changes.iter().any(|change| change.kind == kind && change.name == *name)
            || self.erased.iter().any(|(k, n)| *k == kind && n == name)
    }
}

fn policy_sets_after(held: Option<&CellState>, step: &Step<'_>) -> Arc<BTreeMap<Name, PolicySet>> {
    let mut sets = held.map(|held| Arc::clone(&held.policy_sets)).unwrap_or_default();
    if step.touches(RecordKind::PolicySet) {
        let edited = Arc::make_mut(&mut sets);
        edited.retain(|name, _| !step.names(RecordKind::PolicySet, name));
        for change in step.changes {
            if let Some(Record::PolicySet(set)) = &change.record {
                edited.insert(change.name.clone(), PolicySet::clone(set));
            }
        }
    }
    sets
}

fn exceptions_after(held_cell: Option<&CellState>, step: &Step<'_>) -> Arc<[Arc<Held<Exception>>]> {
    let old = held_cell.map(|held| Arc::clone(&held.exceptions)).unwrap_or_default();
    if !step.touches(RecordKind::Exception) {
        return old;
    }
    let kept = old.iter().filter(|held| !step.names(RecordKind::Exception, &held.name)).cloned();
    let fresh = step.changes.iter().filter_map(|change| match &change.record {
        Some(Record::Exception(value)) => held(step.cell, Some(change), Some(value.clone())),
        _ => None,
    });
    kept.chain(fresh).collect()
}

/// What a record adds to its cell's digest.
pub(super) fn element(change: &Change) -> Element {
    Element::new(change.kind, &change.name, change.generation, change.revision, change.record.as_ref())
}

fn held<T>(cell: &Name, change: Option<&Change>, value: Option<Arc<T>>) -> Option<Arc<Held<T>>> {
    change.map(|change| {
        Arc::new(Held {
            tenant: cell.clone(),
            name: change.name.clone(),
            generation: change.generation,
            revision: change.revision,
            value,
        })
    })
}

pub(super) fn epoch_error(cell: &Name, held: Epoch, given: Epoch) -> ApplyError {
    ApplyError::Epoch { cell: cell.clone(), held, given }
}

const OF_ANOTHER_KIND: &str = "the record is of another kind than its change";
