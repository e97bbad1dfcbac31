//! The format on disk, version 1.
//!
//! ```text
//! <data>/spool/lock                                 held while a process writes here
//! <data>/spool/cursors/<sink>                       how far each sink is (the `sink` room)
//! <data>/spool/<log id>/seg-<first seq, 20 digits>.nev
//! <data>/spool/<log id>/next.tmp                    a segment made ahead; holds no record
//! <data>/spool/<log id>/seg-….nev.suspect           replaced after a failed fsync; not read
//! ```
//!
//! One directory is one log: one process start of one enforcement point, named by a ULID, so
//! that names sort by time. Numbers are little-endian. Sequence numbers begin at 0 and have no
//! gaps. Files are made at their full size and filled with zeros.
//!
//! A **segment** is a header of 4,096 bytes and blocks after it, each beginning at a multiple of 8:
//!
//! | at | header | |
//! |---|---|---|
//! | 0 | magic | `PRTRVEVL` |
//! | 8 | version u32 | 1 |
//! | 12 | header length u32 | 4096 |
//! | 16 | log id | 16 bytes, big-endian, as in a ULID |
//! | 32 | incarnation | 16 bytes |
//! | 48 | kernel boot id | 16 bytes; zero: unknown |
//! | 64 | first sequence u64 | of the segment |
//! | 72 | created i64 | microseconds since the Unix epoch |
//! | 80 | loss bound u64 | most decisions that a crash of the process can lose |
//! | 88 | loss bound u64 | most that a crash of the host can lose |
//! | 4092 | crc32c u32 | over bytes 0 to 4,092 |
//!
//! | at | block | |
//! |---|---|---|
//! | 0 | length u32 | of the payload, 1 to 65,536 |
//! | 4 | crc32c u32 | over the log id, bytes 0 to 4, and byte 8 to the end of the payload |
//! | 8 | type u8 | 1: records |
//! | 9 | codec u8 | 0: as is |
//! | 10 | count u16 | of records, 1 to 256 |
//! | 12 | first sequence u64 | of the block |
//! | 20 | payload | records, each with its length as a varint before it |
//! | | padding | zeros, to a multiple of 8 |
//!
//! The log id is under the checksum so that a block of another log is never taken for one of this.
//! A record is `portreeve.evidence.v1.Record`.
//!
//! **Reading.** Where no valid block begins, the reader looks at every multiple of 8 after it. If
//! none is found to the end of the file, the blocks end there; bytes other than zero after that
//! point are a *torn tail*: a write that a crash cut short. If one is found, what lies between is
//! *damage*; it is reported and stepped over. A segment ends where the next one begins: blocks whose
//! numbers the next segment holds too were written again after a failed fsync. Nothing is ever cut
//! off or deleted because it cannot be read.
//!
//! # Standard
//! CRC-32C: RFC 3720 appendix B.4.

use crate::core::id::LogId;

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 4096;

/// Bytes of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 20;

/// Most records of a block.
pub const BLOCK_RECORDS_MAX: u16 = 256;

/// Longest payload of a block.
pub const BLOCK_PAYLOAD_MAX: usize = 64 * 1024;

/// Longest block with its header and padding.
pub const BLOCK_BYTES_MAX: usize = (BLOCK_HEADER_BYTES + BLOCK_PAYLOAD_MAX).next_multiple_of(8);

const MAGIC: &[u8; 8] = b"PRTRVEVL";
const VERSION: u32 = 1;
const TYPE_RECORDS: u8 = 1;
const CODEC_PLAIN: u8 = 0;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log.
    pub log: LogId,
    /// The process start.
    pub incarnation: [u8; 16],
    /// The kernel's boot id; all zero: unknown.
    pub boot_id: [u8; 16],
    /// The first sequence number that can be in it.
    pub first_seq: u64,
    /// When it was begun, microseconds since the Unix epoch.
    pub created_us: i64,
    /// Most decisions that a crash of the process can lose.
    pub loss_bound_process: u64,
    /// Most decisions that a crash of the host can lose.
    pub loss_bound_host: u64,
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&4096u32.to_le_bytes());
        out.extend_from_slice(&self.log.to_bytes());
        out.extend_from_slice(&self.incarnation);
        out.extend_from_slice(&self.boot_id);
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.created_us.to_le_bytes());
        out.extend_from_slice(&self.loss_bound_process.to_le_bytes());
        out.extend_from_slice(&self.loss_bound_host.to_le_bytes());
        out.resize(HEADER_BYTES - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `None` when it is none of this version, or damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..HEADER_BYTES)?.split_at(HEADER_BYTES - 4);
        let whole = body.starts_with(MAGIC)
            && body.get(8..12)? == VERSION.to_le_bytes()
            && crc == crc32c::crc32c(body).to_le_bytes();
        whole.then_some(())?;
        Some(Self {
            log: LogId::from_bytes(array(body, 16)?),
            incarnation: array(body, 32)?,
            boot_id: array(body, 48)?,
            first_seq: u64::from_le_bytes(array(body, 64)?),
            created_us: i64::from_le_bytes(array(body, 72)?),
            loss_bound_process: u64::from_le_bytes(array(body, 80)?),
            loss_bound_host: u64::from_le_bytes(array(body, 88)?),
        })
    }
}

