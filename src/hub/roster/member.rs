//! One incarnation of one enforcement point.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::withdrawal::{Held, Holdings};
use super::{Acknowledged, CellInForce, RevisionFacts, Scoped, StoredMember, with_drift};
use crate::core::id::Name;
use crate::core::time::{BootInstant, Now, Timestamp};
use crate::hub::admission::Scope;
use crate::hub::store::{PeerInForce, PeerMember, PeerStream};

/// Who a member is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct MemberKey {
    pub(crate) spoke_id: String,
    pub(crate) incarnation: [u8; 16],
}

/// What a member says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Terms {
    /// Longest finite `deny_after` of its routes; `None`: it has none.
    pub(crate) deny_after_max: Option<Duration>,
    /// Routes that never deny for staleness.
    pub(crate) waived: Vec<String>,
    /// Its build.
    pub(crate) build: String,
}

/// What is known of one.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) terms: Terms,
    /// When it was last granted a longer `deny_after`, and the one before; `None`: not in this run.
    lengthened: Option<(BootInstant, Option<Duration>)>,
    pub(super) joined: Timestamp,
    stream: Option<(u64, CancellationToken)>,
    sessions: u64,
    /// Whether its stream was open here when a newer one came to another hub.
    fenced_elsewhere: bool,
    /// Pings answered, as (head named, last receipt of such a ping), oldest first.
    answers: VecDeque<(u64, BootInstant)>,
    /// When it was last known to hold a lease from an answer this list no longer, or never, had.
    before: Option<BootInstant>,
    cells: HashMap<Name, VecDeque<InForce>>,
    pub(super) holdings: Holdings,
    copied: Option<Copied>,
    pub(super) refused: VecDeque<String>,
    /// Revocations it carries from an older epoch.
    pub(super) carried: u64,
    /// Tables found to differ, and mended.
    pub(super) drift: (u64, u64),
}

/// Streams that were live when a newer one of the same incarnation came: they may have been
/// those of a copy, which goes on deciding for the lease it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Copied {
    /// The first of them.
    from: u64,
    /// Their last answer.
    last: BootInstant,
}

/// A position that was acknowledged to be in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InForce {
    pub(super) revision: u64,
    pub(super) kill_revision: u64,
    pub(super) at: Timestamp,
    pub(super) purged: u64,
    pub(super) ended_streams: u64,
    /// On which stream it was acknowledged.
    session: u64,
}

impl Member {
    pub(super) fn new(now: Now) -> Self {
        Self {
            terms: Terms::default(),
            lengthened: None,
            joined: now.wall,
            stream: None,
            sessions: 0,
            fenced_elsewhere: false,
            answers: VecDeque::new(),
            before: None,
            cells: HashMap::new(),
            holdings: Holdings::unknown(),
            copied: None,
            refused: VecDeque::new(),
            carried: 0,
            drift: (0, 0),
        }
    }

    /// A member known from before a restart: it may have been answered until just now.
    pub(super) fn restored(saved: &StoredMember, now: Now) -> Self {
        let terms = Terms {
            deny_after_max: saved.deny_after_max,
            waived: saved.waived.clone(),
            build: saved.build.clone(),
        };
        Self { terms, before: Some(now.boot), ..Self::new(now) }
    }

    pub(super) const fn deny_after_max(&self) -> Option<Duration> {
        self.terms.deny_after_max
    }

    /// The longest finite `deny_after` that it may have been granted with an answer older than a commit.
    ///
    /// What was granted after it came with answers that name it.
    pub(super) fn deny_after_max_at(&self, committed: BootInstant) -> Option<Duration> {
        match self.lengthened {
            Some((since, before)) if committed < since => before,
            _ => self.terms.deny_after_max,
        }
    }

    /// Grants a longer `deny_after` from here on.
    pub(super) fn lengthen(&mut self, deny_after_max: Option<Duration>, now: BootInstant) {
        if deny_after_max > self.terms.deny_after_max {
            self.lengthened = Some((now, self.terms.deny_after_max));
            self.terms.deny_after_max = deny_after_max;
        }
    }

    /// What is saved of it.
    pub(super) fn saved(&self, key: &MemberKey) -> StoredMember {
        StoredMember {
            spoke_id: key.spoke_id.clone(),
            incarnation: key.incarnation,
            deny_after_max: self.terms.deny_after_max,
            waived: self.terms.waived.clone(),
            build: self.terms.build.clone(),
        }
    }

