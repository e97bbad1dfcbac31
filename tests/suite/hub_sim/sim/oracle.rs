//! What must hold: looked at at every allow, every receipt, every state, and once more at rest.

use std::time::Duration;

use portreeve::core::identity::{Keyer, Repair, Snapshot};
use portreeve::core::policy::Reason;
use portreeve::hub::store::StateStore as _;
use serde_json::Value;

use super::edge::{Judged, Seen};
use super::fault::Fault;
use super::host::{MS, SECOND, Us};
use super::hubs::{Answer, Asked};
use super::truth::Token;
use super::world::{Expected, Then, World};

/// Time lost to the grain of timers.
const GRAIN: Us = 5 * MS;
/// How long it may take until all is well again once nothing fails any more.
const REST_MAX: Us = 90 * SECOND;

impl World {
    /// Notes what does not hold.
    pub(crate) fn violated(&mut self, what: String) {
        self.trace(format_args!("VIOLATED: {what}"));
        if self.report.violations.len() < 5 {
            self.report.violations.push(format!("at {:.3} s: {what}", self.now as f64 / 1e6));
        }
    }

    /// Judges a request; an allow must not stand beside a record that it is revoked.
    pub(crate) fn judge(&mut self, edge: usize, token: &Token, waived: bool) -> Option<Judged> {
        let judged = match self.edges[edge].judge(token, waived) {
            Ok(judged) => judged,
            Err(reason) => {
                self.report.count(if reason == Reason::StateStale { "denied as stale" } else { "denied" });
                return None;
            }
        };
        let known = self.edges[edge].in_force_against(token, judged.generation);
        if let Some(kill) = known {
            let name = &self.edges[edge].name;
            self.violated(format!("{name} allowed {token:?} after its own record of {kill:?}"));
        }
        Some(judged)
    }

    /// Takes the last look; if the allow has its effect, it must be accounted for.
    pub(crate) fn release(&mut self, edge: usize, judged: Judged) {
        let (token, waived, incarnation) = (judged.token.clone(), judged.waived, judged.incarnation);
        if !self.edges[edge].release(judged) {
            return self.report.count("withdrawn at the last look");
        }
        self.report.count(if waived { "allowed on a waived route" } else { "allowed" });
        if !waived {
            self.was_in_scope(edge, &token.tenant);
        }
        let frozen = self.faults.contains(&Fault::Poison) || self.faults.contains(&Fault::Damage);
        let denied_since = self.truth.lock().denied_since(&token, frozen);
        let Some(since) = denied_since else { return };
        self.report.count("allowed within the lease");
        let name = self.edges[edge].name.clone();
        let deny_after = self.edges[edge].settings.deny_after;
        let bound = since + micros(deny_after + deny_after / 2000) + GRAIN;
        if !waived && self.now > bound {
            let late = Duration::from_micros(self.now - bound);
            self.violated(format!("{name} allowed {token:?}, {late:?} after it had to be effective"));
        }
        let killed_since = self.truth.lock().denied_since(&token, true);
        let settled = self.settled.get(&token).copied();
        let copied = self.copied.contains(&edge);
        if let (Some(killed), Some(settled)) = (killed_since, settled)
            && killed <= settled
            && !waived
            && !copied
        {
            self.violated(format!("{name} allowed {token:?}, which a hub said was refused everywhere"));
        }
        // A receipt speaks of the commit it is of: a denial that began anew after it is another one, also
        // where a store that was put back has lost what lifted the first.
        let receipts = self.receipts.get(&(name.clone(), hex(&incarnation)));
        let receipt = receipts.and_then(|tokens| tokens.get(&token)).copied();
        if let (Some(killed), Some(committed)) = (killed_since, receipt)
            && killed <= committed
            && !copied
        {
            self.violated(format!("{name} allowed {token:?}, against its own receipt"));
        }
    }

