//! Many simulated worlds: how many a second, what happened in them, and which do not hold.
//!
//! `cargo bench --profile dist --bench simulate -- --seeds 10000 --from 0`
//! `cargo bench --bench simulate -- --seed 42 --trace`
//!
//! `--broken NAME` breaks the product on purpose, as the tests of the oracles do.

#[path = "../tests/suite/hub_sim/sim/mod.rs"]
mod sim;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::{Broken, Options, Report, run};

/// What can be broken on purpose.
const BROKEN: [Broken; 4] = [
    Broken::ClockStopsInSuspend,
    Broken::HeartbeatLies,
    Broken::AcknowledgedUnwritten,
    Broken::ForgetsAtNewEpoch,
];

struct Asked {
    from: u64,
    seeds: u64,
    trace: bool,
    threads: usize,
    broken: Option<Broken>,
}

impl Asked {
    fn read() -> Result<Self, String> {
        let mut asked = Self { from: 0, seeds: 200, trace: false, threads: 2, broken: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || {
                let text = words.next().ok_or(format!("{word}: expected a number"))?;
                text.parse::<u64>().map_err(|_| format!("{word}: `{text}` is no number"))
            };
            match word.as_str() {
                "--seeds" => asked.seeds = number()?,
                "--from" => asked.from = number()?,
                "--threads" => asked.threads = usize::try_from(number()?).map_err(|e| e.to_string())?,
                "--seed" => (asked.from, asked.seeds, asked.threads) = (number()?, 1, 1),
                "--trace" => asked.trace = true,
                "--broken" => {
                    let name = words.next().unwrap_or_default();
                    let named = BROKEN.into_iter().find(|broken| format!("{broken:?}") == name);
                    asked.broken = Some(named.ok_or(format!("--broken: expected one of {:?}", BROKEN))?);
                }
                // Given by cargo.
                "--bench" => {}
                other => {
                    return Err(format!(
                        "`{other}`: expected --seeds, --from, --threads, --seed, --trace or --broken"
                    ));
                }
            }
        }
        Ok(asked)
    }
}

#[derive(Default)]
struct Sum {
    done: u64,
    failed: Vec<u64>,
    counts: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn take(&mut self, seed: u64, report: &Report) {
        self.done += 1;
        for (what, count) in &report.counts {
            *self.counts.entry(what).or_default() += count;
        }
        if !report.violations.is_empty() {
            self.failed.push(seed);
            eprintln!("seed {seed} does not hold:");
            report.violations.iter().for_each(|violation| eprintln!("  {violation}"));
            eprintln!("  alone: cargo bench --bench simulate -- --seed {seed} --trace");
        }
    }
}

fn main() -> ExitCode {
    let asked = match Asked::read() {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let (next, sum, began) = (AtomicU64::new(0), Mutex::new(Sum::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..asked.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= asked.seeds {
                        return;
                    }
                    let seed = asked.from + place;
                    let report = run(seed, Options { trace: asked.trace, broken: asked.broken });
                    let mut sum = sum.lock().expect("no thread panics with it");
                    sum.take(seed, &report);
                    if sum.done.is_multiple_of(500) {
                        eprintln!("{} of {} seeds, {} failed", sum.done, asked.seeds, sum.failed.len());
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panics with it");
    let rate = sum.done as f64 / began.elapsed().as_secs_f64();
    println!("{} seeds from {}, {rate:.1} a second, {} failed", sum.done, asked.from, sum.failed.len());
    for (what, count) in &sum.counts {
        println!("{count:>12}  {what}");
    }
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
