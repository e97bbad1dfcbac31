//! Who holds state under a lease, how far each has it in force, and so: is a revision
//! effective everywhere, and since when.
//!
//! A member is one process start (incarnation) of one enforcement point. It is saved before
//! its first heartbeat, so that a restart of the hub forgets nobody who might still be fresh;
//! positions and times live in memory only: after a restart a member is taken to have been
//! answered at the very moment of the restart, and acknowledges anew when it returns.
//!
//! INVARIANT: a member counts as done with a revision only when it has acknowledged it in
//! force, or when its lease on older state is over: `deny_after` and the tolerated drift past
//! the last ping that was answered with an older head. Where a stream was live when a newer one of
//! its incarnation came, there may be two processes: the newer one's word alone is not enough
//! while the older one's lease runs.
//!
//! Where several hubs share a store, each tells the others of its members, at most every
//! [`MEET_EVERY`], and a member counts as done only when it is so at every hub that knows it.

mod figures;
mod member;
mod peers;
mod receipt;
mod standing;
mod withdrawal;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::Scope;
use super::blocking;
use super::store::{PeerMember, StateStore, StoreError, StoredMember};
use crate::core::id::Name;
use crate::core::time::{BootInstant, Clock, Now};
pub(crate) use figures::FleetFigures;
use member::Member;
pub(crate) use member::{MemberKey, Terms};
use peers::Peers;
pub(crate) use receipt::{Fleet, Receipt, ReceiptState, RevisionFacts};

/// Who is a member, and how far each has come.
pub(crate) struct Roster {
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    members: Mutex<HashMap<MemberKey, Member>>,
    /// Members of other hubs; empty where nobody shares the store.
    peers: Mutex<Peers>,
    /// Members of which the others have not been told the newest.
    untold: Mutex<HashSet<MemberKey>>,
    /// Held while the other hubs' rosters are read.
    meeting: tokio::sync::Mutex<()>,
    /// Held while the others are told of this one's.
    telling: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    /// Held while members come and go, so that memory and store say the same of them.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}

/// A live stream's place in the roster.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) key: MemberKey,
    /// Which stream of this member it is.
    session: u64,
    /// Ends this stream when a newer one of the same incarnation comes.
    pub(crate) fenced: CancellationToken,
}

/// Why someone cannot join.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// Too many members.
    #[error("the roster has {MEMBERS_MAX} members, the most it takes")]
    Full,
    /// The member cannot be saved.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One acknowledgement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) positions: Vec<CellInForce>,
    pub(crate) purged: u64,
    pub(crate) ended_streams: u64,
    pub(crate) refused: Vec<String>,
    /// Revocations kept from an older lineage that the store does not restate.
    pub(crate) carried: u64,
    /// Tables found to differ, ever, and mended.
    pub(crate) drift: (u64, u64),
    /// Of the scope that is in force.
    pub(crate) scope_version: u64,
}

/// What a stream may hold, and what it came with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scoped {
    /// Tenants that it is told of.
    pub(crate) scope: Scope,
    /// Of this scope.
    pub(crate) version: u64,
    /// Tenants that it holds already, in the scope or not.
    pub(crate) held: BTreeSet<Name>,
}

/// How far one cell is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CellInForce {
    pub(crate) cell: Name,
    /// All changes up to here.
    pub(crate) revision: u64,
    /// All revocations up to here; never less than `revision`.
    pub(crate) kill_revision: u64,
}

