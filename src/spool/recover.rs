//! Opening: the lock, the logs before this one, and this one's first records.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::core::id::LogId;
use crate::core::time::Now;
use crate::spool::consumer::Consumers;
use crate::spool::error::SpoolError;
use crate::spool::format::{HEADER_BYTES, records};
use crate::spool::log::{Core, CoreParts};
use crate::spool::options::{Limits, SpoolOptions};
use crate::spool::refusals::Refusals;
use crate::spool::scan::{Damage, Scanned, Scanner};
use crate::spool::segment::{Found, Prepared, logs, segments, sweep};
use crate::spool::state::State;
use crate::wire::evidence::{self as encode, Loss, Opening};
use crate::wire::evidence_proto::record::Body;

/// What was found when a spool was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The log that was begun.
    pub log: LogId,
    /// The one before it.
    pub predecessor: Option<Predecessor>,
    /// How many logs are still on disk, this one not counted.
    pub logs_kept: usize,
}

/// What is left of the log before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its name.
    pub log: LogId,
    /// How far its sequence numbers reach.
    pub size: u64,
    /// Whether it ended in a close.
    pub closed: bool,
    /// Bytes of a write that was cut short at its end.
    pub torn_bytes: u64,
    /// Unreadable stretches with valid blocks after them, in its last segment.
    pub damage: Vec<Damage>,
    /// Most decisions that may be missing at its end; 0 when it was closed.
    pub lost_at_most: u64,
}

/// Takes the directory for this process.
pub(crate) fn lock(spool: &Path) -> Result<File, SpoolError> {
    fs::create_dir_all(spool).map_err(SpoolError::io("create", spool))?;
    let path = spool.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(SpoolError::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The name is for the message only.
            if file.read_to_string(&mut holder).is_err() || holder.is_empty() {
                holder = "another process".to_owned();
            }
            let holder = holder.trim_end().to_owned();
            return Err(SpoolError::Locked { dir: spool.to_path_buf(), holder });
        }
        Err(error) => return Err(SpoolError::io("lock", &path)(error.into())),
    }
    let named = file.set_len(0).and_then(|()| {
        file.rewind()?;
        writeln!(file, "process {}", std::process::id())
    });
    named.map_err(SpoolError::io("write", &path))?;
    Ok(file)
}

/// Finds what earlier processes left, and begins a log.
pub(crate) fn begin(options: &SpoolOptions, spool: &Path, lock: File) -> Result<(Core, Opened), SpoolError> {
    let (max_bytes, segment_bytes) = (options.max_bytes, options.segment_bytes);
    if max_bytes / 4 < segment_bytes || segment_bytes < 8 * HEADER_BYTES as u64 {
        return Err(SpoolError::Budget { max_bytes, segment_bytes });
    }
    let now = options.clock.now();
    let mut inventory = VecDeque::new();
    let mut predecessor = None;
    let mut newest = LogId::default();
    for log in logs(spool)? {
        newest = log;
        let found = segments(spool, log)?;
        if found.is_empty() {
            // Nothing was ever written there; a directory with anything unknown in it stays.
            sweep(spool, log).ok();
            continue;
        }
        predecessor = Some(log);
        inventory.extend(found);
    }
    let kept = inventory.iter().map(|found| found.log).collect::<std::collections::BTreeSet<_>>();
    let logs_kept = kept.len();
    let predecessor = predecessor
        .map(|log| examine(inventory.iter().filter(|found| found.log == log), log, options))
        .transpose()?;
    let id = name(options, newest, now);
    let core = Core::new(CoreParts {
        id,
        incarnation: options.incarnation,
        boot_id: options.boot_id,
        spool: spool.to_path_buf(),
        limits: Limits { max_bytes, segment_bytes, pending_records_max: options.pending_records_max },
        clock: Arc::clone(&options.clock),
        io: Arc::clone(&options.io),
        state: State::new(
            id,
            Refusals::new(options.refusals_per_second, options.refusals_by_listener.clone(), now),
        ),
        inventory,
        consumers: Consumers::new(&options.sinks),
        lock,
    });
    start(&core, options, predecessor.as_ref(), now)?;
    Ok((core, Opened { log: id, predecessor, logs_kept }))
}

