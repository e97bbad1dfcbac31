//! Members of the other hubs on the same store, as those hubs told of them.
//!
//! No two clocks are compared: an instant is when *this* process saw something there, which is never
//! earlier than when it happened. A hub answers pings only with a heartbeat of its own, so one whose
//! heartbeats were seen to stand still has leased nothing since they were first seen.
//!
//! INVARIANT: a member is in the store before its first ping is answered, and a ping that came after a
//! commit is answered with it. So whoever reads the rosters after a commit was acknowledged sees
//! everybody who may still act on older state.

use std::collections::HashMap;
use std::time::Duration;

use super::member::{MemberKey, lease_end};
use super::receipt::RevisionFacts;
use super::standing::Standing;
use crate::core::id::Name;
use crate::core::time::BootInstant;
use crate::hub::store::{
    PEER_SILENT_AFTER, Peer, PeerInForce, PeerMember, PeerStream, StateStore, StoreError,
};

/// What is known of the other hubs.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// When the last reading of them began; `None`: there was none.
    read_at: Option<BootInstant>,
    each: HashMap<[u8; 16], PeerView>,
}

#[derive(Debug)]
struct PeerView {
    beats: u64,
    /// When these heartbeats were first seen.
    seen: BootInstant,
    /// When the last look at them began.
    looked: BootInstant,
    told: u64,
    members: HashMap<MemberKey, PeerRecord>,
}

#[derive(Debug)]
struct PeerRecord {
    told: PeerMember,
    /// When its stream was first seen to stand as it does.
    seen: BootInstant,
}

/// What one reading of the other hubs brought.
pub(super) type News = Vec<(Peer, Vec<PeerMember>)>;

/// Reads what the other hubs told since; blocks.
pub(super) fn read(store: &dyn StateStore, told: &HashMap<[u8; 16], u64>) -> Result<News, StoreError> {
    let peers = store.peers()?.into_iter();
    peers.map(|peer| Ok((peer, store.told_by(&peer.id, told.get(&peer.id).copied().unwrap_or(0))?))).collect()
}

impl Peers {
    /// How far what each told is known.
    pub(super) fn told(&self) -> HashMap<[u8; 16], u64> {
        self.each.iter().map(|(id, view)| (*id, view.told)).collect()
    }

    /// Takes in a reading that began and ended at these instants; gives those whose streams are newer
    /// than what was known.
    pub(super) fn take(&mut self, began: BootInstant, ended: BootInstant, news: News) -> Vec<MemberKey> {
        self.read_at = Some(began);
        self.each.retain(|id, _| news.iter().any(|(peer, _)| peer.id == *id));
        let mut newer = Vec::new();
        for (peer, told) in news {
            let view = self.each.entry(peer.id).or_insert_with(|| PeerView {
                beats: peer.beats,
                seen: ended,
                looked: began,
                told: 0,
                members: HashMap::new(),
            });
            if view.beats != peer.beats {
                (view.beats, view.seen) = (peer.beats, ended);
            }
            view.looked = began;
            for member in told {
                view.told = view.told.max(member.told);
                newer.extend(view.note(member, ended));
            }
        }
        newer
    }

    /// Whether the rosters were read after `instant`.
    pub(super) fn known_since(&self, instant: BootInstant) -> bool {
        self.read_at.is_some_and(|read_at| read_at >= instant)
    }

    /// How `key` stands at each other hub that knows it.
    pub(super) fn standings(
        &self,
        key: &MemberKey,
        facts: &RevisionFacts,
        now: BootInstant,
    ) -> impl Iterator<Item = Standing> {
        self.records(key).filter_map(move |(view, record)| record.standing(view, facts, now))
    }

    /// Whether another hub has a stream of `key`, or had one that may be a copy's.
    pub(super) fn holds(&self, key: &MemberKey, now: BootInstant) -> bool {
        self.records(key).any(|(view, record)| match record.told.stream {
            PeerStream::Live => !view.is_silent(),
            PeerStream::Fenced => now <= record.lease_end(record.seen),
            PeerStream::Left | PeerStream::Gone => false,
        })
    }

    /// Every member, with what is told of it and whether its stream is open.
    pub(super) fn members(&self) -> impl Iterator<Item = (&MemberKey, &PeerMember, bool)> {
        self.each.values().flat_map(|view| {
            let known = view.members.iter().filter(|(_, record)| record.told.stream != PeerStream::Gone);
            known.map(|(key, record)| {
                let live = record.told.stream == PeerStream::Live && !view.is_silent();
                (key, &record.told, live)
            })
        })
    }

    /// The longest finite `deny_after` of any member told of.
    pub(super) fn longest_deny_after(&self) -> Option<Duration> {
        self.members().filter_map(|(_, told, _)| told.member.deny_after_max).max()
    }

