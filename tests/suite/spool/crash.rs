//! Crashes at any byte, torn and damaged: what is read back is a prefix, or all that is whole.

use portreeve::spool::format::{BlockHeader, HEADER_BYTES};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Decide(EvidenceMode, usize),
    Withdraw,
    Drive,
}

fn action() -> impl Strategy<Value = Action> {
    let mode = prop_oneof![
        Just(EvidenceMode::ProcessSafe),
        Just(EvidenceMode::BestEffort),
        Just(EvidenceMode::Require)
    ];
    prop_oneof![
        8 => (mode, 0usize..300).prop_map(|(mode, length)| Action::Decide(mode, length)),
        1 => Just(Action::Withdraw),
        2 => Just(Action::Drive),
    ]
}

/// Runs actions; returns the methods decided in order and how many of them had settled.
fn run(bench: &Bench, log: &SpoolLog, actions: &[Action]) -> (Vec<String>, usize) {
    let (mut decided, mut safe) = (Vec::new(), 0);
    for (n, action) in actions.iter().enumerate() {
        match action {
            Action::Decide(mode, length) => {
                let method = format!("{n}-{}", "m".repeat(*length));
                let mut outcome = decide(log, &bench.clock, *mode, &method);
                decided.push(method.chars().take(256).collect());
                if *mode != EvidenceMode::BestEffort && outcome.settled() == Some(true) {
                    safe = decided.len();
                }
            }
            Action::Withdraw => log.withdrawn(&portreeve::core::evidence::Withdrawal {
                decision: DecisionId { log: log.id(), place: Place::Recorded(1) },
                reason: Reason::StateStale,
                revision: 1,
                now: bench.clock.now(),
            }),
            Action::Drive => {
                bench.clock.advance_ms(300);
                log.drive();
            }
        }
    }
    (decided, safe)
}

fn segment_of(spool: &Path, log: LogId) -> std::path::PathBuf {
    spool.join(log.to_string()).join("seg-00000000000000000000.nev")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_crash_leaves_a_prefix_with_all_that_had_settled(
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let bench = Bench::new();
        let log = bench.open();
        let (decided, safe) = run(&bench, &log, &actions);
        // The process dies here: the directory is taken as it is.
        let dead = Bench::new();
        copy(bench.dir.path(), dead.dir.path());
        let (records, missing) = dead.read(log.id());
        let found = methods(&records);
        prop_assert_eq!(missing, 0);
        prop_assert!(found.len() >= safe);
        prop_assert_eq!(&found[..], &decided[..found.len()]);
        let (next, opened) = SpoolLog::open(dead.options()).unwrap();
        let before = opened.predecessor.unwrap();
        prop_assert_eq!(before.size, records.len() as u64);
        prop_assert!(!before.closed && before.torn_bytes == 0 && before.lost_at_most > 0);
        next.drive();
        let (records, _) = dead.read(next.id());
        let has_loss = |(_, record): &(u64, Record)| matches!(&record.body,
            Some(Body::Loss(loss)) if loss.upper_bound && loss.log_id == log.id().to_bytes()[..]);
        prop_assert!(records.iter().any(has_loss));
        balanced(&log);
    }

    #[test]
    fn a_log_closed_in_order_is_read_back_whole(
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let bench = Bench::new();
        let log = bench.open();
        let (decided, _) = run(&bench, &log, &actions);
        prop_assert!(log.close());
        let id = log.id();
        drop(log);
        prop_assert_eq!(methods(&bench.read(id).0), decided);
        let (_, opened) = SpoolLog::open(bench.options()).unwrap();
        let before = opened.predecessor.unwrap();
        prop_assert!(before.closed && before.torn_bytes == 0 && before.lost_at_most == 0);
    }
}

/// A small closed log: its directory, its methods, and the offsets at which its blocks end.
fn small() -> (Bench, LogId, Vec<u8>, Vec<usize>) {
    let bench = Bench::new();
    let log = bench.open();
    for n in 0..12 {
        let mode = [EvidenceMode::ProcessSafe, EvidenceMode::BestEffort][n % 2];
        decide(&log, &bench.clock, mode, &format!("M{n}"));
    }
    assert!(log.close());
    let bytes = fs::read(segment_of(&bench.spool(), log.id())).unwrap();
    let mut ends = vec![HEADER_BYTES];
    while let Some(block) = BlockHeader::parse(&bytes[*ends.last().unwrap()..]) {
        ends.push(ends.last().unwrap() + block.padded_bytes());
    }
    let id = log.id();
    (bench, id, bytes, ends)
}

fn whole_blocks(ends: &[usize], cut: usize) -> usize {
    ends.iter().filter(|end| **end <= cut).count().saturating_sub(1)
}

