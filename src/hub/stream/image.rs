//! Snapshots as enforcement points fetch them: a signed manifest over chunks named by their hash.
//!
//! A bounded number of bytes is kept. A snapshot somewhat older than the head serves as well
//! as a new one, since the deltas after it follow from the log; so a fleet that starts at once
//! shares one.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message as _;

use crate::core::id::Name;
use crate::core::identity::{Change, Snapshot};
use crate::hub::blocking;
use crate::hub::feed::{Feed, digest_bytes};
use crate::hub::store::CellPosition;
use crate::wire::state::encode_change;
use crate::wire::state_proto as proto;

/// One snapshot of one cell.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) position: CellPosition,
    pub(super) manifest: proto::Signed,
    chunks: Vec<(blake3::Hash, Bytes)>,
}

/// Snapshots, newest last.
pub(super) struct Images {
    feed: Arc<Feed>,
    kept: Mutex<VecDeque<Arc<Image>>>,
    building: tokio::sync::Mutex<()>,
}

impl Images {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self { feed, kept: Mutex::new(VecDeque::new()), building: tokio::sync::Mutex::new(()) }
    }

    /// A snapshot of `cell`, at most [`BEHIND_MAX`] revisions behind `head`; `None`: no such cell.
    pub(super) async fn of(&self, cell: &Name, head: u64) -> Option<Arc<Image>> {
        if let Some(ready) = self.ready(cell, head) {
            return Some(ready);
        }
        // One at a time: others may have waited for the same one.
        let _building = self.building.lock().await;
        if let Some(ready) = self.ready(cell, head) {
            return Some(ready);
        }
        let (feed, wanted) = (Arc::clone(&self.feed), cell.clone());
        let store = Arc::clone(feed.store());
        let built = blocking(&*store, move || Image::build(&feed, &wanted).map(Arc::new)).await;
        if let Some(image) = &built {
            self.keep(Arc::clone(image));
        }
        built
    }

    /// The bytes of one chunk.
    pub(super) fn chunk(&self, cell: &Name, hash: &[u8]) -> Option<Bytes> {
        let kept = self.kept.lock();
        let images = kept.iter().rev().filter(|image| image.position.tenant == *cell);
        let mut chunks = images.flat_map(|image| &image.chunks);
        chunks.find(|(held, _)| held.as_bytes() == hash).map(|(_, bytes)| bytes.clone())
    }

    fn ready(&self, cell: &Name, head: u64) -> Option<Arc<Image>> {
        let kept = self.kept.lock();
        let newest = kept.iter().rev().find(|image| image.position.tenant == *cell)?;
        (newest.position.revision + BEHIND_MAX >= head).then(|| Arc::clone(newest))
    }

    fn keep(&self, image: Arc<Image>) {
        let mut kept = self.kept.lock();
        kept.push_back(image);
        while kept.len() > 1 && kept.iter().map(|image| image.bytes()).sum::<usize>() > KEPT_BYTES_MAX {
            kept.pop_front();
        }
    }
}

impl Image {
    /// Cuts a cell into chunks. Records come by bucket, so that what has not changed tends to be
    /// in the same chunk again.
    fn build(feed: &Feed, cell: &Name) -> Option<Self> {
        let mirror = feed.mirrored();
        let mut manifest = manifest(feed, mirror.state(), cell, mirror.kill_revision(cell))?;
        manifest.records = mirror.state().cell(cell)?.records;
        let chunks = cut(|take| mirror.state().each_by_bucket(cell, |change| take(&change))).into_iter();
        let chunks: Vec<_> = chunks.map(|bytes| (blake3::hash(&bytes), bytes)).collect();
        let named = |(hash, bytes): &(blake3::Hash, Bytes)| proto::ChunkRef {
            hash: Bytes::copy_from_slice(hash.as_bytes()),
            length: bytes.len() as u64,
        };
        manifest.chunks = chunks.iter().map(named).collect();
        let held = mirror.state().cell(cell)?;
        let position =
            CellPosition { tenant: cell.clone(), revision: held.revision, history_hash: held.history_hash };
        Some(Self { position, manifest: feed.key().sign(proto::SignedKind::Manifest, &manifest), chunks })
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// Where a cell stands in `state`, as a manifest without contents; `None`: no such cell.
pub(super) fn manifest(
    feed: &Feed,
    state: &Snapshot,
    cell: &Name,
    kill_revision: u64,
) -> Option<proto::Manifest> {
    let held = state.cell(cell)?;
    Some(proto::Manifest {
        cluster_id: Bytes::copy_from_slice(&feed.store().identity().cluster_id),
        epoch: Bytes::copy_from_slice(held.epoch.as_bytes()),
        cell: cell.to_string(),
        revision: held.revision,
        history_hash: Bytes::copy_from_slice(&held.history_hash),
        state_digest: digest_bytes(held.state_digest),
        kill_revision,
        ..Default::default()
    })
}

/// What `show` shows, as the encodings of chunks, each of at most [`CHUNK_BYTES_MAX`] or one record.
pub(super) fn cut(show: impl FnOnce(&mut dyn FnMut(&Change))) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut open = BytesMut::new();
    show(&mut |change| {
        let one = proto::Chunk { changes: vec![encode_change(change)] };
        if !open.is_empty() && open.len() + one.encoded_len() > CHUNK_BYTES_MAX {
            chunks.push(open.split().freeze());
        }
        // Encodings of messages with repeated fields join by concatenation.
        open.extend_from_slice(&one.encode_to_vec());
    });
    if !open.is_empty() {
        chunks.push(open.freeze());
    }
    chunks
}

/// Largest chunk.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// How far behind the head a snapshot may be to be used again.
const BEHIND_MAX: u64 = 256;
/// Bytes of snapshots that are kept; one larger snapshot is kept alone.
const KEPT_BYTES_MAX: usize = 256 * 1024 * 1024;
