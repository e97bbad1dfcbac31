//! Making the next state from a batch: everything is checked beside the old one, then returned whole.

use std::collections::HashSet;

use super::*;

/// Edits gathered for each table, applied in one pass each.
#[derive(Default)]
struct Edits {
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

impl Snapshot {
    /// The state after `batch`.
    ///
    /// # Errors
    /// [`ApplyError`] when it does not follow on, is inconsistent, or its policies do not compile.
    pub fn apply(&self, batch: &Batch) -> Result<Self, ApplyError> {
        self.follows(batch)?;
        self.advance(batch)
    }

    /// The state with `batch` in place of everything the cell held.
    ///
    /// What the cell held and the batch does not name becomes absent, and therefore refused.
    ///
    /// # Errors
    /// As [`Self::apply`]; a position before the one held is refused as a gap.
    pub fn replace_cell(&self, batch: &Batch) -> Result<Self, ApplyError> {
        if let Some(held) = self.cell(&batch.cell) {
            let newer_epoch = batch.epoch > held.epoch;
            if batch.epoch < held.epoch {
                return Err(epoch_error(batch, held.epoch));
            }
            if !newer_epoch && batch.to_revision < held.revision {
                return Err(gap(batch, held.revision));
            }
        }
        let kept: Vec<_> = self.cells.iter().filter(|c| c.cell != batch.cell).cloned().collect();
        let mut rest = Self::empty(self.keyer);
        for cell in &kept {
            let changes = self.export(&cell.cell);
            rest = rest.advance(&Batch {
                cell: cell.cell.clone(),
                epoch: cell.epoch,
                from_revision: 0,
                to_revision: cell.revision,
                history_hash: cell.history_hash,
                changes,
            })?;
        }
        rest.advance(batch).map(|next| Self { root: self.root + 1, ..next })
    }

    fn follows(&self, batch: &Batch) -> Result<(), ApplyError> {
        let (at, epoch) = self.cell(&batch.cell).map_or((0, batch.epoch), |cell| (cell.revision, cell.epoch));
        if epoch != batch.epoch {
            return Err(epoch_error(batch, epoch));
        }
        if at != batch.from_revision || batch.to_revision < batch.from_revision {
            return Err(gap(batch, at));
        }
        Ok(())
    }

    fn advance(&self, batch: &Batch) -> Result<Self, ApplyError> {
        let mut edits = Edits::default();
        let mut policy_sets = self.cell(&batch.cell).map(|c| Arc::clone(&c.policy_sets)).unwrap_or_default();
        let mut touched_policy = false;
        let mut touched_exceptions = false;
        let mut named = HashSet::with_capacity(batch.changes.len());
        for change in &batch.changes {
            self.check(batch, change)?;
            if !named.insert(self.named(change.kind.into(), &batch.cell, &change.name)) {
                let why = "it is changed twice in one batch";
                return Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
            }
            match change.kind {
                RecordKind::PolicySet => {
                    touched_policy = true;
                    let sets = Arc::make_mut(&mut policy_sets);
                    match &change.record {
                        Some(Record::PolicySet(set)) => {
                            sets.insert(change.name.clone(), PolicySet::clone(set))
                        }
                        _ => sets.remove(&change.name),
                    };
                }
                RecordKind::Exception => touched_exceptions = true,
                _ => {}
            }
            self.gather(&mut edits, &batch.cell, change);
        }
        let policy = match self.cell(&batch.cell) {
            Some(cell) if !touched_policy => Arc::clone(&cell.policy),
            _ => Arc::new(TenantPolicy::compile(&policy_sets)?),
        };
        let exceptions = self.exceptions_after(batch, touched_exceptions);
        Ok(self.assemble(batch, edits, policy, exceptions, policy_sets))
    }

    fn exceptions_after(&self, batch: &Batch, touched: bool) -> Arc<[Arc<Held<Exception>>]> {
        let old = self.cell(&batch.cell).map(|c| Arc::clone(&c.exceptions)).unwrap_or_default();
        if !touched {
            return old;
        }
        let changed: Vec<_> = batch.changes.iter().filter(|c| c.kind == RecordKind::Exception).collect();
        let kept = old.iter().filter(|held| !changed.iter().any(|c| c.name == held.name)).cloned();
        let fresh = changed.iter().filter_map(|change| match &change.record {
            Some(Record::Exception(value)) => Some(Arc::new(held(&batch.cell, change, Some(value.clone())))),
            _ => None,
        });
        kept.chain(fresh).collect()
    }

