//! Reading one cell's file: its records a chunk at a time, then what followed on.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use prost::Message as _;

use super::MAGIC;
use super::frame::{Frame, Frames};
use crate::core::id::Name;
use crate::core::identity::{Change, Rebuild, Repair, Snapshot};
use crate::wire::state as wire;
use crate::wire::state_proto as proto;

/// What a file held.
pub(super) struct Replayed {
    pub(super) snapshot: Snapshot,
    pub(super) manifest: proto::Manifest,
    pub(super) cell: Name,
    /// Bytes up to where changes were appended.
    pub(super) base_bytes: u64,
    /// Bytes that are whole.
    pub(super) bytes: u64,
}

/// Where reading has got to.
enum Stage {
    Records(Box<Rebuild>, u64),
    Tail(Box<Snapshot>),
}

/// A frame that was read, and the bytes up to its end.
struct Part {
    frame: Frame,
    holds: Holds,
    bytes: u64,
}

enum Holds {
    Records(Vec<Change>),
    Payload(Vec<u8>),
}

/// Parts that are read ahead: one is decoded while the one before is put in place.
const AHEAD: usize = 1;

/// Puts a file's cell into `state`. The file is never in memory as a whole.
pub(super) fn read(path: &Path, state: &Snapshot, keys: &[proto::SigningKey]) -> Result<Replayed, String> {
    let file = File::open(path).map_err(text)?;
    let length = file.metadata().map_err(text)?.len();
    let mut from = BufReader::with_capacity(1 << 16, file);
    let mut magic = [0; MAGIC.len()];
    let begins = from.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    if !begins {
        return Err("it does not begin as a last-known-good file".to_owned());
    }
    let mut frames = Frames::new(from, length - MAGIC.len() as u64);
    let manifest = match frames.next()? {
        Some((Frame::Manifest, payload)) => proto::Manifest::decode(&*payload).map_err(text)?,
        _ => return Err("it has no manifest".to_owned()),
    };
    let begins = frames.bytes();
    thread::scope(|scope| {
        let (give, parts) = sync_channel(AHEAD);
        scope.spawn(move || {
            // Whoever takes them may have given up.
            while let Some(part) = next(&mut frames).transpose()
                && give.send(part).is_ok()
            {}
        });
        put(&parts, begins, manifest, state, keys)
    })
}

/// The next part, its records decoded.
fn next(frames: &mut Frames<impl std::io::Read>) -> Result<Option<Part>, String> {
    let Some((frame, payload)) = frames.next()? else { return Ok(None) };
    let holds = match frame {
        Frame::Chunk => Holds::Records(decode(&payload)?),
        _ => Holds::Payload(payload),
    };
    Ok(Some(Part { frame, holds, bytes: frames.bytes() }))
}

/// Puts what follows a manifest into `state`.
fn put(
    parts: &Receiver<Result<Part, String>>,
    begins: u64,
    manifest: proto::Manifest,
    state: &Snapshot,
    keys: &[proto::SigningKey],
) -> Result<Replayed, String> {
    let base = base(&manifest)?;
    let mut stage = Stage::Records(Box::new(state.rebuild(&base).map_err(text)?), 0);
    let mut history = base.history_hash;
    let (mut base_bytes, mut bytes) = (begins, begins);
    for part in parts {
        let part = part?;
        bytes = part.bytes;
        stage = match (stage, part.holds) {
            (Stage::Records(mut rebuild, count), Holds::Records(changes)) => {
                rebuild.put(&changes).map_err(text)?;
                Stage::Records(rebuild, count + changes.len() as u64)
            }
            (Stage::Tail(_), Holds::Records(_)) => return Err("it has records behind changes".to_owned()),
            (_, Holds::Payload(_)) if part.frame == Frame::Manifest => {
                return Err("it has two manifests".to_owned());
            }
            (stage, Holds::Payload(payload)) => {
                let held = stage.whole(&manifest)?;
                let next = follow(&held, part.frame, &payload, &base.cell, &manifest, keys, &mut history)?;
                Stage::Tail(Box::new(next))
            }
        };
        if !matches!(part.frame, Frame::Delta | Frame::Urgent) {
            base_bytes = bytes;
        }
    }
    let snapshot = stage.whole(&manifest)?;
    let magic = MAGIC.len() as u64;
    let (base_bytes, bytes) = (magic + base_bytes, magic + bytes);
    Ok(Replayed { snapshot, manifest, cell: base.cell, base_bytes, bytes })
}

impl Stage {
    /// The state with every record that the manifest speaks of.
    fn whole(self, manifest: &proto::Manifest) -> Result<Snapshot, String> {
        match self {
            Self::Tail(held) => Ok(*held),
            Self::Records(_, count) if count != manifest.records => {
                Err(format!("it holds {count} records where its manifest says {}", manifest.records))
            }
            Self::Records(rebuild, _) => rebuild.finish().map_err(text),
        }
    }
}

fn base(manifest: &proto::Manifest) -> Result<Repair, String> {
    Ok(Repair {
        cell: Name::parse(&manifest.cell).map_err(text)?,
        epoch: wire::epoch(&manifest.epoch).map_err(text)?,
        revision: manifest.revision,
        history_hash: wire::hash32("history hash", &manifest.history_hash).map_err(text)?,
        state_digest: wire::state_digest(&manifest.state_digest).map_err(text)?,
        buckets: None,
        changes: Vec::new(),
    })
}

fn follow(
    held: &Snapshot,
    frame: Frame,
    payload: &[u8],
    cell: &Name,
    manifest: &proto::Manifest,
    keys: &[proto::SigningKey],
    history: &mut [u8; 32],
) -> Result<Snapshot, String> {
    if frame == Frame::Beside {
        return Ok(held.put_beside(cell, &decode(payload)?, manifest.kill_revision));
    }
    let signed = proto::Signed::decode(payload).map_err(text)?;
    if frame == Frame::Urgent {
        let kills = wire::open_urgent(&signed, keys).map_err(text)?;
        return held.kill(&kills).map_err(text);
    }
    let delta = wire::open_delta(&signed, keys).map_err(text)?;
    let batch = wire::decode_delta(&delta, history).map_err(text)?;
    *history = batch.history_hash;
    held.apply(&batch).map_err(text)
}

fn decode(payload: &[u8]) -> Result<Vec<Change>, String> {
    let chunk = proto::Chunk::decode(payload).map_err(text)?;
    chunk.changes.iter().map(wire::decode_change).collect::<Result<_, _>>().map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
