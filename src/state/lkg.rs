//! The last-known-good state on disk: what a restart without a hub begins with.
//!
//! One file a cell, `<name>.lkg`, little-endian:
//!
//! ```text
//! magic   8 bytes  "PRTLKG1\n"
//! frame   length u32 | CRC-32C of type and payload u32 | type u8 | 3 zero bytes | payload
//! ```
//!
//! Frame 1 (once, first) is a `Manifest`; 2 a `Chunk` of its records; 3 a `Signed` delta that
//! follows on; 4 a `Signed` urgent message; 5 a `Chunk` of revocations that are in force beside the
//! records: ahead of them, or carried from an older epoch. A file is written beside itself, synced
//! and renamed; deltas and urgent messages are appended as they came.
//!
//! The records must add up to the manifest's digest; what was signed must be so by the keys in
//! `cluster`, the ones of the first welcome.
//!
//! A frame cut short at the very end is a write that a crash interrupted: the state
//! before it is whole. Anything else that does not check out refuses the file, which is
//! set aside under another name and never half-applied.
//!
//! `lease` beside them holds the freshness lease, the kernel's boot id it was taken in, the longest
//! `deny_after` it was granted for and the positions it covers. In another boot it is void; a state behind the positions
//! it names is a rollback and refused; a cell that it does not name makes it void.

mod frame;
mod lease;
mod replay;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;

use crate::core::id::Name;
use crate::core::identity::{CellState, Change, Keyer, Lease, Snapshot};
use crate::core::time::Anchor;
use crate::wire::state as wire;
use crate::wire::state_proto as proto;
use frame::{Frame, Frames};
use lease::{CoveredLease, LeasePosition};

