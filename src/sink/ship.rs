//! The thread between the spool and one sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::core::id::LogId;
use crate::core::time::{BootInstant, Clock};
use crate::sink::cursor::Cursor;
use crate::sink::{CursorError, Sink};
use crate::spool::{Delivered, LogReader, Read, SpoolError, SpoolLog, Woken};
use crate::wire::evidence::{decode, json_line, missing_line, undecodable_line};

/// Most bytes of lines handed to a sink at once; one block's records can exceed it.
const BATCH_BYTES: usize = 1 << 20;

/// How often the sink is flushed, and then the cursor brought to stable storage, while records flow. After a
/// start the first batch is not waited for, and much is flushed sooner: whoever is killed again and again
/// moves on all the same.
const SAVE: Duration = Duration::from_secs(1);
const SAVE_BYTES: usize = 16 << 20;

/// Shortest and longest wait after a failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Longest sleep without news.
const IDLE: Duration = Duration::from_secs(1);

/// Which sink is fed.
#[derive(Clone)]
pub struct ShipperOptions {
    /// The sink's name, as the spool was told it.
    pub name: String,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for ShipperOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShipperOptions").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A sink being fed by a thread of its own.
#[derive(Debug)]
pub struct Shipper {
    spool: Arc<SpoolLog>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    shipped: AtomicU64,
    failures: AtomicU64,
}

impl Shipper {
    /// Starts feeding `sink` from where its cursor stands.
    ///
    /// # Errors
    /// [`StartError`] when the cursor cannot be opened or the thread not started.
    pub fn start(
        spool: Arc<SpoolLog>,
        sink: Box<dyn Sink>,
        options: ShipperOptions,
    ) -> Result<Self, StartError> {
        let cursor = Cursor::open(&spool.cursor_path(&options.name))?;
        let shared = Arc::new(Shared::default());
        let name = format!("sink-{}", options.name);
        let task = Task::new(Arc::clone(&spool), sink, options, cursor, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || task.run());
        let thread = thread.map_err(|source| SpoolError::Thread { name, source })?;
        Ok(Self { spool, shared, thread: Some(thread) })
    }

    /// Records handed over and flushed since the start.
    pub fn shipped(&self) -> u64 {
        self.shared.shipped.load(Ordering::Acquire)
    }

    /// Attempts that failed since the start.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Acquire)
    }

    /// Hands over what is written by now if the sink takes it at once, saves the cursor, and ends.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.spool.interrupt();
        if let Some(thread) = self.thread.take() {
            // What a sink that panicked did not take is shipped after the next start.
            thread.join().ok();
        }
    }
}

impl Drop for Shipper {
    /// As [`Shipper::stop`]: a thread never outlives its owner.
    fn drop(&mut self) {
        self.end();
    }
}

/// Why a sink cannot be fed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cursor.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The spool or the thread.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("sink refused: {0}")]
    Sink(#[from] std::io::Error),
}

struct Task {
    spool: Arc<SpoolLog>,
    sink: Box<dyn Sink>,
    name: String,
    clock: Arc<dyn Clock>,
    cursor: Cursor,
    /// What the sink has taken. What it has flushed, the cursor says.
    at: Delivered,
    /// Records taken since the last flush, and their bytes as lines.
    taken: u64,
    taken_bytes: usize,
    reader: Option<LogReader>,
    saved: Option<BootInstant>,
    shared: Arc<Shared>,
}

impl Task {
    fn new(
        spool: Arc<SpoolLog>,
        sink: Box<dyn Sink>,
        options: ShipperOptions,
        cursor: Cursor,
        shared: Arc<Shared>,
    ) -> Self {
        let at = cursor.at();
        spool.delivered(&options.name, at);
        let ShipperOptions { name, clock } = options;
        Self {
            spool,
            sink,
            name,
            clock,
            cursor,
            at,
            taken: 0,
            taken_bytes: 0,
            reader: None,
            saved: None,
            shared,
        }
    }

