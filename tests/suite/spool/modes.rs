//! What each mode promises, and what the log does without room.

use super::*;

#[test]
fn process_safe_is_with_the_kernel_when_it_settles() {
    let bench = Bench::new();
    let log = bench.open();
    let mut outcome = decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "GET");
    assert_eq!(outcome.settled(), Some(true));
    // Nothing was driven, nothing closed: another reader sees it all the same.
    let (records, missing) = bench.read(log.id());
    assert_eq!((methods(&records), missing), (vec!["GET".to_owned()], 0));
    balanced(&log);
}

#[test]
fn best_effort_settles_before_it_is_written() {
    let bench = Bench::new();
    let log = bench.open();
    let mut outcome = decide(&log, &bench.clock, EvidenceMode::BestEffort, "GET");
    assert_eq!(outcome.settled(), Some(true));
    assert_eq!(methods(&bench.read(log.id()).0), Vec::<String>::new());
    log.drive();
    assert_eq!(methods(&bench.read(log.id()).0), ["GET"]);
}

#[test]
fn require_waits_for_the_disk_and_many_share_one_sync() {
    let bench = Bench::new();
    let log = bench.open();
    let mut waiting: Vec<_> =
        (0..50).map(|_| decide(&log, &bench.clock, EvidenceMode::Require, "GET")).collect();
    assert!(waiting.iter_mut().all(|outcome| outcome.settled().is_none()));
    let before = bench.disk.syncs.load(Ordering::SeqCst);
    log.drive();
    assert!(waiting.iter_mut().all(|outcome| outcome.settled() == Some(true)));
    assert_eq!(bench.disk.syncs.load(Ordering::SeqCst), before + 1);
}

#[test]
fn the_queue_is_bounded_by_slots_and_records() {
    let bench = Bench::new();
    let log = bench.open_with(|options| options.pending_records_max = 4);
    let held: Vec<_> = (0..4).map(|_| log.reserve(EvidenceMode::ProcessSafe)).collect();
    assert!(held.iter().all(|reserved| matches!(reserved, Reserved::Held(_))));
    assert!(matches!(log.reserve(EvidenceMode::ProcessSafe), Reserved::Exhausted));
    assert!(matches!(log.reserve(EvidenceMode::Require), Reserved::Exhausted));
    assert!(matches!(log.reserve(EvidenceMode::BestEffort), Reserved::Lossy));
    for (reserved, abandon) in held.into_iter().zip([true, false].into_iter().cycle()) {
        let Reserved::Held(slot) = reserved else { unreachable!() };
        if abandon {
            log.abandoned(Some(slot), &facts("GET"));
        } else {
            let mode = EvidenceMode::ProcessSafe;
            _ = log.decided(Some(slot), mode, &facts("GET"), &refusal(bench.clock.now()));
        }
    }
    log.drive();
    assert!(matches!(log.reserve(EvidenceMode::ProcessSafe), Reserved::Held(_)));
    assert_eq!(log.stats().counts.abandoned, 2);
    balanced(&log);
}

#[test]
fn what_is_lost_is_counted_and_told() {
    let bench = Bench::new();
    let log = bench.open_with(|options| options.pending_records_max = 1);
    let Reserved::Held(slot) = log.reserve(EvidenceMode::BestEffort) else { unreachable!() };
    let lost = decide(&log, &bench.clock, EvidenceMode::BestEffort, "POST");
    let again = decide(&log, &bench.clock, EvidenceMode::BestEffort, "POST");
    assert_eq!((lost.place(), again.place()), (Place::Lost(1), Place::Lost(2)));
    log.abandoned(Some(slot), &facts("GET"));
    log.drive();
    let told = bench.read(log.id()).0.into_iter().find_map(|(_, record)| match record.body {
        Some(Body::Loss(loss)) => Some((loss.count, loss.cause.to_string(), loss.upper_bound)),
        _ => None,
    });
    assert_eq!(told, Some((2, "no_room".to_owned(), false)));
    balanced(&log);
}