    fn check(&self, batch: &Batch, change: &Change) -> Result<(), ApplyError> {
        let refuse = |why| Err(ApplyError::Record { kind: change.kind, name: change.name.clone(), why });
        if change.record.as_ref().is_some_and(|record| record.kind() != change.kind) {
            return refuse("the record is of another kind than its change");
        }
        if change.revision > batch.to_revision {
            return refuse("the record is newer than its batch");
        }
        match self.generation(&batch.cell, change) {
            Some(held) if change.generation < held => refuse("the generation would fall"),
            _ => Ok(()),
        }
    }

    fn generation(&self, cell: &Name, change: &Change) -> Option<u32> {
        let key = self.named(change.kind.into(), cell, &change.name);
        let tables = &self.records;
        match change.kind {
            RecordKind::Identity => tables.identities.at(key).map(|h| h.generation),
            RecordKind::Credential => tables.credentials.at(key).map(|h| h.generation),
            RecordKind::Issuer => tables.issuers.at(key).map(|h| h.generation),
            RecordKind::Revocation => tables.revocations.at(key).map(|h| h.generation),
            RecordKind::PolicySet => tables.policy_sets.at(key).map(|h| h.generation),
            RecordKind::Exception => tables.exceptions.at(key).map(|h| h.generation),
            RecordKind::Resource => tables.resources.at(key).map(|h| h.generation),
        }
    }

    fn gather(&self, edits: &mut Edits, cell: &Name, change: &Change) {
        let key = self.named(change.kind.into(), cell, &change.name);
        match (change.kind, change.record.clone()) {
            (RecordKind::Identity, record) => {
                let value = match record {
                    Some(Record::Identity(v)) => Some(v),
                    _ => None,
                };
                self.gather_bindings(edits, cell, change, value.as_deref(), key);
                edits.identities.push((key, Some(Arc::new(held(cell, change, value)))));
            }
            (RecordKind::Credential, record) => {
                let value = match record {
                    Some(Record::Credential(v)) => Some(v),
                    _ => None,
                };
                self.gather_fingerprint(edits, cell, change, value.as_deref(), key);
                edits.credentials.push((key, Some(Arc::new(held(cell, change, value)))));
            }
            (RecordKind::Issuer, record) => {
                let value = match record {
                    Some(Record::Issuer(v)) => Some(v),
                    _ => None,
                };
                let issuer = Arc::new(held(cell, change, value));
                self.gather_iss(edits, cell, &issuer, key);
                edits.issuers.push((key, Some(issuer)));
            }
            (RecordKind::Revocation, record) => {
                let value = match record {
                    Some(Record::Revocation(v)) => Some(v),
                    _ => None,
                };
                let revocation = Arc::new(held(cell, change, value));
                self.gather_kill(edits, cell, &revocation, key);
                edits.revocations.push((key, Some(revocation)));
            }
            (RecordKind::PolicySet, record) => {
                let value = match record {
                    Some(Record::PolicySet(v)) => Some(v),
                    _ => None,
                };
                edits.policy_sets.push((key, Some(Arc::new(held(cell, change, value)))));
            }
            (RecordKind::Exception, record) => {
                let value = match record {
                    Some(Record::Exception(v)) => Some(v),
                    _ => None,
                };
                edits.exceptions.push((key, Some(Arc::new(held(cell, change, value)))));
            }
            (RecordKind::Resource, record) => {
                let value = match record {
                    Some(Record::Resource(v)) => Some(v),
                    _ => None,
                };
                edits.resources.push((key, Some(Arc::new(held(cell, change, value)))));
            }
        }
    }