    /// Asks every hub for the receipts of the last revocations.
    pub(crate) fn ask_for_receipts(&mut self) {
        let (lineage, revisions) = {
            let truth = self.truth.lock();
            let kills = truth.moments().iter().rev().filter(|moment| moment.kills).take(5);
            (truth.lineage, kills.map(|moment| moment.revision).collect::<Vec<_>>())
        };
        for revision in revisions {
            if self.effective.contains(&(lineage, revision)) {
                continue;
            }
            for hub in 0..self.hubs.len() {
                self.step(hub);
                let path = format!("/v1/revisions/{revision}/receipts");
                self.hubs[hub].ask(Asked::Receipts { revision, lineage }, "GET", &path, None);
            }
        }
    }

    /// Takes a receipt for what it says.
    pub(crate) fn receipt(&mut self, revision: u64, lineage: u32, answer: &Answer) {
        let is_old = self.truth.lock().lineage != lineage;
        if answer.status != 200 || is_old {
            return;
        }
        let (committed, covered): (Us, Vec<Token>) = {
            let truth = self.truth.lock();
            let of = truth.moments().iter().rev().find(|moment| moment.revision == revision);
            let Some(of) = of else { return };
            let since = |token: &&Token| truth.denied_since(token, true).is_some_and(|at| at <= of.at);
            let of_it = |token: &&Token| of.tenant.as_ref() == Some(&token.tenant);
            (of.at, self.tokens.iter().filter(of_it).filter(since).cloned().collect())
        };
        let members = answer.body["members"].as_array().cloned().unwrap_or_default();
        for member in members.iter().filter(|member| member["state"] == "in_force") {
            let text = |key: &str| member[key].as_str().unwrap_or_default().to_owned();
            let key = (text("spoke_id"), text("incarnation"));
            let receipts = self.receipts.entry(key).or_default();
            for token in &covered {
                let newest = receipts.entry(token.clone()).or_default();
                *newest = committed.max(*newest);
            }
            self.report.count("member in force");
        }
        // A store that was put back may have lost members whose leases still run: its hub cannot
        // know of them, and its word counts once those are over.
        let is_whole = self.lost_members_until <= answer.at;
        if answer.body["state"] == "EFFECTIVE" && is_whole && self.effective.insert((lineage, revision)) {
            self.report.count("revocation effective");
            self.trace(format_args!("revision {revision} is effective since {}", answer.at));
            for token in covered {
                self.settled.entry(token).or_insert(answer.at);
            }
            for edge in 0..self.edges.len() {
                self.step(self.edges[edge].place);
                if !self.edges[edge].host.is_stopped() {
                    self.probe(edge);
                }
            }
        }
    }

    /// Revisions, generations and cut-offs of an enforcement point never fall within an epoch.
    pub(crate) fn nothing_falls(&mut self, edge: usize) {
        let now = self.edges[edge].positions();
        if self.edges[edge].running.is_none() {
            return;
        }
        let before = self.edges[edge].seen.clone();
        for (cell, was) in &before {
            match now.get(cell) {
                // With it goes what was known of it; what comes again is what the store holds then.
                None if self.scopes.may_be_gone(&self.edges[edge].name, cell) => {
                    self.report.count("tenant dropped");
                    self.trace(format_args!("edge {edge} dropped {cell}"));
                    self.edges[edge].forget(cell);
                }
                None => self.violated(format!("edge {edge}: cell {cell} is gone")),
                Some(is) => {
                    if let Some(what) = fallen(was, is) {
                        self.violated(format!("edge {edge}: cell {cell}: {what}"));
                    }
                }
            }
        }
        for (cell, is) in now {
            self.trace(format_args!(
                "edge {edge} {cell} at {} {} kills {}",
                is.epoch, is.revision, is.kill_revision
            ));
            self.edges[edge].seen.insert(cell, is);
        }
    }

    /// Ends every fault, and waits until all is well; then looks whether it is.
    pub(crate) fn come_to_rest(&mut self) {
        self.mend();
        let begun = self.now;
        if self.faults.contains(&Fault::Poison) || self.faults.contains(&Fault::Damage) {
            // A cell that is frozen is thawed by its next commit.
            self.edit_everything();
        }
        loop {
            self.tell_scopes_again();
            self.run_until(self.now + 500 * MS);
            let Some(wrong) = self.unrest() else { break };
            if self.now > begun + REST_MAX {
                return self.violated(format!("no rest: {wrong}"));
            }
        }
        let longest = self.edges.iter().map(|edge| edge.settings.deny_after).max().unwrap_or_default();
        let over = (begun + micros(longest) + 2 * SECOND).max(self.lost_members_until + SECOND);
        self.run_until(over.max(self.now));
        self.report.count("came to rest");
        self.decides_as_told();
        self.everything_is_effective();
    }

