//! Portreeve with full authorization and evidence beside what a service has in front of it otherwise:
//! nothing, nginx, Envoy as a plain proxy, Envoy checking the same tokens; and Envoy that asks Portreeve.
//!
//! `cargo bench --profile dist --bench side_by_side -- [--rounds N] [--seconds N] [--rate N]`
//!
//! Each round measures every subject in turn, so that what else the machine does falls on all of them: once
//! saturated, once at a fixed rate. Subjects are the real programs, one worker each, on the second core; callers
//! and upstream share the first. Envoy is the one that `.ci/peers` names; nginx is on the path, or named by
//! `PORTREEVE_NGINX`. All traffic stays on loopback; the run ends by itself.

mod load;
mod subject;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

use load::Load;
use subject::{Cpu, Subject};

#[path = "../../tests/suite/support/mod.rs"]
#[expect(dead_code, reason = "shared with the test suite, which uses the rest")]
mod support;

#[derive(Parser)]
struct Options {
    /// Times that every subject is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of each of the two measurements.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Requests a second where the rate is fixed.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Connections that are kept open.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Callers, each with a token of its own.
    #[arg(long, default_value_t = 1000)]
    callers: usize,
    /// Only subjects whose name holds this; the upstream itself and plain Envoy are always there.
    #[arg(long, default_value = "")]
    only: String,
    /// Prints JSON in the place of the table.
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The core of callers and upstream, and that of the subjects.
const CORES: [usize; 2] = [0, 1];
/// Long enough for every caller's token.
const WARM_UP: Duration = Duration::from_secs(1);
const BASELINE: &str = "Envoy, plain";

fn main() {
    let options = Options::parse();
    let mut own = CpuSet::new();
    own.set(CORES[0]);
    sched_setaffinity(None, &own).expect("the first core is ours to use");
    let upstream = upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let world = subject::World::new(folder.path(), upstream, options.callers);
    let wanted = |name: &str| [BASELINE, subject::DIRECT].contains(&name) || name.contains(&options.only);
    let mut subjects: Vec<Measured> =
        world.start(wanted).into_iter().map(|subject| Measured { subject, rounds: Vec::new() }).collect();
    assert!(
        subjects.iter().any(|it| it.subject.name == BASELINE),
        "{BASELINE} is what others are held against"
    );

    let requests = world.requests();
    for round in 1..=options.rounds {
        for measured in &mut subjects {
            eprintln!("round {round} of {}: {}", options.rounds, measured.subject.name);
            let load = Load::new(measured.subject.address, Arc::clone(&requests), options.connections);
            load.saturate(WARM_UP);
            measured.add(&load, &options);
        }
    }
    if options.json {
        let rows: Vec<_> = subjects.iter().map(|it| it.json(&subjects)).collect();
        println!("{}", serde_json::to_string_pretty(&rows).unwrap());
    } else {
        print(&subjects, &options);
    }
}

/// One subject and what was measured of it.
struct Measured {
    subject: Subject,
    rounds: Vec<Round>,
}

struct Round {
    /// CPU seconds for 10,000 requests: saturated, and at the fixed rate.
    cpu: [Cpu; 2],
    /// Answers a second, saturated.
    answers: f64,
    /// Share of the time that it was on its core, saturated.
    busy: f64,
    latencies: Vec<Duration>,
    resident_mib: f64,
}

impl Measured {
    fn add(&mut self, load: &Load, options: &Options) {
        let length = Duration::from_secs(options.seconds);
        let subject = &self.subject;
        let (saturated, full) = subject.cpu_of(|| load.saturate(length));
        let (latencies, paced) = subject.cpu_of(|| load.at_rate(options.rate, length));
        let per_10k = |cpu: Cpu, count: usize| {
            let of = |seconds| seconds * 1e4 / count as f64;
            Cpu { all: of(cpu.all), asked: of(cpu.asked) }
        };
        self.rounds.push(Round {
            cpu: [per_10k(full, saturated), per_10k(paced, latencies.len())],
            answers: saturated as f64 / length.as_secs_f64(),
            busy: full.all / length.as_secs_f64(),
            latencies,
            resident_mib: subject.resident_mib(),
        });
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }

    /// The median of the ratios to the baseline in the same round.
    fn ratio(&self, all: &[Self], load: usize) -> f64 {
        let baseline = all.iter().find(|it| it.subject.name == BASELINE).unwrap();
        median(
            self.rounds
                .iter()
                .zip(&baseline.rounds)
                .map(|(own, other)| own.cpu[load].all / other.cpu[load].all)
                .collect(),
        )
    }

    /// Of all rounds together, in µs.
    fn latency(&self, per_mille: usize) -> f64 {
        let mut all: Vec<_> = self.rounds.iter().flat_map(|round| &round.latencies).collect();
        all.sort_unstable();
        all[(all.len() * per_mille / 1000).min(all.len() - 1)].as_secs_f64() * 1e6
    }

    fn json(&self, all: &[Self]) -> serde_json::Value {
        json!({
            "subject": self.subject.name,
            "saturated": {
                "cpu_s_per_10k": self.median(|it| it.cpu[0].all),
                "asked_cpu_s_per_10k": self.median(|it| it.cpu[0].asked), "of_baseline": self.ratio(all, 0),
                "answers_per_s": self.median(|it| it.answers), "busy": self.median(|it| it.busy),
            },
            "fixed_rate": {
                "cpu_s_per_10k": self.median(|it| it.cpu[1].all),
                "asked_cpu_s_per_10k": self.median(|it| it.cpu[1].asked), "of_baseline": self.ratio(all, 1),
                "p50_us": self.latency(500), "p99_us": self.latency(990), "p99_9_us": self.latency(999),
            },
            "resident_mib": self.median(|it| it.resident_mib),
        })
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

fn print(all: &[Measured], options: &Options) {
    println!(
        "\n| subject | CPU s for 10,000, saturated | of {BASELINE} | answers/s | busy | CPU s for 10,000 at {}/s | of {BASELINE} | p50, p99, p99.9 µs | resident |",
        options.rate
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for it in all {
        let (p50, p99, p999) = (it.latency(500), it.latency(990), it.latency(999));
        if it.subject.is_process() {
            println!(
                "| {} | {:.3} | {:.2} | {:.0} | {:.0} % | {:.3} | {:.2} | {p50:.0}, {p99:.0}, {p999:.0} | {:.0} MiB |",
                it.subject.name,
                it.median(|round| round.cpu[0].all),
                it.ratio(all, 0),
                it.median(|round| round.answers),
                it.median(|round| round.busy) * 100.0,
                it.median(|round| round.cpu[1].all),
                it.ratio(all, 1),
                it.median(|round| round.resident_mib),
            );
        } else {
            let answers = it.median(|round| round.answers);
            println!(
                "| {} | – | – | {answers:.0} | – | – | – | {p50:.0}, {p99:.0}, {p999:.0} | – |",
                it.subject.name
            );
        }
    }
    for it in all.iter().filter(|it| it.subject.asks()) {
        let asked = |load: usize| it.median(|round| round.cpu[load].asked) * 100.0;
        println!(
            "\n{}: of which the enforcement point, for each check, {:.1} µs saturated and {:.1} µs at {}/s",
            it.subject.name,
            asked(0),
            asked(1),
            options.rate
        );
    }
}
