//! A store in memory, whose disk outlives the hubs over it, and can fail in the ways disks do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use portreeve::core::id::{Epoch, Name, Position};
use portreeve::core::identity::{Change, IdentityStatus, Record, RecordKind};
use portreeve::core::time::{Clock, Timestamp};
use portreeve::hub::store::{
    BODY_BYTES_MAX, CellImage, CellPosition, ChangeSet, Committed, Conflict, ConflictKind, Dispatched, Edit,
    EditName, Expect, FaultKind, Guarantee, Head, ITEM_BYTES_MAX, Item, ItemConflict, Logged, Minted, Page,
    RECORD_BYTES_MAX, StateStore, StoreError, StoreFault, StoreIdentity, StoredMember, StoredReceipt,
    StoredRecord, Work, global_hash,
};
use portreeve::wire::state::{encode_body, encode_record, history_hash};

use super::random::Random;

type RecordKey = (Name, &'static str, Name);

/// What lies on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    identity: StoreIdentity,
    head: Head,
    oldest: u64,
    /// How often some of the log was let go.
    trims: u64,
    cells: BTreeMap<Name, CellPosition>,
    records: BTreeMap<RecordKey, StoredRecord>,
    changed: BTreeMap<RecordKey, Timestamp>,
    dropped: BTreeMap<RecordKey, StoredRecord>,
    log: BTreeMap<u64, Logged>,
    members: BTreeMap<(String, [u8; 16]), StoredMember>,
    items: BTreeMap<(String, String), Item>,
    item_version: u64,
    receipts: BTreeMap<(u64, String, [u8; 16]), StoredReceipt>,
}

/// A disk. Whoever opens it shares it.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<Contents>>);

/// Is told of each commit, as it happens.
pub(crate) type Told = Arc<dyn Fn(&Name, u64, &[Change]) + Send + Sync>;

/// What is wrong with one hub's way to its store.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Another was promoted: this one takes no writes any more.
    pub(crate) deposed: bool,
    /// How a broken build behaves: it answers heartbeats without writing.
    pub(crate) lies: bool,
    /// The next commits fail: before anything of them has happened, or when all of it has.
    pub(crate) fails: Vec<Fails>,
    /// The next commit's history hash is not what its body makes it.
    pub(crate) poisons: bool,
    /// How long work waits before, and its answer after, at most, in milliseconds.
    pub(crate) slow_ms: u64,
}

/// When a commit fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fails {
    Before,
    After,
}

/// One hub's store.
pub(crate) struct MemoryStore {
    disk: Disk,
    identity: StoreIdentity,
    clock: Arc<dyn Clock>,
    trouble: Arc<Mutex<Trouble>>,
    /// Drawn from with the time, since the order of what comes at one instant is not ours to say.
    seed: u64,
    told: Told,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        let epoch = epoch_after(None);
        Self(Arc::new(Mutex::new(Contents {
            identity: StoreIdentity { cluster_id: [0xc1; 16], epoch, parent: None },
            head: Head { position: Position { epoch, revision: 0 }, global_hash: [0; 32] },
            oldest: 1,
            trims: 0,
            cells: BTreeMap::new(),
            records: BTreeMap::new(),
            changed: BTreeMap::new(),
            dropped: BTreeMap::new(),
            log: BTreeMap::new(),
            members: BTreeMap::new(),
            items: BTreeMap::new(),
            item_version: 0,
            receipts: BTreeMap::new(),
        })))
    }

    /// What is on it now, as a backup.
    pub(crate) fn contents(&self) -> Contents {
        self.0.lock().clone()
    }

    /// Puts a backup back.
    pub(crate) fn put_back(&self, contents: Contents) {
        *self.0.lock() = contents;
    }

    /// A disk of its own with the same on it.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.contents())))
    }

    /// How often some of the log was let go.
    pub(crate) fn trims(&self) -> u64 {
        self.0.lock().trims
    }

    pub(crate) fn head(&self) -> Position {
        self.0.lock().head.position
    }

    /// Opens it for someone to whom nothing happens.
    pub(crate) fn open_plainly(&self, clock: Arc<dyn Clock>) -> MemoryStore {
        self.open(clock, Arc::default(), 0, Arc::new(|_, _, _| {}))
    }

    pub(crate) fn open(
        &self,
        clock: Arc<dyn Clock>,
        trouble: Arc<Mutex<Trouble>>,
        seed: u64,
        told: Told,
    ) -> MemoryStore {
        let identity = self.0.lock().identity;
        MemoryStore { disk: self.clone(), identity, clock, trouble, seed, told }
    }
}

