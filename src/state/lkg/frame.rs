//! Frames of a last-known-good file: length, checksum, type, payload.

/// Bytes of a frame before its payload.
pub(super) const HEAD: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq)]
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

pub(super) type Frames<'a> = Vec<(Frame, &'a [u8])>;

/// The whole frames, and how many bytes they take; a frame cut short at the end is left out.
pub(super) fn read(mut body: &[u8]) -> Result<(Frames<'_>, usize), String> {
    let length = body.len();
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(HEAD) {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let Some((payload, after)) = rest.split_at_checked(word(0) as usize) else { break };
        let frame = match head[8] {
            1 => Frame::Manifest,
            2 => Frame::Chunk,
            3 => Frame::Delta,
            4 => Frame::Urgent,
            5 => Frame::Beside,
            other => return Err(format!("frame {} is of unknown type {other}", frames.len())),
        };
        if crc32c::crc32c_append(crc32c::crc32c(&head[8..9]), payload) != word(4) || head[9..] != [0; 3] {
            return Err(format!("the checksum of frame {} does not match", frames.len()));
        }
        frames.push((frame, payload));
        body = after;
    }
    Ok((frames, length - body.len()))
}