impl Roster {
    /// Takes up the roster as it was saved.
    pub(crate) fn load(store: Arc<dyn StateStore>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let now = clock.now();
        // Of a shared store each row is some process's: they are read as the other hubs' rosters.
        let saved = if store.is_shared() { Vec::new() } else { store.members()? };
        let members = saved.into_iter().map(|saved| {
            let key = MemberKey { spoke_id: saved.spoke_id.clone(), incarnation: saved.incarnation };
            (key, Member::restored(&saved, now))
        });
        let members = Mutex::new(members.collect());
        Ok(Self {
            store,
            clock,
            members,
            peers: Mutex::default(),
            untold: Mutex::default(),
            meeting: tokio::sync::Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Tells when anything about a member changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Members with a live stream.
    pub(crate) fn connected(&self) -> usize {
        self.members.lock().values().filter(|member| member.is_connected()).count()
    }

    /// The longest finite `deny_after` of any member, wherever its stream is.
    pub(crate) fn longest_deny_after(&self) -> Duration {
        let here = self.members.lock().values().filter_map(Member::deny_after_max).max();
        let there = self.peers.lock().longest_deny_after();
        here.max(there).unwrap_or_default()
    }

    /// Sums over all members, given up to where each cell's revocations go.
    pub(crate) fn figures(&self, kills: &HashMap<Name, u64>) -> FleetFigures {
        let now = self.clock.now().boot;
        let mut figures = FleetFigures::default();
        self.members.lock().values().for_each(|member| figures.add(member, kills, now));
        figures
    }

    /// Takes in a stream. An older one of the same incarnation is fenced.
    pub(crate) async fn join(
        &self,
        key: MemberKey,
        terms: Terms,
        scoped: Scoped,
    ) -> Result<Membership, JoinError> {
        let _turn = self.turn.lock().await;
        self.make_room().await?;
        let saved = StoredMember {
            spoke_id: key.spoke_id.clone(),
            incarnation: key.incarnation,
            // Never shorter than what an earlier stream of it was granted: that lease may still run.
            deny_after_max: self.longest_terms(&key, terms.deny_after_max),
            waived: terms.waived.clone(),
            build: terms.build.clone(),
        };
        let store = Arc::clone(&self.store);
        blocking(&*self.store, move || store.save_member(&saved)).await?;
        // Whoever holds an older stream of it elsewhere is known from here on.
        self.meet().await?;
        let now = self.clock.now();
        let fenced = CancellationToken::new();
        let mut members = self.members.lock();
        let member = members.entry(key.clone()).or_insert_with(|| Member::new(now));
        let session = member.connect(terms, scoped, fenced.clone(), now);
        drop(members);
        self.moved(&key);
        Ok(Membership { key, session, fenced })
    }

    fn longest_terms(&self, key: &MemberKey, asked: Option<Duration>) -> Option<Duration> {
        let held = self.members.lock().get(key).and_then(Member::deny_after_max);
        asked.max(held)
    }

    /// The term that answers to a member grant from here on: the longest asked for yet, which is in the
    /// store when this returns. It is never shortened while the incarnation lives: an older lease may run.
    pub(crate) async fn grant(
        &self,
        membership: &Membership,
        asked: Option<Duration>,
    ) -> Result<Option<Duration>, StoreError> {
        let held =
            |roster: &Self| roster.members.lock().get(&membership.key).and_then(Member::deny_after_max);
        let granted = held(self);
        if asked <= granted {
            return Ok(granted);
        }
        let _turn = self.turn.lock().await;
        let longer = asked.max(held(self));
        let saved = self
            .members
            .lock()
            .get(&membership.key)
            .map(|member| StoredMember { deny_after_max: longer, ..member.saved(&membership.key) });
        let Some(saved) = saved else { return Ok(granted) };
        let store = Arc::clone(&self.store);
        blocking(&*self.store, move || store.save_member(&saved)).await?;
        let now = self.clock.now();
        if let Some(member) = self.members.lock().get_mut(&membership.key) {
            member.lengthen(longer, now.boot);
        }
        self.moved(&membership.key);
        self.tell().await?;
        Ok(longer)
    }

    /// Forgets the lapsed when there are too many members. In turn.
    async fn make_room(&self) -> Result<(), JoinError> {
        let now = self.clock.now().boot;
        let gone: Vec<_> = {
            let members = self.members.lock();
            if members.len() < MEMBERS_MAX {
                return Ok(());
            }
            let over = members.iter().filter(|(_, member)| member.is_over(now, Duration::ZERO));
            over.map(|(key, _)| key.clone()).collect()
        };
        for key in &gone {
            self.forget(key, |member| member.is_over(now, Duration::ZERO)).await?;
        }
        if gone.is_empty() { Err(JoinError::Full) } else { Ok(()) }
    }

    /// Forgets members that lapsed long ago; called now and then.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.clock.now().boot;
        let gone: Vec<_> = {
            let members = self.members.lock();
            let over = members.iter().filter(|(_, member)| member.is_over(now, KEPT_AFTER_LAPSE));
            over.map(|(key, _)| key.clone()).collect()
        };
        for key in gone {
            let _turn = self.turn.lock().await;
            self.forget(&key, |member| member.is_over(now, KEPT_AFTER_LAPSE)).await?;
        }
        let gone = self.peers.lock().gone(now, KEPT_AFTER_LAPSE);
        for peer in gone {
            let store = Arc::clone(&self.store);
            blocking(&*self.store, move || store.forget_peer(&peer)).await?;
        }
        Ok(())
    }

    /// A live stream is about to be told of another scope. What leaves it stays this member's, for
    /// receipts, until that is acknowledged or the lease of before is over.
    /// The other hubs know of it before the stream does.
    pub(crate) async fn rescope(
        &self,
        membership: &Membership,
        scope: Scope,
        version: u64,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        if let Some(member) = self.members.lock().get_mut(&membership.key) {
            member.rescope(membership.session, scope, version, now);
        }
        self.moved(&membership.key);
        self.tell().await
    }

    /// A stream ended; the member stays until its lease is over.
    pub(crate) fn leave(&self, membership: &Membership) {
        if let Some(member) = self.members.lock().get_mut(&membership.key) {
            member.disconnect(membership.session);
        }
        self.moved(&membership.key);
    }

    /// A member decides no more: it said so itself, on its newest stream.
    pub(crate) async fn goodbye(&self, membership: &Membership) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let now = self.clock.now().boot;
        // A copy of its process has not said so.
        self.forget(&membership.key, |member| member.is_alone(membership.session, now)).await
    }

    /// Forgets a member, if it still is as `gone` says: it may have returned meanwhile. In turn.
    async fn forget(&self, key: &MemberKey, gone: impl Fn(&Member) -> bool) -> Result<(), StoreError> {
        if !self.members.lock().get(key).is_some_and(gone) {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let (spoke_id, incarnation) = (key.spoke_id.clone(), key.incarnation);
        blocking(&*self.store, move || store.forget_member(&spoke_id, &incarnation)).await?;
        self.members.lock().remove(key);
        self.changed();
        Ok(())
    }

    /// A ping that came at `received` is about to be answered with `head` or a later one.
    ///
    /// Called before that head is read: the lease it may grant is known here first.
    pub(crate) fn answered(&self, membership: &Membership, head: u64, received: BootInstant) {
        if let Some(member) = self.members.lock().get_mut(&membership.key) {
            member.answered(membership.session, head, received);
        }
    }

    /// A member has positions in force.
    pub(crate) fn acknowledged(&self, membership: &Membership, ack: Acknowledged) {
        let now = self.clock.now();
        if let Some(member) = self.members.lock().get_mut(&membership.key) {
            member.acknowledged(membership.session, ack, now);
        }
        self.moved(&membership.key);
    }

    /// Whether what a stream acknowledges speaks for every copy of its process.
    pub(crate) fn is_alone(&self, membership: &Membership) -> bool {
        let now = self.clock.now().boot;
        let members = self.members.lock();
        let alone = members.get(&membership.key).is_some_and(|it| it.is_alone(membership.session, now));
        alone && !self.peers.lock().holds(&membership.key, now)
    }

    /// Whether a revision is effective, and who is missing.
    pub(crate) fn receipt(&self, facts: &RevisionFacts) -> Receipt {
        let now = self.clock.now();
        let members = self.members.lock();
        let peers = self.peers.lock();
        Receipt::of(facts, &members, self.store.is_shared().then_some(&*peers), now)
    }

    /// Every member.
    pub(crate) fn fleet(&self) -> Fleet {
        let now: Now = self.clock.now();
        let members = self.members.lock();
        let peers = self.peers.lock();
        Fleet::of(&members, self.store.is_shared().then_some(&*peers), now)
    }

    /// Reads the rosters of the other hubs as they are now. Where a newer stream of a member of this
    /// hub came to another, the one here ends.
    pub(crate) async fn meet(&self) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let _meeting = self.meeting.lock().await;
        let (began, told) = (self.clock.now().boot, self.peers.lock().told());
        let store = Arc::clone(&self.store);
        let news = blocking(&*self.store, move || peers::read(&*store, &told)).await?;
        let ended = self.clock.now().boot;
        let is_news = news.iter().any(|(_, told)| !told.is_empty());
        let newer = self.peers.lock().take(began, ended, news);
        for key in newer {
            let fenced = self.members.lock().get_mut(&key).is_some_and(Member::fence_here);
            if fenced {
                tracing::warn!(spoke = key.spoke_id, "its newer stream is another hub's: the one here ends");
                self.untold.lock().insert(key);
            }
        }
        if is_news {
            self.changed();
        }
        Ok(())
    }

    /// Tells the other hubs what is new about members of this one.
    pub(crate) async fn tell(&self) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let _telling = self.telling.lock().await;
        let untold = std::mem::take(&mut *self.untold.lock());
        let now = self.clock.now().boot;
        let told: Vec<PeerMember> = {
            let members = self.members.lock();
            let known = untold.iter().filter_map(|key| members.get(key).map(|member| (key, member)));
            known.map(|(key, member)| member.to_peers(key, now)).collect()
        };
        if told.is_empty() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let done = blocking(&*self.store, move || store.tell(&told)).await;
        if done.is_err() {
            self.untold.lock().extend(untold);
        }
        done
    }