impl MemoryStore {
    fn fault(&self, kind: FaultKind, what: &str) -> StoreError {
        StoreFault::at(self.describe(), kind, what).into()
    }

    fn read<T>(&self, work: impl FnOnce(&Contents) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let held = self.disk.0.lock();
        if held.identity.epoch != self.identity.epoch {
            return Err(self.fault(FaultKind::Superseded, "a new epoch was begun"));
        }
        work(&held)
    }

    /// Does all of `work`, or none of it.
    fn write<T>(&self, work: impl FnOnce(&mut Contents) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.trouble.lock().deposed {
            return Err(self.fault(FaultKind::Superseded, "another takes the writes"));
        }
        let mut held = self.disk.0.lock();
        if held.identity.epoch != self.identity.epoch {
            return Err(self.fault(FaultKind::Superseded, "a new epoch was begun"));
        }
        let mut next = held.clone();
        let done = work(&mut next)?;
        *held = next;
        Ok(done)
    }

    /// How long to wait before work, and after it.
    fn waits(&self) -> [Duration; 2] {
        let slow = self.trouble.lock().slow_ms;
        let mut random = Random::new(self.seed ^ self.clock.now().boot.as_micros());
        [(); 2].map(|()| Duration::from_millis(random.below(slow + 1)))
    }
}

impl Contents {
    fn record(&self, tenant: &Name, kind: RecordKind, name: &Name) -> Option<&StoredRecord> {
        let key = (tenant.clone(), kind.as_str(), name.clone());
        self.records.get(&key).or_else(|| self.dropped.get(&key))
    }

    fn of<'a>(&'a self, tenant: &'a Name) -> impl Iterator<Item = &'a StoredRecord> {
        self.records.iter().filter(move |((held, ..), _)| *held == *tenant).map(|(_, record)| record)
    }

    fn change(&self, tenant: &Name, revision: u64, edit: &Edit) -> Result<Change, StoreError> {
        let name = match &edit.name {
            EditName::Given(name) => name.clone(),
            EditName::ByRevision => Name::parse(&format!("r{revision}")).unwrap(),
        };
        let conflict = |why| StoreError::from(Conflict { kind: edit.kind, name: name.clone(), why });
        let generation = match self.record(tenant, edit.kind, &name) {
            Some(held) if edit.drops && !held.dropped => {
                if held.body.is_some() && edit.kind != RecordKind::Revocation {
                    let why = "a live record cannot be let go of".to_owned();
                    return Err(StoreError::Malformed { tenant: tenant.clone(), why });
                }
                held.generation
            }
            Some(StoredRecord { body: None, .. }) => return Err(conflict(ConflictKind::Removed)),
            None if edit.record.is_none() => return Err(conflict(ConflictKind::Missing)),
            None => 1,
            Some(held) => {
                let before = status(held.change().unwrap().record.as_ref());
                let after = status(edit.record.as_ref());
                let moves = before.is_some() && after.is_some() && before != after;
                held.generation + u32::from(edit.reinstates || moves)
            }
        };
        let record = edit.record.clone();
        Ok(Change { kind: edit.kind, name, generation, revision, record, dropped: edit.drops })
    }

    fn expect(&self, tenant: &Name, expected: &Expect) -> Result<(), StoreError> {
        let why = match (expected.revision, self.record(tenant, expected.kind, &expected.name)) {
            (None, None) => return Ok(()),
            (Some(revision), Some(held)) if held.revision == revision => return Ok(()),
            (None, Some(StoredRecord { body: None, .. })) => ConflictKind::Removed,
            (None, Some(_)) => ConflictKind::Exists,
            (Some(_), None) => ConflictKind::Missing,
            (Some(expected), Some(held)) => ConflictKind::Changed { expected, found: held.revision },
        };
        Err(Conflict { kind: expected.kind, name: expected.name.clone(), why }.into())
    }

