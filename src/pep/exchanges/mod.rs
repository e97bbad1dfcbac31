//! The open exchanges of this process, and their ends.
//!
//! Whatever was allowed and is not over is listed here, from before the last look until its last
//! byte: a stream, an upload, an answer that an upstream still owes. What it rests on is judged again,
//! by the whole decision, when a change touches it, when something it relied on ends, and when
//! the state is too old for its route. Turned, it is ended on both sides, recorded and counted.
//!
//! Changes that deny are judged on the writer's thread, so that an acknowledgement says how many
//! exchanges they ended. All others are marked, and judged at once by [`Exchanges::keep`].

mod open;
mod reads;
mod shard;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::core::id::Name;
use crate::core::identity::{Change, RecordKind, Snapshot};
use crate::core::policy::{Reason, Staleness};
use crate::pipeline::Pipeline;
use crate::telemetry::metrics::{ExchangeMetrics, Metrics};
pub(crate) use open::{Open, Stage};
use reads::Reads;
pub(crate) use shard::Shard;

/// How often it is looked for what is to be judged again because of the time.
const ROUND_EVERY: Duration = Duration::from_millis(200);

/// The open exchanges of every worker.
pub struct Exchanges {
    pipeline: Arc<Pipeline>,
    metrics: ExchangeMetrics,
    reads: Reads,
    shards: Mutex<Vec<Weak<Shard>>>,
    marked: Mutex<Vec<Arc<Open>>>,
    wanted: Notify,
    ended: AtomicU64,
}

impl std::fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchanges").finish_non_exhaustive()
    }
}

impl Exchanges {
    /// Begins empty.
    pub fn new(pipeline: Arc<Pipeline>, metrics: &Metrics) -> Self {
        Self {
            pipeline,
            metrics: metrics.exchanges(),
            reads: Reads::default(),
            shards: Mutex::default(),
            marked: Mutex::default(),
            wanted: Notify::new(),
            ended: AtomicU64::new(0),
        }
    }

    /// The decision path that they are judged by.
    pub(crate) const fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// One more worker's share.
    pub(crate) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(self.reads.clone()));
        let mut shards = self.shards.lock();
        shards.retain(|held| held.strong_count() > 0);
        shards.push(Arc::downgrade(&shard));
        shard
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.all().iter().map(|shard| shard.len()).sum()
    }

    /// How many changes have ended, before they were acknowledged, since this was last asked. What the time,
    /// or a change that was only marked, has ended is not among them.
    pub fn take_ended(&self) -> u64 {
        self.ended.swap(0, Ordering::AcqRel)
    }

    /// Changes of a cell came into force; `snapshot` is the state with them. Says how many exchanges
    /// this has ended. What is only marked is ended, and counted, later.
    pub fn changed<'a>(
        &self,
        cell: &Name,
        changes: impl IntoIterator<Item = &'a Change>,
        snapshot: &Snapshot,
    ) -> u64 {
        let (mut denied, mut touched, mut listed) = (HashSet::new(), HashSet::new(), HashSet::new());
        for change in changes {
            let numbers = match change.kind {
                RecordKind::StatusList => &mut listed,
                _ if change.denies() => &mut denied,
                _ => &mut touched,
            };
            self.reads.of_change(cell, change, snapshot, numbers);
        }
        if denied.is_empty() && touched.is_empty() && listed.is_empty() {
            return 0;
        }
        let mut ended = 0;
        for shard in self.all() {
            ended += self.judge_all(&shard.resting_on(&denied));
            let turned = shard.resting_on(&listed).into_iter().filter(|open| turned(open, snapshot));
            ended += self.judge_all(&turned.collect::<Vec<_>>());
            if !touched.is_empty() {
                self.mark(shard.resting_on(&touched));
            }
        }
        self.ended.fetch_add(ended, Ordering::AcqRel);
        ended
    }

    /// A whole cell was put in place anew, or is gone. Says how many exchanges this has ended.
    pub fn replaced(&self, cell: &Name) -> u64 {
        let ended = self.doubted(cell);
        self.ended.fetch_add(ended, Ordering::AcqRel);
        ended
    }

    /// Something that is trusted here alone has changed, on which whatever is open of a cell may rest. Says how
    /// many exchanges this has ended; no receipt counts them.
    pub fn doubted(&self, cell: &Name) -> u64 {
        let touched = HashSet::from([self.reads.tenant(cell)]);
        self.all().iter().map(|shard| self.judge_all(&shard.resting_on(&touched))).sum()
    }

    /// Looks once for what has been marked, and for what is to be judged again because of the time.
    pub fn look(&self) {
        let now = self.pipeline.now().wall;
        let is_over = |deny_after: Option<Duration>| {
            self.pipeline.is_stale(&Staleness { deny_after, ..Staleness::default() })
        };
        for shard in self.all() {
            self.judge_all(&shard.round(now, is_over));
        }
        // After those whose time is over: however many there are, they keep none of these.
        let marked = std::mem::take(&mut *self.marked.lock());
        // Before it is judged: a change that comes meanwhile marks it anew.
        marked.iter().for_each(|open| open.unmark());
        self.judge_all(&marked);
    }

    /// Looks again and again, and whenever something has been marked, until told to stop.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut rounds = interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                _ = rounds.tick() => {}
            }
            self.look();
        }
    }

    fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn mark(&self, mut found: Vec<Arc<Open>>) {
        found.retain(|open| open.mark());
        if !found.is_empty() {
            self.marked.lock().extend(found);
            self.wanted.notify_one();
        }
    }

    fn judge_all(&self, open: &[Arc<Open>]) -> u64 {
        open.iter().map(|open| u64::from(self.judge(open))).sum()
    }

    /// Ends an exchange whose caller passed a bound, on record.
    pub(crate) fn end(&self, open: &Open, reason: Reason) {
        if open.end(reason) {
            let judged = open.judged();
            self.pipeline.sever(open.decision(), judged.basis(), reason, judged.basis().position.revision);
            self.metrics.severed(reason);
        }
    }

    /// Judges an exchange again; whether this has ended it.
    fn judge(&self, open: &Open) -> bool {
        self.metrics.judged_again();
        loop {
            // A fault of ours turns it, as it turns a request.
            let judged = AssertUnwindSafe(|| self.pipeline.review(open.exchange(), open.opened()));
            let (reason, revision) = match std::panic::catch_unwind(judged) {
                Err(_) => (Reason::Internal, 0),
                Ok(verdict) => match verdict.reason() {
                    Some(reason) => (reason, verdict.basis().position.revision),
                    None => {
                        let root = verdict.basis().root;
                        open.judged_again(verdict);
                        // What is published from here on finds what it rests on now.
                        if self.pipeline.root() == root {
                            return false;
                        }
                        continue;
                    }
                },
            };
            let ended = open.end(reason);
            if ended {
                let judged = open.judged();
                self.pipeline.sever(open.decision(), judged.basis(), reason, revision);
                self.metrics.severed(reason);
            }
            return ended;
        }
    }
}

/// Whether a status list says something else of an exchange's token than when it was judged, or says it
/// for a shorter time. Of a list of a million only these are judged.
fn turned(open: &Open, snapshot: &Snapshot) -> bool {
    let judged = open.judged();
    let basis = judged.basis();
    let (Some(tenant), Some(verified)) = (&basis.tenant, &basis.verified) else { return true };
    match snapshot.token_status(tenant, verified, basis.now.wall) {
        Ok(until) => until < basis.until,
        Err(_) => true,
    }
}
