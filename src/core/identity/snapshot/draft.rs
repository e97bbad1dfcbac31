//! The next state while it is being made: the old one's pointers, with whatever is touched its own.

use std::collections::HashSet;

use super::*;
use crate::core::identity::digest::{Element, Sum};
use crate::core::identity::links::{Link, LinkEdits};
use crate::core::identity::packed::{Head, Stamp, pack_credential, pack_head, pack_identity};
use crate::core::identity::record::Written;
use crate::core::identity::rows::RowEdit;

/// One cell's next state.
#[derive(Debug)]
pub(super) struct Draft {
    /// What generations are compared with.
    before: Snapshot,
    pub(super) next: Snapshot,
    cell: Name,
    revision: u64,
    /// Whether a generation may fall: another lineage, or a table known to be damaged.
    may_fall: bool,
    sum: Arc<Sum>,
    records: u64,
    policy_sets: Arc<BTreeMap<Name, PolicySet>>,
    exceptions: Arc<[Arc<Held<Exception>>]>,
    introspecting: Arc<[Arc<Held<Issuer>>]>,
    policy: Option<Arc<TenantPolicy>>,
}

/// Edits gathered for each table, made in one pass each.
#[derive(Default)]
struct Edits {
    identities: Packed,
    credentials: Packed,
    issuers: Vec<(u128, Option<Arc<Held<Issuer>>>)>,
    revocations: Vec<(u128, Option<Arc<Held<Revocation>>>)>,
    policy_sets: Vec<(u128, Option<Arc<Held<PolicySet>>>)>,
    exceptions: Vec<(u128, Option<Arc<Held<Exception>>>)>,
    resources: Vec<(u128, Option<Arc<Held<Resource>>>)>,
    status_lists: Vec<(u128, Option<Arc<Held<StatusList>>>)>,
    iss_released: Vec<u128>,
    iss_claimed: Vec<(u128, Arc<Held<Issuer>>)>,
    kills: BTreeMap<u128, Kills>,
}

/// Edits of a kind that is held packed.
#[derive(Default)]
struct Packed {
    rows: Vec<RowEdit>,
    links: LinkEdits,
}

impl Draft {
    /// Begins with a cell as it is in `state`, or with none.
    pub(super) fn new(state: &Snapshot, cell: &Name, revision: u64, may_fall: bool) -> Self {
        let held = state.cell(cell);
        Self {
            before: state.clone(),
            next: state.clone(),
            cell: cell.clone(),
            revision,
            may_fall,
            sum: held.map(|held| Arc::clone(&held.sum)).unwrap_or_default(),
            records: held.map_or(0, |held| held.records),
            policy_sets: held.map(|held| Arc::clone(&held.policy_sets)).unwrap_or_default(),
            exceptions: held.map(|held| Arc::clone(&held.exceptions)).unwrap_or_default(),
            introspecting: held.map(|held| Arc::clone(&held.introspecting)).unwrap_or_default(),
            policy: held.map(|held| Arc::clone(&held.policy)),
        }
    }

    /// Goes on from a sum, and a number of records, other than the cell's.
    pub(super) fn goes_on_from(&mut self, sum: Sum, records: u64) {
        self.sum = Arc::new(sum);
        self.records = records;
    }

    /// Takes changes over, at most one of a record.
    pub(super) fn put(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        let mut named = HashSet::with_capacity(changes.len());
        let mut edits = Edits::default();
        for change in changes {
            let key = self.check(change)?;
            if !named.insert(key) {
                return Err(self.refused(change, "it is changed twice in one batch"));
            }
            let left = (!change.dropped).then_some(change);
            self.gather(&mut edits, change.kind, &change.name, left, key);
        }
        self.make(edits);
        Ok(())
    }