    fn take(
        &mut self,
        set: &ChangeSet,
        expect: &[Expect],
        at: Timestamp,
        poisoned: bool,
    ) -> Result<(u64, Vec<Change>), StoreError> {
        let tenant = &set.tenant;
        let malformed = |why: &str| StoreError::Malformed { tenant: tenant.clone(), why: why.to_owned() };
        let nothing = CellPosition { tenant: tenant.clone(), revision: 0, history_hash: [0; 32] };
        let cell = self.cells.get(tenant).cloned().unwrap_or(nothing);
        if let Some(expected) = set.stands_at.filter(|expected| *expected != cell.revision) {
            return Err(StoreError::Moved { tenant: tenant.clone(), expected, found: cell.revision });
        }
        expect.iter().try_for_each(|expected| self.expect(tenant, expected))?;
        let revision = self.head.position.revision + 1;
        let changes = set
            .edits
            .iter()
            .map(|edit| self.change(tenant, revision, edit))
            .collect::<Result<Vec<_>, _>>()?;
        let named: BTreeSet<_> = changes.iter().map(|c| (c.kind.as_str(), c.name.clone())).collect();
        if changes.is_empty() || named.len() != changes.len() {
            return Err(malformed("it is empty, or names a record twice"));
        }
        let body = encode_body(&changes);
        let records: Vec<_> = changes.iter().map(|c| c.record.as_ref().map(encode_record)).collect();
        let long = records.iter().flatten().any(|record| record.len() > RECORD_BYTES_MAX);
        if long || body.len() > BODY_BYTES_MAX {
            return Err(malformed("it is too long"));
        }
        let mut hash = history_hash(&cell.history_hash, revision, &body);
        hash[0] ^= u8::from(poisoned);
        self.head.global_hash = global_hash(&self.head.global_hash, tenant.as_str(), &hash);
        self.head.position.revision = revision;
        let next = CellPosition { tenant: tenant.clone(), revision, history_hash: hash };
        self.cells.insert(tenant.clone(), next);
        for (change, body) in changes.iter().zip(records) {
            let key = (tenant.clone(), change.kind.as_str(), change.name.clone());
            let (kind, name, generation) = (change.kind, change.name.clone(), change.generation);
            let dropped = change.dropped;
            let record = StoredRecord { kind, name, generation, revision, body, dropped };
            self.changed.insert(key.clone(), at);
            if !dropped {
                self.records.insert(key, record);
                continue;
            }
            self.records.remove(&key);
            if kind != RecordKind::Revocation {
                self.dropped.insert(key, record);
            }
        }
        let logged = Logged {
            revision,
            tenant: tenant.clone(),
            from_revision: cell.revision,
            body,
            history_hash: hash,
            global_hash: self.head.global_hash,
            at,
            acknowledged_at: Some(at),
        };
        self.log.insert(revision, logged);
        Ok((revision, changes))
    }

    fn compacted(&self, revision: u64) -> Result<(), StoreError> {
        if revision < self.oldest { Err(StoreError::Compacted { oldest: self.oldest }) } else { Ok(()) }
    }

    fn compare(&self, space: &str, key: &str, expected: Option<u64>) -> Result<(), StoreError> {
        let found = self.items.get(&(space.to_owned(), key.to_owned())).map(|item| item.version);
        if found == expected {
            return Ok(());
        }
        Err(ItemConflict { space: space.to_owned(), key: key.to_owned(), expected, found }.into())
    }
}

impl StateStore for MemoryStore {
    fn dispatch(&self, work: Work) -> Dispatched {
        let [before, after] = self.waits();
        Box::pin(async move {
            if !before.is_zero() {
                tokio::time::sleep(before).await;
            }
            work();
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
        })
    }

    fn identity(&self) -> StoreIdentity {
        self.identity
    }

    fn describe(&self) -> String {
        "memory://".to_owned()
    }

    fn commit(&self, changes: &ChangeSet, expect: &[Expect]) -> Result<Committed, StoreError> {
        let (fails, poisoned) = {
            let mut trouble = self.trouble.lock();
            (trouble.fails.pop(), std::mem::take(&mut trouble.poisons))
        };
        if fails == Some(Fails::Before) {
            return Err(self.fault(FaultKind::Unreachable, "the commit did not reach it"));
        }
        let at = self.clock.now().wall;
        let (revision, made) = self.write(|held| held.take(changes, expect, at, poisoned))?;
        (self.told)(&changes.tenant, revision, &made);
        if fails == Some(Fails::After) {
            return Err(self.fault(FaultKind::Unknown, "the commit's answer did not come"));
        }
        Ok(Committed { revision, at, changes: made })
    }