    fn mend(&mut self) {
        self.trace(format_args!("the faults end"));
        self.net.heal(self.now);
        self.net.set_loss(0);
        for then in [Then::WallsRight, Then::StoreQuick] {
            self.follow(then);
        }
        for machine in 0..self.machines() {
            self.net.power(machine, true);
            self.resume(machine);
        }
        for hub in &self.hubs {
            let mut trouble = hub.trouble.lock();
            trouble.fails.clear();
            trouble.poisons = false;
        }
        if !self.hubs[self.primary].host.is_up() {
            self.start_hub(self.primary);
        }
        if self.rolled_back || !self.hubs[self.primary].host.is_up() {
            self.restore(None);
        }
        for edge in 0..self.edges.len() {
            self.start_edge(edge);
        }
    }

    /// What is not as it shall be, if anything.
    fn unrest(&mut self) -> Option<String> {
        if let Some(wrong) = self.edges.iter().find_map(|edge| {
            let ended = edge.running.as_ref().is_some_and(|running| running.client.is_finished());
            ended.then(|| format!("the client of {} has ended", edge.name))
        }) {
            return Some(wrong);
        }
        let expected = self.expected();
        let copied = self.copied.clone();
        let edges = self.edges.iter().enumerate().filter(|(place, _)| !copied.contains(place));
        for (place, edge) in edges {
            let name = format!("{} ({place})", edge.name);
            let Some(running) = &edge.running else { return Some(format!("{name} does not run")) };
            if !running.status.connected() {
                return Some(format!("{name} is not connected: {:?}", running.status.last_error()));
            }
            let now = portreeve::core::time::Clock::now(&*edge.host.clock).boot;
            let fresh = running.state.lease().fresh_at.and_then(|at| now.since(at));
            if fresh.is_none_or(|age| age > edge.settings.deny_after) {
                return Some(format!("{name} is stale: {fresh:?}"));
            }
            let snapshot = running.state.load();
            for (cell, revision, digest) in &expected {
                if !self.scopes.hold(&edge.name, cell) {
                    if snapshot.cell(cell).is_some() {
                        return Some(format!("{name}: {cell} is out of its scope and still there"));
                    }
                    continue;
                }
                let held = snapshot.cell(cell).map(|held| (held.revision, held.state_digest));
                if held != Some((*revision, *digest)) {
                    return Some(format!("{name}: {cell} is {held:?}, not {revision} {digest}"));
                }
            }
        }
        None
    }

    /// How every cell shall be.
    fn expected(&mut self) -> Vec<Expected> {
        let hub = &self.hubs[self.primary];
        let head = hub.disk.head();
        if let Some((at, cells)) = &self.expects
            && *at == head
        {
            return cells.clone();
        }
        let store = hub.disk.open_plainly(hub.host.clock.clone());
        let cells = store.cells().unwrap().1;
        let held = |cell: &portreeve::hub::store::CellPosition| {
            let image = store.snapshot(&cell.tenant).unwrap().unwrap();
            let repair = Repair {
                cell: cell.tenant.clone(),
                epoch: store.identity().epoch,
                revision: cell.revision,
                history_hash: cell.history_hash,
                state_digest: None,
                buckets: None,
                changes: image.records.iter().map(|record| record.change().unwrap()).collect(),
            };
            let snapshot = Snapshot::empty(Keyer::new(1)).repair(&repair).unwrap();
            (cell.tenant.clone(), cell.revision, snapshot.cell(&cell.tenant).unwrap().state_digest)
        };
        let cells: Vec<_> = cells.iter().map(held).collect();
        self.expects = Some((head, cells.clone()));
        cells
    }