/// A block being filled, and then as it is written: header, payload, padding.
#[derive(Debug, Default)]
pub struct BlockBuffer {
    bytes: Vec<u8>,
    first_seq: u64,
    count: u16,
    finished: bool,
}

impl BlockBuffer {
    /// Makes it empty, its first record to be `first_seq`. Keeps its memory.
    pub fn begin(&mut self, first_seq: u64) {
        self.bytes.clear();
        self.bytes.resize(BLOCK_HEADER_BYTES, 0);
        self.first_seq = first_seq;
        self.count = 0;
        self.finished = false;
    }

    /// How many records it holds.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// The sequence number after its last record.
    pub fn end_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    /// Whether a record of `length` bytes still fits. The first always does.
    pub fn fits(&self, length: usize) -> bool {
        let payload = self.bytes.len().saturating_sub(BLOCK_HEADER_BYTES);
        self.count < BLOCK_RECORDS_MAX && payload + length + 3 <= BLOCK_PAYLOAD_MAX
    }

    /// Appends a record of at most `wire::evidence::RECORD_BYTES_MAX` bytes.
    pub fn push(&mut self, record: &[u8]) {
        let mut length = record.len();
        while length >= 0x80 {
            // The mask keeps seven bits.
            self.bytes.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        self.bytes.push(u8::try_from(length).unwrap_or(0));
        self.bytes.extend_from_slice(record);
        self.count += 1;
    }

    /// Fills in the header, pads, and gives what to write. The second time gives the same.
    pub fn finish(&mut self, log: LogId) -> &[u8] {
        if self.finished {
            return &self.bytes;
        }
        self.finished = true;
        // INVARIANT: `fits` keeps the payload within 65,536 bytes.
        let length = u32::try_from(self.bytes.len() - BLOCK_HEADER_BYTES).unwrap_or(u32::MAX);
        let end = self.bytes.len();
        let header = BlockHeader { length, crc: 0, count: self.count, first_seq: self.first_seq };
        self.bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        let crc = checksum(log, &self.bytes[..end]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(end.next_multiple_of(8), 0);
        &self.bytes
    }

    /// Bytes of memory it keeps.
    pub const fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

/// A block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Bytes of its payload.
    pub length: u32,
    /// The checksum it claims.
    pub crc: u32,
    /// How many records.
    pub count: u16,
    /// The first one's sequence number.
    pub first_seq: u64,
}

impl BlockHeader {
    fn to_bytes(self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = [0; BLOCK_HEADER_BYTES];
        out[..4].copy_from_slice(&self.length.to_le_bytes());
        out[4..8].copy_from_slice(&self.crc.to_le_bytes());
        out[8] = TYPE_RECORDS;
        out[9] = CODEC_PLAIN;
        out[10..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..].copy_from_slice(&self.first_seq.to_le_bytes());
        out
    }

    /// Reads a header; `None` when it can be none. Says nothing about the checksum.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let length = u32::from_le_bytes(array(bytes, 0)?);
        let [kind, codec] = array(bytes, 8)?;
        let count = u16::from_le_bytes(array(bytes, 10)?);
        let first_seq = u64::from_le_bytes(array(bytes, 12)?);
        let possible = (1..=BLOCK_PAYLOAD_MAX).contains(&(length as usize))
            && (kind, codec) == (TYPE_RECORDS, CODEC_PLAIN)
            && (1..=BLOCK_RECORDS_MAX).contains(&count)
            && first_seq.checked_add(u64::from(count)).is_some();
        possible.then_some(Self { length, crc: u32::from_le_bytes(array(bytes, 4)?), count, first_seq })
    }

    /// Bytes of header and payload.
    pub const fn block_bytes(&self) -> usize {
        BLOCK_HEADER_BYTES + self.length as usize
    }

    /// Bytes with padding.
    pub const fn padded_bytes(&self) -> usize {
        self.block_bytes().next_multiple_of(8)
    }

    /// The sequence number after its last record.
    pub fn end_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }
}

/// The checksum of a block's header and payload, whatever its checksum field holds.
pub fn checksum(log: LogId, block: &[u8]) -> u32 {
    let seeded = crc32c::crc32c(&log.to_bytes());
    let (length, rest) = block.split_at(block.len().min(4));
    crc32c::crc32c_append(crc32c::crc32c_append(seeded, length), rest.get(4..).unwrap_or(&[]))
}

/// The records of a block's payload, in order; ends early at what is no length.
pub fn records(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let mut length = 0usize;
        for (place, byte) in rest.iter().enumerate().take(4) {
            length |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                let end = place + 1 + length;
                let record = rest.get(place + 1..end)?;
                rest = &rest[end..];
                return Some(record);
            }
        }
        None
    })
}

/// The file name of the segment that begins at `first_seq`.
pub fn segment_name(first_seq: u64) -> String {
    format!("seg-{first_seq:020}.nev")
}

/// The first sequence number in a segment's file name.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".nev")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
