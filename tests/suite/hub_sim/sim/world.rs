//! The world: machines, what happens to them, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use portreeve::core::id::{Name, Position};
use portreeve::core::identity::StateDigest;
use portreeve::hub::StreamSettings;

use super::edge::{Edge, EdgeLog, EdgeSettings, Judged};
use super::fault::Fault;
use super::host::{HostClock, MS, SECOND, Us};
use super::hubs::{Asked, HubHost};
use super::liar::Liar;
use super::net::{HostId, LATENCY_MIN, Net};
use super::random::Random;
use super::scope::Scopes;
use super::store::{Contents, Disk, Told};
use super::truth::{Token, Truth};
use super::{Broken, Options, Report};

/// Everything of one run.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) random: Random,
    pub(crate) now: Us,
    pub(crate) net: Net,
    pub(crate) hubs: Vec<HubHost>,
    /// The hub that takes changes.
    pub(crate) primary: usize,
    pub(crate) edges: Vec<Edge>,
    pub(crate) liar: Liar,
    pub(crate) truth: Arc<Mutex<Truth>>,
    pub(crate) report: Report,
    pub(crate) tokens: Vec<Token>,
    pub(crate) faults: BTreeSet<Fault>,
    /// Enforcement points of which there are two.
    pub(crate) copied: BTreeSet<usize>,
    /// Backups of the store, with the head of each.
    pub(crate) backups: Vec<(Contents, Position)>,
    /// The highest head the store ever stood at.
    pub(crate) witnessed: Position,
    pub(crate) rolled_back: bool,
    /// Until when leases may run of members that the store has forgotten.
    pub(crate) lost_members_until: Us,
    /// Since when a token is refused everywhere, as a hub has said.
    pub(crate) settled: BTreeMap<Token, Us>,
    /// What each incarnation has acknowledged, as a hub has said.
    pub(crate) receipts: BTreeMap<(String, String), BTreeMap<Token, Us>>,
    pub(crate) effective: BTreeSet<(u32, u64)>,
    pub(crate) scopes: Scopes,
    /// How every cell shall be at a head of the store.
    pub(crate) expects: Option<(Position, Vec<Expected>)>,
    /// Each enforcement point's log when its disk was copied.
    pub(crate) copied_logs: BTreeMap<usize, EdgeLog>,
    judged: BTreeMap<u64, (usize, Judged)>,
    queue: BTreeMap<(Us, u64), Event>,
    sequence: u64,
    roots: Vec<u64>,
    pub(crate) folder: tempfile::TempDir,
}

/// How a cell shall be: where it stands, and its digest there.
pub(crate) type Expected = (Name, u64, StateDigest);

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver(usize, usize),
    Decide(usize),
    Release(u64),
    Operate,
    Scope,
    Ask,
    BackUp,
    Fault(Fault),
    Then(Then),
}

/// What follows from a fault.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    StartHub(usize),
    StartEdge(usize),
    KillEdge(usize),
    PowerOn(HostId),
    Resume(HostId),
    Heal,
    NoLoss,
    WallsRight,
    StoreQuick,
}

