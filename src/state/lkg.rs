//! The last-known-good state on disk: what a restart without a hub begins with.
//!
//! One file a cell, `<name>.lkg`, little-endian:
//!
//! ```text
//! magic   8 bytes  "PRTLKG1\n"
//! frame   length u32 | CRC-32C of type and payload u32 | type u8 | 3 zero bytes | payload
//! ```
//!
//! Frame 1 (once, first) is a `Manifest`; 2 a `Chunk` of its records; 3 a `Delta` that
//! follows on. A file is written beside itself, synced and renamed; deltas are appended.
//!
//! A frame cut short at the very end is a write that a crash interrupted: the state
//! before it is whole. Anything else that does not check out refuses the file, which is
//! set aside under another name and never half-applied.
//!
//! `lease` beside them holds the freshness lease, the kernel's boot id it was taken in, the longest
//! `deny_after` it was granted under and the positions it covers. In another boot it is void; a state behind the positions
//! it names is a rollback and refused.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::core::id::{Epoch, Name};
use crate::core::identity::{Batch, Keyer, Lease, Snapshot};
use crate::core::time::BootInstant;
use crate::wire::state as wire;
use crate::wire::state_proto as proto;

const MAGIC: &[u8; 8] = b"PRTLKG1\n";
const FRAME_HEAD: usize = 12;
const CHUNK_BYTES: usize = 1 << 20;
const TAIL_BYTES_MIN: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Manifest = 1,
    Chunk = 2,
    Delta = 3,
}

/// Why the last-known-good cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LkgError {
    /// The file system refused.
    #[error("{path}: {source}; check that the data directory exists, is writable and has room", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is damaged, and has been set aside.
    #[error(
        "{path}: damaged last-known-good state: {detail}; it was set aside as {aside} and the state will come from the hub",
        path = path.display(), aside = aside.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not check out.
        detail: String,
        /// Its new name.
        aside: PathBuf,
    },
}

/// The folder, with an open file a cell.
#[derive(Debug)]
pub struct LastKnownGood {
    folder: PathBuf,
    boot_id: String,
    deny_after_max: Duration,
    cluster_id: Bytes,
    cells: BTreeMap<Name, Tail>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    base_bytes: u64,
    tail_bytes: u64,
}

/// What was found at start.
#[derive(Debug)]
pub struct Loaded {
    /// The state, empty when there was none.
    pub snapshot: Snapshot,
    /// The lease, when it was taken in this boot and the state reaches it.
    pub lease: Lease,
    /// What was refused, for the log.
    pub refused: Vec<LkgError>,
}

