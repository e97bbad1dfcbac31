//! Reading a log back, in order, while it may still be written.

use std::path::{Path, PathBuf};

use crate::core::id::LogId;
use crate::spool::error::SpoolError;
use crate::spool::format::records;
use crate::spool::scan::{Damage, Scanned, Scanner};
use crate::spool::segment::{Found, segments};

/// What comes next in a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Records without a gap among them.
    Records(Records),
    /// Sequence numbers that no readable block holds: `from` to `to`, both included.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A stretch of a file that cannot be read; what it held shows as [`Read::Missing`].
    Damaged(Damage),
    /// Nothing more for now.
    End,
}

/// Some records of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Records {
    /// The first one's sequence number.
    pub first_seq: u64,
    /// How many.
    pub count: u64,
    payload: Vec<u8>,
    skip: usize,
}

impl Records {
    /// Each record with its sequence number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (self.first_seq..).zip(records(&self.payload).skip(self.skip))
    }
}

/// Reads one log from a sequence number on.
#[derive(Debug)]
pub struct LogReader {
    spool: PathBuf,
    log: LogId,
    next_seq: u64,
    current: Option<(Found, Scanner)>,
}

impl LogReader {
    /// Begins at `from` in `log` of the spool directory `<data>/spool`.
    ///
    /// # Errors
    /// [`SpoolError::NoLog`] when it has no segment; [`SpoolError::Io`].
    pub fn open(spool: &Path, log: LogId, from: u64) -> Result<Self, SpoolError> {
        let mut this = Self { spool: spool.to_path_buf(), log, next_seq: from, current: None };
        let found = segments(spool, log)?;
        let holding = found.iter().rfind(|segment| segment.first_seq <= from);
        let Some(begin) = holding.or(found.first()) else {
            return Err(SpoolError::NoLog { log, dir: spool.to_path_buf() });
        };
        this.enter(begin.clone())?;
        Ok(this)
    }

    /// The sequence number that comes next.
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The log and the sequence number that come next.
    pub const fn place(&self) -> (LogId, u64) {
        (self.log, self.next_seq)
    }

    /// Reads on. `below`: of a live log, how far it is written; nothing beyond is looked at.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn read(&mut self, below: Option<u64>) -> Result<Read, SpoolError> {
        let mut looked_again = false;
        loop {
            if below.is_some_and(|below| self.next_seq >= below) {
                return Ok(Read::End);
            }
            let scanned = self.scan()?;
            match scanned {
                Scanned::Damaged(damage) => return Ok(Read::Damaged(damage)),
                Scanned::Block(block) if block.end_seq() <= self.next_seq => {}
                Scanned::Block(block) if block.first_seq > self.next_seq => {
                    return Ok(self.step_over(block.first_seq));
                }
                Scanned::Block(block) => return Ok(Read::Records(self.take(block.end_seq()))),
                Scanned::End => match self.following()? {
                    None => return Ok(Read::End),
                    // More may have been written here between the scan and the next one's birth.
                    Some(next) if next.first_seq > self.next_seq && !looked_again => {
                        looked_again = true;
                    }
                    Some(next) if next.first_seq > self.next_seq => {
                        let from = std::mem::replace(&mut self.next_seq, next.first_seq);
                        let to = next.first_seq - 1;
                        self.enter(next)?;
                        return Ok(Read::Missing { from, to });
                    }
                    Some(next) => {
                        looked_again = false;
                        self.enter(next)?;
                    }
                },
            }
        }
    }

    fn enter(&mut self, segment: Found) -> Result<(), SpoolError> {
        let scanner =
            Scanner::open(&segment.path, self.log).map_err(SpoolError::io("open", &segment.path))?;
        self.current = Some((segment, scanner));
        Ok(())
    }

    fn scan(&mut self) -> Result<Scanned, SpoolError> {
        match &mut self.current {
            Some((segment, scanner)) => {
                scanner.next(segment.first_seq).map_err(SpoolError::io("read", &segment.path))
            }
            None => Ok(Scanned::End),
        }
    }

    /// Notes a gap before the block just scanned and goes back to before that block.
    fn step_over(&mut self, first_seq: u64) -> Read {
        let from = std::mem::replace(&mut self.next_seq, first_seq);
        if let Some((_, scanner)) = &mut self.current {
            scanner.again();
        }
        Read::Missing { from, to: first_seq - 1 }
    }

    fn take(&mut self, end_seq: u64) -> Records {
        let first_seq = std::mem::replace(&mut self.next_seq, end_seq);
        let payload = self.current.as_ref().map_or(&[][..], |(_, scanner)| scanner.payload());
        let held = records(payload).count();
        let count = end_seq - first_seq;
        let skip = held.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
        Records { first_seq, count, payload: payload.to_vec(), skip }
    }

    fn following(&self) -> Result<Option<Found>, SpoolError> {
        let after = self.current.as_ref().map(|(segment, _)| segment.first_seq);
        let found = segments(&self.spool, self.log)?;
        Ok(found.into_iter().find(|segment| after.is_none_or(|after| segment.first_seq > after)))
    }
}
