//! Disks that fail, fill up, and come back.

use super::*;

#[test]
fn after_a_failed_sync_everything_not_durable_is_written_again_elsewhere() {
    let bench = Bench::new();
    let log = bench.open();
    for n in 0..20 {
        decide(&log, &bench.clock, EvidenceMode::ProcessSafe, &format!("A{n}"));
    }
    bench.clock.advance_ms(1000);
    log.drive();
    let mut waiting: Vec<_> =
        (0..20).map(|n| decide(&log, &bench.clock, EvidenceMode::Require, &format!("B{n}"))).collect();
    bench.disk.fail_sync.store(1, Ordering::SeqCst);
    log.drive();
    assert!(waiting.iter_mut().all(|outcome| outcome.settled() == Some(true)));
    assert_eq!(log.stats().suspect_segments, 1);
    decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "C");
    assert!(log.close());
    let (records, missing) = bench.read(log.id());
    let numbers: Vec<_> = records.iter().map(|(seq, _)| *seq).collect();
    assert_eq!((numbers.len(), missing), (43, 0));
    assert_eq!(numbers, (0..43).collect::<Vec<_>>());
    // The new segment holds by itself all that was not durable in the old one.
    let begins = fs::read_dir(bench.spool().join(log.id().to_string())).unwrap();
    let names: Vec<_> = begins.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "seg-00000000000000000021.nev"), "{names:?}");
}

#[test]
fn two_failed_syncs_in_a_row_end_the_log() {
    let bench = Bench::new();
    let log = bench.open();
    let mut outcome = decide(&log, &bench.clock, EvidenceMode::Require, "GET");
    bench.disk.fail_sync.store(2, Ordering::SeqCst);
    log.drive();
    assert_eq!(outcome.settled(), Some(false));
    assert!(log.stats().failed);
    assert!(matches!(log.reserve(EvidenceMode::Require), Reserved::Exhausted));
    assert!(matches!(log.reserve(EvidenceMode::BestEffort), Reserved::Lossy));
    log.drive();
    assert!(matches!(log.reserve(EvidenceMode::Require), Reserved::Exhausted));
    let lost = decide(&log, &bench.clock, EvidenceMode::BestEffort, "GET");
    assert_eq!(lost.place(), Place::Lost(1));
    balanced(&log);
    assert!(!log.close());
}

#[test]
fn a_failed_write_is_made_good_by_a_new_segment() {
    let bench = Bench::new();
    let log = bench.open();
    decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "A");
    bench.disk.fail_write.store(1, Ordering::SeqCst);
    let mut outcome = decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "B");
    assert_eq!(outcome.settled(), None);
    assert!(matches!(log.reserve(EvidenceMode::ProcessSafe), Reserved::Exhausted));
    log.drive();
    assert_eq!(outcome.settled(), Some(true));
    assert!(matches!(log.reserve(EvidenceMode::ProcessSafe), Reserved::Held(_)));
    let (records, missing) = bench.read(log.id());
    assert_eq!((methods(&records), missing), (vec!["A".to_owned(), "B".to_owned()], 0));
}

/// Fills the log until it refuses, with a bound.
fn fill(bench: &Bench, log: &SpoolLog) -> u64 {
    for n in 0..100_000 {
        match decide(log, &bench.clock, EvidenceMode::ProcessSafe, &"x".repeat(250)) {
            Outcome::Exhausted => return n,
            _ if n % 16 == 0 => {
                bench.clock.advance_ms(1000);
                log.drive();
            }
            _ => {}
        }
    }
    panic!("never full");
}

#[test]
fn a_full_disk_refuses_and_resumes_alone() {
    let bench = Bench::new();
    let log = bench.open();
    bench.disk.full.store(true, Ordering::SeqCst);
    let decided = fill(&bench, &log);
    assert!(decided > 100);
    // Whoever waited when it filled up is told.
    log.drive();
    assert!(log.stats().stalled);
    bench.disk.full.store(false, Ordering::SeqCst);
    log.drive();
    let mut outcome = decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "back");
    assert_eq!(outcome.settled(), Some(true));
    assert!(log.close());
    let (records, missing) = bench.read(log.id());
    assert_eq!((methods(&records).len() as u64, missing), (decided + 1, 0));
    balanced(&log);
}

#[test]
fn the_budget_keeps_one_segment_back_and_a_delivery_frees_it() {
    let bench = Bench::new();
    let log = bench.open_with(|options| {
        options.max_bytes = 6 * SEGMENT;
        options.sinks = vec!["file".to_owned()];
    });
    let decided = fill(&bench, &log);
    assert!(log.stats().disk_bytes <= 6 * SEGMENT);
    assert!(!log.stats().stalled, "the segment kept back is still being written");
    // Notes still find room in it.
    log.abandoned(None, &facts("GET"));
    log.note_in_force("acme", Default::default(), &[], [0, 0]);
    log.drive();
    assert!(matches!(log.reserve(EvidenceMode::ProcessSafe), Reserved::Exhausted));
    log.delivered("file", (log.id(), decided / 2));
    log.drive();
    assert!(matches!(log.reserve(EvidenceMode::ProcessSafe), Reserved::Held(_)));
    assert_eq!(log.stats().expired_segments, 0);
}

#[test]
fn without_sinks_the_oldest_segments_expire() {
    let bench = Bench::new();
    let log = bench.open_with(|options| options.max_bytes = 4 * SEGMENT);
    for n in 0..2000 {
        let mut outcome = decide(&log, &bench.clock, EvidenceMode::ProcessSafe, &format!("{n:0250}"));
        assert_eq!(outcome.settled(), Some(true), "{n}");
        if n % 16 == 0 {
            bench.clock.advance_ms(1000);
            log.drive();
        }
    }
    let stats = log.stats();
    assert!(stats.expired_segments > 0 && stats.disk_bytes <= 4 * SEGMENT, "{stats:?}");
    let (records, missing) = bench.read(log.id());
    assert!(missing > 0);
    assert_eq!(records.last().unwrap().0, 2000);
    assert_eq!(stats.counts.lost, 0);
}