    fn head(&self) -> Result<Position, StoreError> {
        self.read(|held| Ok(held.head.position))
    }

    fn tail(&self, from: u64, max: usize) -> Result<Vec<Logged>, StoreError> {
        self.read(|held| {
            if from < held.head.position.revision {
                held.compacted(from + 1)?;
            }
            Ok(held.log.range(from + 1..).take(max).map(|(_, logged)| logged.clone()).collect())
        })
    }

    fn logged(&self, revision: u64) -> Result<Option<Logged>, StoreError> {
        self.read(|held| {
            if revision == 0 || revision > held.head.position.revision {
                return Ok(None);
            }
            held.compacted(revision)?;
            Ok(held.log.get(&revision).cloned())
        })
    }

    fn cells(&self) -> Result<(Position, Vec<CellPosition>), StoreError> {
        self.read(|held| Ok((held.head.position, held.cells.values().cloned().collect())))
    }

    fn snapshot(&self, tenant: &Name) -> Result<Option<CellImage>, StoreError> {
        self.read(|held| {
            let image = |position: &CellPosition| CellImage {
                position: position.clone(),
                records: held.of(tenant).cloned().collect(),
            };
            Ok(held.cells.get(tenant).map(image))
        })
    }

    fn record(
        &self,
        tenant: &Name,
        kind: RecordKind,
        name: &Name,
    ) -> Result<Option<StoredRecord>, StoreError> {
        self.read(|held| Ok(held.record(tenant, kind, name).cloned()))
    }

    fn page(
        &self,
        tenant: &Name,
        kind: RecordKind,
        after: Option<&Name>,
        max: usize,
    ) -> Result<Page, StoreError> {
        self.read(|held| {
            let live = held.of(tenant).filter(|r| r.kind == kind && r.body.is_some());
            let mut rest = live.filter(|r| after.is_none_or(|after| r.name > *after));
            let records: Vec<_> = rest.by_ref().take(max).cloned().collect();
            let next = rest.next().and_then(|_| records.last().map(|last| last.name.clone()));
            Ok(Page { records, next })
        })
    }

    fn counts(&self, tenant: &Name) -> Result<Vec<(RecordKind, u64)>, StoreError> {
        self.read(|held| {
            let of = |kind: &RecordKind| {
                let count = held.of(tenant).filter(|r| r.kind == *kind && r.body.is_some()).count();
                (count > 0).then_some((*kind, count as u64))
            };
            Ok(RecordKind::ALL.iter().filter_map(of).collect())
        })
    }

    fn members(&self) -> Result<Vec<StoredMember>, StoreError> {
        self.read(|held| Ok(held.members.values().cloned().collect()))
    }

    fn save_member(&self, member: &StoredMember) -> Result<(), StoreError> {
        self.write(|held| {
            held.members.insert((member.spoke_id.clone(), member.incarnation), member.clone());
            Ok(())
        })
    }

