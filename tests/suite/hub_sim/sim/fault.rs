//! What goes wrong, drawn from the seed.

use std::sync::Arc;

use portreeve::core::identity::{Identity, Record, Repair};

use super::Broken;
use super::edge::{EdgeLog, copy_folder};
use super::host::{MS, Stop, Us};
use super::net::HostId;
use super::store::Fails;
use super::world::{Event, Then, World};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What can go wrong.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            pub(crate) const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    /// Segments are lost and sent again.
    Loss => "fault: loss",
    /// A connection breaks.
    Cut => "fault: connection cut",
    /// One direction of a connection stands still.
    Stall => "fault: stall without close",
    /// A connection is there at neither end, and neither is told.
    HalfOpen => "fault: half-open",
    /// An enforcement point, or all of them, cut off.
    Partition => "fault: partition",
    /// The same in one direction.
    OneWay => "fault: partition one way",
    CrashHub => "fault: hub process killed",
    PowerHub => "fault: hub machine lost power",
    CrashEdge => "fault: enforcement point killed",
    StopEdge => "fault: enforcement point stopped in good order",
    PowerEdge => "fault: enforcement point's machine lost power",
    /// It reads late while much is sent.
    SlowReader => "fault: slow reader",
    /// The store is put back to an older state, and the hub goes on.
    Rollback => "fault: hub rolled back",
    /// The same, and a new epoch is begun as it shall be.
    Restore => "fault: store restored",
    /// Another hub takes over; the one before does not know.
    Depose => "fault: primary deposed",
    /// A batch that nobody can apply.
    Poison => "fault: poisoned batch",
    /// The same process twice.
    Clone => "fault: enforcement point cloned",
    /// Someone claims what it cannot know.
    Liar => "fault: lying hello",
    StepClock => "fault: clock step",
    Suspend => "fault: suspend",
    Pause => "fault: pause",
    /// A bit flips in tables in memory.
    Damage => "fault: table damaged",
    FailCommit => "fault: commit failed",
    SlowStore => "fault: slow store",
}

impl World {
    pub(crate) fn befall(&mut self, fault: Fault) {
        let happened = match fault {
            Fault::Loss | Fault::Cut | Fault::Stall | Fault::HalfOpen | Fault::SlowReader => {
                self.befall_connections(fault)
            }
            Fault::Partition | Fault::OneWay => self.part(fault == Fault::OneWay),
            Fault::CrashHub | Fault::PowerHub => self.end_hub(fault == Fault::PowerHub),
            Fault::CrashEdge | Fault::StopEdge | Fault::PowerEdge => self.end_edge(fault),
            Fault::Rollback | Fault::Restore | Fault::Depose => self.befall_store(fault),
            Fault::Clone => self.copy_edge(),
            Fault::Liar => self.lie(),
            Fault::StepClock => self.step_clock(),
            Fault::Suspend => self.stop_machine(Stop::Suspend),
            Fault::Pause => self.stop_machine(Stop::Pause),
            Fault::Damage => self.damage(),
            Fault::Poison | Fault::FailCommit | Fault::SlowStore => self.trouble(fault),
        };
        if happened {
            self.faults.insert(fault);
            self.report.count(fault.text());
        }
    }

    fn some_edge(&mut self) -> usize {
        self.random.place(self.edges.len())
    }

    fn befall_connections(&mut self, fault: Fault) -> bool {
        if fault == Fault::Loss {
            let percent = self.random.between(5, 40);
            self.net.set_loss(percent);
            self.after(1000, 5000, Then::NoLoss);
            return true;
        }
        let edge = self.some_edge();
        let place = self.edges[edge].place;
        let open = self.net.of(place);
        if open.is_empty() {
            return false;
        }
        let connection = *self.random.pick(&open);
        let end = self.net.end_at(connection, place);
        let until = self.now + self.random.between(1000, 9000) * MS;
        match fault {
            Fault::Cut => self.net.cut(connection),
            Fault::Stall => {
                let end = self.random.place(2);
                self.net.stall(connection, end, until);
            }
            Fault::HalfOpen => {
                for end in 0..2 {
                    self.net.stall(connection, end, Us::MAX / 2);
                }
            }
            _ => {
                self.net.stall(connection, 1 - end, until);
                self.operate_much();
            }
        }
        true
    }