    /// Hubs that are gone, and whose members' leases have been over for `longer`.
    pub(super) fn gone(&self, now: BootInstant, longer: Duration) -> Vec<[u8; 16]> {
        let over = self.each.iter().filter(|(_, view)| {
            let leases = view.members.values().map(|record| record.lease_end(view.seen));
            let last = leases.max().unwrap_or(view.seen).max(view.seen);
            view.is_silent() && now.since(last).is_some_and(|gone| gone > longer)
        });
        over.map(|(id, _)| *id).collect()
    }

    fn records(&self, key: &MemberKey) -> impl Iterator<Item = (&PeerView, &PeerRecord)> {
        self.each.values().filter_map(move |view| view.members.get(key).map(|record| (view, record)))
    }
}

impl PeerView {
    /// Notes what was told of a member; gives it when its stream is a newer one.
    fn note(&mut self, told: PeerMember, at: BootInstant) -> Option<MemberKey> {
        let key = MemberKey { spoke_id: told.member.spoke_id.clone(), incarnation: told.member.incarnation };
        let held = self.members.get(&key);
        let is_newer =
            told.stream == PeerStream::Live && held.is_none_or(|held| held.told.joined < told.joined);
        let stands = |held: &&PeerRecord| held.told.stream == told.stream && held.told.joined == told.joined;
        let seen = held.filter(stands).map_or(at, |held| held.seen);
        self.members.insert(key.clone(), PeerRecord { told, seen });
        is_newer.then_some(key)
    }

    /// Whether its heartbeats stood still for so long that its streams count as ended: as after a
    /// restart of a hub, whoever was there comes anew.
    fn is_silent(&self) -> bool {
        self.looked.since(self.seen).is_some_and(|still| still > PEER_SILENT_AFTER)
    }
}

impl PeerRecord {
    fn standing(&self, view: &PeerView, facts: &RevisionFacts, now: BootInstant) -> Option<Standing> {
        if self.told.stream == PeerStream::Gone || !may_hold(&self.told, &facts.cell) {
            return None;
        }
        if let Some(held) = self.told.in_force.iter().find(|held| covers(held, facts)) {
            let (purged, ended_streams) = (held.purged, held.ended_streams);
            return Some(Standing::InForce { at: held.at, purged, ended_streams });
        }
        let is_live = self.told.stream == PeerStream::Live && !view.is_silent();
        let end = self.lease_end(self.last_answer(view, facts.committed));
        let is_bounded = self.told.member.deny_after_max.is_some() || !is_live;
        if is_bounded && now > end {
            return Some(Standing::Lapsed(end));
        }
        let is_held = is_live || self.told.stream == PeerStream::Fenced;
        Some(if is_held { Standing::Holding } else { Standing::Left })
    }

    /// An instant by which its last ping had come that was answered with an older head than `committed`.
    fn last_answer(&self, view: &PeerView, committed: BootInstant) -> BootInstant {
        let mut last = committed;
        if self.told.stream != PeerStream::Live {
            last = last.min(self.seen);
        }
        if view.looked >= committed {
            last = last.min(view.seen);
        }
        last
    }

    fn lease_end(&self, last: BootInstant) -> BootInstant {
        lease_end(self.told.member.deny_after_max, last)
    }
}

/// Whether a member may hold a tenant: by its scope, or from a scope of before.
pub(super) fn may_hold(told: &PeerMember, cell: &Name) -> bool {
    told.holds.as_ref().is_none_or(|holds| holds.contains(cell))
}

