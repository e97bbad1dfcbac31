//! Receipts: is a revision in force everywhere, since when, who is missing.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;

use super::member::{InForce, Member, MemberKey};
use super::peers::{Peers, may_hold};
use super::standing::{Standing, Whole};
use super::with_drift;
use super::withdrawal::Held;
use crate::core::id::Name;
use crate::core::time::{BootInstant, Now, Timestamp};
use crate::hub::model::Time;
use crate::hub::store::{Guarantee, PeerInForce, PeerMember, PeerStream, StoredReceipt};

/// What a receipt needs to know of its revision.
#[derive(Clone, Debug)]
pub(crate) struct RevisionFacts {
    pub(crate) revision: u64,
    pub(crate) cell: Name,
    /// The clock once the store had acknowledged the commit.
    pub(crate) committed_at: Timestamp,
    /// The same, never too early, on the clock that runs during suspend.
    pub(crate) committed: BootInstant,
    /// Whether all of the commit denies: then being told of it ahead of the order is enough.
    pub(crate) denies: bool,
    /// What was kept of its receipts, by this hub or another on the same store.
    pub(crate) kept: Vec<StoredReceipt>,
    /// Whether the store keeps what it acknowledged when a machine is lost.
    pub(crate) guarantee: Guarantee,
}

/// Whether a revision is in force at every enforcement point that fails closed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Receipt {
    /// The revision.
    pub(crate) revision: u64,
    /// The hub's clock once the store had acknowledged the commit; `null` where the store no longer knows.
    pub(crate) committed_at: Option<Time>,
    /// Whether any member is pending.
    pub(crate) state: ReceiptState,
    /// Since when no member has been pending; `null` while one is.
    pub(crate) effective_since: Option<Time>,
    /// By when it is effective whatever happens, for routes with a finite `deny_after`, their
    /// streams included; `null` when members have waived routes only, or it is not known when it was committed.
    pub(crate) effective_by: Option<Time>,
    /// `holds`, or why the promise is not guaranteed: the store may lose an acknowledged commit.
    pub(crate) guarantee: String,
    /// How many members are not pending; what `seen` compares with.
    pub(crate) settled: usize,
    /// Each member, by id and incarnation.
    pub(crate) members: Vec<MemberReceipt>,
}

/// Whether a revision is effective.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ReceiptState {
    /// No member can still act on older state, waived routes aside.
    Effective,
    /// Some member may.
    Pending,
    /// The commit is of an epoch that was left, and the store does not hold it: nothing is said of it any more.
    Void,
}

/// One member's part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct MemberReceipt {
    /// The enforcement point's id.
    pub(crate) spoke_id: String,
    /// Its process start, 16 bytes in hexadecimal.
    pub(crate) incarnation: String,
    /// How it stands.
    pub(crate) state: MemberState,
    /// When it came to stand so; `null` while pending.
    pub(crate) at: Option<Time>,
    /// Remembered verifications dropped, as acknowledged.
    pub(crate) purged: u64,
    /// Streams ended, as acknowledged.
    pub(crate) ended_streams: u64,
    /// Routes that never deny for staleness: not covered until it is in force.
    pub(crate) waived_routes: Vec<String>,
    /// The acknowledgement as it was signed; `null` until it is kept, and while nothing was acknowledged.
    pub(crate) signed: Option<SignedReceipt>,
}

/// An acknowledgement, checkable by anyone: Ed25519 over `portreeve receipt v1`, a zero byte, and `ack`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct SignedReceipt {
    /// The encoded `Ack` of `portreeve.state.v1`, base64url.
    pub(crate) ack: String,
    /// The signature, base64url.
    pub(crate) signature: String,
    /// The incarnation's public key, as its hello told it, base64url.
    pub(crate) key: String,
}

/// How a member stands to a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MemberState {
    /// It acknowledged: no decision of it can read older state.
    InForce,
    /// It may still act on older state.
    Pending,
    /// Its lease on older state is over: it denies for staleness.
    Lapsed,
    /// It acknowledged, but the store was restored since: that no longer says anything.
    Void,
}