    /// At rest everyone allows what stands, and refuses what does not, for what it is.
    fn decides_as_told(&mut self) {
        let view = self.truth.lock().now();
        let identities: Vec<_> =
            view.identities.iter().map(|(key, held)| (key.clone(), held.clone())).collect();
        for edge in 0..self.edges.len() {
            if self.copied.contains(&edge) {
                continue;
            }
            for ((tenant, identity), held) in &identities {
                if !self.scopes.hold(&self.edges[edge].name, tenant) {
                    let token = self.issue(tenant, identity);
                    let found = self.edges[edge].judge(&token, false).err();
                    if found != Some(Reason::StateAbsent) {
                        self.violated(format!(
                            "at rest edge {edge} decides {found:?} by {tenant}, out of its scope"
                        ));
                    }
                    continue;
                }
                let mut tokens = vec![self.issue(tenant, identity)];
                tokens.extend(
                    self.tokens.iter().find(|t| t.tenant == *tenant && t.identity == *identity).cloned(),
                );
                for token in tokens {
                    let denied = view.denies(&token, false);
                    let known = self.edges[edge].in_force_against(&token, held.generation).is_some();
                    let found = self.edges[edge].judge(&token, false).map(|_| ());
                    let right = match found {
                        Ok(()) => !denied && !known,
                        Err(reason) => {
                            (denied || known) && !matches!(reason, Reason::StateStale | Reason::StateAbsent)
                        }
                    };
                    self.report.count(if found.is_ok() { "allowed at rest" } else { "denied at rest" });
                    if !right {
                        self.violated(format!(
                            "at rest edge {edge} decides {found:?} on {token:?}: denied {denied}, known {known}"
                        ));
                    }
                }
            }
        }
    }

    fn everything_is_effective(&mut self) {
        let hub = self.primary;
        let clock = self.hubs[hub].host.clock.clone();
        let oldest = |world: &Self| world.hubs[hub].disk.open_plainly(clock.clone()).oldest().unwrap();
        let known = oldest(self);
        // Two processes of one incarnation take the stream from each other, and with it what is known of them.
        for _ in 0..if self.copied.is_empty() { 1 } else { 20 } {
            self.ask_for_receipts();
            self.run_until(self.now + SECOND);
        }
        let (lineage, kills) = {
            let truth = self.truth.lock();
            let kills = truth.moments().iter().rev().take_while(|moment| moment.revision >= known);
            let kills = kills.filter(|moment| moment.kills).take(5);
            (truth.lineage, kills.map(|moment| moment.revision).collect::<Vec<_>>())
        };
        for revision in kills {
            // What has been trimmed meanwhile has no receipt to be asked for.
            if revision >= oldest(self) && !self.effective.contains(&(lineage, revision)) {
                let path = format!("/v1/revisions/{revision}/receipts");
                self.hubs[hub].ask(Asked::Change, "GET", &path, None);
                self.step(hub);
                self.violated(format!("at rest revision {revision} is not effective"));
                self.run_until(self.now + SECOND);
            }
        }
    }
}

fn fallen(was: &Seen, is: &Seen) -> Option<String> {
    if is.epoch < was.epoch {
        return Some(format!("its epoch fell from {} to {}", was.epoch, is.epoch));
    }
    if is.epoch > was.epoch {
        return None;
    }
    if is.revision < was.revision || is.kill_revision < was.kill_revision {
        let (from, to) = ((was.revision, was.kill_revision), (is.revision, is.kill_revision));
        return Some(format!("it fell from {from:?} to {to:?}"));
    }
    let fell = was.identities.iter().find(|(name, (generation, cut))| {
        is.identities.get(*name).is_none_or(|now| now.0 < *generation || now.1 < *cut)
    });
    fell.map(|(name, _)| format!("the generation or cut-off of {name} fell"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn micros(span: Duration) -> Us {
    u64::try_from(span.as_micros()).unwrap()
}

/// A body that was not a success, for the trace.
pub(crate) fn problem(body: &Value) -> String {
    body["detail"].as_str().unwrap_or_default().to_owned()
}