fn covers(held: &PeerInForce, facts: &RevisionFacts) -> bool {
    held.cell == facts.cell
        && (held.revision >= facts.revision || (facts.denies && held.kill_revision >= facts.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Timestamp;
    use crate::hub::store::{Guarantee, StoredMember};

    const SECOND: u64 = 1_000_000;
    const LEASE: u64 = 60;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_micros(seconds * SECOND)
    }

    fn key() -> MemberKey {
        MemberKey { spoke_id: "edge".to_owned(), incarnation: [1; 16] }
    }

    fn told(stream: PeerStream, joined: u64, told: u64, in_force: u64) -> PeerMember {
        let member = StoredMember {
            spoke_id: "edge".to_owned(),
            incarnation: [1; 16],
            deny_after_max: Some(Duration::from_secs(LEASE)),
            waived: Vec::new(),
            build: String::new(),
        };
        let held = PeerInForce {
            cell: Name::parse("demo").unwrap(),
            revision: in_force,
            kill_revision: in_force,
            at: Timestamp::from_seconds(1),
            purged: 0,
            ended_streams: 0,
        };
        PeerMember { member, stream, joined, told, holds: None, in_force: vec![held] }
    }

    fn facts(committed: u64) -> RevisionFacts {
        RevisionFacts {
            revision: 5,
            cell: Name::parse("demo").unwrap(),
            committed_at: Timestamp::from_seconds(1),
            committed: at(committed),
            denies: true,
            kept: Vec::new(),
            guarantee: Guarantee::Holds,
        }
    }

    fn look(peers: &mut Peers, second: u64, beats: u64, told: Option<PeerMember>) -> usize {
        let peer = Peer { id: [9; 16], beats };
        peers.take(at(second), at(second), vec![(peer, told.into_iter().collect())]).len()
    }

    fn stands(peers: &Peers, committed: u64, now: u64) -> Standing {
        peers.standings(&key(), &facts(committed), at(now)).next().unwrap()
    }

    #[test]
    fn a_live_member_is_waited_for_until_the_lease_from_the_commit_is_over() {
        let mut peers = Peers::default();
        assert!(!peers.known_since(at(0)));
        assert_eq!(look(&mut peers, 10, 1, Some(told(PeerStream::Live, 1, 1, 4))), 1);
        for second in 11..=90 {
            look(&mut peers, second, second, None);
        }
        assert!(peers.known_since(at(90)) && !peers.known_since(at(91)));
        assert_eq!(stands(&peers, 20, 79), Standing::Holding);
        assert_eq!(stands(&peers, 20, 80), Standing::Holding, "drift is tolerated");
        assert!(matches!(stands(&peers, 20, 81), Standing::Lapsed(_)));
        look(&mut peers, 91, 91, Some(told(PeerStream::Live, 1, 2, 5)));
        assert!(matches!(stands(&peers, 20, 91), Standing::InForce { .. }));
    }

    #[test]
    fn who_does_not_hold_a_tenant_is_not_waited_for() {
        let mut peers = Peers::default();
        let holding = |cell: &str, number| PeerMember {
            holds: Some(vec![Name::parse(cell).unwrap()]),
            ..told(PeerStream::Live, 1, number, 4)
        };
        look(&mut peers, 10, 1, Some(holding("other", 1)));
        assert!(peers.standings(&key(), &facts(10), at(11)).next().is_none());
        look(&mut peers, 12, 2, Some(holding("demo", 2)));
        assert_eq!(stands(&peers, 12, 13), Standing::Holding);
    }

    #[test]
    fn one_that_left_lapses_from_when_that_was_seen() {
        let mut peers = Peers::default();
        look(&mut peers, 10, 1, Some(told(PeerStream::Live, 1, 1, 4)));
        look(&mut peers, 11, 2, Some(told(PeerStream::Left, 1, 2, 4)));
        look(&mut peers, 60, 60, None);
        assert_eq!(stands(&peers, 50, 71), Standing::Left);
        assert!(matches!(stands(&peers, 50, 72), Standing::Lapsed(_)));
        assert!(!peers.holds(&key(), at(12)));
        // It comes back, to the same hub: a newer stream, and the lease begins anew.
        assert_eq!(look(&mut peers, 73, 73, Some(told(PeerStream::Live, 2, 3, 4))), 1);
        assert_eq!(stands(&peers, 70, 74), Standing::Holding);
        assert!(peers.holds(&key(), at(74)));
    }

    #[test]
    fn a_hub_that_went_silent_leases_nothing_any_more() {
        let mut peers = Peers::default();
        look(&mut peers, 10, 1, Some(told(PeerStream::Live, 1, 1, 4)));
        look(&mut peers, 14, 1, None);
        assert_eq!(stands(&peers, 13, 14), Standing::Holding, "it may only be slow");
        look(&mut peers, 15, 1, None);
        assert_eq!(stands(&peers, 13, 15), Standing::Left);
        assert_eq!(stands(&peers, 13, 70), Standing::Left);
        assert!(matches!(stands(&peers, 13, 71), Standing::Lapsed(_)), "from its last heartbeat");
        // Not yet looked at since the commit: it may have answered until then.
        assert_eq!(stands(&peers, 16, 71), Standing::Left);
        assert_eq!(peers.gone(at(71), Duration::from_secs(10)), Vec::<[u8; 16]>::new());
        assert_eq!(peers.gone(at(82), Duration::from_secs(10)), [[9; 16]]);
        look(&mut peers, 83, 2, None);
        assert_eq!(stands(&peers, 83, 84), Standing::Holding, "it only slept");
    }

    #[test]
    fn a_stream_that_may_be_a_copys_is_held_for_its_lease() {
        let mut peers = Peers::default();
        look(&mut peers, 10, 1, Some(told(PeerStream::Fenced, 1, 1, 4)));
        look(&mut peers, 20, 2, None);
        assert_eq!(stands(&peers, 20, 69), Standing::Holding);
        assert!(peers.holds(&key(), at(69)));
        assert!(matches!(stands(&peers, 20, 71), Standing::Lapsed(_)));
        assert!(!peers.holds(&key(), at(71)));
        look(&mut peers, 21, 3, Some(told(PeerStream::Gone, 1, 2, 4)));
        assert!(peers.standings(&key(), &facts(20), at(21)).next().is_none());
        assert_eq!(peers.members().count(), 0);
    }
}