/// How long what happens goes on.
const ACTIVE_MIN: Us = 5 * SECOND;
const ACTIVE_MAX: Us = 13 * SECOND;

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        let net = Net::new(random.next());
        let folder = tempfile::Builder::new().prefix("hub-sim").tempdir_in(memory_folder()).unwrap();
        let disk = Disk::new();
        let streams = StreamSettings {
            ping_interval: Duration::from_millis(random.between(200, 600)),
            hello_timeout: Duration::from_secs(3),
            send_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(6),
            streams_max: 64,
        };
        let hubs = (0..2)
            .map(|place| {
                let clock = clock(&mut random, options);
                net.add(Arc::clone(&clock));
                let folder = folder.path().join(format!("hub-{place}"));
                HubHost::new(place, clock, &folder, disk.clone(), streams.clone(), Random::new(random.next()))
            })
            .collect();
        let liar_clock = clock(&mut random, options);
        let liar = Liar::new(net.add(Arc::clone(&liar_clock)), liar_clock);
        let mut world = Self {
            options,
            now: 0,
            hubs,
            primary: 0,
            edges: Vec::new(),
            liar,
            truth: Arc::default(),
            report: Report::default(),
            tokens: Vec::new(),
            faults: BTreeSet::new(),
            copied: BTreeSet::new(),
            backups: Vec::new(),
            witnessed: disk.head(),
            rolled_back: false,
            lost_members_until: 0,
            settled: BTreeMap::new(),
            receipts: BTreeMap::new(),
            effective: BTreeSet::new(),
            expects: None,
            scopes: Scopes::new(seed),
            copied_logs: BTreeMap::new(),
            judged: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            roots: Vec::new(),
            net,
            folder,
            random,
        };
        world.trace(format_args!("seed {seed}"));
        for _ in 0..world.random.between(2, 4) {
            let clock = clock(&mut world.random, options);
            world.add_edge(clock, "boot-1".to_owned(), None);
        }
        world
    }

    /// Adds an enforcement point; a copy of another has its settings.
    pub(crate) fn add_edge(&mut self, clock: Arc<HostClock>, boot_id: String, of: Option<usize>) -> usize {
        let place = self.net.add(Arc::clone(&clock));
        let number = self.edges.len();
        let folder = self.folder.path().join(format!("edge-{number}"));
        let settings = match of {
            Some(other) => EdgeSettings { folder, ..self.edges[other].settings.clone() },
            None => EdgeSettings {
                folder,
                endpoints: vec!["http://hub-0".into(), "http://hub-1".into()],
                deny_after: Duration::from_millis(*self.random.pick(&[1000, 2000, 3000, 5000])),
                waives: self.random.percent(30),
                boot_id,
                seed: self.random.next(),
            },
        };
        let name = of.map_or_else(|| format!("edge-{number}"), |other| self.edges[other].name.clone());
        self.edges.push(Edge::new(name, place, clock, settings));
        self.roots.push(u64::MAX);
        number
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Report {
        self.start_hub(0);
        self.set_up();
        for edge in 0..self.edges.len() {
            self.start_edge(edge);
            let first = self.random.between(100, 500) * MS;
            self.at(self.now + first, Event::Decide(edge));
        }
        let end = self.now + self.random.between(ACTIVE_MIN, ACTIVE_MAX);
        self.schedule(end);
        self.run_until(end);
        self.come_to_rest();
        for edge in &mut self.edges {
            edge.kill();
        }
        for hub in &mut self.hubs {
            hub.kill(&self.net);
        }
        for _ in 0..self.hubs[self.primary].disk.trims() {
            self.report.count("log trimmed");
        }
        self.liar.host.kill();
        for _ in 0..self.net.lost() {
            self.report.count("segment lost");
        }
        self.report
    }

    fn schedule(&mut self, end: Us) {
        let mut at = self.now + 500 * MS;
        while at < end {
            self.at(at, Event::Operate);
            at += self.random.between(200, 1500) * MS;
        }
        for ask in 1..(end - self.now) / (400 * MS) {
            self.at(self.now + ask * 400 * MS, Event::Ask);
        }
        for backup in 0..(end - self.now) / (1500 * MS) {
            self.at(self.now + backup * 1500 * MS, Event::BackUp);
        }
        // Where something is broken on purpose, what shows it comes up.
        let shows: &[Fault] = match self.options.broken {
            None => &[],
            Some(Broken::ClockStopsInSuspend) => &[Fault::Suspend; 5],
            Some(Broken::HeartbeatLies) => &[Fault::Depose],
            Some(Broken::AcknowledgedUnwritten) => &[Fault::CrashEdge; 5],
            Some(Broken::ForgetsAtNewEpoch) => &[Fault::Restore; 2],
        };
        self.schedule_scopes(end);
        let count = self.random.between(1, 6);
        let mut faults: Vec<_> = (0..count).map(|_| *self.random.pick(&Fault::ALL)).collect();
        faults.extend(shows);
        for fault in faults {
            let at = self.random.between(self.now + SECOND, end - SECOND);
            self.at(at, Event::Fault(fault));
        }
    }

    /// Has something happen.
    pub(crate) fn at(&mut self, at: Us, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    /// Has something happen after some milliseconds.
    pub(crate) fn after(&mut self, low_ms: u64, high_ms: u64, then: Then) {
        let at = self.now + self.random.between(low_ms, high_ms) * MS;
        self.at(at, Event::Then(then));
    }

    /// Lets the world run up to a time.
    pub(crate) fn run_until(&mut self, end: Us) {
        while self.now < end {
            let from = self.now;
            let until = (from + LATENCY_MIN).min(end);
            self.take_due();
            while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= until) {
                let ((at, _), event) = next.remove_entry();
                self.now = at.max(from);
                self.happen(event);
                self.take_due();
            }
            self.now = until;
            for machine in 0..self.machines() {
                self.step(machine);
            }
            self.look();
        }
    }

    fn take_due(&mut self) {
        let mut due = self.net.take_due();
        due.sort_unstable();
        for (at, connection, end) in due {
            self.at(at, Event::Deliver(connection, end));
        }
    }

    /// Lets a machine come up to now.
    pub(crate) fn step(&mut self, machine: HostId) {
        let now = self.now;
        self.host(machine).step(now);
    }

    pub(crate) fn host(&mut self, machine: HostId) -> &mut super::host::Host {
        match machine {
            0 | 1 => &mut self.hubs[machine].host,
            2 => &mut self.liar.host,
            edge => &mut self.edges[edge - 3].host,
        }
    }

    pub(crate) fn machines(&self) -> usize {
        3 + self.edges.len()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(connection, end) => {
                let receiver = self.net.receiver(connection, end);
                self.step(receiver);
                if self.host(receiver).is_stopped() {
                    return self.at(self.now + LATENCY_MIN, Event::Deliver(connection, end));
                }
                let now = self.now;
                self.net.deliver(connection, end, now);
            }
            Event::Decide(edge) => self.decide_something(edge),
            Event::Release(number) => {
                if let Some((edge, judged)) = self.judged.remove(&number) {
                    self.step(self.edges[edge].place);
                    if self.edges[edge].host.is_stopped() {
                        self.judged.insert(number, (edge, judged));
                        return self.at(self.now + LATENCY_MIN, Event::Release(number));
                    }
                    self.release(edge, judged);
                }
            }
            Event::Operate => self.operate(),
            Event::Scope => self.change_scope(),
            Event::Ask => self.ask_for_receipts(),
            Event::BackUp => self.back_up(),
            Event::Fault(fault) => {
                self.trace(format_args!("fault {fault:?}"));
                self.befall(fault);
            }
            Event::Then(then) => {
                self.trace(format_args!("then {then:?}"));
                self.follow(then);
            }
        }
    }

    /// Has something follow at once.
    pub(crate) fn follow(&mut self, then: Then) {
        match then {
            Then::StartHub(hub) => self.start_hub(hub),
            Then::StartEdge(edge) => self.start_edge(edge),
            Then::KillEdge(edge) => {
                self.step(self.edges[edge].place);
                self.edges[edge].kill();
            }
            Then::PowerOn(machine) => self.net.power(machine, true),
            Then::Resume(machine) => self.resume(machine),
            Then::Heal => self.net.heal(self.now),
            Then::NoLoss => self.net.set_loss(0),
            Then::WallsRight => {
                for machine in 0..self.machines() {
                    self.host(machine).clock.set_wall(0);
                }
            }
            Then::StoreQuick => {
                for hub in &self.hubs {
                    hub.trouble.lock().slow_ms = 0;
                }
            }
        }
    }

    /// Lets a machine go on; what waits to be decided there is decided before anything else runs.
    pub(crate) fn resume(&mut self, machine: HostId) {
        self.step(machine);
        self.host(machine).resume();
        if machine > 2 {
            self.probe(machine - 3);
        }
    }

    pub(crate) fn start_hub(&mut self, hub: usize) {
        self.step(hub);
        if self.hubs[hub].host.is_up() {
            return;
        }
        let (truth, clock) = (Arc::clone(&self.truth), Arc::clone(&self.hubs[hub].host.clock));
        let told: Told = Arc::new(move |tenant, revision, changes| {
            truth.lock().commit(clock.true_now(), tenant, revision, changes);
        });
        let net = self.net.clone();
        if let Err(refused) = self.hubs[hub].start(&net, told) {
            self.report.count("hub refused to start");
            self.trace(format_args!("hub {hub} does not start: {refused}"));
        }
    }

    pub(crate) fn start_edge(&mut self, edge: usize) {
        self.step(self.edges[edge].place);
        if self.edges[edge].host.is_up() {
            return;
        }
        let net = self.net.clone();
        let started = &mut self.edges[edge];
        let incarnation = started.next_incarnation();
        let name = started.name.clone();
        started.start(&net, incarnation, &name);
        self.roots[edge] = u64::MAX;
        let refused = self.edges[edge].running.as_ref().map_or(0, |running| running.refused);
        if refused > 0 && self.options.broken.is_none() {
            self.violated(format!("edge {edge} refused {refused} files of its own"));
        }
        self.probe(edge);
    }

    /// Decides on one token or another.
    fn decide_something(&mut self, edge: usize) {
        let next = self.now + self.random.between(100, 350) * MS;
        self.at(next, Event::Decide(edge));
        if self.tokens.is_empty() {
            return;
        }
        let token = self.random.pick(&self.tokens).clone();
        let waived = self.edges[edge].settings.waives && self.random.percent(40);
        self.step(self.edges[edge].place);
        if self.edges[edge].host.is_stopped() {
            return;
        }
        if let Some(judged) = self.judge(edge, &token, waived) {
            if self.random.percent(50) {
                return self.release(edge, judged);
            }
            self.sequence += 1;
            let number = self.sequence;
            self.judged.insert(number, (edge, judged));
            let at = self.now + self.random.between(1, 600) * MS;
            self.at(at, Event::Release(number));
        }
    }

    /// Decides on every token.
    pub(crate) fn probe(&mut self, edge: usize) {
        for token in self.tokens.clone() {
            for waived in [false, true] {
                if (!waived || self.edges[edge].settings.waives)
                    && let Some(judged) = self.judge(edge, &token, waived)
                {
                    self.release(edge, judged);
                }
            }
        }
    }

    fn look(&mut self) {
        self.net.give_up(self.now);
        let head = self.hubs[self.primary].disk.head();
        self.witnessed = self.witnessed.max(head);
        self.take_answers();
        for edge in 0..self.edges.len() {
            let root = self.edges[edge].snapshot().map_or(u64::MAX, |snapshot| snapshot.root());
            if root != self.roots[edge] {
                self.roots[edge] = root;
                self.nothing_falls(edge);
            }
        }
    }

    /// The answers of hubs since it was last looked.
    fn take_answers(&mut self) {
        for hub in 0..self.hubs.len() {
            let answers = std::mem::take(&mut *self.hubs[hub].answers.lock());
            for answer in answers {
                self.trace(format_args!("hub {hub} {:?} {}", answer.asked, answer.status));
                match answer.asked.clone() {
                    Asked::Change => self.changed(&answer),
                    Asked::Receipts { revision, lineage } => self.receipt(revision, lineage, &answer),
                    Asked::Scope { edge, without } if answer.status == 200 => {
                        let version = answer.body["scope_version"].as_u64().unwrap_or(0);
                        self.scopes.answered(&edge, without, answer.at, version);
                    }
                    Asked::Scope { .. } => {}
                }
            }
        }
    }

    /// Notes, and where asked prints, what happens.
    pub(crate) fn trace(&mut self, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>9.3} {what}", self.now as f64 / 1e6);
        for byte in line.bytes() {
            self.report.trace = (self.report.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.options.trace {
            println!("{line}");
        }
    }
}

fn clock(random: &mut Random, options: Options) -> Arc<HostClock> {
    // Two clocks differ by at most 500 ppm.
    let drift_ppm = random.between(0, 480).cast_signed() - 240;
    let sound = options.broken != Some(Broken::ClockStopsInSuspend);
    HostClock::new(drift_ppm, random.between(100, 100_000) * SECOND, sound)
}

/// Where files cost least.
fn memory_folder() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}