impl Receipt {
    pub(super) fn of(
        facts: &RevisionFacts,
        members: &HashMap<MemberKey, Member>,
        peers: Option<&Peers>,
        now: Now,
    ) -> Self {
        let known = Known { facts, peers, now };
        let roster = Roster::of(&facts.cell, members, peers);
        let mut each: Vec<_> =
            roster.here.iter().map(|(key, at)| known.receipt(key, Some(*at), None)).collect();
        let only_there = roster.there.iter().filter(|(key, _)| !roster.here.contains_key(*key));
        each.extend(only_there.map(|(key, told)| known.receipt(key, None, Some(told))));
        let gone = |kept: &&StoredReceipt| {
            let key = MemberKey { spoke_id: kept.spoke_id.clone(), incarnation: kept.incarnation };
            !roster.here.contains_key(&key) && !roster.there.contains_key(&key)
        };
        each.extend(facts.kept.iter().filter(gone).map(MemberReceipt::kept));
        each.sort_by(|a, b| (&a.spoke_id, &a.incarnation).cmp(&(&b.spoke_id, &b.incarnation)));
        let settled = each.iter().filter(|member| member.state != MemberState::Pending).count();
        // Read before the commit, the other hubs' rosters may lack somebody who had older state by then.
        let all_known = peers.is_none_or(|peers| peers.known_since(facts.committed));
        let effective = all_known && settled == each.len();
        let last = each.iter().filter_map(|member| member.at).max();
        let committed_at = Time(facts.committed_at);
        Self {
            revision: facts.revision,
            committed_at: Some(committed_at),
            state: if effective { ReceiptState::Effective } else { ReceiptState::Pending },
            effective_since: effective.then(|| last.map_or(committed_at, |last| last.max(committed_at))),
            effective_by: effective_by(facts.committed_at, roster.terms(facts.committed)),
            guarantee: guarantee(&facts.guarantee),
            settled,
            members: each,
        }
    }

    /// Of a commit that neither the log nor a record tells of any more: what was kept of its receipts.
    pub(crate) fn kept(revision: u64, kept: &[StoredReceipt], held: &Guarantee) -> Self {
        let members: Vec<_> = kept.iter().map(MemberReceipt::kept).collect();
        let is_void = kept.iter().all(|receipt| receipt.voided);
        let last = members.iter().filter_map(|member| member.at).max();
        Self {
            revision,
            committed_at: None,
            // Trimmed, it is longer ago than any lease lasts.
            state: if is_void { ReceiptState::Void } else { ReceiptState::Effective },
            effective_since: last.filter(|_| !is_void),
            effective_by: None,
            guarantee: guarantee(held),
            settled: members.len(),
            members,
        }
    }
}

fn guarantee(held: &Guarantee) -> String {
    match held {
        Guarantee::Holds => "holds".to_owned(),
        Guarantee::NotGuaranteed(why) => format!("not guaranteed: {why}"),
    }
}

/// Who may hold a tenant: members of this hub, and those of which others told.
struct Roster<'a> {
    here: HashMap<&'a MemberKey, (&'a Member, Held)>,
    there: HashMap<&'a MemberKey, &'a PeerMember>,
}

impl<'a> Roster<'a> {
    fn of(cell: &Name, members: &'a HashMap<MemberKey, Member>, peers: Option<&'a Peers>) -> Self {
        let here = members.iter().filter_map(|(key, it)| Some((key, (it, it.holdings.of(cell)?))));
        let there = peers.into_iter().flat_map(Peers::members);
        let there = there.filter(|(_, told, _)| may_hold(told, cell)).map(|(key, told, _)| (key, told));
        Self { here: here.collect(), there: there.collect() }
    }

    /// What each was granted by a commit: its longest finite `deny_after`, and whether all of its routes
    /// are waived.
    fn terms(&self, committed: BootInstant) -> impl Iterator<Item = (Option<Duration>, bool)> {
        let only_waived =
            |longest: Option<Duration>, waived: &[String]| longest.is_none() && !waived.is_empty();
        let here = self.here.values().map(move |(it, _)| {
            (it.deny_after_max_at(committed), only_waived(it.deny_after_max(), &it.terms.waived))
        });
        let there = self.there.values().map(|it| &it.member);
        let there = there.map(move |it| (it.deny_after_max, only_waived(it.deny_after_max, &it.waived)));
        here.chain(there)
    }
}

fn effective_by(
    committed_at: Timestamp,
    terms: impl Iterator<Item = (Option<Duration>, bool)>,
) -> Option<Time> {
    let mut unbounded = false;
    let mut longest = Duration::ZERO;
    for (deny_after_max, only_waived) in terms {
        unbounded |= only_waived;
        longest = longest.max(deny_after_max.unwrap_or_default());
    }
    (!unbounded).then(|| Time(committed_at.after(with_drift(longest)).after(ENDING_STREAMS)))
}

/// What a member's part is made from.
struct Known<'a> {
    facts: &'a RevisionFacts,
    peers: Option<&'a Peers>,
    now: Now,
}