    fn forget_member(&self, spoke_id: &str, incarnation: &[u8; 16]) -> Result<(), StoreError> {
        self.write(|held| {
            held.members.remove(&(spoke_id.to_owned(), *incarnation));
            Ok(())
        })
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn guarantee(&self) -> Result<Guarantee, StoreError> {
        Ok(Guarantee::Holds)
    }

    fn heartbeat(&self) -> Result<Head, StoreError> {
        let lies = self.trouble.lock().lies;
        if !lies && self.trouble.lock().deposed {
            return Err(self.fault(FaultKind::Superseded, "another takes the writes"));
        }
        self.read(|held| Ok(held.head))
    }

    fn oldest(&self) -> Result<u64, StoreError> {
        self.read(|held| Ok(held.oldest))
    }

    fn settled(&self, tenant: &Name, before: Timestamp) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|held| {
            let settled = held.records.iter().filter(|(key, record)| {
                let spoken_for = record.body.is_some() && record.kind != RecordKind::Revocation;
                key.0 == *tenant
                    && !spoken_for
                    && held.changed[*key] < before
                    && record.revision < held.oldest
            });
            Ok(settled.map(|(_, record)| record.clone()).collect())
        })
    }

    fn dropped(&self, tenant: &Name) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|held| {
            Ok(held.dropped.iter().filter(|(key, _)| key.0 == *tenant).map(|(_, it)| it.clone()).collect())
        })
    }

    fn trim(&self, before: u64) -> Result<(), StoreError> {
        self.write(|held| {
            let oldest = before.min(held.head.position.revision + 1).max(held.oldest);
            held.trims += u64::from(oldest > held.oldest);
            held.oldest = oldest;
            held.log = held.log.split_off(&held.oldest);
            Ok(())
        })
    }

    fn items(&self, space: &str) -> Result<Vec<Item>, StoreError> {
        self.read(|held| {
            Ok(held.items.iter().filter(|((s, _), _)| s == space).map(|(_, item)| item.clone()).collect())
        })
    }

    fn item(&self, space: &str, key: &str) -> Result<Option<Item>, StoreError> {
        self.read(|held| Ok(held.items.get(&(space.to_owned(), key.to_owned())).cloned()))
    }

    fn put_item(
        &self,
        space: &str,
        key: &str,
        value: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, StoreError> {
        if value.len() > ITEM_BYTES_MAX {
            let (space, key) = (space.to_owned(), key.to_owned());
            return Err(StoreError::ItemTooLong { space, key, bytes: value.len() });
        }
        self.write(|held| {
            held.compare(space, key, expected)?;
            held.item_version += 1;
            let version = held.item_version;
            let item = Item { key: key.to_owned(), value: Bytes::copy_from_slice(value), version };
            held.items.insert((space.to_owned(), key.to_owned()), item);
            Ok(version)
        })
    }

    fn remove_item(&self, space: &str, key: &str, expected: u64) -> Result<(), StoreError> {
        self.write(|held| {
            held.compare(space, key, Some(expected))?;
            held.items.remove(&(space.to_owned(), key.to_owned()));
            Ok(())
        })
    }

    fn save_receipts(&self, receipts: &[StoredReceipt]) -> Result<(), StoreError> {
        if receipts.iter().any(|receipt| i64::try_from(receipt.in_force).is_err()) {
            return Err(self.fault(FaultKind::Damaged, "a number is too large"));
        }
        self.write(|held| {
            for receipt in receipts {
                let key = (receipt.revision, receipt.spoke_id.clone(), receipt.incarnation);
                held.receipts.entry(key).or_insert_with(|| receipt.clone());
            }
            Ok(())
        })
    }

    fn receipts(&self, revision: u64) -> Result<Vec<StoredReceipt>, StoreError> {
        self.read(|held| Ok(held.receipts.values().filter(|r| r.revision == revision).cloned().collect()))
    }

    fn mint_epoch(&self, witnessed: Option<Position>) -> Result<Minted, StoreError> {
        self.write(|held| {
            let parent = held.head.position;
            let above = witnessed.map_or(parent.epoch, |seen| seen.epoch.max(parent.epoch));
            let revision = witnessed.map_or(0, |seen| seen.revision).max(parent.revision);
            let position = Position { epoch: epoch_after(Some(above)), revision };
            held.identity = StoreIdentity { epoch: position.epoch, parent: Some(parent), ..held.identity };
            held.head.position = position;
            held.head.global_hash = *blake3::hash(&held.head.global_hash).as_bytes();
            held.oldest = revision + 1;
            held.log.clear();
            let mut voided = 0;
            for receipt in held.receipts.values_mut().filter(|receipt| !receipt.voided) {
                receipt.voided = true;
                voided += 1;
            }
            Ok(Minted { position, parent, voided })
        })
    }
}

/// An epoch ordered above another one.
fn epoch_after(before: Option<Epoch>) -> Epoch {
    let counter = before.map_or(0, |epoch| {
        let counter: [u8; 8] = epoch.as_bytes()[..8].try_into().unwrap();
        u64::from_be_bytes(counter)
    });
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(counter + 1).to_be_bytes());
    Epoch::from_bytes(bytes)
}

fn status(record: Option<&Record>) -> Option<IdentityStatus> {
    match record {
        Some(Record::Identity(identity)) => Some(identity.status),
        _ => None,
    }
}