    fn run(mut self) {
        let mut seen = self.spool.wait(Woken { written: 0, interrupts: 0 }, Duration::ZERO);
        let (mut pause, mut quiet) = (RETRY_MIN, false);
        loop {
            let stopping = self.shared.stop.load(Ordering::Acquire);
            match self.ship_all().and_then(|()| self.save(stopping || quiet)) {
                Ok(()) => pause = RETRY_MIN,
                Err(error) => {
                    tracing::warn!(sink = %self.name, %error, "evidence sink does not take records");
                    self.shared.failures.fetch_add(1, Ordering::AcqRel);
                    // Read again from what the sink is known to have.
                    (self.reader, self.at) = (None, self.cursor.at());
                    (self.taken, self.taken_bytes) = (0, 0);
                    let news = Woken { written: u64::MAX, interrupts: seen.interrupts };
                    seen.interrupts = self.spool.wait(news, pause).interrupts;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            if stopping {
                return;
            }
            if pause == RETRY_MIN {
                let woken = self.spool.wait(seen, IDLE);
                (quiet, seen) = (woken == seen, woken);
            }
        }
    }

    /// Ships until nothing more is readable.
    fn ship_all(&mut self) -> Result<(), ShipError> {
        loop {
            let (lines, to, count) = self.gather()?;
            if !lines.is_empty() {
                self.sink.write(&lines)?;
                self.taken += count;
                self.taken_bytes += lines.len();
            }
            if to == self.at {
                return Ok(());
            }
            self.at = to;
            self.save(false)?;
        }
    }

    /// Flushes what the sink has taken, moves the cursor, and gives the spool leave to remove, in this order.
    fn save(&mut self, whatever_the_time: bool) -> Result<(), ShipError> {
        let now = self.clock.now().boot;
        let due = self.saved.and_then(|saved| now.since(saved)).is_none_or(|age| age >= SAVE);
        let due = due || self.taken_bytes >= SAVE_BYTES;
        if self.at != self.cursor.at() && (due || whatever_the_time) {
            self.sink.flush()?;
            self.cursor.advance(self.at)?;
            self.spool.delivered(&self.name, self.at);
            self.shared.shipped.fetch_add(std::mem::take(&mut self.taken), Ordering::AcqRel);
            self.taken_bytes = 0;
            self.saved = Some(now);
        }
        Ok(())
    }

    /// Reads about one batch, and says how far that reaches.
    fn gather(&mut self) -> Result<(Vec<u8>, Delivered, u64), ShipError> {
        let (mut lines, mut count) = (Vec::new(), 0);
        let mut at = self.at;
        while lines.len() < BATCH_BYTES {
            let live = self.spool.id();
            let Some(mut reader) = self.reader_at(&mut at)? else {
                break;
            };
            // Read first how far it goes, then whether more is there: never beyond what is written.
            let below = (at.0 == live).then(|| self.spool.written());
            let read = reader.read(below)?;
            match read {
                Read::Records(records) => {
                    for (sequence, bytes) in records.iter() {
                        lines.extend_from_slice(line(at.0, sequence, bytes).as_bytes());
                        count += 1;
                    }
                }
                Read::Missing { from, to } => {
                    lines.extend_from_slice(missing_line(at.0, from, Some(to)).as_bytes());
                }
                Read::Damaged(damage) => {
                    tracing::error!(
                        path = %damage.path.display(),
                        from = damage.from_offset,
                        to = damage.to_offset,
                        "evidence segment is damaged",
                    );
                }
                Read::End if at.0 == live => {
                    self.reader = Some(reader);
                    break;
                }
                Read::End => {
                    at = self.log_after(at.0)?;
                    continue;
                }
            }
            at.1 = reader.next_seq();
            self.reader = Some(reader);
        }
        Ok((lines, at, count))
    }

    /// The reader of the log that `at` is in, or of the next one that exists.
    fn reader_at(&mut self, at: &mut Delivered) -> Result<Option<LogReader>, ShipError> {
        if let Some(reader) = self.reader.take().filter(|reader| reader.place() == *at) {
            return Ok(Some(reader));
        }
        loop {
            match self.spool.reader(at.0, at.1) {
                Ok(reader) => return Ok(Some(reader)),
                Err(SpoolError::NoLog { .. }) if at.0 < self.spool.id() => {
                    *at = self.log_after(at.0)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn log_after(&self, log: LogId) -> Result<Delivered, SpoolError> {
        let later = self.spool.logs()?.into_iter().find(|other| *other > log);
        Ok((later.unwrap_or(self.spool.id()), 0))
    }
}

fn line(log: LogId, sequence: u64, bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(record) => json_line(&record, log, sequence),
        Err(_) => undecodable_line(log, sequence, bytes.len()),
    }
}
