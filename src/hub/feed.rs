//! The change log as streams read it: the newest part from memory, the rest from the store.
//!
//! A commit is read back from the store, taken into the mirror, encoded and signed once, and shared
//! by every stream; a stream is a cursor, not a queue, so a slow one costs nothing and only reads later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::blocking;
use super::keys::ClusterKey;
use super::mirror::{Mirror, Mirrored};
use super::store::{Head, Logged, StateStore, StoreError};
use super::witness::Witness;
use crate::core::id::{Epoch, Name, Position};
use crate::core::identity::StateDigest;
use crate::core::time::{BootInstant, Clock, Now, Timestamp};
use crate::wire::state_proto as proto;

/// The change log and its head.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Arc<dyn StateStore>,
    key: ClusterKey,
    witness: Witness,
    /// Locked before `ring` where both are.
    mirror: Mutex<Mirror>,
    ring: RwLock<Ring>,
    head: watch::Sender<u64>,
}

/// One commit, as it is sent.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The tenant it is of.
    pub(crate) tenant: Name,
    /// Where the tenant's cell stood before.
    pub(crate) from_revision: u64,
    /// Its revision.
    pub(crate) revision: u64,
    /// The cell's history hash afterwards.
    pub(crate) history_hash: [u8; 32],
    /// The cell's digest before and afterwards, as far as the mirror had them.
    digests: [Option<StateDigest>; 2],
    /// The delta, signed.
    pub(crate) delta: proto::Signed,
    /// What of it denies, signed; `None`: nothing.
    pub(crate) urgent: Option<proto::Signed>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The newest commits, contiguous, oldest first.
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// The last revision in the ring, or from which it begins.
    head: u64,
    /// When each commit of this process was known to be acknowledged, oldest first.
    times: VecDeque<(u64, Now)>,
    /// When the store was opened: whatever is not among them was acknowledged by then.
    opened: Now,
}

impl Feed {
    /// Begins at the store's head. `mirror_key` keys the mirror's table.
    pub(crate) fn new(
        store: Arc<dyn StateStore>,
        key: ClusterKey,
        witness: Witness,
        mirror_key: u128,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let head = store.head()?.revision;
        let mirror = Mutex::new(Mirror::load(&*store, mirror_key)?);
        let ring = Ring { head, opened: clock.now(), ..Ring::default() };
        Ok(Self { store, key, witness, mirror, ring: RwLock::new(ring), head: watch::Sender::new(head) })
    }

    /// The store.
    pub(crate) const fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    /// What is signed with.
    pub(crate) const fn key(&self) -> &ClusterKey {
        &self.key
    }

    /// The highest head named, outside the store.
    pub(crate) const fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Signs a head of the store once it is witnessed: whoever hears of it can prove it. Blocks.
    pub(crate) fn name(&self, head: &Head, read_at: Timestamp) -> Result<proto::Signed, StoreError> {
        let cluster_id = self.store.identity().cluster_id;
        Ok(self.witness.name(head, (cluster_id, read_at), &self.key)?)
    }

    /// The newest revision offered.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Tells when the head moves.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The state that every enforcement point shall hold.
    pub(crate) fn mirrored(&self) -> Mirror {
        self.mirror.lock().clone()
    }

    /// Whether a cell stood at `revision` with this history, as far as is known in memory; `None`: not known.
    pub(crate) fn stood_at(&self, cell: &Name, revision: u64, history_hash: &[u8; 32]) -> Option<bool> {
        if let Some(held) = self.mirror.lock().state().cell(cell)
            && held.revision == revision
        {
            return Some(held.history_hash == *history_hash);
        }
        let ring = self.ring.read();
        let place = ring.entries.binary_search_by_key(&revision, |entry| entry.revision).ok()?;
        let entry = ring.entries.get(place)?;
        Some(entry.tenant == *cell && entry.history_hash == *history_hash)
    }