    fn part(&mut self, one_way: bool) -> bool {
        let edges = if self.random.percent(30) { 0..self.edges.len() } else { one(self.some_edge()) };
        let inward = self.random.percent(50);
        for edge in edges {
            let place = self.edges[edge].place;
            for hub in 0..self.hubs.len() {
                if !one_way || inward {
                    self.net.block(hub, place);
                }
                if !one_way || !inward {
                    self.net.block(place, hub);
                }
            }
        }
        self.after(500, 9000, Then::Heal);
        true
    }

    fn end_hub(&mut self, power: bool) -> bool {
        let hub = self.primary;
        self.step(hub);
        if power {
            self.net.power(hub, false);
        }
        self.hubs[hub].kill(&self.net);
        if power {
            self.hubs[hub].host.clock.reboot();
            let on = self.now + self.random.between(500, 4000) * MS;
            self.at(on, Event::Then(Then::PowerOn(hub)));
            self.at(on + MS, Event::Then(Then::StartHub(hub)));
        } else {
            self.after(20, 3000, Then::StartHub(hub));
        }
        true
    }

    fn end_edge(&mut self, fault: Fault) -> bool {
        let edge = self.some_edge();
        let place = self.edges[edge].place;
        self.step(place);
        let Some(running) = self.edges[edge].running.as_ref() else { return false };
        match fault {
            Fault::StopEdge => {
                running.stop.cancel();
                self.after(100, 1500, Then::KillEdge(edge));
                self.after(1600, 4000, Then::StartEdge(edge));
            }
            Fault::CrashEdge => {
                self.edges[edge].kill();
                if self.options.broken == Some(Broken::AcknowledgedUnwritten) {
                    self.lose_writes(edge);
                }
                self.after(5, 3000, Then::StartEdge(edge));
            }
            _ => {
                self.net.power(place, false);
                self.edges[edge].kill();
                self.lose_machine(edge);
                let on = self.now + self.random.between(300, 3000) * MS;
                self.at(on, Event::Then(Then::PowerOn(place)));
                self.at(on + MS, Event::Then(Then::StartEdge(edge)));
            }
        }
        true
    }

    /// What was not synced is lost with the power: the disk is as it was some time ago.
    fn lose_machine(&mut self, edge: usize) {
        self.edges[edge].host.clock.reboot();
        self.edges[edge].settings.boot_id.push('\'');
        self.edges[edge].seen.clear();
        let copy = self.copy_of(edge);
        if copy.exists() && self.random.percent(50) {
            copy_folder(&copy, &self.edges[edge].settings.folder);
            // What its log said since is gone with it.
            self.edges[edge].log = Arc::new(self.copied_logs.remove(&edge).unwrap_or_default());
            std::fs::remove_dir_all(copy).unwrap();
        }
    }

    /// A build that acknowledged what it had not written begins again with older state.
    fn lose_writes(&mut self, edge: usize) {
        let copy = self.copy_of(edge);
        if copy.exists() {
            copy_folder(&copy, &self.edges[edge].settings.folder);
            self.edges[edge].seen.clear();
        }
    }

