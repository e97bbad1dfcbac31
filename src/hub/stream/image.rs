//! Snapshots as enforcement points fetch them: a manifest over chunks named by their hash.
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
use crate::hub::blocking;
use crate::hub::store::{CellImage, CellPosition, StateStore, StoreError, StoreIdentity};
use crate::wire::state_proto as proto;

/// One snapshot of one cell.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) position: CellPosition,
    pub(super) records: u64,
    chunks: Vec<(blake3::Hash, Bytes)>,
}

/// Snapshots, newest last.
pub(super) struct Images {
    store: Arc<dyn StateStore>,
    kept: Mutex<VecDeque<Arc<Image>>>,
    building: tokio::sync::Mutex<()>,
}

impl Images {
    pub(super) fn new(store: Arc<dyn StateStore>) -> Self {
        Self { store, kept: Mutex::new(VecDeque::new()), building: tokio::sync::Mutex::new(()) }
    }

    /// A snapshot of `cell`, at most [`BEHIND_MAX`] revisions behind `head`; `None`: no such cell.
    pub(super) async fn of(&self, cell: &Name, head: u64) -> Result<Option<Arc<Image>>, StoreError> {
        if let Some(ready) = self.ready(cell, head) {
            return Ok(Some(ready));
        }
        // One at a time: others may have waited for the same one.
        let _building = self.building.lock().await;
        if let Some(ready) = self.ready(cell, head) {
            return Ok(Some(ready));
        }
        let store = Arc::clone(&self.store);
        let wanted = cell.clone();
        let built = blocking(&*self.store, move || {
            let found = store.snapshot(&wanted)?;
            Ok::<_, StoreError>(found.map(|cell| Arc::new(Image::build(cell))))
        })
        .await?;
        if let Some(image) = &built {
            self.keep(Arc::clone(image));
        }
        Ok(built)
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
    /// Cuts a cell into chunks. Records come by kind and name, so that what has not changed
    /// tends to be in the same chunk again.
    fn build(cell: CellImage) -> Self {
        let mut chunks = Vec::new();
        let mut open = BytesMut::new();
        let mut close = |open: &mut BytesMut| {
            let bytes = open.split().freeze();
            chunks.push((blake3::hash(&bytes), bytes));
        };
        let records = cell.records.len() as u64;
        for record in &cell.records {
            let one = proto::Chunk { changes: vec![record.to_wire()] };
            if !open.is_empty() && open.len() + one.encoded_len() > CHUNK_BYTES_MAX {
                close(&mut open);
            }
            // Encodings of messages with repeated fields join by concatenation.
            open.extend_from_slice(&one.encode_to_vec());
        }
        if !open.is_empty() {
            close(&mut open);
        }
        Self { position: cell.position, records, chunks }
    }

    pub(super) fn manifest(&self, store: &StoreIdentity) -> proto::Manifest {
        let chunk = |(hash, bytes): &(blake3::Hash, Bytes)| proto::ChunkRef {
            hash: Bytes::copy_from_slice(hash.as_bytes()),
            length: bytes.len() as u64,
        };
        proto::Manifest {
            cluster_id: Bytes::copy_from_slice(&store.cluster_id),
            epoch: Bytes::copy_from_slice(store.epoch.as_bytes()),
            cell: self.position.tenant.to_string(),
            revision: self.position.revision,
            history_hash: Bytes::copy_from_slice(&self.position.history_hash),
            records: self.records,
            chunks: self.chunks.iter().map(chunk).collect(),
            ..Default::default()
        }
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// Largest chunk.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// How far behind the head a snapshot may be to be used again.
const BEHIND_MAX: u64 = 256;
/// Bytes of snapshots that are kept; one larger snapshot is kept alone.
const KEPT_BYTES_MAX: usize = 256 * 1024 * 1024;