    pub(super) const fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether a stream is the last that came.
    pub(super) const fn is_newest(&self, session: u64) -> bool {
        self.sessions == session
    }

    /// Takes over the stream, fencing the one before.
    pub(super) fn connect(
        &mut self,
        terms: Terms,
        scoped: Scoped,
        fence: CancellationToken,
        now: Now,
    ) -> u64 {
        if let Some((session, older)) = self.stream.take() {
            older.cancel();
            self.note_copy(session, now.boot);
        }
        if self.is_new() {
            // It has held nothing under any other scope.
            self.holdings.begin(scoped.scope, scoped.version);
        } else {
            self.holdings.rescope(scoped.scope, scoped.version, now.boot);
        }
        self.holdings.came_with(scoped.held, now.boot);
        if self.sessions == 0 {
            self.joined = now.wall;
        }
        self.lengthen(terms.deny_after_max, now.boot);
        self.terms = Terms { deny_after_max: self.terms.deny_after_max, ..terms };
        self.sessions += 1;
        self.fenced_elsewhere = false;
        self.stream = Some((self.sessions, fence));
        self.sessions
    }

    /// Whether nothing is known of it, from this run of the hub or one before.
    const fn is_new(&self) -> bool {
        self.sessions == 0 && self.before.is_none()
    }

    /// Takes another scope on its newest stream.
    pub(super) fn rescope(&mut self, session: u64, scope: Scope, version: u64, now: Now) {
        if self.is_newest(session) {
            self.holdings.rescope(scope, version, now.boot);
        }
    }

    /// Ends the stream: a newer one of the same incarnation came to another hub.
    pub(super) fn fence_here(&mut self) -> bool {
        let Some((_, stream)) = &self.stream else { return false };
        stream.cancel();
        self.fenced_elsewhere = true;
        true
    }

    /// How its stream stands, as the other hubs are told.
    pub(super) const fn stream(&self) -> PeerStream {
        match (self.fenced_elsewhere, self.is_connected()) {
            (true, _) => PeerStream::Fenced,
            (false, true) => PeerStream::Live,
            (false, false) => PeerStream::Left,
        }
    }

    /// What the other hubs are told of it.
    pub(super) fn to_peers(&self, key: &MemberKey, now: BootInstant) -> PeerMember {
        PeerMember {
            member: self.saved(key),
            stream: self.stream(),
            joined: 0,
            told: 0,
            holds: self.holdings.named(),
            in_force: self.told(now),
        }
    }

    /// The positions it has in force, as far as they speak for every copy of its process.
    fn told(&self, now: BootInstant) -> Vec<PeerInForce> {
        let alone = |held: &InForce| self.alone_from(held).is_none_or(|from| now > from);
        let sole = self.positions().filter(|(_, held)| alone(held));
        let each = sole.map(|(cell, held)| PeerInForce {
            cell: cell.clone(),
            revision: held.revision,
            kill_revision: held.kill_revision,
            at: held.at,
            purged: held.purged,
            ended_streams: held.ended_streams,
        });
        each.collect()
    }

    fn note_copy(&mut self, session: u64, now: BootInstant) {
        let Some(last) = self.last_answer() else { return };
        let running = self.copied.filter(|copied| now <= self.lease_end(copied.last));
        self.copied = Some(Copied { from: running.map_or(session, |copied| copied.from), last });
    }

    /// From when on an acknowledgement speaks for every copy of the process; `None`: there is none.
    pub(super) fn alone_from(&self, held: &InForce) -> Option<BootInstant> {
        let copied = self.copied.filter(|copied| held.session > copied.from)?;
        Some(self.lease_end(copied.last))
    }

    /// Whether no copy of the process can still hold a lease of its own.
    pub(super) fn is_alone(&self, session: u64, now: BootInstant) -> bool {
        let copied = self.copied.filter(|copied| session > copied.from);
        self.is_newest(session) && copied.is_none_or(|copied| now > self.lease_end(copied.last))
    }

    pub(super) fn disconnect(&mut self, session: u64) {
        if self.stream.as_ref().is_some_and(|(held, _)| *held == session) {
            self.stream = None;
        }
    }

