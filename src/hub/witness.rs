//! The highest head this hub has named, outside its store: what shows that the store was put back.
//!
//! A head is written here, durably, before anybody is told of it: with each commit before it is offered
//! to a stream, and with each heartbeat of a store that others write to. So a store that ends before the
//! witness, or holds another history at its revision, is not the one this hub served from.
//!
//! The file is text in two slots of 4 KiB that are written in turn, each with a checksum: a write that
//! was cut off leaves the other slot, whose head is the last one named. One line a slot:
//!
//! `portreeve-witness 1 <turn> <cluster> <epoch> <revision> <global hash> <signed head> <crc32c>`
//!
//! in hexadecimal but for turn and revision. What counts is the signed head; the rest is for people.
//! Cost: one `fdatasync` of a file that does not grow, when the head moves, one at a time.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;

use super::keys::ClusterKey;
use super::store::{FaultKind, Head, StateStore, StoreError, StoreFault};
use crate::core::id::Position;
use crate::core::time::Timestamp;
use crate::wire::state_proto as proto;
use crate::wire::{signed, state as wire};

/// A witness, held by this process alone.
#[derive(Debug)]
pub(crate) struct Witness {
    file: PathBuf,
    /// Whether it lies on another file system than the store; `None`: not known.
    apart: Option<bool>,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    handle: File,
    turn: u64,
    seen: Option<Seen>,
    /// What it was shown that the store does not hold; no head is named any more.
    contradicted: Option<String>,
}

/// A head as it was signed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    /// How far.
    pub(crate) position: Position,
    global_hash: [u8; 32],
    head: proto::Head,
    signed: proto::Signed,
}

impl Seen {
    /// Reads a head that the holder of `key` has signed.
    pub(crate) fn read(signed: &proto::Signed, key: &ClusterKey) -> Result<Self, String> {
        let keys = [key.public().clone()];
        let body = signed::verify(signed, &keys, proto::SignedKind::Head).map_err(|e| e.to_string())?;
        let head = proto::Head::decode(body).map_err(|e| e.to_string())?;
        let epoch = wire::epoch(&head.epoch).map_err(|e| e.to_string())?;
        let global_hash = wire::hash32("global_hash", &head.global_hash).map_err(|e| e.to_string())?;
        let position = Position { epoch, revision: head.revision };
        Ok(Self { position, global_hash, head, signed: signed.clone() })
    }

    /// Refuses a store of another cluster than this head, which was kept in `file`.
    pub(crate) fn of(&self, store: &dyn StateStore, file: &Path) -> Result<(), StoreFault> {
        if self.head.cluster_id[..] == store.identity().cluster_id {
            return Ok(());
        }
        let what = "this witness was kept for another cluster's store";
        Err(StoreFault::new(file, FaultKind::Foreign, what)
            .with_remedy("name another file in `hub.witness`, or open the store it belongs to"))
    }