    /// Notes that something about a member is new.
    fn moved(&self, key: &MemberKey) {
        if self.store.is_shared() {
            self.untold.lock().insert(key.clone());
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Tolerated drift between two clocks: 500 ppm.
pub(crate) fn with_drift(span: Duration) -> Duration {
    span.saturating_add(span / 2000)
}

/// How often hubs on one store tell each other of their members.
pub(crate) const MEET_EVERY: Duration = Duration::from_millis(200);
/// Most members.
pub(crate) const MEMBERS_MAX: usize = 20_000;
/// How long a lapsed member is still listed.
const KEPT_AFTER_LAPSE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Timestamp;
    use crate::hub::store::SqliteStore;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn now(&self) -> Now {
            let passed = self.0.load(Ordering::SeqCst);
            Now { wall: Timestamp::from_micros(passed.cast_signed()), boot: BootInstant::from_micros(passed) }
        }
    }

    #[tokio::test]
    async fn whoever_returns_while_it_is_forgotten_stays_a_member() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(HandClock(AtomicU64::new(1)));
        let store = SqliteStore::open(&directory.path().join("hub.db"), clock.clone()).unwrap();
        let store: Arc<dyn StateStore> = Arc::new(store);
        let roster = Roster::load(Arc::clone(&store), clock.clone()).unwrap();
        let key = MemberKey { spoke_id: "edge".to_owned(), incarnation: [1; 16] };
        for _ in 0..20 {
            let left = roster.join(key.clone(), Terms::default(), Scoped::default()).await.unwrap();
            roster.answered(&left, 1, clock.now().boot);
            roster.leave(&left);
            clock.0.fetch_add(2 * 3_600_000_000, Ordering::SeqCst);
            let join = roster.join(key.clone(), Terms::default(), Scoped::default());
            let (back, swept) = tokio::join!(join, roster.sweep());
            swept.unwrap();
            assert_eq!((roster.connected(), store.members().unwrap().len()), (1, 1), "a live stream unseen");
            // The stream before this one has nothing more to say.
            roster.goodbye(&left).await.unwrap();
            assert_eq!((roster.connected(), store.members().unwrap().len()), (1, 1), "ended by an older one");
            roster.leave(&back.unwrap());
        }
    }
}