    /// The commits to a cell after `from` and up to `to` that denied something, of those held in memory.
    pub(crate) fn kills_between(&self, cell: &Name, from: u64, to: u64) -> Vec<u64> {
        let ring = self.ring.read();
        let first = ring.entries.partition_point(|entry| entry.revision <= from);
        let after = ring.entries.iter().skip(first).take_while(|entry| entry.revision <= to);
        let kills = after.filter(|entry| entry.tenant == *cell && entry.urgent.is_some());
        kills.map(|entry| entry.revision).collect()
    }

    /// The newest commit to a cell, if it is held in memory.
    pub(crate) fn newest(&self, cell: &Name) -> Option<Arc<Entry>> {
        self.ring.read().entries.iter().rev().find(|entry| entry.tenant == *cell).cloned()
    }

    /// The digest of a cell at a revision, if the mirror stands there, or has stood there while a commit
    /// since is held in memory.
    pub(crate) fn digest_at(&self, cell: &Name, revision: u64) -> Option<StateDigest> {
        let now = {
            let mirror = self.mirror.lock();
            let held = mirror.state().cell(cell)?;
            (held.revision == revision).then_some(held.state_digest)
        };
        now.or_else(|| {
            let ring = self.ring.read();
            let mut newest = ring.entries.iter().rev().filter(|entry| entry.tenant == *cell);
            newest.find_map(|entry| match revision {
                at if at == entry.revision => entry.digests[1],
                at if at == entry.from_revision => entry.digests[0],
                _ => None,
            })
        })
    }

    /// The revision of a cell's last commit that denied something; 0: there is none.
    pub(crate) fn kill_revision(&self, cell: &Name) -> u64 {
        self.mirror.lock().kill_revision(cell)
    }

    /// The same of every cell.
    pub(crate) fn kill_revisions(&self) -> HashMap<Name, u64> {
        self.mirror.lock().kills().clone()
    }

    /// The head of the store, proven by its heartbeat; what others committed up to there is taken over. Blocks.
    pub(crate) fn follow(&self, clock: &dyn Clock) -> Result<Head, StoreError> {
        let head = self.store.heartbeat()?;
        if head.position.revision > self.head() {
            self.advance(head.position.revision, clock.now())?;
        }
        Ok(head)
    }

    /// Takes over what the store has committed since, up to revision `to`, which is known to be
    /// acknowledged: what lies beyond may still be lost. It is offered to nobody before its head is
    /// witnessed. Blocks.
    pub(crate) fn advance(&self, to: u64, now: Now) -> Result<(), StoreError> {
        let mut mirror = self.mirror.lock();
        let mut at = self.ring.read().head;
        let mut newest = None;
        while at < to {
            let max = usize::try_from(to - at).unwrap_or(READ_MAX).min(READ_MAX);
            let more = match self.store.tail(at, max) {
                Err(StoreError::Compacted { .. }) => {
                    newest = Some(self.begin_anew(&mut mirror, now)?);
                    at = mirror.head();
                    continue;
                }
                more => more?,
            };
            if more.is_empty() {
                break;
            }
            for logged in more {
                let mirrored = mirror.take(&*self.store, &logged)?;
                at = logged.revision;
                let position = Position { epoch: mirror.epoch(), revision: at };
                newest = Some(Head { position, global_hash: logged.global_hash });
                let entry = self.entry(&logged, mirror.epoch(), mirrored);
                self.ring.write().push(entry, now);
            }
        }
        drop(mirror);
        if let Some(head) = newest {
            self.name(&head, now.wall)?;
        }
        self.head.send_if_modified(|held| {
            let moved = *held < at;
            *held = at.max(*held);
            moved
        });
        Ok(())
    }

    /// Reads everything, where the log was trimmed beyond what this hub had of it: its machine slept for
    /// long. Gives a head that was proven after, and so proves all that was read.
    fn begin_anew(&self, mirror: &mut Mirror, now: Now) -> Result<Head, StoreError> {
        tracing::warn!(head = mirror.head(), "the log was trimmed beyond this hub's place: all is read anew");
        let read = Mirror::load(&*self.store, mirror.key())?;
        let head = self.store.heartbeat()?;
        // What each commit missed was acknowledged by, is not known: by now.
        *self.ring.write() = Ring { head: read.head(), opened: now, ..Ring::default() };
        *mirror = read;
        Ok(head)
    }