    /// What this head says against `store`, if anything: that what was served is not in it. Blocks.
    pub(crate) fn against(&self, store: &dyn StateStore) -> Result<Option<String>, StoreError> {
        if self.head.cluster_id[..] != store.identity().cluster_id {
            return Ok(None);
        }
        let ours = store.heartbeat()?;
        let Position { epoch, revision } = self.position;
        let another = || format!("this hub has signed another history of its epoch at revision {revision}");
        if epoch != ours.position.epoch {
            return Ok((epoch > ours.position.epoch).then(|| {
                let held = ours.position.epoch;
                format!("epoch {epoch} has been signed, and the store is of epoch {held}, which was left")
            }));
        }
        if revision > ours.position.revision {
            let held = ours.position.revision;
            return Ok(Some(format!(
                "this hub has signed revision {revision} of its epoch, and its store ends at {held}"
            )));
        }
        if revision == ours.position.revision {
            return Ok((self.global_hash != ours.global_hash).then(another));
        }
        match store.logged(revision) {
            Ok(Some(logged)) => Ok((logged.global_hash != self.global_hash).then(another)),
            // Trimmed since: there is nothing left to compare with.
            Ok(None) | Err(StoreError::Compacted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Witness {
    /// Opens a witness, or makes an empty one where there is none; only one process may hold it.
    ///
    /// # Errors
    /// [`StoreFault`] when the file cannot be used, is damaged, or another process holds it.
    pub(crate) fn open(file: &Path, store: Option<&Path>, key: &ClusterKey) -> Result<Self, StoreFault> {
        let handle = match File::options().read(true).write(true).open(file) {
            Ok(handle) => handle,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(file)?,
            Err(error) => return Err(StoreFault::from_io(file, "open the witness", &error)),
        };
        match handle.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let what = "another process holds this witness";
                return Err(StoreFault::new(file, FaultKind::Held, what)
                    .with_remedy("stop the other hub, or give each hub a `hub.witness` of its own"));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(StoreFault::from_io(file, "lock the witness", &error));
            }
        }
        let text = text_of(&handle).map_err(|e| StoreFault::from_io(file, "read the witness", &e))?;
        let (turn, seen) = read(file, &text, key)?;
        let slots = Mutex::new(Slots { handle, turn, seen, contradicted: None });
        Ok(Self { apart: apart(file, store), file: file.to_owned(), slots })
    }

    /// Reads a witness that another hub keeps, without holding it.
    ///
    /// # Errors
    /// [`StoreFault`] when there is none, or it cannot be read.
    pub(crate) fn look(file: &Path, key: &ClusterKey) -> Result<Option<Seen>, StoreFault> {
        let opened = File::open(file).map_err(|e| StoreFault::from_io(file, "open the witness", &e))?;
        let text = text_of(&opened).map_err(|e| StoreFault::from_io(file, "read the witness", &e))?;
        Ok(read(file, &text, key)?.1)
    }

    /// Where it is.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether it lies on another file system than the store; `None`: not known.
    pub(crate) const fn apart(&self) -> Option<bool> {
        self.apart
    }

    /// The highest head named.
    pub(crate) fn seen(&self) -> Option<Seen> {
        self.slots.lock().seen.clone()
    }

    /// Refuses a store that is not the one this witness was kept for, or is older than it. Blocks.
    ///
    /// # Errors
    /// [`FaultKind::Behind`] says what was signed and what the store holds; a fault of the store.
    pub(crate) fn admit(&self, store: &dyn StateStore) -> Result<(), StoreError> {
        let Some(seen) = self.seen() else { return Ok(()) };
        seen.of(store, &self.file)?;
        match seen.against(store)? {
            Some(found) => Err(StoreFault::at(store.describe(), FaultKind::Behind, found).into()),
            None => Ok(()),
        }
    }

    /// Signs a head, once it is written down or one at least as high is. Blocks.
    ///
    /// # Errors
    /// [`StoreFault`] when it cannot be written, or the store was proven not to be the one served from.
    pub(crate) fn name(
        &self,
        head: &Head,
        (cluster_id, read_at): ([u8; 16], Timestamp),
        key: &ClusterKey,
    ) -> Result<proto::Signed, StoreFault> {
        let message = proto::Head {
            cluster_id: Bytes::copy_from_slice(&cluster_id),
            epoch: Bytes::copy_from_slice(head.position.epoch.as_bytes()),
            revision: head.position.revision,
            global_hash: Bytes::copy_from_slice(&head.global_hash),
            hub_time_us: u64::try_from(read_at.as_micros()).unwrap_or(0),
        };
        let signed = key.sign(proto::SignedKind::Head, &message);
        let (position, global_hash) = (head.position, head.global_hash);
        let next = Seen { position, global_hash, head: message, signed };
        let mut slots = self.slots.lock();
        if let Some(found) = &slots.contradicted {
            return Err(StoreFault::new(&self.file, FaultKind::Behind, found));
        }
        match &slots.seen {
            Some(seen) if seen.position == position && seen.global_hash != global_hash => {
                let what = format!("two histories of revision {} would be signed", position.revision);
                slots.contradicted = Some(what.clone());
                Err(StoreFault::new(&self.file, FaultKind::Behind, what))
            }
            Some(seen) if seen.position >= position => Ok(next.signed),
            _ => {
                self.write(&mut slots, &next)?;
                let signed = next.signed.clone();
                slots.seen = Some(next);
                Ok(signed)
            }
        }
    }

    /// Writes down a head that the store does not hold, whatever was held before. Nothing is named from then on.
    ///
    /// # Errors
    /// [`StoreFault`] when it cannot be written; nothing is named all the same.
    pub(crate) fn contradict(&self, seen: Seen, found: &str) -> Result<(), StoreFault> {
        let mut slots = self.slots.lock();
        slots.contradicted.get_or_insert_with(|| found.to_owned());
        self.write(&mut slots, &seen)?;
        slots.seen = Some(seen);
        Ok(())
    }

    /// What was proven against the store, if anything.
    pub(crate) fn contradicted(&self) -> Option<StoreFault> {
        let slots = self.slots.lock();
        slots.contradicted.as_ref().map(|found| StoreFault::new(&self.file, FaultKind::Behind, found))
    }

    fn write(&self, slots: &mut Slots, seen: &Seen) -> Result<(), StoreFault> {
        let turn = slots.turn + 1;
        let offset = (turn % 2) * SLOT_BYTES as u64;
        let written = slots.handle.write_all_at(&slot(turn, seen), offset);
        written.and_then(|()| slots.handle.sync_data()).map_err(|e| {
            StoreFault::from_io(&self.file, "write the witness", &e).with_remedy(
                "make its volume writable; until then no enforcement point is told of any change",
            )
        })?;
        slots.turn = turn;
        Ok(())
    }
}

/// Makes an empty witness in one step: it is there whole or not at all.
fn make(file: &Path) -> Result<File, StoreFault> {
    let io = |e: std::io::Error| StoreFault::from_io(file, "make the witness", &e);
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let handle = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(io)?;
    handle.write_all_at(&padded(EMPTY.to_owned()), 0).map_err(io)?;
    handle.write_all_at(&padded(EMPTY.to_owned()), SLOT_BYTES as u64).map_err(io)?;
    handle.sync_all().map_err(io)?;
    std::fs::hard_link(&beside, file).map_err(io)?;
    std::fs::remove_file(&beside).map_err(io)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    tracing::info!(file = %file.display(), "made a witness: from now on a store that is put back is seen");
    Ok(handle)
}

fn text_of(handle: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    handle.take(2 * SLOT_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The newest whole slot: its turn, and the head in it.
fn read(file: &Path, bytes: &[u8], key: &ClusterKey) -> Result<(u64, Option<Seen>), StoreFault> {
    let damaged = |what: String| {
        StoreFault::new(file, FaultKind::Damaged, what).with_remedy(
            "put the witness back; if it is lost, move it away only when the store is known to be the newest",
        )
    };
    let mut newest: Option<(u64, Option<proto::Signed>)> = None;
    for slot in bytes.chunks(SLOT_BYTES) {
        let Some(found) = parse(slot) else { continue };
        if newest.as_ref().is_none_or(|(turn, _)| *turn < found.0) {
            newest = Some(found);
        }
    }
    let (turn, signed) = newest.ok_or_else(|| damaged("neither slot of the witness is whole".to_owned()))?;
    let seen = signed.map(|signed| Seen::read(&signed, key)).transpose().map_err(|why| {
        damaged(format!("the witnessed head is not this cluster's: {why}"))
            .with_remedy("put the cluster's own `cluster.key` back into `hub.data_dir`")
    })?;
    Ok((turn, seen))
}

/// One slot: its turn, and the head in it; `None`: it is not whole.
fn parse(slot: &[u8]) -> Option<(u64, Option<proto::Signed>)> {
    let line = std::str::from_utf8(slot).ok()?.trim_end();
    if line == EMPTY {
        return Some((0, None));
    }
    let (body, crc) = line.rsplit_once(' ')?;
    if crc != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return None;
    }
    let rest = body.strip_prefix(FORMAT)?;
    let mut words = rest.split_ascii_whitespace();
    let turn = words.next()?.parse().ok()?;
    let signed = from_hex(words.next_back()?)?;
    Some((turn, Some(proto::Signed::decode(&*signed).ok()?)))
}

fn slot(turn: u64, seen: &Seen) -> Vec<u8> {
    let body = format!(
        "{FORMAT}{turn} {} {} {} {} {}",
        hex(&seen.head.cluster_id),
        hex(&seen.head.epoch),
        seen.position.revision,
        hex(&seen.global_hash),
        hex(&seen.signed.encode_to_vec())
    );
    let crc = crc32c::crc32c(body.as_bytes());
    padded(format!("{body} {crc:08x}"))
}

/// A line, as long as a slot.
fn padded(line: String) -> Vec<u8> {
    let mut bytes = line.into_bytes();
    bytes.resize(SLOT_BYTES - 1, b' ');
    bytes.push(b'\n');
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn apart(file: &Path, store: Option<&Path>) -> Option<bool> {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|about| about.dev());
    match store {
        // A database elsewhere.
        None => Some(true),
        Some(store) => Some(device(file)? != device(store)?),
    }
}

const FORMAT: &str = "portreeve-witness 1 ";
const EMPTY: &str = "portreeve-witness 1 empty";
const SLOT_BYTES: usize = 4096;
