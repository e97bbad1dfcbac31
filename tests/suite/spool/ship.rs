//! Sinks: at least once, in order, whatever happens to them or to the process.

use portreeve::sink::{Cursor, FileSink, Shipper, ShipperOptions, Sink};

use super::*;
use crate::support::until;

fn shipper(bench: &Bench, log: &Arc<SpoolLog>, sink: impl Sink + 'static) -> Shipper {
    let clock = Arc::clone(&bench.clock) as Arc<dyn Clock>;
    let options = ShipperOptions { name: "file".to_owned(), clock };
    Shipper::start(Arc::clone(log), Box::new(sink), options).unwrap()
}

fn ids(lines: &str) -> Vec<String> {
    let parsed = lines.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["id"].as_str().unwrap().to_owned()
    });
    parsed.collect()
}

fn with_sink(options: &mut SpoolOptions) {
    options.sinks = vec!["file".to_owned()];
}

#[test]
fn every_record_of_every_log_is_shipped_once_in_order() {
    let bench = Bench::new();
    let out = bench.dir.path().join("out.jsonl");
    let mut expected = Vec::new();
    for _ in 0..3 {
        let log = bench.open_with(with_sink);
        for n in 0..40 {
            decide(&log, &bench.clock, EvidenceMode::ProcessSafe, &format!("M{n}"));
        }
        assert!(log.close());
        expected.extend((0..log.written()).map(|n| format!("{}-{n}", log.id())));
        let shipper = shipper(&bench, &log, FileSink::new(&out));
        shipper.stop();
        log.drive();
        let at = (log.id(), log.written());
        assert_eq!(log.stats().oldest_undelivered, Some(at));
        assert_eq!(log.logs().unwrap(), [log.id()], "delivered logs are removed");
    }
    assert_eq!(ids(&fs::read_to_string(&out).unwrap()), expected);
}

#[test]
fn a_file_moved_away_is_begun_anew() {
    let bench = Bench::new();
    let (out, moved) = (bench.dir.path().join("a"), bench.dir.path().join("a.1"));
    let mut sink = FileSink::new(&out);
    sink.write(b"one\n").unwrap();
    fs::rename(&out, &moved).unwrap();
    sink.write(b"two\n").unwrap();
    sink.flush().unwrap();
    assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(&out).unwrap(), "two\n");
    // A process that ended in the middle of a line spoils that one alone.
    for (before, after) in [("whole\n", "whole\nnext\n"), ("cut", "cut\nnext\n"), ("", "next\n")] {
        fs::write(&out, before).unwrap();
        FileSink::new(&out).write(b"next\n").unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), after);
    }
    let refused = FileSink::new(bench.dir.path()).write(b"three\n").unwrap_err().to_string();
    assert!(refused.contains(bench.dir.path().to_str().unwrap()), "{refused}");
}

/// Takes lines, but refuses every other time after having taken them.
struct Flaky(Arc<Mutex<String>>, bool);

impl Sink for Flaky {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.0.lock().push_str(std::str::from_utf8(lines).unwrap());
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.1 = !self.1;
        if self.1 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

#[test]
fn a_sink_that_fails_gets_the_same_records_again() {
    let bench = Bench::new();
    let log = bench.open_with(with_sink);
    for n in 0..10 {
        decide(&log, &bench.clock, EvidenceMode::ProcessSafe, &format!("M{n}"));
    }
    assert!(log.close());
    let taken = Arc::new(Mutex::new(String::new()));
    let shipper = shipper(&bench, &log, Flaky(Arc::clone(&taken), false));
    while shipper.shipped() < log.written() {
        std::thread::yield_now();
    }
    assert!(shipper.failures() >= 1);
    shipper.stop();
    let once: Vec<_> = (0..log.written()).map(|n| format!("{}-{n}", log.id())).collect();
    assert_eq!(ids(&taken.lock()), [once.clone(), once].concat());
}

/// Nobody is so short-lived that all is told again after the next start.
#[test]
fn first_records_and_many_records_are_flushed_while_more_flow() {
    let bench = Bench::new();
    let log = bench.open_with(with_sink);
    let shipper = shipper(&bench, &log, FileSink::new(bench.dir.path().join("out.jsonl")));
    // Time stands still, and it is never quiet.
    for _ in 0..3 {
        let before = shipper.shipped();
        until("the cursor moves", || {
            decide(&log, &bench.clock, EvidenceMode::ProcessSafe, "M");
            log.drive();
            shipper.shipped() > before
        });
    }
}

#[test]
fn nothing_is_removed_before_every_sink_has_it() {
    let bench = Bench::new();
    let log = bench.open_with(|options| {
        options.sinks = vec!["file".to_owned(), "other".to_owned()];
    });
    assert!(log.close());
    let first = log.id();
    drop(log);
    let log = bench.open_with(|options| {
        options.sinks = vec!["file".to_owned(), "other".to_owned()];
    });
    log.delivered("file", (log.id(), 1));
    log.drive();
    assert_eq!(log.logs().unwrap(), [first, log.id()]);
    log.delivered("other", (log.id(), 0));
    log.drive();
    assert_eq!(log.logs().unwrap(), [log.id()]);
}

#[test]
fn a_cursor_cut_short_falls_back_to_the_place_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursors").join("file");
    let at = |n: u64| (LogId::new(5, 5), n);
    let mut cursor = Cursor::open(&path).unwrap();
    assert_eq!(cursor.at(), (LogId::default(), 0));
    let mut before = fs::read(&path).unwrap();
    for n in 1..6 {
        cursor.advance(at(n)).unwrap();
        let after = fs::read(&path).unwrap();
        // A crash in the middle of the write: some first bytes new, the rest old.
        before.resize(after.len(), 0);
        let from = (0..after.len()).find(|i| before[*i] != after[*i]).unwrap();
        for cut in from..after.len() {
            let torn = [&after[..cut], &before[cut..]].concat();
            fs::write(&path, &torn).unwrap();
            let read = Cursor::open(&path).unwrap().at();
            let former = if n == 1 { (LogId::default(), 0) } else { at(n - 1) };
            assert!(read == former || read == at(n), "{read:?} at {n}, cut {cut}");
        }
        fs::write(&path, &after).unwrap();
        cursor = Cursor::open(&path).unwrap();
        assert_eq!(cursor.at(), at(n));
        before = after;
    }
}