    /// Takes records away without a trace.
    pub(super) fn erase(&mut self, records: &[(RecordKind, Name)]) {
        let mut edits = Edits::default();
        for (kind, name) in records {
            let key = self.next.named((*kind).into(), &self.cell, name.as_str());
            self.gather(&mut edits, *kind, name, None, key);
        }
        self.make(edits);
    }

    /// Whether a record of this name is there already.
    pub(super) fn holds(&self, kind: RecordKind, name: &Name) -> bool {
        self.next.generation(&self.cell, kind, name).is_some()
    }

    /// The state with the cell as it has become. The overlay is as before.
    pub(super) fn finish(mut self, epoch: Epoch, history_hash: [u8; 32]) -> Result<Snapshot, ApplyError> {
        let held = self.next.cell(&self.cell);
        // What the order brings covers every revocation up to there.
        let kill_revision = match held {
            Some(held) if held.epoch == epoch => held.kill_revision.max(self.revision),
            _ => self.revision,
        };
        let confirmed = held.is_none_or(|held| held.confirmed);
        let policy = match self.policy {
            Some(policy) => policy,
            None => Arc::new(TenantPolicy::compile(&self.policy_sets)?),
        };
        let cell = CellState {
            cell: self.cell,
            epoch,
            revision: self.revision,
            kill_revision,
            history_hash,
            state_digest: self.sum.digest(),
            records: self.records,
            confirmed,
            policy,
            sum: self.sum,
            exceptions: self.exceptions,
            introspecting: self.introspecting,
            policy_sets: self.policy_sets,
        };
        self.next.root += 1;
        self.next.position = self.next.position.max(Position { epoch, revision: self.revision });
        let mut cells: Vec<_> = self.next.cells.iter().filter(|h| h.cell != cell.cell).cloned().collect();
        let at = cells.partition_point(|held| held.cell < cell.cell);
        cells.insert(at, cell);
        self.next.cells = Arc::from(cells);
        Ok(self.next)
    }

    fn refused(&self, change: &Change, why: &'static str) -> ApplyError {
        ApplyError::Record { kind: change.kind, name: change.name.clone(), why }
    }

    /// Whether a change may be taken over at all; the key of its record.
    fn check(&self, change: &Change) -> Result<u128, ApplyError> {
        if change.record.as_ref().is_some_and(|record| record.kind() != change.kind) {
            return Err(self.refused(change, super::apply::OF_ANOTHER_KIND));
        }
        if change.revision > self.revision {
            return Err(self.refused(change, "the record is newer than its batch"));
        }
        let held = || self.before.generation(&self.cell, change.kind, &change.name);
        if change.dropped && (change.record.is_some() || held().is_none()) {
            return Err(self.refused(change, "it is let go of, and is not there or has a value"));
        }
        if !self.may_fall && held().is_some_and(|held| change.generation < held) {
            return Err(self.refused(change, "the generation would fall"));
        }
        Ok(self.next.named(change.kind.into(), &self.cell, change.name.as_str()))
    }