impl LastKnownGood {
    /// Opens the folder and reads what it holds.
    ///
    /// `boot_id` names the kernel's boot: a lease of another one is void, and so is any when it is empty.
    /// `deny_after_max` is the longest finite `deny_after` of any route: a lease granted under a
    /// shorter one is void, since the hub's receipts count on its ending earlier.
    ///
    /// # Errors
    /// [`LkgError::Io`] when the folder cannot be made or listed. Damaged files are no
    /// error: they are set aside and listed in [`Loaded::refused`].
    pub fn open(
        folder: &Path,
        boot_id: &str,
        deny_after_max: Duration,
        keyer: Keyer,
    ) -> Result<(Self, Loaded), LkgError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| LkgError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        let (folder_kept, boot_kept) = (folder.to_owned(), boot_id.to_owned());
        let mut this = Self {
            folder: folder_kept,
            boot_id: boot_kept,
            deny_after_max,
            cluster_id: Bytes::new(),
            cells: BTreeMap::new(),
        };
        let mut snapshot = Snapshot::empty(keyer);
        let mut refused = Vec::new();
        let covered = this.read_lease().unwrap_or_default();
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            if path.extension().is_none_or(|extension| extension != "lkg") {
                continue;
            }
            match this.load_cell(&path, &snapshot, &covered) {
                Ok(next) => snapshot = next,
                Err(detail) => refused.push(set_aside(&path, detail)),
            }
        }
        let reaches = |position: &LeasePosition| {
            snapshot
                .cell(&position.cell)
                .is_some_and(|held| (held.epoch, held.revision) >= (position.epoch, position.revision))
        };
        let same_terms = covered.deny_after_max >= deny_after_max;
        let same_boot = !boot_id.is_empty() && covered.boot_id == boot_id;
        let valid = same_boot && same_terms && covered.positions.iter().all(reaches);
        let lease = if valid { covered.lease } else { Lease::default() };
        Ok((this, Loaded { snapshot, lease, refused }))
    }

    /// The cluster that the state is of; empty: not known.
    pub(super) const fn cluster_id(&self) -> &Bytes {
        &self.cluster_id
    }

    /// Notes the cluster for every file written from now on.
    pub(super) fn set_cluster_id(&mut self, cluster_id: Bytes) {
        self.cluster_id = cluster_id;
    }

    /// Appends a delta, as received, to its cell's file. With the kernel when this returns.
    pub(super) fn append(&mut self, cell: &Name, delta: &[u8]) -> Result<(), LkgError> {
        let path = self.path(cell);
        let Some(tail) = self.cells.get_mut(cell) else { return Ok(()) };
        let mut frame = Vec::with_capacity(FRAME_HEAD + delta.len());
        push_frame(&mut frame, Frame::Delta, delta);
        tail.tail_bytes += frame.len() as u64;
        let written = tail.file.write_all(&frame);
        if written.is_err() {
            // What is on disk may end in half a frame: this file takes no more.
            self.cells.remove(cell);
        }
        written.map_err(|source| LkgError::Io { path, source })
    }

    /// Whether a cell's tail of deltas has outgrown its base, or its file takes no more.
    pub(super) fn is_long(&self, cell: &Name) -> bool {
        self.cells.get(cell).is_none_or(|tail| tail.tail_bytes > tail.base_bytes.max(TAIL_BYTES_MIN))
    }

    /// Writes a cell's file anew from the state in force.
    pub(super) fn rewrite(&mut self, cell: &Name, snapshot: &Snapshot) -> Result<(), LkgError> {
        let Some(state) = snapshot.cell(cell) else { return Ok(()) };
        let path = self.path(cell);
        let beside = path.with_extension("new");
        let mut changes: Vec<_> = snapshot.export(cell).iter().map(wire::encode_change).collect();
        changes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let mut out = MAGIC.to_vec();
        let manifest = proto::Manifest {
            cluster_id: self.cluster_id.clone(),
            epoch: Bytes::copy_from_slice(state.epoch.as_bytes()),
            cell: cell.to_string(),
            revision: state.revision,
            history_hash: Bytes::copy_from_slice(&state.history_hash),
            records: changes.len() as u64,
            state_digest: Bytes::copy_from_slice(state.state_digest.as_bytes()),
            ..proto::Manifest::default()
        };
        push_frame(&mut out, Frame::Manifest, &manifest.encode_to_vec());
        let mut chunk = proto::Chunk::default();
        let mut bytes = 0;
        for change in changes {
            bytes += change.encoded_len();
            chunk.changes.push(change);
            if bytes >= CHUNK_BYTES {
                push_frame(&mut out, Frame::Chunk, &std::mem::take(&mut chunk).encode_to_vec());
                bytes = 0;
            }
        }
        push_frame(&mut out, Frame::Chunk, &chunk.encode_to_vec());
        let io = |source| LkgError::Io { path: path.clone(), source };
        replace_file(&beside, &path, &out).map_err(io)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
        self.cells.insert(cell.clone(), Tail { file, base_bytes: out.len() as u64, tail_bytes: 0 });
        Ok(())
    }

    /// Writes the lease with the positions it covers.
    pub(super) fn write_lease(&self, lease: &Lease, snapshot: &Snapshot) -> Result<(), LkgError> {
        let mut text = format!(
            "portreeve-lease 1\nboot {}\nterms {}\nfresh {}\nhub {}\n",
            self.boot_id,
            self.deny_after_max.as_micros(),
            lease.fresh_at.map_or(0, BootInstant::as_micros),
            lease.hub_time_us
        );
        for cell in snapshot.cells() {
            text.push_str(&format!("cell {} {} {}\n", cell.cell, cell.epoch, cell.revision));
        }
        text.push_str(&format!("crc {:08x}\n", crc32c::crc32c(text.as_bytes())));
        let path = self.folder.join("lease");
        let beside = self.folder.join("lease.new");
        // Not synced: a crash of the host ends the lease anyway, since its boot id changes.
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|source| LkgError::Io { path, source })
    }

    /// Takes the lease away from a restart.
    pub(super) fn remove_lease(&self) -> Result<(), LkgError> {
        let path = self.folder.join("lease");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LkgError::Io { path, source }),
            _ => Ok(()),
        }
    }

    fn read_lease(&self) -> Option<CoveredLease> {
        let text = fs::read_to_string(self.folder.join("lease")).ok()?;
        let (body, crc) = text.split_at(text.rfind("crc ")?);
        if crc.trim_end() != format!("crc {:08x}", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut found = CoveredLease::default();
        for line in body.lines() {
            let mut words = line.split(' ');
            match (words.next()?, words.next()?) {
                ("boot", id) => id.clone_into(&mut found.boot_id),
                ("terms", us) => found.deny_after_max = Duration::from_micros(us.parse().ok()?),
                // Zero: nobody has granted one. Read as a time it would be fresh soon after a boot.
                ("fresh", "0") => {}
                ("fresh", us) => found.lease.fresh_at = Some(BootInstant::from_micros(us.parse().ok()?)),
                ("hub", us) => found.lease.hub_time_us = us.parse().ok()?,
                ("cell", name) => found.positions.push(LeasePosition {
                    cell: Name::parse(name).ok()?,
                    epoch: parse_epoch(words.next()?)?,
                    revision: words.next()?.parse().ok()?,
                }),
                _ => {}
            }
        }
        Some(found)
    }

    fn load_cell(
        &mut self,
        path: &Path,
        state: &Snapshot,
        covered: &CoveredLease,
    ) -> Result<Snapshot, String> {
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        let body = bytes.strip_prefix(MAGIC).ok_or("it does not begin as a last-known-good file")?;
        let (frames, whole) = read_frames(body)?;
        let next = replay(&frames, state)?;
        let (cell, base_frames) = describe(&frames)?;
        let cluster_id = manifest(&frames)?.cluster_id;
        if !self.cluster_id.is_empty() && !cluster_id.is_empty() && cluster_id != self.cluster_id {
            return Err("it is of another cluster than the other cells".to_owned());
        }
        let held = next.cell(&cell).ok_or("its cell is not in its state")?;
        let behind = covered
            .positions
            .iter()
            .find(|seen| seen.cell == cell && (seen.epoch, seen.revision) > (held.epoch, held.revision));
        if let Some(seen) = behind {
            return Err(format!(
                "it reaches revision {}, but revision {} of epoch {} has been in force here: the file was rolled back",
                held.revision, seen.revision, seen.epoch
            ));
        }
        let kept = (MAGIC.len() + whole) as u64;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| e.to_string())?;
        file.set_len(kept).map_err(|e| e.to_string())?;
        let base_bytes = base_frames as u64;
        self.cells.insert(cell, Tail { file, base_bytes, tail_bytes: kept - base_bytes });
        if !cluster_id.is_empty() {
            self.cluster_id = cluster_id;
        }
        Ok(next)
    }

    fn path(&self, cell: &Name) -> PathBuf {
        self.folder.join(format!("{cell}.lkg"))
    }
}