#[test]
fn a_tail_cut_or_zeroed_at_any_byte_loses_only_what_was_cut() {
    let (bench, log, bytes, ends) = small();
    let path = segment_of(&bench.spool(), log);
    let end = *ends.last().unwrap();
    let all = bench.read(log).0;
    // How many records stand before each block's end.
    let mut sums = vec![0usize];
    for at in &ends[..ends.len() - 1] {
        let count = BlockHeader::parse(&bytes[*at..]).unwrap().count;
        sums.push(sums.last().unwrap() + usize::from(count));
    }
    for cut in HEADER_BYTES..=end {
        // The last block's padding may be gone: it is no part of what is checked.
        let padded = ends.iter().position(|e| *e > cut && bytes[cut..*e].iter().all(|b| *b == 0));
        let expected = match padded {
            Some(block) if bytes[cut..ends[block]].len() < 8 => sums[block],
            _ => sums[whole_blocks(&ends, cut)],
        };
        for zeroed in [false, true] {
            let mut torn = bytes[..cut].to_vec();
            if zeroed {
                torn.resize(bytes.len(), 0);
            }
            fs::write(&path, &torn).unwrap();
            let (records, missing) = bench.read(log);
            assert_eq!(missing, 0, "cut at {cut}");
            assert!(
                records.len() == expected || records.len() == sums[whole_blocks(&ends, cut)],
                "cut at {cut}: {} of {expected}",
                records.len()
            );
            assert_eq!(records[..], all[..records.len()]);
        }
    }
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let (bench, log, bytes, ends) = small();
    let path = segment_of(&bench.spool(), log);
    let last = ends[ends.len() - 2];
    let mut torn = bytes.clone();
    torn[last + 30] ^= 1;
    fs::write(&path, &torn).unwrap();
    let opened = SpoolLog::open(bench.options()).unwrap().1.predecessor.unwrap();
    assert!(opened.torn_bytes > 0 && opened.damage.is_empty() && !opened.closed, "{opened:?}");
    assert_eq!(fs::read(&path).unwrap(), torn, "nothing is cut off");

    let (bench, log, bytes, ends) = small();
    let path = segment_of(&bench.spool(), log);
    let mut damaged = bytes.clone();
    damaged[ends[1] + 30] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let opened = SpoolLog::open(bench.options()).unwrap().1.predecessor.unwrap();
    assert!(opened.torn_bytes == 0 && opened.closed, "{opened:?}");
    assert_eq!(opened.damage.len(), 1);
    assert_eq!(opened.damage[0].from_offset, ends[1] as u64);
    assert_eq!(opened.damage[0].to_offset, ends[2] as u64);
    assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is cut off");
}

#[test]
fn a_flipped_bit_anywhere_costs_at_most_its_block() {
    let (bench, log, bytes, ends) = small();
    let path = segment_of(&bench.spool(), log);
    let all = bench.read(log).0;
    for at in (HEADER_BYTES..*ends.last().unwrap()).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, &flipped).unwrap();
        let (records, _) = bench.read(log);
        let block = ends.iter().rposition(|end| *end <= at).unwrap();
        let count = BlockHeader::parse(&bytes[ends[block]..]).unwrap().count;
        assert!(all.len() - records.len() <= usize::from(count), "bit at {at}");
        assert!(records.iter().all(|record| all.contains(record)), "bit at {at}");
    }
}

#[test]
fn a_spoiled_header_does_not_hide_the_blocks() {
    let (bench, log, bytes, _) = small();
    let all = bench.read(log).0;
    let mut spoiled = bytes;
    spoiled[..HEADER_BYTES].fill(0xff);
    fs::write(segment_of(&bench.spool(), log), &spoiled).unwrap();
    assert_eq!(bench.read(log).0, all);
}

#[test]
fn a_reader_goes_on_from_any_number() {
    let bench = Bench::new();
    let log = bench.open();
    for n in 0..600 {
        decide(&log, &bench.clock, EvidenceMode::BestEffort, &format!("{n:0200}"));
        if n % 50 == 0 {
            log.drive();
        }
    }
    assert!(log.close());
    let (all, missing) = bench.read(log.id());
    assert_eq!((all.len(), missing), (602, 0));
    for from in (0..602u64).step_by(37) {
        let mut reader = log.reader(log.id(), from).unwrap();
        let Read::Records(records) = reader.read(Some(log.written())).unwrap() else { panic!() };
        assert_eq!(records.first_seq, from);
        for (seq, bytes) in records.iter() {
            assert_eq!(decode(bytes).unwrap(), all[usize::try_from(seq).unwrap()].1);
        }
        assert_eq!(records.iter().count() as u64, records.count);
    }
}