    pub(super) fn answered(&mut self, session: u64, head: u64, received: BootInstant) {
        // A stream that has just been fenced may be answering still: its lease begins now.
        if let Some(copied) = self.copied.as_mut().filter(|_| session < self.sessions) {
            copied.last = copied.last.max(received);
        }
        match self.answers.back_mut() {
            Some((held, at)) if *held == head => *at = received.max(*at),
            _ => self.answers.push_back((head, received)),
        }
        if self.answers.len() > ANSWERS_MAX
            && let Some((_, at)) = self.answers.pop_front()
        {
            self.before = self.before.max(Some(at));
        }
    }

    pub(super) fn acknowledged(&mut self, session: u64, ack: Acknowledged, now: Now) {
        if !self.is_newest(session) {
            return;
        }
        if self.is_alone(session, now.boot) {
            let held = ack.positions.iter().map(|position| &position.cell);
            self.holdings.acknowledged(ack.scope_version, held);
        }
        for CellInForce { cell, revision, kill_revision } in ack.positions {
            let held = self.cells.entry(cell).or_default();
            let moved = |last: &InForce| last.revision < revision || last.kill_revision < kill_revision;
            if held.back().is_none_or(moved) {
                held.push_back(InForce {
                    revision,
                    kill_revision,
                    at: now.wall,
                    purged: ack.purged,
                    ended_streams: ack.ended_streams,
                    session,
                });
            }
            if held.len() > ACKS_MAX {
                held.pop_front();
            }
        }
        if self.is_alone(session, now.boot) {
            // What it has dropped is nowhere in force.
            let holdings = &self.holdings;
            self.cells.retain(|cell, _| holdings.of(cell).is_some());
        }
        self.carried = ack.carried;
        self.drift = ack.drift;
        for refused in ack.refused {
            self.refused.push_back(refused);
            if self.refused.len() > REFUSALS_MAX {
                self.refused.pop_front();
            }
        }
    }

    /// The first acknowledgement known that covers a commit.
    pub(super) fn in_force(&self, facts: &RevisionFacts) -> Option<&InForce> {
        let covers = |held: &&InForce| {
            held.revision >= facts.revision || (facts.denies && held.kill_revision >= facts.revision)
        };
        self.cells.get(&facts.cell)?.iter().find(covers)
    }

    /// The last position acknowledged of each cell.
    pub(super) fn positions(&self) -> impl Iterator<Item = (&Name, &InForce)> {
        self.cells.iter().filter_map(|(cell, held)| held.back().map(|last| (cell, last)))
    }

    /// When its lease on state older than `revision` is over.
    ///
    /// The last ping answered with an older head, or when no such answer is known the commit
    /// itself: an answer sent after it names the revision.
    pub(super) fn fence(&self, held: Held, revision: u64, committed: BootInstant) -> BootInstant {
        if let Held::Leaving(last) = held {
            return self.lease_end(last);
        }
        let older = self.answers.iter().filter(|(head, _)| *head < revision).map(|(_, at)| *at).max();
        self.lease_end(older.max(self.before).unwrap_or(committed))
    }

    /// When a lease from an answer to a ping that came at `last` is over.
    fn lease_end(&self, last: BootInstant) -> BootInstant {
        lease_end(self.terms.deny_after_max, last)
    }

    /// When it was last answered at all.
    pub(super) fn last_answer(&self) -> Option<BootInstant> {
        self.answers.iter().map(|(_, at)| *at).max().max(self.before)
    }

    /// Whether it is gone: no stream, and every lease over for `longer`.
    pub(super) fn is_over(&self, now: BootInstant, longer: Duration) -> bool {
        let span = with_drift(self.terms.deny_after_max.unwrap_or_default()).saturating_add(longer);
        let held = self.last_answer().and_then(|at| now.since(at)).is_some_and(|gone| gone <= span);
        !self.is_connected() && !held
    }
}

/// When a lease of `deny_after` from an answer to a ping that came at `last` is over.
pub(super) fn lease_end(deny_after: Option<Duration>, last: BootInstant) -> BootInstant {
    let span = with_drift(deny_after.unwrap_or_default());
    BootInstant::from_micros(last.as_micros().saturating_add(micros(span)))
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

const ANSWERS_MAX: usize = 256;
const ACKS_MAX: usize = 256;
const REFUSALS_MAX: usize = 16;