    fn copy_of(&self, edge: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("copy-{edge}"))
    }

    /// Copies what every enforcement point has on disk.
    pub(crate) fn copy_edges(&mut self) {
        for edge in 0..self.edges.len() {
            if self.edges[edge].running.is_some() {
                copy_folder(&self.edges[edge].settings.folder, &self.copy_of(edge));
                self.copied_logs.insert(edge, EdgeLog::copy_of(&self.edges[edge].log));
            }
        }
    }

    fn befall_store(&mut self, fault: Fault) -> bool {
        let hub = self.primary;
        self.scopes.forget();
        match fault {
            Fault::Rollback => {
                if !self.roll_back() {
                    return false;
                }
                if self.random.percent(70) {
                    self.forget_witness(hub);
                }
                self.after(20, 1500, Then::StartHub(hub));
            }
            Fault::Restore => {
                let back = self.random.percent(70) && self.roll_back();
                // The store that was rolled back unseen before is restored by this, too.
                let told = back && self.random.percent(50);
                let witnessed = told.then_some(self.witnessed);
                self.restore(witnessed);
            }
            _ => {
                if hub != 0 || self.rolled_back {
                    return false;
                }
                self.step(0);
                self.step(1);
                {
                    let mut trouble = self.hubs[0].trouble.lock();
                    trouble.deposed = true;
                    trouble.lies = self.options.broken == Some(Broken::HeartbeatLies);
                }
                self.hubs[1].disk = self.hubs[0].disk.copy();
                self.primary = 1;
                self.backups.clear();
                self.start_hub(1);
            }
        }
        true
    }

    /// Two machines with one memory: the same process, the same lease, the same clock.
    fn copy_edge(&mut self) -> bool {
        let of = self.some_edge();
        self.step(self.edges[of].place);
        let Some(running) = &self.edges[of].running else { return false };
        if self.copied.len() > 2 || self.edges[of].host.is_stopped() {
            return false;
        }
        let incarnation = running.incarnation;
        let (clock, boot_id) =
            (Arc::clone(&self.edges[of].host.clock), self.edges[of].settings.boot_id.clone());
        let copy = self.add_edge(clock.copy(), boot_id, Some(of));
        copy_folder(&self.edges[of].settings.folder, &self.edges[copy].settings.folder);
        self.edges[copy].log = Arc::new(EdgeLog::copy_of(&self.edges[of].log));
        let (net, name) = (self.net.clone(), self.edges[copy].name.clone());
        self.edges[copy].start(&net, incarnation, &name);
        self.copied.extend([of, copy]);
        let first = self.now + self.random.between(10, 300) * MS;
        self.at(first, Event::Decide(copy));
        true
    }

    fn step_clock(&mut self) -> bool {
        if self.random.percent(30) {
            let offset = self.random.between(0, 2_000_000).cast_signed() - 1_000_000;
            self.hubs[self.primary].host.clock.set_wall(offset);
        } else {
            let edge = self.some_edge();
            let offset = self.random.between(0, 40_000_000).cast_signed() - 20_000_000;
            self.edges[edge].host.clock.set_wall(offset);
        }
        self.after(500, 5000, Then::WallsRight);
        true
    }

    fn stop_machine(&mut self, how: Stop) -> bool {
        let machine: HostId = if self.random.percent(30) {
            self.primary
        } else {
            let edge = self.some_edge();
            self.edges[edge].place
        };
        self.step(machine);
        if self.host(machine).is_stopped() {
            return false;
        }
        self.host(machine).stop(how);
        self.after(200, 8000, Then::Resume(machine));
        true
    }

    /// A record of a table in memory becomes another, in one or several enforcement points.
    fn damage(&mut self) -> bool {
        let count = self.random.between(1, self.edges.len() as u64);
        let mut damaged = false;
        for edge in 0..usize::try_from(count).unwrap() {
            self.step(self.edges[edge].place);
            damaged |= self.damage_one(edge);
        }
        if damaged {
            self.at(self.now + 200 * MS, Event::Operate);
        }
        damaged
    }

    fn damage_one(&mut self, edge: usize) -> bool {
        let Some(running) = &self.edges[edge].running else { return false };
        let state = running.state.load();
        let Some(held) = state.cells().first() else { return false };
        let mut changes = state.export(&held.cell);
        changes.sort_by(|a, b| (a.kind.as_str(), &a.name).cmp(&(b.kind.as_str(), &b.name)));
        for change in &mut changes {
            if let Some(Record::Identity(identity)) = &mut change.record {
                let flipped = Identity { third_party: !identity.third_party, ..Identity::clone(identity) };
                *identity = Arc::new(flipped);
                break;
            }
        }
        let repair = Repair {
            cell: held.cell.clone(),
            epoch: held.epoch,
            revision: held.revision,
            history_hash: held.history_hash,
            state_digest: None,
            buckets: None,
            changes,
        };
        let Ok(next) = state.repair(&repair) else { return false };
        drop(state);
        running.state.publish(next);
        true
    }

    fn trouble(&mut self, fault: Fault) -> bool {
        let fails = if self.random.percent(60) { Fails::After } else { Fails::Before };
        let slow_ms = self.random.between(20, 400);
        {
            let mut trouble = self.hubs[self.primary].trouble.lock();
            match fault {
                Fault::Poison => trouble.poisons = true,
                Fault::FailCommit => trouble.fails.push(fails),
                _ => trouble.slow_ms = slow_ms,
            }
        }
        if fault == Fault::SlowStore {
            self.after(1000, 5000, Then::StoreQuick);
        }
        self.at(self.now + 10 * MS, Event::Operate);
        true
    }
}

fn one(place: usize) -> std::ops::Range<usize> {
    place..place + 1
}