    /// Takes one record over into the edits; without a change it is erased.
    fn gather(
        &mut self,
        edits: &mut Edits,
        kind: RecordKind,
        name: &Name,
        change: Option<&Change>,
        key: u128,
    ) {
        macro_rules! take {
            ($table:ident, $variant:ident) => {{
                let value = match change.and_then(|change| change.record.as_ref()) {
                    Some(Record::$variant(value)) => Some(Arc::clone(value)),
                    _ => None,
                };
                let new = change.map(|change| held(&self.cell, change, value));
                let old = self.next.records.$table.at(key).cloned();
                self.count(kind, old.as_deref(), new.as_deref());
                edits.$table.push((key, new.clone()));
                (old, new)
            }};
        }
        match kind {
            RecordKind::Identity => self.gather_row(&mut edits.identities, kind, name, change, key),
            RecordKind::Credential => self.gather_row(&mut edits.credentials, kind, name, change, key),
            RecordKind::Issuer => {
                let (old, new) = take!(issuers, Issuer);
                self.gather_iss(edits, name, old.as_deref(), new.as_ref());
                let introspects = |held: &Arc<Held<Issuer>>| {
                    held.value.as_ref().is_some_and(|issuer| issuer.introspection.is_some())
                };
                if [&old, &new].into_iter().flatten().any(introspects) {
                    let kept = self.introspecting.iter().filter(|held| held.name != *name).cloned();
                    self.introspecting = kept.chain(new.filter(introspects)).collect();
                }
            }
            RecordKind::Revocation => {
                let (old, new) = take!(revocations, Revocation);
                self.gather_kill(edits, name, old.as_ref(), new.as_ref());
            }
            RecordKind::PolicySet => {
                let (_, new) = take!(policy_sets, PolicySet);
                let sets = Arc::make_mut(&mut self.policy_sets);
                match new.as_deref().and_then(|held| held.value.as_deref()) {
                    Some(set) => sets.insert(name.clone(), set.clone()),
                    None => sets.remove(name),
                };
                self.policy = None;
            }
            RecordKind::Exception => {
                let (_, new) = take!(exceptions, Exception);
                let kept = self.exceptions.iter().filter(|held| held.name != *name).cloned();
                self.exceptions = kept.chain(new.filter(|held| held.value.is_some())).collect();
            }
            RecordKind::Resource => {
                take!(resources, Resource);
            }
            RecordKind::StatusList => {
                take!(status_lists, StatusList);
            }
        }
    }

    /// Takes what was there out of the sum and puts in what will be.
    fn count<T: Written>(&mut self, kind: RecordKind, old: Option<&Held<T>>, new: Option<&Held<T>>) {
        let sum = Arc::make_mut(&mut self.sum);
        if let Some(old) = old {
            sum.remove(element(kind, old));
            self.records = self.records.saturating_sub(1);
        }
        if let Some(new) = new {
            sum.add(element(kind, new));
            self.records += 1;
        }
    }

    fn gather_row(
        &mut self,
        edits: &mut Packed,
        kind: RecordKind,
        name: &Name,
        change: Option<&Change>,
        key: u128,
    ) {
        let to = place(key);
        let link = |from: u128| Link { from, to };
        let sum = Arc::make_mut(&mut self.sum);
        let old = self.next.packed_row(kind, &self.cell, name.as_str());
        let mut gone = Vec::new();
        if let Some(old) = old.and_then(|row| self.next.reading(kind, &self.cell, row)) {
            sum.remove(old.element);
            gone = old.keys;
            self.records = self.records.saturating_sub(1);
        }
        let head = Head { tenant: &self.cell, name };
        let texts = &mut self.next.texts;
        let Some(change) = change else {
            edits.links.gone.extend(gone.into_iter().map(link));
            let row = pack_head(&head, texts);
            edits.rows.push(RowEdit { place: to, head: row.len(), row, comes: false });
            return;
        };
        let stamp = Stamp { generation: change.generation, revision: change.revision };
        let (row, head) = match &change.record {
            Some(Record::Identity(value)) => pack_identity(&head, &stamp, texts, Some(value)),
            Some(Record::Credential(value)) => pack_credential(&head, &stamp, texts, Some(value)),
            _ => pack_identity(&head, &stamp, texts, None),
        };
        // What is digested is what the table will hold, read as a decision reads it.
        let mut come = Vec::new();
        if let Some(new) = self.next.reading(kind, &self.cell, &row) {
            sum.add(new.element);
            come = new.keys;
        }
        // Nearly always the same: then no leaf of theirs is touched.
        if gone != come {
            edits.links.gone.extend(gone.into_iter().map(link));
            edits.links.come.extend(come.into_iter().map(link));
        }
        self.records += 1;
        edits.rows.push(RowEdit { place: to, row, head, comes: true });
    }