const MAGIC: &[u8; 8] = b"PRTLKG1\n";
const CHUNK_BYTES: usize = 1 << 20;
const TAIL_BYTES_MIN: u64 = 1 << 20;

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
    /// There is state, and nothing tells whose.
    #[error(
        "{path}: {detail}, and by it alone state is known to be this cluster's; put it back, or, to trust the hub that answers next, remove all of {folder}",
        path = path.display(), folder = path.parent().unwrap_or(path).display()
    )]
    Pin {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// The folder, with an open file a cell.
#[derive(Debug)]
pub struct LastKnownGood {
    folder: PathBuf,
    boot_id: String,
    cluster_id: Bytes,
    keys: Vec<proto::SigningKey>,
    head: Option<proto::Signed>,
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
    /// What the lease's times are told by, when it was taken in this boot, void or not.
    pub anchor: Option<Anchor>,
    /// What was refused, for the log.
    pub refused: Vec<LkgError>,
}

impl LastKnownGood {
    /// Opens the folder and reads what it holds.
    ///
    /// `boot_id` names the kernel's boot: a lease of another one is void, and so is any when it is empty.
    ///
    /// # Errors
    /// [`LkgError::Io`] when the folder cannot be made or listed; [`LkgError::Pin`] when there is state and
    /// the file of the cluster's keys is damaged or gone. Other damaged files are no error: they are set
    /// aside and listed in [`Loaded::refused`].
    pub fn open(folder: &Path, boot_id: &str, keyer: Keyer) -> Result<(Self, Loaded), LkgError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| LkgError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        let (folder_kept, boot_kept) = (folder.to_owned(), boot_id.to_owned());
        let mut this = Self {
            folder: folder_kept,
            boot_id: boot_kept,
            cluster_id: Bytes::new(),
            keys: Vec::new(),
            head: None,
            cells: BTreeMap::new(),
        };
        let files = cell_files(folder).map_err(at(folder))?;
        if let Some((cluster_id, keys)) = this.read_cluster(!files.is_empty())? {
            this.cluster_id = cluster_id;
            this.keys = keys;
        }
        let mut snapshot = Snapshot::empty(keyer);
        let mut refused = Vec::new();
        let covered = this.read_lease().unwrap_or_default();
        this.head.clone_from(&covered.head);
        for path in files {
            match this.load_cell(&path, &snapshot, &covered) {
                Ok(next) => snapshot = next,
                Err(detail) => refused.push(set_aside(&path, detail)),
            }
        }
        let reaches = |position: &LeasePosition| {
            snapshot.cell(&position.cell).is_some_and(|held| !position.is_past(held))
        };
        let same_boot = !boot_id.is_empty() && covered.boot_id == boot_id;
        // A cell that it does not name was to be dropped, or is newer than the lease.
        let named = |held: &CellState| covered.positions.iter().any(|position| position.cell == held.cell);
        let covers = covered.positions.iter().all(reaches) && snapshot.cells().iter().all(named);
        let valid = same_boot && covers;
        let anchor = (same_boot && covered.lease.fresh_at.is_some()).then_some(covered.lease.anchor);
        let lease = if valid { covered.lease } else { Lease::default() };
        Ok((this, Loaded { snapshot, lease, anchor, refused }))
    }

    /// The cluster that the state is of; empty: not known.
    pub(super) const fn cluster_id(&self) -> &Bytes {
        &self.cluster_id
    }

    /// The keys that state must be signed by; none: nothing has been seen yet.
    pub(super) fn keys(&self) -> &[proto::SigningKey] {
        &self.keys
    }

    /// The newest head of the hub's that was verified.
    pub(super) const fn head(&self) -> Option<&proto::Signed> {
        self.head.as_ref()
    }

    /// Notes a head, if none newer is known; on disk with the next lease.
    pub(super) fn set_head(&mut self, head: proto::Signed) {
        let place = |signed: &proto::Signed| {
            let head = proto::Head::decode(signed.body.clone()).ok()?;
            Some((head.epoch, head.revision))
        };
        if self.head.as_ref().is_none_or(|held| place(held) <= place(&head)) {
            self.head = Some(head);
        }
    }

    /// Pins the cluster and its keys, on disk when this returns.
    pub(super) fn pin(&mut self, cluster_id: Bytes, keys: Vec<proto::SigningKey>) -> Result<(), LkgError> {
        let pinned = proto::Welcome { cluster_id, signing_keys: keys, ..Default::default() };
        let mut out = MAGIC.to_vec();
        frame::push(&mut out, Frame::Manifest, &pinned.encode_to_vec());
        let path = self.folder.join("cluster");
        replace_file(&self.folder.join("cluster.new"), &path, |file| file.write_all(&out))
            .map_err(|source| LkgError::Io { path, source })?;
        self.cluster_id = pinned.cluster_id;
        self.keys = pinned.signing_keys;
        Ok(())
    }

    /// The cluster and its keys; `None`: nothing has been seen yet, and so there is no state.
    fn read_cluster(&self, has_state: bool) -> Result<Option<(Bytes, Vec<proto::SigningKey>)>, LkgError> {
        let path = self.folder.join("cluster");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_state => {
                return Err(LkgError::Pin { path, detail: "it is gone".to_owned() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LkgError::Io { path, source }),
        };
        let pinned = || {
            let body = bytes.strip_prefix(MAGIC)?;
            let (_, payload) = Frames::new(body, body.len() as u64).next().ok()??;
            proto::Welcome::decode(&*payload).ok()
        };
        match pinned() {
            Some(pinned) => Ok(Some((pinned.cluster_id, pinned.signing_keys))),
            None => Err(LkgError::Pin { path, detail: "it is damaged".to_owned() }),
        }
    }

    /// Forgets a cell.
    pub(super) fn remove(&mut self, cell: &Name) -> Result<(), LkgError> {
        self.cells.remove(cell);
        let path = self.path(cell);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LkgError::Io { path, source }),
            _ => Ok(()),
        }
    }

    /// Appends a delta, as received, to its cell's file. With the kernel when this returns.
    pub(super) fn append(&mut self, cell: &Name, delta: &proto::Signed) -> Result<(), LkgError> {
        self.append_frame(cell, Frame::Delta, delta)
    }

    /// Appends an urgent message, as received, to its cell's file. With the kernel when this returns.
    pub(super) fn append_urgent(&mut self, cell: &Name, urgent: &proto::Signed) -> Result<(), LkgError> {
        self.append_frame(cell, Frame::Urgent, urgent)
    }

    fn append_frame(&mut self, cell: &Name, kind: Frame, signed: &proto::Signed) -> Result<(), LkgError> {
        let path = self.path(cell);
        let Some(tail) = self.cells.get_mut(cell) else { return Ok(()) };
        let mut frame = Vec::new();
        frame::push(&mut frame, kind, &signed.encode_to_vec());
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

    /// Writes a cell's file anew from the state in force; a cell that is not in it has none.
    ///
    /// # Errors
    /// [`LkgError::Io`] when the folder does not take it: the file is as it was.
    pub fn rewrite(&mut self, cell: &Name, snapshot: &Snapshot) -> Result<(), LkgError> {
        let Some(state) = snapshot.cell(cell) else { return Ok(()) };
        let path = self.path(cell);
        let manifest = proto::Manifest {
            cluster_id: self.cluster_id.clone(),
            epoch: Bytes::copy_from_slice(state.epoch.as_bytes()),
            cell: cell.to_string(),
            revision: state.revision,
            history_hash: Bytes::copy_from_slice(&state.history_hash),
            records: state.records,
            kill_revision: state.kill_revision,
            state_digest: Bytes::copy_from_slice(state.state_digest.as_bytes()),
            ..proto::Manifest::default()
        };
        let io = |source| LkgError::Io { path: path.clone(), source };
        let written = replace_file(&path.with_extension("new"), &path, |file| {
            write_base(file, &manifest, cell, snapshot)
        });
        let base_bytes = written.map_err(io)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
        self.cells.insert(cell.clone(), Tail { file, base_bytes, tail_bytes: 0 });
        Ok(())
    }

    fn load_cell(
        &mut self,
        path: &Path,
        state: &Snapshot,
        covered: &CoveredLease,
    ) -> Result<Snapshot, String> {
        let replayed = replay::read(path, state, &self.keys)?;
        let (cell, cluster_id) = (replayed.cell, replayed.manifest.cluster_id);
        if !self.cluster_id.is_empty() && !cluster_id.is_empty() && cluster_id != self.cluster_id {
            return Err("it is of another cluster than the other cells".to_owned());
        }
        let held = replayed.snapshot.cell(&cell).ok_or("its cell is not in its state")?;
        let behind = covered.positions.iter().find(|seen| seen.cell == cell && seen.is_past(held));
        if let Some(seen) = behind {
            return Err(format!(
                "it reaches revision {}, but revision {} of epoch {} has been in force here: the file was rolled back",
                held.revision, seen.revision, seen.epoch
            ));
        }
        let file = OpenOptions::new().append(true).open(path).map_err(|e| e.to_string())?;
        file.set_len(replayed.bytes).map_err(|e| e.to_string())?;
        let (base_bytes, tail_bytes) = (replayed.base_bytes, replayed.bytes - replayed.base_bytes);
        self.cells.insert(cell, Tail { file, base_bytes, tail_bytes });
        if !cluster_id.is_empty() {
            self.cluster_id = cluster_id;
        }
        Ok(replayed.snapshot)
    }

    fn path(&self, cell: &Name) -> PathBuf {
        self.folder.join(format!("{cell}.lkg"))
    }
}