#[derive(Debug, Default)]
struct CoveredLease {
    boot_id: String,
    deny_after_max: Duration,
    lease: Lease,
    positions: Vec<LeasePosition>,
}

#[derive(Debug)]
struct LeasePosition {
    cell: Name,
    epoch: Epoch,
    revision: u64,
}

fn parse_epoch(text: &str) -> Option<Epoch> {
    let value = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(Epoch::from_bytes(value.to_be_bytes()))
}

fn push_frame(out: &mut Vec<u8>, frame: Frame, payload: &[u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[frame as u8]), payload);
    // A payload is at most a chunk or a delta, both far below 4 GiB.
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[frame as u8, 0, 0, 0]);
    out.extend_from_slice(payload);
}

type Frames<'a> = Vec<(Frame, &'a [u8])>;

/// The whole frames, and how many bytes they take; a frame cut short at the end is left out.
fn read_frames(mut body: &[u8]) -> Result<(Frames<'_>, usize), String> {
    let length = body.len();
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(FRAME_HEAD) {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let Some((payload, after)) = rest.split_at_checked(word(0) as usize) else { break };
        let frame = match head[8] {
            1 => Frame::Manifest,
            2 => Frame::Chunk,
            3 => Frame::Delta,
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

fn describe(frames: &Frames<'_>) -> Result<(Name, usize), String> {
    let manifest = manifest(frames)?;
    let base = frames.iter().filter(|(frame, _)| *frame != Frame::Delta);
    let bytes = MAGIC.len() + base.map(|(_, payload)| FRAME_HEAD + payload.len()).sum::<usize>();
    Ok((Name::parse(&manifest.cell).map_err(|e| e.to_string())?, bytes))
}

fn manifest(frames: &Frames<'_>) -> Result<proto::Manifest, String> {
    match frames.first() {
        Some((Frame::Manifest, payload)) => proto::Manifest::decode(*payload).map_err(|e| e.to_string()),
        _ => Err("it has no manifest".to_owned()),
    }
}

fn replay(frames: &Frames<'_>, state: &Snapshot) -> Result<Snapshot, String> {
    let manifest = manifest(frames)?;
    let mut changes = Vec::new();
    for (frame, payload) in frames.iter().skip(1) {
        if *frame == Frame::Chunk {
            let chunk = proto::Chunk::decode(*payload).map_err(|e| e.to_string())?;
            for change in &chunk.changes {
                changes.push(wire::decode_change(change).map_err(|e| e.to_string())?);
            }
        }
    }
    if changes.len() as u64 != manifest.records {
        return Err(format!(
            "it holds {} records where its manifest says {}",
            changes.len(),
            manifest.records
        ));
    }
    let mut history = wire::hash32("history hash", &manifest.history_hash).map_err(|e| e.to_string())?;
    let base = Batch {
        cell: Name::parse(&manifest.cell).map_err(|e| e.to_string())?,
        epoch: wire::epoch(&manifest.epoch).map_err(|e| e.to_string())?,
        from_revision: 0,
        to_revision: manifest.revision,
        history_hash: history,
        state_digest: wire::state_digest(&manifest.state_digest).map_err(|e| e.to_string())?,
        changes,
    };
    let mut next = state.replace_cell(&base).map_err(|e| e.to_string())?;
    for (_, payload) in frames.iter().filter(|(frame, _)| *frame == Frame::Delta) {
        let delta = proto::Delta::decode(*payload).map_err(|e| e.to_string())?;
        let batch = wire::decode_delta(&delta, &history).map_err(|e| e.to_string())?;
        history = batch.history_hash;
        next = next.apply(&batch).map_err(|e| e.to_string())?;
    }
    Ok(next)
}

fn replace_file(beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn set_aside(path: &Path, detail: String) -> LkgError {
    let aside = (1..).map(|n| path.with_extension(format!("damaged-{n}"))).find(|name| !name.exists());
    let aside = aside.unwrap_or_else(|| path.with_extension("damaged"));
    match fs::rename(path, &aside) {
        Ok(()) => LkgError::Damaged { path: path.to_owned(), detail, aside },
        Err(source) => LkgError::Io { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests;