    /// A claim wins over a release whatever their order in the batch, so that an `iss` can move
    /// from one record to another in one transaction.
    fn gather_iss(
        &self,
        edits: &mut Edits,
        name: &Name,
        old: Option<&Held<Issuer>>,
        new: Option<&Arc<Held<Issuer>>>,
    ) {
        let next = &self.next;
        let place = |issuer: &Issuer| {
            next.keyer.key(Space::IssuerByIss, &[self.cell.as_str().as_bytes(), issuer.iss.as_bytes()])
        };
        let old = old.and_then(|held| held.value.as_deref()).map(place);
        edits.iss_released.extend(old.filter(|at| next.by_iss.at(*at).is_some_and(|h| h.name == *name)));
        let claimed = new.and_then(|held| Some((place(held.value.as_deref()?), Arc::clone(held))));
        edits.iss_claimed.extend(claimed);
    }

    fn gather_kill(
        &self,
        edits: &mut Edits,
        name: &Name,
        old: Option<&Arc<Held<Revocation>>>,
        new: Option<&Arc<Held<Revocation>>>,
    ) {
        for gone in [old, new].into_iter().flatten() {
            let Some(revocation) = gone.value.as_deref() else { continue };
            let place = self.next.kill_key(&self.cell, &revocation.target);
            let before =
                edits.kills.get(&place).or_else(|| self.next.kills.at(place)).cloned().unwrap_or_default();
            // By value, too: one of that name may be carried from another lineage.
            let others = before.iter().filter(|held| held.name != *name || held.value != gone.value);
            edits.kills.insert(place, others.cloned().collect());
        }
        if let Some((held, revocation)) = new.and_then(|held| Some((held, held.value.as_deref()?))) {
            let place = self.next.kill_key(&self.cell, &revocation.target);
            let others = edits.kills.get(&place).cloned().unwrap_or_default();
            edits.kills.insert(place, others.iter().cloned().chain([Arc::clone(held)]).collect());
        }
    }

    fn make(&mut self, edits: Edits) {
        let next = &mut self.next;
        let kills = edits.kills.into_iter().map(|(key, list)| (key, (!list.is_empty()).then_some(list)));
        let released = edits.iss_released.into_iter().map(|key| (key, None));
        let claimed = edits.iss_claimed.into_iter().map(|(key, held)| (key, Some(held)));
        next.records.identities.edit(edits.identities.rows);
        next.records.credentials.edit(edits.credentials.rows);
        next.records.issuers.edit(edits.issuers);
        next.records.revocations.edit(edits.revocations);
        next.records.policy_sets.edit(edits.policy_sets);
        next.records.exceptions.edit(edits.exceptions);
        next.records.resources.edit(edits.resources);
        next.records.status_lists.edit(edits.status_lists);
        next.by_iss.edit(released.chain(claimed).collect());
        next.subjects.edit(edits.identities.links);
        next.fingerprints.edit(edits.credentials.links);
        next.kills.edit(kills.collect());
    }
}

impl Snapshot {
    /// The state with these records of a cell in its tables, and nothing said about them: neither
    /// position nor digest moves.
    pub(super) fn with_rows(&self, cell: &Name, changes: &[Change]) -> Self {
        let mut draft = Draft::new(self, cell, u64::MAX, true);
        let mut edits = Edits::default();
        for change in changes {
            let key = self.named(change.kind.into(), cell, change.name.as_str());
            draft.gather(&mut edits, change.kind, &change.name, Some(change), key);
        }
        draft.make(edits);
        draft.next
    }
}

/// What a record adds to its cell's digest.
pub(super) fn element<T: Written>(kind: RecordKind, held: &Held<T>) -> Element {
    Element::new(kind, held.name.as_str(), held.generation, held.revision, held.value.as_deref())
}

fn held<T>(cell: &Name, change: &Change, value: Option<Arc<T>>) -> Arc<Held<T>> {
    Arc::new(Held {
        tenant: cell.clone(),
        name: change.name.clone(),
        generation: change.generation,
        revision: change.revision,
        value,
    })
}
