//! A machine: its clocks, and the one process on it, run in virtual time.
//!
//! A process has a runtime of its own on one thread, whose time stands still but where the world
//! lets it run. So a process can be killed between two of its steps, stopped while its timers go
//! on, or suspended with them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use portreeve::core::time::{BootInstant, Clock, Now, Timestamp};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// True time, in microseconds since the world began.
pub(crate) type Us = u64;

pub(crate) const MS: Us = 1_000;
pub(crate) const SECOND: Us = 1_000_000;

/// The wall clocks' time when the world began: 2026-11-22T12:00:00Z.
pub(crate) const WALL_START_US: i64 = 1_795_348_800_000_000;

/// The clocks of one machine.
#[derive(Debug)]
pub(crate) struct HostClock(Mutex<Readings>);

#[derive(Debug)]
struct Readings {
    /// True time, when its process does not run.
    at: Us,
    /// Up to where it may run now.
    until: Us,
    /// Its process's time at `at`, while it runs.
    running: Option<Instant>,
    drift_ppm: i64,
    /// What the boot clock showed when the world began.
    boot_base: u64,
    wall_offset_us: i64,
    /// Time spent suspended: a sound boot clock counts it.
    suspended: Us,
    counts_suspend: bool,
}

impl HostClock {
    pub(crate) fn new(drift_ppm: i64, boot_base: u64, counts_suspend: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Readings {
            at: 0,
            until: 0,
            running: None,
            drift_ppm,
            boot_base,
            wall_offset_us: 0,
            suspended: 0,
            counts_suspend,
        })))
    }

    /// True time, as far as this machine has come.
    pub(crate) fn true_now(&self) -> Us {
        self.0.lock().true_now()
    }

    /// The clock of a machine with the same memory, at the same instant.
    pub(crate) fn copy(&self) -> Arc<Self> {
        let held = self.0.lock();
        Arc::new(Self(Mutex::new(Readings { running: None, at: held.true_now(), until: 0, ..*held })))
    }

    /// Sets the wall clock off by this much.
    pub(crate) fn set_wall(&self, offset_us: i64) {
        self.0.lock().wall_offset_us = offset_us;
    }

    /// A new boot: the boot clock begins anew.
    pub(crate) fn reboot(&self) {
        let mut held = self.0.lock();
        let passed = host_us(held.at, held.drift_ppm);
        held.boot_base = 0u64.wrapping_sub(passed).wrapping_add(SECOND);
        held.suspended = 0;
    }
}

impl Readings {
    fn true_now(&self) -> Us {
        match self.running {
            None => self.at,
            Some(began) => {
                let passed = micros(Instant::now().duration_since(began));
                (self.at + true_us(passed, self.drift_ppm)).min(self.until)
            }
        }
    }
}

impl Clock for HostClock {
    fn now(&self) -> Now {
        let held = self.0.lock();
        let passed = host_us(held.true_now(), held.drift_ppm);
        let lost = if held.counts_suspend { 0 } else { held.suspended };
        Now {
            wall: Timestamp::from_micros(WALL_START_US + held.wall_offset_us + passed.cast_signed()),
            boot: BootInstant::from_micros(held.boot_base.wrapping_add(passed).wrapping_sub(lost)),
        }
    }
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) clock: Arc<HostClock>,
    process: Option<Process>,
    /// Nothing of it runs: since when, and whether its timers go on.
    stopped: Option<(Us, Stop)>,
}

/// How a machine stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Its process is not scheduled; every clock goes on.
    Pause,
    /// The machine sleeps; only the boot clock and the wall clock go on.
    Suspend,
}

#[derive(Debug)]
struct Process {
    runtime: Runtime,
    /// Its time when it began, and the machine's.
    origin: Instant,
    began_us: u64,
}

impl Host {
    pub(crate) const fn new(clock: Arc<HostClock>) -> Self {
        Self { clock, process: None, stopped: None }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Begins a process, and gives the runtime to start its tasks on.
    pub(crate) fn start(&mut self) -> &Runtime {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let origin = runtime.block_on(async { Instant::now() });
        let held = self.clock.0.lock();
        let began_us = host_us(held.at, held.drift_ppm);
        drop(held);
        &self.process.insert(Process { runtime, origin, began_us }).runtime
    }

    pub(crate) fn runtime(&self) -> Option<&Runtime> {
        self.process.as_ref().map(|process| &process.runtime)
    }

    /// Ends the process between two of its steps: nothing of it is told.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.runtime.shutdown_background();
        }
    }

    /// Has the machine stand still from now on.
    pub(crate) fn stop(&mut self, how: Stop) {
        self.stopped.get_or_insert((self.clock.true_now(), how));
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) {
        let Some((since, how)) = self.stopped.take() else { return };
        let now = self.clock.true_now();
        match how {
            Stop::Suspend => {
                let mut held = self.clock.0.lock();
                let slept = host_us(now, held.drift_ppm) - host_us(since, held.drift_ppm);
                held.suspended += slept;
                drop(held);
                if let Some(process) = &mut self.process {
                    process.began_us += slept;
                }
            }
            Stop::Pause => {
                if let Some(process) = &self.process {
                    // Every timer that was due meanwhile is due now.
                    let behind = process.deadline(&self.clock, now);
                    process.runtime.block_on(async {
                        let missed = behind.saturating_duration_since(Instant::now());
                        if !missed.is_zero() {
                            tokio::time::advance(missed).await;
                        }
                    });
                }
            }
        }
    }

    /// Lets the machine come up to a time.
    pub(crate) fn step(&mut self, until: Us) {
        if let Some(process) = self.process.as_ref().filter(|_| self.stopped.is_none()) {
            let deadline = process.deadline(&self.clock, until);
            let clock = &self.clock;
            process.runtime.block_on(async {
                {
                    let mut held = clock.0.lock();
                    held.until = until;
                    held.running = Some(Instant::now());
                }
                tokio::time::sleep_until(deadline).await;
                clock.0.lock().running = None;
            });
        }
        let mut held = self.clock.0.lock();
        held.at = held.at.max(until);
    }
}

impl Process {
    fn deadline(&self, clock: &HostClock, at: Us) -> Instant {
        let drift_ppm = clock.0.lock().drift_ppm;
        self.origin + Duration::from_micros(host_us(at, drift_ppm).saturating_sub(self.began_us))
    }
}

/// What a clock that drifts shows when this much time has passed.
fn host_us(passed: Us, drift_ppm: i64) -> u64 {
    let drift = i128::from(passed) * i128::from(drift_ppm) / 1_000_000;
    u64::try_from(i128::from(passed) + drift).unwrap()
}

fn true_us(passed: u64, drift_ppm: i64) -> Us {
    let drift = i128::from(passed) * i128::from(drift_ppm) / 1_000_000;
    u64::try_from(i128::from(passed) - drift).unwrap()
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap()
}
