//! Frames of a last-known-good file: length, checksum, type, payload.

use std::io::{self, Read};

/// Bytes of a frame before its payload.
const HEAD: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    Manifest = 1,
    Chunk = 2,
    Delta = 3,
    Urgent = 4,
    Beside = 5,
}

pub(super) fn push(out: &mut Vec<u8>, frame: Frame, payload: &[u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[frame as u8]), payload);
    // A payload is at most a chunk or a delta, both far below 4 GiB.
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[frame as u8, 0, 0, 0]);
    out.extend_from_slice(payload);
}

/// Reads frames one after the other; one cut short at the end is as if it were not there.
pub(super) struct Frames<R> {
    from: R,
    /// Bytes from the first frame to the end.
    left: u64,
    read: u64,
    count: usize,
}

impl<R: Read> Frames<R> {
    /// Reads `length` bytes of frames.
    pub(super) const fn new(from: R, length: u64) -> Self {
        Self { from, left: length, read: 0, count: 0 }
    }

    /// How many bytes the frames took that have been read.
    pub(super) const fn bytes(&self) -> u64 {
        self.read
    }

    /// The next frame; `None` at the end, or at what a crash left of one.
    pub(super) fn next(&mut self) -> Result<Option<(Frame, Vec<u8>)>, String> {
        let text = |e: io::Error| e.to_string();
        if self.left < HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.from.read_exact(&mut head).map_err(text)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = u64::from(word(0));
        if self.left - (HEAD as u64) < length {
            return Ok(None);
        }
        let mut payload = vec![0; word(0) as usize];
        self.from.read_exact(&mut payload).map_err(text)?;
        let frame = match head[8] {
            1 => Frame::Manifest,
            2 => Frame::Chunk,
            3 => Frame::Delta,
            4 => Frame::Urgent,
            5 => Frame::Beside,
            other => return Err(format!("frame {} is of unknown type {other}", self.count)),
        };
        if crc32c::crc32c_append(crc32c::crc32c(&head[8..9]), &payload) != word(4) || head[9..] != [0; 3] {
            return Err(format!("the checksum of frame {} does not match", self.count));
        }
        self.count += 1;
        self.left -= HEAD as u64 + length;
        self.read += HEAD as u64 + length;
        Ok(Some((frame, payload)))
    }
}