    fn gather_bindings(
        &self,
        edits: &mut Edits,
        cell: &Name,
        change: &Change,
        new: Option<&Identity>,
        key: u128,
    ) {
        let old = self.records.identities.at(key).and_then(|h| h.value.as_deref());
        for binding in old.iter().flat_map(|identity| &identity.bindings) {
            let subject = self.subject_key(cell, &binding.issuer, &binding.subject);
            if self.subjects.at(subject) == Some(&change.name) {
                edits.subjects.released.push(subject);
            }
        }
        for binding in new.iter().flat_map(|identity| &identity.bindings) {
            let subject = self.subject_key(cell, &binding.issuer, &binding.subject);
            edits.subjects.claimed.push((subject, change.name.clone()));
        }
    }

    fn gather_fingerprint(
        &self,
        edits: &mut Edits,
        cell: &Name,
        change: &Change,
        new: Option<&Credential>,
        key: u128,
    ) {
        let place = |credential: &Credential| {
            self.keyer.key(Space::Fingerprint, &[cell.as_str().as_bytes(), &credential.fingerprint])
        };
        let old = self.records.credentials.at(key).and_then(|h| h.value.as_deref()).map(place);
        edits.fingerprints.released.extend(old.filter(|at| self.fingerprints.at(*at) == Some(&change.name)));
        edits.fingerprints.claimed.extend(new.map(|credential| (place(credential), change.name.clone())));
    }

    fn gather_iss(&self, edits: &mut Edits, cell: &Name, new: &Arc<Held<Issuer>>, key: u128) {
        let place = |issuer: &Issuer| {
            self.keyer.key(Space::IssuerByIss, &[cell.as_str().as_bytes(), issuer.iss.as_bytes()])
        };
        let old = self.records.issuers.at(key).and_then(|h| h.value.as_deref()).map(place);
        edits
            .by_iss
            .released
            .extend(old.filter(|at| self.by_iss.at(*at).is_some_and(|h| h.name == new.name)));
        edits.by_iss.claimed.extend(new.value.as_deref().map(|issuer| (place(issuer), Arc::clone(new))));
    }

    fn gather_kill(&self, edits: &mut Edits, cell: &Name, new: &Arc<Held<Revocation>>, key: u128) {
        let old = self.records.revocations.at(key).and_then(|h| h.value.as_deref());
        let places = [old, new.value.as_deref()].map(|r| r.map(|r| self.kill_key(cell, &r.target)));
        for place in places.into_iter().flatten() {
            let before =
                edits.kills.get(&place).or_else(|| self.kills.at(place)).cloned().unwrap_or_default();
            let others = before.iter().filter(|held| held.name != new.name).cloned();
            edits.kills.insert(place, others.collect());
        }
        if let [_, Some(place)] = places {
            let others = edits.kills.get(&place).cloned().unwrap_or_default();
            edits.kills.insert(place, others.iter().cloned().chain([Arc::clone(new)]).collect());
        }
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

    fn assemble(
        &self,
        batch: &Batch,
        edits: Edits,
        policy: Arc<TenantPolicy>,
        exceptions: Arc<[Arc<Held<Exception>>]>,
        policy_sets: Arc<BTreeMap<Name, PolicySet>>,
    ) -> Self {
        let kills = edits.kills.into_iter().map(|(key, list)| (key, (!list.is_empty()).then_some(list)));
        let cell = CellState {
            cell: batch.cell.clone(),
            epoch: batch.epoch,
            revision: batch.to_revision,
            history_hash: batch.history_hash,
            policy,
            exceptions,
            policy_sets,
        };
        let mut cells: Vec<_> = self.cells.iter().filter(|held| held.cell != batch.cell).cloned().collect();
        cells.push(cell);
        cells.sort_by(|a, b| a.cell.cmp(&b.cell));
        let highest = Position { epoch: batch.epoch, revision: batch.to_revision };
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
        }
    }
}

fn held<T>(cell: &Name, change: &Change, value: Option<Arc<T>>) -> Held<T> {
    Held {
        tenant: cell.clone(),
        name: change.name.clone(),
        generation: change.generation,
        revision: change.revision,
        value,
    }
}

fn gap(batch: &Batch, at: u64) -> ApplyError {
    ApplyError::Gap { cell: batch.cell.clone(), at, from: batch.from_revision }
}

fn epoch_error(batch: &Batch, held: Epoch) -> ApplyError {
    ApplyError::Epoch { cell: batch.cell.clone(), held, given: batch.epoch }
}