/// Writes what a file begins with; how many bytes that is. Records are unpacked a chunk at a time.
fn write_base(
    file: &mut File,
    manifest: &proto::Manifest,
    cell: &Name,
    snapshot: &Snapshot,
) -> io::Result<u64> {
    let mut out = MAGIC.to_vec();
    frame::push(&mut out, Frame::Manifest, &manifest.encode_to_vec());
    let mut written = out.len() as u64;
    let mut failed = file.write_all(&out);
    let mut flush = |frame, chunk: &mut Vec<u8>| {
        out.clear();
        frame::push(&mut out, frame, chunk);
        chunk.clear();
        written += out.len() as u64;
        if failed.is_ok() {
            failed = file.write_all(&out);
        }
    };
    let mut chunk = Vec::new();
    // In the order of the table, so that reading it builds one leaf after the other.
    snapshot.each(cell, |change| {
        encode_into(&mut chunk, &change);
        if chunk.len() >= CHUNK_BYTES {
            flush(Frame::Chunk, &mut chunk);
        }
    });
    flush(Frame::Chunk, &mut chunk);
    let beside = snapshot.beside(cell);
    if !beside.is_empty() {
        beside.iter().for_each(|change| encode_into(&mut chunk, change));
        flush(Frame::Beside, &mut chunk);
    }
    failed.map(|()| written)
}

/// Encodings of messages with repeated fields join by concatenation.
fn encode_into(chunk: &mut Vec<u8>, change: &Change) {
    let one = proto::Chunk { changes: vec![wire::encode_change(change)] };
    chunk.extend_from_slice(&one.encode_to_vec());
}

fn replace_file<T>(
    beside: &Path,
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let mut file = File::create(beside)?;
    let written = write(&mut file)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
    Ok(written)
}

/// The files of cells in a folder.
fn cell_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "lkg") {
            files.push(path);
        }
    }
    Ok(files)
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