    /// Commits after `from`, in order, at least one unless there is none.
    pub(crate) async fn read(&self, from: u64) -> Result<Vec<Arc<Entry>>, StoreError> {
        if let Some(ready) = self.ring.read().after(from) {
            return Ok(ready);
        }
        let store = Arc::clone(&self.store);
        let older = blocking(&*self.store, move || store.tail(from, READ_MAX)).await?;
        let epoch = self.store.identity().epoch;
        let unmirrored = |logged: &Logged| {
            self.entry(logged, epoch, Mirrored { before: None, digest: None, urgent: None })
        };
        Ok(older.iter().map(|logged| Arc::new(unmirrored(logged))).collect())
    }

    fn entry(&self, logged: &Logged, epoch: Epoch, mirrored: Mirrored) -> Entry {
        let delta = proto::Delta {
            cell: logged.tenant.to_string(),
            epoch: Bytes::copy_from_slice(epoch.as_bytes()),
            from_revision: logged.from_revision,
            to_revision: logged.revision,
            codec: proto::Codec::None as i32,
            body: logged.body.clone(),
            history_hash: Bytes::copy_from_slice(&logged.history_hash),
            hub_time_us: u64::try_from(logged.at.as_micros()).unwrap_or(0),
            state_digest: mirrored.digest.map(digest_bytes).unwrap_or_default(),
            critical_features: Vec::new(),
        };
        let urgent = mirrored.urgent.map(|urgent| self.key.sign(proto::SignedKind::Urgent, &urgent));
        Entry {
            tenant: logged.tenant.clone(),
            from_revision: logged.from_revision,
            revision: logged.revision,
            history_hash: logged.history_hash,
            digests: [mirrored.before, mirrored.digest],
            delta: self.key.sign(proto::SignedKind::Delta, &delta),
            urgent,
        }
    }

    /// When a commit of this process was acknowledged.
    pub(crate) fn acknowledged(&self, revision: u64) -> Option<Now> {
        let ring = self.ring.read();
        let place = ring.times.binary_search_by_key(&revision, |(held, _)| *held).ok()?;
        ring.times.get(place).map(|(_, at)| *at)
    }

    /// An instant by which a commit had been acknowledged: never too early.
    pub(crate) fn acknowledged_by(&self, revision: u64) -> BootInstant {
        let ring = self.ring.read();
        let known = ring.times.iter().find(|(held, _)| *held >= revision);
        let forgotten = ring.times.len() >= TIMES_MAX;
        match known {
            Some((held, at)) if *held == revision || forgotten => at.boot,
            _ => ring.opened.boot,
        }
    }
}

impl Ring {
    fn push(&mut self, entry: Entry, now: Now) {
        self.head = entry.revision;
        self.times.push_back((entry.revision, now));
        if self.times.len() > TIMES_MAX {
            self.times.pop_front();
        }
        self.bytes += entry.delta.body.len();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > RING_MAX || self.bytes > RING_BYTES_MAX {
            match self.entries.pop_front() {
                Some(oldest) => self.bytes -= oldest.delta.body.len(),
                None => break,
            }
        }
    }

    /// Commits after `from`; `None` when the ring does not reach back so far.
    fn after(&self, from: u64) -> Option<Vec<Arc<Entry>>> {
        if from >= self.head {
            // The store may have more by now.
            return None;
        }
        let first = self.entries.front()?.revision;
        let skip = usize::try_from((from + 1).checked_sub(first)?).ok()?;
        Some(self.entries.iter().skip(skip).take(READ_MAX).cloned().collect())
    }
}

/// A digest as it is sent.
pub(crate) fn digest_bytes(digest: StateDigest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

const READ_MAX: usize = 256;
const RING_MAX: usize = 4096;
const RING_BYTES_MAX: usize = 16 * 1024 * 1024;
const TIMES_MAX: usize = 16 * 1024;