impl Known<'_> {
    /// One member's part; it is a member here, or another hub told of it, or both.
    fn receipt(
        &self,
        key: &MemberKey,
        here: Option<(&Member, Held)>,
        told: Option<&PeerMember>,
    ) -> MemberReceipt {
        let Self { facts, peers, now } = *self;
        let kept = facts
            .kept
            .iter()
            .find(|kept| kept.spoke_id == key.spoke_id && kept.incarnation == key.incarnation);
        let member = here.map(|(member, _)| member);
        let here = here.map(|(member, held)| standing(member, held, facts, now));
        let there = peers.into_iter().flat_map(|peers| peers.standings(key, facts, now.boot));
        let whole = Whole::of(here.into_iter().chain(there));
        let (state, at) = match (whole.state, kept) {
            (MemberState::InForce, _) => (MemberState::InForce, whole.at),
            (_, Some(kept)) if !kept.voided => (MemberState::InForce, Some(kept.at)),
            (state, _) => (state, whole.lapsed.map(|end| wall_of(end, now))),
        };
        let at = at.filter(|_| state != MemberState::Pending);
        let acknowledged = whole.at.is_some();
        let waived = member.map(|member| &member.terms.waived).or(told.map(|told| &told.member.waived));
        MemberReceipt {
            spoke_id: key.spoke_id.clone(),
            incarnation: hex(&key.incarnation),
            state,
            at: at.map(Time),
            purged: kept.map(|kept| kept.purged).filter(|_| !acknowledged).unwrap_or(whole.purged),
            ended_streams: kept
                .map(|kept| kept.ended_streams)
                .filter(|_| !acknowledged)
                .unwrap_or(whole.ended_streams),
            waived_routes: waived.cloned().unwrap_or_default(),
            signed: kept.map(SignedReceipt::of),
        }
    }
}

/// How a member stands at this hub.
fn standing(member: &Member, held: Held, facts: &RevisionFacts, now: Now) -> Standing {
    let fence = member.fence(held, facts.revision, facts.committed);
    // Without a finite route a lease bounds nothing: a live stream is waited for.
    let bounded = member.deny_after_max().is_some() || !member.is_connected();
    let acknowledged = member.in_force(facts);
    let alone = |held: &&InForce| member.alone_from(held).is_none_or(|from| now.boot > from);
    if let Some(held) = acknowledged.filter(alone) {
        let at = held.at.max(member.alone_from(held).map_or(held.at, |from| wall_of(from, now)));
        return Standing::InForce { at, purged: held.purged, ended_streams: held.ended_streams };
    }
    if bounded && now.boot > fence {
        return Standing::Lapsed(fence);
    }
    // What was acknowledged by one of two copies, here or elsewhere, does not speak for the other.
    let is_held = acknowledged.is_some() || member.stream() != PeerStream::Left;
    if is_held { Standing::Holding } else { Standing::Left }
}

impl MemberReceipt {
    /// One whose member is no more.
    fn kept(kept: &StoredReceipt) -> Self {
        Self {
            spoke_id: kept.spoke_id.clone(),
            incarnation: hex(&kept.incarnation),
            state: if kept.voided { MemberState::Void } else { MemberState::InForce },
            at: Some(Time(kept.at)),
            purged: kept.purged,
            ended_streams: kept.ended_streams,
            waived_routes: Vec::new(),
            signed: Some(SignedReceipt::of(kept)),
        }
    }
}

impl SignedReceipt {
    fn of(kept: &StoredReceipt) -> Self {
        Self {
            ack: URL_SAFE_NO_PAD.encode(&kept.ack),
            signature: URL_SAFE_NO_PAD.encode(&kept.signature),
            key: URL_SAFE_NO_PAD.encode(kept.key),
        }
    }
}

/// The members of the fleet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Fleet {
    /// Each member, by id and incarnation.
    pub(crate) members: Vec<MemberView>,
}

/// One member of the fleet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct MemberView {
    /// The enforcement point's id.
    pub(crate) spoke_id: String,
    /// Its process start, 16 bytes in hexadecimal.
    pub(crate) incarnation: String,
    /// Its build.
    pub(crate) build: String,
    /// Whether it has a live stream.
    pub(crate) connected: bool,
    /// When this incarnation was first seen, by this process of the hub.
    pub(crate) joined: Time,
    /// When a ping of it was last answered.
    pub(crate) last_ping: Option<Time>,
    /// The longest finite `deny_after` of its routes, in milliseconds; `null`: it has none.
    pub(crate) deny_after_max_ms: Option<u64>,
    /// Routes that never deny for staleness.
    pub(crate) waived_routes: Vec<String>,
    /// What it has acknowledged to be in force.
    pub(crate) cells: Vec<MemberCell>,
    /// Revocations of an older epoch that it keeps in force because the restored store does not know them.
    pub(crate) carried_kills: u64,
    /// The tenants of its scope; `null`: every tenant.
    pub(crate) scope: Option<Vec<String>>,
    /// Rises with each change of the scope.
    pub(crate) scope_version: u64,
    /// Tenants it was told to drop and may still hold; `*`: any.
    pub(crate) withdrawing: Vec<String>,
    /// Tables of it that were found to differ from their digest, since its start.
    pub(crate) drift_found: u64,
    /// Of these, repaired.
    pub(crate) drift_mended: u64,
    /// The last batches it refused, newest last.
    pub(crate) refusals: Vec<String>,
}

