//! Finding blocks in one segment file, whatever state it is in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::core::id::LogId;
use crate::spool::format::{BLOCK_HEADER_BYTES, BlockHeader, HEADER_BYTES, SegmentHeader, checksum};

/// How much is read from the file at a time: first, where little may be written yet, and at most.
const FIRST_BYTES: usize = 16 * 1024;
const WINDOW_BYTES: usize = 256 * 1024;

/// A stretch of a segment that holds no valid block, with valid ones after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub from_offset: u64,
    /// Where the next valid block begins.
    pub to_offset: u64,
}

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// A valid block; its payload is [`Scanner::payload`].
    Block(BlockHeader),
    /// Something unreadable, and a valid block after it.
    Damaged(Damage),
    /// Nothing valid from here to the end of the file. Asking again looks again.
    End,
}

/// Reads one segment from its first block on.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: File,
    path: PathBuf,
    log: LogId,
    header: Option<SegmentHeader>,
    at: u64,
    before: u64,
    window: Vec<u8>,
    window_at: u64,
    /// How much the next reading takes at least.
    ahead: usize,
    payload: Vec<u8>,
}

impl Scanner {
    /// Opens a segment of `log`. A damaged header is no error: the blocks may be whole.
    pub(crate) fn open(path: &Path, log: LogId) -> io::Result<Self> {
        let file = File::open(path)?;
        // No reading ahead: that fills the cache with large pages of what is not written yet, and every write
        // into such a page costs the writer several times as much. Only advice; nothing rests on it.
        _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        let mut this = Self {
            file,
            path: path.to_path_buf(),
            log,
            header: None,
            at: HEADER_BYTES as u64,
            before: HEADER_BYTES as u64,
            window: Vec::new(),
            window_at: 0,
            ahead: FIRST_BYTES,
            payload: Vec::new(),
        };
        this.header = SegmentHeader::parse(this.bytes(0, HEADER_BYTES)?);
        Ok(this)
    }

    /// The header, if it is whole.
    pub(crate) const fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// The payload of the block returned last.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Goes back to before the block returned last.
    pub(crate) const fn again(&mut self) {
        self.at = self.before;
    }

    /// Looks for the next block; after damage only for one whose first sequence number is at least `least`.
    pub(crate) fn next(&mut self, least: u64) -> io::Result<Scanned> {
        for fresh in [false, true] {
            if fresh {
                // What the window holds may have been written over since.
                self.window.clear();
                self.ahead = FIRST_BYTES;
            }
            if let Some(block) = self.block_at(self.at, 0)? {
                self.before = self.at;
                self.at += block.padded_bytes() as u64;
                return Ok(Scanned::Block(block));
            }
        }
        let mut to = self.at + 8;
        let length = self.file.metadata()?.len();
        while to < length {
            if self.block_at(to, least)?.is_some() {
                let from = std::mem::replace(&mut self.at, to);
                let path = self.path.clone();
                return Ok(Scanned::Damaged(Damage { path, from_offset: from, to_offset: to }));
            }
            to += self.zeros_from(to)?.max(8);
        }
        Ok(Scanned::End)
    }

    /// Bytes from the last valid block to the last one that is not zero.
    pub(crate) fn torn_bytes(&mut self) -> io::Result<u64> {
        self.window.clear();
        let (mut at, mut torn) = (self.at, 0);
        loop {
            let start = self.at;
            let bytes = self.bytes(at, WINDOW_BYTES)?;
            if bytes.is_empty() {
                return Ok(torn);
            }
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                torn = at + last as u64 + 1 - start;
            }
            at += bytes.len() as u64;
        }
    }

    /// How many zero bytes follow, in whole eights, as far as the window shows.
    fn zeros_from(&mut self, at: u64) -> io::Result<u64> {
        let bytes = self.bytes(at, 8)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(8);
        }
        // INVARIANT: `bytes` made the window cover `at`.
        let skip = usize::try_from(at - self.window_at).unwrap_or(0);
        let rest = self.window.get(skip..).unwrap_or(&[]);
        let zeros = rest.chunks_exact(8).take_while(|eight| eight.iter().all(|b| *b == 0)).count();
        Ok(8 * zeros as u64)
    }

    fn block_at(&mut self, at: u64, least: u64) -> io::Result<Option<BlockHeader>> {
        let log = self.log;
        let Some(header) = BlockHeader::parse(self.bytes(at, BLOCK_HEADER_BYTES)?) else {
            return Ok(None);
        };
        let bytes = self.bytes(at, header.block_bytes())?;
        if bytes.len() < header.block_bytes()
            || header.first_seq < least
            || checksum(log, bytes) != header.crc
        {
            return Ok(None);
        }
        let payload = bytes[BLOCK_HEADER_BYTES..].to_vec();
        self.payload = payload;
        Ok(Some(header))
    }

    /// Up to `length` bytes at `at`; fewer at the end of the file.
    fn bytes(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let inside = at >= self.window_at
            && at + length as u64 <= self.window_at + self.window.len() as u64
            && !self.window.is_empty();
        if !inside {
            self.refill(at, length.max(self.ahead))?;
            self.ahead = (2 * self.ahead).min(WINDOW_BYTES);
        }
        let skip = usize::try_from(at - self.window_at).unwrap_or(usize::MAX);
        let rest = self.window.get(skip..).unwrap_or(&[]);
        Ok(&rest[..rest.len().min(length)])
    }

    fn refill(&mut self, at: u64, length: usize) -> io::Result<()> {
        self.window.resize(length, 0);
        self.window_at = at;
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut self.window[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(filled);
        Ok(())
    }
}
