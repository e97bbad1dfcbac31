//! Fetching records from a hub: whole cells by chunks, and the buckets that differ.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{Session, SessionError, Stream, in_time};
use crate::core::id::Name;
use crate::core::identity::{BUCKETS, Change, Repair, Snapshot};
use crate::wire::state::{self as wire, WireError};
use crate::wire::state_proto as proto;
use proto::repair_part::Part;

impl Session<'_> {
    /// Takes a whole cell.
    pub(super) async fn take_snapshot(
        &mut self,
        stream: &mut Stream,
        signed: &proto::Signed,
    ) -> Result<(), SessionError> {
        let manifest = wire::open_manifest(signed, self.applier.lock().await.lkg().keys())?;
        // As they come, packed: unpacked they are many times as large.
        let mut chunks = Vec::new();
        for chunk in &manifest.chunks {
            chunks.push(fetch(stream, &manifest, chunk).await?);
        }
        let read = |bytes| {
            let chunk = proto::Chunk::decode(bytes);
            decode(&chunk.map_err(|_| SessionError::Protocol("a chunk does not decode"))?)
        };
        self.put(stream, &manifest, None, chunks.into_iter().map(read)).await
    }

    /// Fetches the buckets of a cell that differ from the hub's, and puts them in place.
    pub(super) async fn repair(&mut self, stream: &mut Stream, cell: &Name) -> Result<(), SessionError> {
        let (keys, digests) = {
            let applier = self.applier.lock().await;
            let held = Snapshot::clone(&applier.snapshot());
            (applier.lkg().keys().to_vec(), held.cell(cell).map(|_| held.bucket_digests(cell)))
        };
        let digests = digests.unwrap_or_default();
        let request = proto::RepairRequest {
            cell: cell.to_string(),
            buckets: digests.iter().map(|digest| Bytes::copy_from_slice(digest)).collect(),
            spoke_id: self.settings.spoke_id.clone(),
            incarnation: Bytes::copy_from_slice(&self.settings.incarnation),
        };
        let mut parts = in_time(stream.client.repair(request)).await?.into_inner();
        let Some(Part::Manifest(signed)) = in_time(parts.message()).await?.and_then(|part| part.part) else {
            return Err(SessionError::Protocol("a repair does not begin with its manifest"));
        };
        let manifest = wire::open_manifest(&signed, &keys)?;
        if manifest.cell != cell.as_str() {
            return Err(SessionError::Protocol("a repair is of another cell than asked for"));
        }
        let mut chunks = Vec::new();
        while let Some(part) = in_time(parts.message()).await? {
            let Some(Part::Changes(chunk)) = part.part else {
                return Err(SessionError::Protocol("a repair has two manifests"));
            };
            chunks.push(chunk);
        }
        let bucket = |number: &u32| u16::try_from(*number).ok().filter(|number| *number < BUCKETS);
        let buckets = manifest.buckets.iter().map(bucket).collect::<Option<Vec<_>>>();
        let buckets = buckets.ok_or(SessionError::Protocol("a repair names a bucket there is not"))?;
        self.put(stream, &manifest, Some(buckets), chunks.iter().map(decode)).await
    }

    /// Puts what was fetched in place of what was held.
    async fn put(
        &mut self,
        stream: &mut Stream,
        manifest: &proto::Manifest,
        buckets: Option<Vec<u16>>,
        parts: impl Iterator<Item = Result<Vec<Change>, SessionError>>,
    ) -> Result<(), SessionError> {
        let state_digest = wire::state_digest(&manifest.state_digest)?;
        if state_digest.is_none() {
            return Err(SessionError::Protocol("a manifest has no digest"));
        }
        let repair = Repair {
            cell: Name::parse(&manifest.cell).map_err(WireError::from)?,
            epoch: wire::epoch(&manifest.epoch)?,
            revision: manifest.revision,
            history_hash: wire::hash32("history hash", &manifest.history_hash)?,
            state_digest,
            buckets,
            changes: Vec::new(),
        };
        self.applier.lock().await.rebuild(&repair, counted(parts, manifest.records)).await?;
        stream.broken.remove(&repair.cell);
        let (cell, revision) = (&repair.cell, repair.revision);
        tracing::info!(%cell, revision, records = manifest.records, "took records from the hub");
        Ok(())
    }
}

/// The parts, and a complaint at their end when they do not hold `said` records.
fn counted(
    mut parts: impl Iterator<Item = Result<Vec<Change>, SessionError>>,
    said: u64,
) -> impl Iterator<Item = Result<Vec<Change>, SessionError>> {
    let mut left = Some(said);
    std::iter::from_fn(move || match parts.next() {
        Some(part) => {
            let count = part.as_ref().map_or(0, |part| part.len() as u64);
            left = left.and_then(|left| left.checked_sub(count));
            Some(part)
        }
        None if left == Some(0) => None,
        None => {
            left = Some(0);
            Some(Err(SessionError::Protocol(
                "what was fetched has another number of records than its manifest says",
            )))
        }
    })
}

fn decode(chunk: &proto::Chunk) -> Result<Vec<Change>, SessionError> {
    Ok(chunk.changes.iter().map(wire::decode_change).collect::<Result<_, _>>()?)
}

async fn fetch(
    stream: &mut Stream,
    manifest: &proto::Manifest,
    chunk: &proto::ChunkRef,
) -> Result<Bytes, SessionError> {
    if chunk.length > CHUNK_BYTES_MAX {
        return Err(SessionError::Protocol("a chunk is longer than 16 MiB"));
    }
    let request = proto::ChunkRequest { cell: manifest.cell.clone(), hash: chunk.hash.clone() };
    let mut parts = in_time(stream.client.get_chunk(request)).await?.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(part) = in_time(parts.message()).await? {
        if (bytes.len() + part.data.len()) as u64 > chunk.length {
            return Err(SessionError::Protocol("a chunk is longer than its manifest says"));
        }
        bytes.extend_from_slice(&part.data);
    }
    if blake3::hash(&bytes).as_bytes()[..] != chunk.hash[..] {
        return Err(SessionError::Protocol("a chunk's hash is another than its manifest says"));
    }
    Ok(bytes.freeze())
}

/// Largest chunk taken from a hub, in bytes.
const CHUNK_BYTES_MAX: u64 = 16 << 20;
