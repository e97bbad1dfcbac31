//! The evidence log, from outside: what was promised is what is read back.

mod crash;
mod faults;
mod modes;
mod ship;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use portreeve::core::evidence::{Door, EvidenceLog, EvidenceMode, ExchangeFacts, Reserved, Settlement};
use portreeve::core::id::{DecisionId, LogId, Place};
use portreeve::core::policy::{Basis, Reason, Verdict};
use portreeve::core::time::{BootInstant, Clock, Now, Timestamp};
use portreeve::spool::{Drive, Io, LogReader, Read, SpoolLog, SpoolOptions, SystemIo};
use portreeve::wire::evidence::decode;
use portreeve::wire::evidence_proto::{Record, record::Body};
use tempfile::TempDir;

/// A clock that stands still until told.
#[derive(Default)]
struct TestClock(AtomicU64);

impl TestClock {
    fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms * 1000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let us = self.0.load(Ordering::SeqCst);
        let wall = Timestamp::from_micros(1_795_000_000_000_000 + i64::try_from(us).unwrap());
        Now { wall, boot: BootInstant::from_micros(1_000_000 + us) }
    }
}

/// A disk whose calls fail on order: the countdown of each kind fails when it is positive.
#[derive(Default)]
struct TestDisk {
    fail_sync: AtomicI64,
    fail_write: AtomicI64,
    full: std::sync::atomic::AtomicBool,
    /// What each path held when it was last synced.
    synced: Mutex<HashMap<String, u64>>,
    syncs: AtomicU64,
}

fn strikes(countdown: &AtomicI64) -> io::Result<()> {
    if countdown.load(Ordering::SeqCst) > 0 {
        countdown.fetch_sub(1, Ordering::SeqCst);
        return Err(io::Error::from_raw_os_error(5));
    }
    Ok(())
}

impl Io for TestDisk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<File> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        SystemIo.create(path, bytes)
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        strikes(&self.fail_write)?;
        SystemIo.write_at(file, bytes, offset)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        strikes(&self.fail_sync)?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        SystemIo.sync(file)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.synced.lock().insert(dir.display().to_string(), 1);
        SystemIo.sync_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemIo.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemIo.remove(path)
    }
}

/// A directory, a clock and a disk for logs.
struct Bench {
    dir: TempDir,
    clock: Arc<TestClock>,
    disk: Arc<TestDisk>,
}

const SEGMENT: u64 = 64 * 1024;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, clock: Arc::default(), disk: Arc::default() }
    }

    fn options(&self) -> SpoolOptions {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let mut options = SpoolOptions::new(self.dir.path(), "edge-1", [7; 16], 42, clock);
        options.segment_bytes = SEGMENT;
        options.max_bytes = 16 * SEGMENT;
        options.refusals_per_second = 1_000_000;
        options.drive = Drive::Caller;
        options.io = Arc::clone(&self.disk) as Arc<dyn Io>;
        options
    }

    fn open(&self) -> Arc<SpoolLog> {
        SpoolLog::open(self.options()).unwrap().0
    }

    fn open_with(&self, change: impl FnOnce(&mut SpoolOptions)) -> Arc<SpoolLog> {
        let mut options = self.options();
        change(&mut options);
        SpoolLog::open(options).unwrap().0
    }

    fn spool(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    /// Everything readable of a log, and how many numbers are missing.
    fn read(&self, log: LogId) -> (Vec<(u64, Record)>, u64) {
        read_all(&self.spool(), log)
    }
}

fn read_all(spool: &Path, log: LogId) -> (Vec<(u64, Record)>, u64) {
    let mut reader = LogReader::open(spool, log, 0).unwrap();
    let (mut found, mut missing) = (Vec::new(), 0);
    loop {
        match reader.read(None).unwrap() {
            Read::Records(records) => {
                found.extend(records.iter().map(|(seq, bytes)| (seq, decode(bytes).unwrap())));
            }
            Read::Missing { from, to } => missing += to - from + 1,
            Read::Damaged(_) => {}
            Read::End => return (found, missing),
        }
    }
}

fn facts(method: &str) -> ExchangeFacts {
    ExchangeFacts {
        listener: Arc::from("main"),
        door: Door::Proxy,
        method: Arc::from(method),
        peer: None,
        trace_id: [0; 16],
        span_id: [0; 8],
    }
}

fn refusal(now: Now) -> Verdict {
    Verdict::refuse(Reason::CredentialMissing, Basis { now, ..Basis::default() })
}

/// Reserves and records one decision, named by `method`.
fn decide(log: &SpoolLog, clock: &TestClock, mode: EvidenceMode, method: &str) -> Outcome {
    let slot = match log.reserve(mode) {
        Reserved::Held(slot) => Some(slot),
        Reserved::Lossy => None,
        Reserved::Exhausted => return Outcome::Exhausted,
    };
    let (id, settlement) = log.decided(slot, mode, &facts(method), &refusal(clock.now()));
    Outcome::Decided(id, settlement)
}

#[derive(Debug)]
enum Outcome {
    Exhausted,
    Decided(DecisionId, Settlement),
}

impl Outcome {
    fn place(&self) -> Place {
        match self {
            Self::Decided(id, _) => id.place,
            Self::Exhausted => panic!("exhausted"),
        }
    }

    /// What the settlement says now, without waiting.
    fn settled(&mut self) -> Option<bool> {
        match self {
            Self::Exhausted => panic!("exhausted"),
            Self::Decided(_, Settlement::Settled) => Some(true),
            Self::Decided(_, Settlement::Failed) => Some(false),
            Self::Decided(_, Settlement::Waiting(wait)) => {
                match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(safe) => Some(safe),
                    Poll::Pending => None,
                }
            }
        }
    }
}

fn methods(records: &[(u64, Record)]) -> Vec<String> {
    let bodies = records.iter().filter_map(|(_, record)| match &record.body {
        Some(Body::Decision(decision)) => Some(decision.method.to_string()),
        _ => None,
    });
    bodies.collect()
}

fn balanced(log: &SpoolLog) {
    let counts = log.stats().counts;
    assert_eq!(counts.decisions, counts.records + counts.rolled_up + counts.lost, "{counts:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A start that fails leaves no log, and what the one before it was stays to be told.
#[test]
fn a_log_that_nothing_was_decided_by_is_abandoned_whole() {
    let bench = Bench::new();
    let killed = bench.open();
    decide(&killed, &bench.clock, EvidenceMode::ProcessSafe, "M1");
    let first = killed.id();
    drop(killed);
    for _ in 0..3 {
        bench.open().abandon();
    }
    let kept = bench.open();
    assert_eq!(kept.logs().unwrap(), [first, kept.id()]);
    decide(&kept, &bench.clock, EvidenceMode::ProcessSafe, "M2");
    kept.abandon();
    let second = kept.id();
    drop(kept);
    let after = bench.open();
    assert_eq!(after.logs().unwrap(), [first, second, after.id()], "a log with decisions is kept");
    let lost =
        |log| bench.read(log).0.iter().filter(|(_, it)| matches!(it.body, Some(Body::Loss(_)))).count();
    assert_eq!((lost(second), lost(after.id())), (1, 0), "the kill is told once, and nothing else");
}
