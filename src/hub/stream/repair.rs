//! The records of the buckets that differ: what a table that is not the hub's is mended with.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::image::{cut, manifest};
use super::plan::shown_buckets;
use crate::core::id::Name;
use crate::core::identity::{BUCKETS, Repair, Snapshot};
use crate::hub::feed::Feed;
use crate::hub::mirror::Mirror;
use crate::wire::state_proto as proto;
use crate::wire::state_proto::repair_part::Part;

/// The mirror's state; for a cell that a restored store lacks, with that cell empty.
fn with_cell<'a>(mirror: &'a Mirror, cell: &Name, restored: bool) -> Result<Cow<'a, Snapshot>, Status> {
    if !restored || mirror.state().cell(cell).is_some() {
        return Ok(Cow::Borrowed(mirror.state()));
    }
    let nothing = Repair {
        cell: cell.clone(),
        epoch: mirror.epoch(),
        revision: 0,
        history_hash: [0; 32],
        state_digest: None,
        buckets: None,
        changes: Vec::new(),
    };
    let emptied = mirror.state().repair(&nothing);
    emptied.map(Cow::Owned).map_err(|_| Status::internal("an empty cell cannot be made"))
}

/// Everything of the buckets of a cell whose digests are not those shown. Takes time in proportion to the cell.
pub(super) fn make(feed: &Feed, request: &proto::RepairRequest) -> Result<Vec<proto::RepairPart>, Status> {
    let cell = Name::parse(&request.cell).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let shown = shown_buckets(&request.buckets)?;
    let mirror = feed.mirrored();
    let state = &*with_cell(&mirror, &cell, feed.store().identity().parent.is_some())?;
    let manifest = manifest(feed, state, &cell, mirror.kill_revision(&cell));
    let mut manifest = manifest.ok_or_else(|| Status::not_found("the hub has no such cell"))?;
    let buckets: Vec<u16> = match shown {
        None => (0..BUCKETS).collect(),
        Some(shown) => {
            let ours = state.bucket_digests(&cell);
            let pairs = (0..BUCKETS).zip(ours.iter().zip(&shown));
            pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(bucket, _)| bucket).collect()
        }
    };
    let changes = state.bucket_changes(&cell, &buckets);
    manifest.records = changes.len() as u64;
    manifest.buckets = buckets.into_iter().map(u32::from).collect();
    let first = Part::Manifest(feed.key().sign(proto::SignedKind::Manifest, &manifest));
    let chunk = |bytes: Bytes| {
        proto::Chunk::decode(bytes)
            .map(Part::Changes)
            .map_err(|_| Status::internal("a chunk does not decode"))
    };
    let chunks = cut(|take| changes.iter().for_each(take)).into_iter();
    let parts = std::iter::once(Ok(first)).chain(chunks.map(chunk));
    parts.map(|part| Ok(proto::RepairPart { part: Some(part?) })).collect()
}