/// A name later than every other, even when the clock went back.
fn name(options: &SpoolOptions, newest: LogId, now: Now) -> LogId {
    let unix_ms = u64::try_from(now.wall.as_micros() / 1000).unwrap_or(0);
    let fresh = LogId::new(unix_ms, options.random);
    let after = u128::from_be_bytes(newest.to_bytes()).saturating_add(1);
    fresh.max(LogId::from_bytes(after.to_be_bytes()))
}

/// Reads the end of the log before.
fn examine<'a>(
    found: impl DoubleEndedIterator<Item = &'a Found>,
    log: LogId,
    options: &SpoolOptions,
) -> Result<Predecessor, SpoolError> {
    let mut about =
        Predecessor { log, size: 0, closed: false, torn_bytes: 0, damage: Vec::new(), lost_at_most: 0 };
    let mut bounds = None;
    for segment in found.rev() {
        let path = &segment.path;
        let mut scanner = Scanner::open(path, log).map_err(SpoolError::io("open", path))?;
        let any = scan_to_end(&mut scanner, segment, &mut about).map_err(SpoolError::io("read", path))?;
        about.torn_bytes += scanner.torn_bytes().map_err(SpoolError::io("read", path))?;
        about.size = about.size.max(segment.first_seq);
        if bounds.is_none() {
            bounds = scanner.header().copied();
        }
        if any {
            break;
        }
    }
    if !about.closed {
        let same_boot = |boot_id: [u8; 16]| boot_id == options.boot_id && boot_id != [0; 16];
        let own = Limits {
            max_bytes: options.max_bytes,
            segment_bytes: options.segment_bytes,
            pending_records_max: options.pending_records_max,
        };
        about.lost_at_most = match bounds {
            Some(header) if same_boot(header.boot_id) => header.loss_bound_process,
            Some(header) => header.loss_bound_host,
            None => own.loss_bound_host(),
        };
    }
    Ok(about)
}

fn scan_to_end(scanner: &mut Scanner, segment: &Found, about: &mut Predecessor) -> std::io::Result<bool> {
    let mut any = false;
    loop {
        match scanner.next(segment.first_seq)? {
            Scanned::Block(block) => {
                any = true;
                about.size = about.size.max(block.end_seq());
                let last = records(scanner.payload()).last().map(encode::decode);
                let body = last.and_then(Result::ok).and_then(|record| record.body);
                about.closed = matches!(body, Some(Body::LogClose(_)));
            }
            Scanned::Damaged(damage) => about.damage.push(damage),
            Scanned::End => return Ok(any),
        }
    }
}

/// Makes the directory, the first segment and the first records, durable before anything else.
fn start(
    core: &Core,
    options: &SpoolOptions,
    before: Option<&Predecessor>,
    now: Now,
) -> Result<(), SpoolError> {
    let dir = core.spool.join(core.id.to_string());
    fs::create_dir_all(&dir).map_err(SpoolError::io("create", &dir))?;
    core.io.sync_dir(&core.spool).map_err(SpoolError::io("sync", &core.spool))?;
    let prepared = Prepared::create(&*core.io, &dir, core.limits.segment_bytes, false)
        .map_err(SpoolError::io("make a segment in", &dir))?;
    core.begin(&mut core.writer.lock(), prepared, 0).map_err(SpoolError::io("begin a segment in", &dir))?;
    let opening = Opening {
        spoke_id: &options.spoke_id,
        incarnation: &options.incarnation,
        predecessor: before.map(|before| before.log),
        predecessor_size: before.map_or(0, |before| before.size),
        predecessor_closed: before.is_some_and(|before| before.closed),
        torn_bytes: before.map_or(0, |before| before.torn_bytes),
        build: env!("CARGO_PKG_VERSION"),
    };
    core.note(|out| encode::log_open(out, now, &opening));
    if let Some(before) = before.filter(|before| !before.closed) {
        let (count, log) = (before.lost_at_most, before.log);
        let loss = Loss { count, cause: "unclean_end", upper_bound: true, log };
        core.note(|out| encode::loss(out, now, &loss));
    }
    core.flush_after_others();
    core.prepare_ahead();
    core.sync();
    Ok(())
}
