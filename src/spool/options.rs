//! What a spool is opened with.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::core::time::Clock;
use crate::spool::io::{Io, SystemIo};
use crate::spool::refusals::WINDOW_COUNT_MAX;

/// Who runs the log's housekeeping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Drive {
    /// A thread of the log's own, named `spool-keeper`.
    #[default]
    Thread,
    /// Whoever opened it, by `SpoolLog::drive`: one round a call.
    Caller,
}

/// What a spool is opened with.
#[derive(Clone)]
pub struct SpoolOptions {
    /// The data directory; logs lie in `spool` below it.
    pub dir: PathBuf,
    /// This enforcement point's name.
    pub spoke_id: String,
    /// Random bytes of this process start.
    pub incarnation: [u8; 16],
    /// The kernel's boot id; all zero: unknown.
    pub boot_id: [u8; 16],
    /// 80 random bits for the log's name.
    pub random: u128,
    /// Bytes of all logs together.
    pub max_bytes: u64,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Most slots and unwritten records at one time.
    pub pending_records_max: usize,
    /// Records a second a listener for refusals of callers that resolve to no identity.
    pub refusals_per_second: u32,
    /// Where a listener has another budget.
    pub refusals_by_listener: HashMap<Arc<str>, u32>,
    /// The names of the sinks that must have a record before its segment is removed. None: the
    /// oldest segments are removed when the budget is spent.
    pub sinks: Vec<String>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// How files are written.
    pub io: Arc<dyn Io>,
    /// Who runs the housekeeping.
    pub drive: Drive,
}

impl SpoolOptions {
    /// The defaults: 1 GiB in segments of 64 MiB, 8,192 pending records, 100 refusals a second.
    pub fn new(
        dir: impl Into<PathBuf>,
        spoke_id: impl Into<String>,
        incarnation: [u8; 16],
        random: u128,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            dir: dir.into(),
            spoke_id: spoke_id.into(),
            incarnation,
            boot_id: [0; 16],
            random,
            max_bytes: 1 << 30,
            segment_bytes: 64 << 20,
            pending_records_max: 8192,
            refusals_per_second: 100,
            refusals_by_listener: HashMap::new(),
            sinks: Vec::new(),
            clock,
            io: Arc::new(SystemIo),
            drive: Drive::Thread,
        }
    }
}

impl fmt::Debug for SpoolOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolOptions").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The bounds a running log keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) pending_records_max: usize,
}

/// No record is shorter than this in a block: its length, and the tags and times of a record.
const RECORD_BYTES_MIN: u64 = 16;

/// Most bytes kept in memory until they are on stable storage.
const RETAINED_BYTES_MAX: u64 = 32 << 20;

impl Limits {
    /// Most bytes kept in memory until they are on stable storage; beyond it nothing is reserved.
    pub(crate) fn retained_bytes_max(&self) -> usize {
        usize::try_from(RETAINED_BYTES_MAX.min(self.segment_bytes / 2)).unwrap_or(usize::MAX)
    }

    /// Most decisions that a crash of the process can lose: those queued under `best_effort`, and
    /// those counted in a roll-up, open or queued.
    pub(crate) fn loss_bound_process(&self) -> u64 {
        self.pending_records_max as u64 * 2 + WINDOW_COUNT_MAX * 2
    }

    /// Most that a crash of the host can lose: also what was written and not yet synced.
    pub(crate) fn loss_bound_host(&self) -> u64 {
        self.loss_bound_process() + self.retained_bytes_max() as u64 / RECORD_BYTES_MIN
    }
}