/// How far a member has one cell in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct MemberCell {
    /// The tenant.
    pub(crate) tenant: String,
    /// The revision in force.
    pub(crate) revision: u64,
    /// Up to here every revocation is in force, ahead of the order where that is further.
    pub(crate) kill_revision: u64,
    /// Since when.
    pub(crate) at: Time,
}

impl Fleet {
    pub(super) fn of(members: &HashMap<MemberKey, Member>, peers: Option<&Peers>, now: Now) -> Self {
        let mut views: Vec<_> =
            members.iter().map(|(key, member)| MemberView::of(key, member, now)).collect();
        let mut elsewhere: HashMap<&MemberKey, (&PeerMember, bool)> = HashMap::new();
        for (key, told, is_live) in peers.into_iter().flat_map(Peers::members) {
            let held = elsewhere.entry(key).or_insert((told, is_live));
            if held.0.joined < told.joined {
                *held = (told, held.1 || is_live);
            }
        }
        for (key, (told, is_live)) in elsewhere {
            match members.get(key) {
                Some(member) if member.is_connected() || !is_live => {}
                known => {
                    let (spoke_id, incarnation) = (&key.spoke_id, hex(&key.incarnation));
                    views.retain(|it| it.spoke_id != *spoke_id || it.incarnation != incarnation);
                    views.push(MemberView::told(key, known, told, is_live, now));
                }
            }
        }
        views.sort_by(|a, b| (&a.spoke_id, &a.incarnation).cmp(&(&b.spoke_id, &b.incarnation)));
        Self { members: views }
    }
}

impl MemberView {
    fn of(key: &MemberKey, member: &Member, now: Now) -> Self {
        let mut cells: Vec<_> = member
            .positions()
            .map(|(cell, held)| MemberCell {
                tenant: cell.to_string(),
                revision: held.revision,
                kill_revision: held.kill_revision,
                at: Time(held.at),
            })
            .collect();
        cells.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        Self {
            spoke_id: key.spoke_id.clone(),
            incarnation: hex(&key.incarnation),
            build: member.terms.build.clone(),
            connected: member.is_connected(),
            joined: Time(member.joined),
            last_ping: member.last_answer().map(|at| Time(wall_of(at, now))),
            deny_after_max_ms: member
                .deny_after_max()
                .map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            waived_routes: member.terms.waived.clone(),
            cells,
            carried_kills: member.carried,
            scope: member.holdings.scope().names(),
            scope_version: member.holdings.version(),
            withdrawing: member.holdings.leaving(),
            drift_found: member.drift.0,
            drift_mended: member.drift.1,
            refusals: member.refused.iter().cloned().collect(),
        }
    }
}

impl MemberView {
    /// One whose stream is another hub's.
    fn told(key: &MemberKey, known: Option<&Member>, told: &PeerMember, is_live: bool, now: Now) -> Self {
        let nobody = Member::new(now);
        let mut cells: Vec<_> = told.in_force.iter().map(MemberCell::told).collect();
        cells.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        Self {
            build: told.member.build.clone(),
            connected: is_live,
            deny_after_max_ms: told
                .member
                .deny_after_max
                .map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            waived_routes: told.member.waived.clone(),
            cells,
            scope: told.holds.as_ref().map(|holds| holds.iter().map(Name::to_string).collect()),
            scope_version: 0,
            withdrawing: Vec::new(),
            ..Self::of(key, known.unwrap_or(&nobody), now)
        }
    }
}

impl MemberCell {
    fn told(held: &PeerInForce) -> Self {
        Self {
            tenant: held.cell.to_string(),
            revision: held.revision,
            kill_revision: held.kill_revision,
            at: Time(held.at),
        }
    }
}

/// The wall-clock time of an instant at or before now.
fn wall_of(at: BootInstant, now: Now) -> Timestamp {
    now.wall.before(Duration::from_micros(now.boot.as_micros().saturating_sub(at.as_micros())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What ending streams may take, past the lease.
const ENDING_STREAMS: Duration = Duration::from_secs(1);