#[test]
fn refusals_of_strangers_beyond_the_budget_are_rolled_up_exactly() {
    let bench = Bench::new();
    let log = bench.open_with(|options| options.refusals_per_second = 10);
    let places: Vec<_> =
        (0..25).map(|_| decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "GET").place()).collect();
    let recorded = places.iter().filter(|place| matches!(place, Place::Recorded(_))).count();
    assert_eq!(recorded, 10);
    assert_eq!(places[10..], (1..=15).map(Place::RolledUp).collect::<Vec<_>>());
    bench.clock.advance_ms(500);
    let refilled = (0..6).map(|_| decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "GET"));
    let places: Vec<_> = refilled.map(|outcome| outcome.place()).collect();
    assert_eq!(places[5], Place::RolledUp(16));
    assert!(places[..5].iter().all(|place| matches!(place, Place::Recorded(_))));
    bench.clock.advance_ms(10_000);
    log.drive();
    let rolled = bench.read(log.id()).0.into_iter().find_map(|(_, record)| match record.body {
        Some(Body::RolledUp(rolled)) => Some(rolled),
        _ => None,
    });
    let rolled = rolled.unwrap();
    assert_eq!((rolled.first, rolled.count, rolled.groups.len()), (1, 16, 1));
    assert_eq!(rolled.groups[0].count, 16);
    assert_eq!(rolled.groups[0].reason, "credential.missing");
    assert_eq!(rolled.to_us - rolled.from_us, 500_000);
    balanced(&log);
    assert_eq!(log.stats().counts.rolled_up, 16);
}

#[test]
fn sequence_numbers_have_no_gaps_under_threads() {
    let bench = Bench::new();
    let log = bench.open_with(|options| {
        options.segment_bytes = 1 << 20;
        options.max_bytes = 64 << 20;
        options.drive = Drive::Thread;
    });
    let modes = [EvidenceMode::ProcessSafe, EvidenceMode::BestEffort, EvidenceMode::Require];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (log, clock) = (&log, &bench.clock);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for turn in 0..500 {
                    let mode = if turn % 50 == 0 { modes[2] } else { modes[turn % 2] };
                    match decide(log, clock, mode, &format!("M{thread}-{turn}")) {
                        Outcome::Decided(_, Settlement::Waiting(wait)) => {
                            assert!(runtime.block_on(wait));
                        }
                        Outcome::Decided(_, Settlement::Settled) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert!(log.close());
    let (records, missing) = bench.read(log.id());
    assert_eq!(missing, 0);
    let numbers: Vec<_> = records.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    let mut seen = methods(&records);
    assert_eq!(seen.len(), 2000);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2000);
    let Some(Body::LogClose(close)) = &records.last().unwrap().1.body else { panic!() };
    assert_eq!((close.decisions, close.records, close.rolled_up, close.lost), (2000, 2000, 0, 0));
}

#[test]
fn one_directory_one_process() {
    let bench = Bench::new();
    let log = bench.open();
    let error = SpoolLog::open(bench.options()).unwrap_err().to_string();
    assert!(error.contains("spool") && error.contains("process ") && error.contains("own"), "{error}");
    drop(log);
    bench.open();
}

#[test]
fn a_budget_that_holds_no_log_is_refused() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.max_bytes = 4 * SEGMENT - 1;
    assert!(SpoolLog::open(options).unwrap_err().to_string().contains("budget"));
}

#[test]
fn many_revocations_become_many_records() {
    let bench = Bench::new();
    let log = bench.open();
    let revocations: Vec<Arc<str>> = (0..70).map(|n| Arc::from(format!("r{n}"))).collect();
    let position = portreeve::core::id::Position { revision: 9, ..Default::default() };
    log.note_in_force("acme", position, &revocations, [5, 0]);
    log.drive();
    let bodies = bench.read(log.id()).0.into_iter().filter_map(|(_, record)| match record.body {
        Some(Body::InForce(body)) => Some((body.revocations.len(), body.purged)),
        _ => None,
    });
    assert_eq!(bodies.collect::<Vec<_>>(), [(32, 5), (32, 0), (6, 0)]);
}
