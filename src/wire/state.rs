//! Identity state: records, changes, batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::core::id::{Epoch, Name, NameError};
use crate::core::identity::{self as core, Batch, Change, KillBatch, Record, RecordKind, StateDigest};
use crate::core::time::Timestamp;
use crate::wire::signed;
use crate::wire::state_proto as proto;

mod decode;
mod encode;

/// A message that cannot be taken over. Nothing of it has been applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct WireError {
    place: String,
    detail: String,
}

impl WireError {
    pub(in crate::wire) fn new(place: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self { place: place.into(), detail: detail.to_string() }
    }

    /// This error, inside `outer`.
    fn within(self, outer: &str) -> Self {
        Self { place: format!("{outer}: {}", self.place), detail: self.detail }
    }
}

impl From<NameError> for WireError {
    fn from(error: NameError) -> Self {
        Self::new("name", error)
    }
}

/// Encodes one record's value.
pub fn encode_record(record: &Record) -> Bytes {
    Bytes::from(match record {
        Record::Identity(v) => encode::identity(v).encode_to_vec(),
        Record::Credential(v) => encode::credential(v).encode_to_vec(),
        Record::Issuer(v) => encode::issuer(v).encode_to_vec(),
        Record::Revocation(v) => encode::revocation(v).encode_to_vec(),
        Record::PolicySet(v) => encode::policy_set(v).encode_to_vec(),
        Record::Exception(v) => encode::exception(v).encode_to_vec(),
        Record::Resource(v) => encode::resource(v).encode_to_vec(),
        Record::StatusList(v) => encode::status_list(v).encode_to_vec(),
    })
}

/// Decodes one record's value.
///
/// # Errors
/// [`WireError`] names the field that cannot be read. An enum value this build does not
/// know is refused, never guessed.
pub fn decode_record(kind: RecordKind, bytes: &[u8]) -> Result<Record, WireError> {
    let read = |e: prost::DecodeError| WireError::new("record", e);
    Ok(match kind {
        RecordKind::Identity => {
            Record::Identity(Arc::new(decode::identity(proto::Identity::decode(bytes).map_err(read)?)?))
        }
        RecordKind::Credential => {
            Record::Credential(Arc::new(decode::credential(proto::Credential::decode(bytes).map_err(read)?)?))
        }
        RecordKind::Issuer => {
            Record::Issuer(Arc::new(decode::issuer(proto::Issuer::decode(bytes).map_err(read)?)?))
        }
        RecordKind::Revocation => {
            Record::Revocation(Arc::new(decode::revocation(proto::Revocation::decode(bytes).map_err(read)?)?))
        }
        RecordKind::PolicySet => {
            Record::PolicySet(Arc::new(decode::policy_set(proto::PolicySet::decode(bytes).map_err(read)?)?))
        }
        RecordKind::Exception => {
            Record::Exception(Arc::new(decode::exception(proto::Exception::decode(bytes).map_err(read)?)?))
        }
        RecordKind::Resource => {
            Record::Resource(Arc::new(decode::resource(proto::Resource::decode(bytes).map_err(read)?)?))
        }
        RecordKind::StatusList => Record::StatusList(Arc::new(decode::status_list(
            proto::StatusList::decode(bytes).map_err(read)?,
        )?)),
    })
}

/// A kind's number on the wire.
pub const fn kind_to_wire(kind: RecordKind) -> proto::RecordKind {
    match kind {
        RecordKind::Identity => proto::RecordKind::Identity,
        RecordKind::Credential => proto::RecordKind::Credential,
        RecordKind::Issuer => proto::RecordKind::Issuer,
        RecordKind::Revocation => proto::RecordKind::Revocation,
        RecordKind::PolicySet => proto::RecordKind::PolicySet,
        RecordKind::Exception => proto::RecordKind::Exception,
        RecordKind::Resource => proto::RecordKind::Resource,
        RecordKind::StatusList => proto::RecordKind::StatusList,
    }
}

/// A kind from its number on the wire; `None` for one this build does not know.
pub fn kind_from_wire(kind: i32) -> Option<RecordKind> {
    RecordKind::ALL.into_iter().find(|known| kind_to_wire(*known) as i32 == kind)
}

/// Encodes one change.
pub fn encode_change(change: &Change) -> proto::Change {
    let operation = match change.record {
        _ if change.dropped => proto::Operation::Drop,
        Some(_) => proto::Operation::Put,
        None => proto::Operation::Tombstone,
    };
    proto::Change {
        kind: kind_to_wire(change.kind) as i32,
        name: change.name.to_string(),
        generation: change.generation,
        revision: change.revision,
        operation: operation as i32,
        record: change.record.as_ref().map(encode_record).unwrap_or_default(),
        ..Default::default()
    }
}

/// Decodes one change.
///
/// # Errors
/// [`WireError`] names the record and the field; an unknown kind or operation is refused.
pub fn decode_change(change: &proto::Change) -> Result<Change, WireError> {
    let kind = kind_from_wire(change.kind).ok_or_else(|| {
        WireError::new("change", format!("record kind {} is unknown to this build", change.kind))
    })?;
    let place = format!("{} `{}`", kind.as_str(), change.name.escape_debug());
    all_known(&place, &change.critical_features)?;
    let name = Name::parse(&change.name)?;
    let record = match proto::Operation::try_from(change.operation) {
        Ok(proto::Operation::Put) => {
            Some(decode_record(kind, &change.record).map_err(|error| error.within(&place))?)
        }
        Ok(proto::Operation::Tombstone | proto::Operation::Drop) => None,
        _ => {
            return Err(WireError::new(
                place,
                format!("operation {} is unknown to this build", change.operation),
            ));
        }
    };
    let dropped = change.operation == proto::Operation::Drop as i32;
    Ok(Change { kind, name, generation: change.generation, revision: change.revision, record, dropped })
}

/// Encodes the body of a delta.
pub fn encode_body(changes: &[Change]) -> Bytes {
    let batch = proto::Batch { changes: changes.iter().map(encode_change).collect() };
    Bytes::from(batch.encode_to_vec())
}

/// Decodes the body of a delta.
///
/// # Errors
/// [`WireError`] for the first change that cannot be read.
pub fn decode_body(body: &[u8]) -> Result<Vec<Change>, WireError> {
    let batch = proto::Batch::decode(body).map_err(|e| WireError::new("batch", e))?;
    batch.changes.iter().map(decode_change).collect()
}

/// Decodes a delta into a batch, checking that its history hash follows from `before`.
///
/// # Errors
/// [`WireError`] when a part cannot be read or the hash does not follow.
pub fn decode_delta(delta: &proto::Delta, before: &[u8; 32]) -> Result<Batch, WireError> {
    let cell = Name::parse(&delta.cell)?;
    let place = format!("delta {}..{} of cell `{cell}`", delta.from_revision, delta.to_revision);
    if delta.codec != proto::Codec::None as i32 {
        return Err(WireError::new(place, format!("codec {} is unknown to this build", delta.codec)));
    }
    let history_hash = history_hash(before, delta.to_revision, &delta.body);
    if history_hash[..] != delta.history_hash[..] {
        return Err(WireError::new(place, "the history hash does not follow from the one held"));
    }
    Ok(Batch {
        epoch: epoch(&delta.epoch)?,
        from_revision: delta.from_revision,
        to_revision: delta.to_revision,
        history_hash,
        state_digest: state_digest(&delta.state_digest)?,
        changes: decode_body(&delta.body).map_err(|error| error.within(&place))?,
        cell,
    })
}

/// A delta, once it is known to be signed by one of `keys`.
///
/// # Errors
/// [`WireError`] when it is not, cannot be read, or demands what this build does not know.
pub fn open_delta(signed: &proto::Signed, keys: &[proto::SigningKey]) -> Result<proto::Delta, WireError> {
    let body = signed::verify(signed, keys, proto::SignedKind::Delta)?;
    let delta = proto::Delta::decode(body).map_err(|e| WireError::new("delta", e))?;
    all_known("delta", &delta.critical_features)?;
    Ok(delta)
}

/// A manifest, once it is known to be signed by one of `keys`.
///
/// # Errors
/// [`WireError`] when it is not, or cannot be read.
pub fn open_manifest(
    signed: &proto::Signed,
    keys: &[proto::SigningKey],
) -> Result<proto::Manifest, WireError> {
    let body = signed::verify(signed, keys, proto::SignedKind::Manifest)?;
    proto::Manifest::decode(body).map_err(|e| WireError::new("manifest", e))
}

/// Revocations ahead of the order, once they are known to be signed by one of `keys`.
///
/// # Errors
/// [`WireError`] when they are not, cannot be read, or demand what this build does not know.
pub fn open_urgent(signed: &proto::Signed, keys: &[proto::SigningKey]) -> Result<KillBatch, WireError> {
    let body = signed::verify(signed, keys, proto::SignedKind::Urgent)?;
    let urgent = proto::Urgent::decode(body).map_err(|e| WireError::new("urgent", e))?;
    all_known("urgent", &urgent.critical_features)?;
    Ok(KillBatch {
        cell: Name::parse(&urgent.cell)?,
        epoch: epoch(&urgent.epoch)?,
        previous: urgent.previous,
        revision: urgent.revision,
        changes: urgent.changes.iter().map(decode_change).collect::<Result<_, _>>()?,
    })
}

/// Refuses what demands a feature of the receiver that this build lacks; it has none yet.
///
/// # Errors
/// [`WireError`] names the first.
pub fn all_known(place: &str, critical: &[u32]) -> Result<(), WireError> {
    match critical.first() {
        None => Ok(()),
        Some(feature) => {
            let detail = format!("it needs feature {feature}, which this build does not know");
            Err(WireError::new(place, detail))
        }
    }
}

/// The history hash after a batch: BLAKE3 over the one before, the revision and the body's bytes.
///
/// 32 bytes that say "the same past". The hash before the first batch is all zero.
pub fn history_hash(before: &[u8; 32], revision: u64, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("portreeve state v1 history");
    hasher.update(before);
    hasher.update(&revision.to_le_bytes());
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// Reads an epoch.
///
/// # Errors
/// [`WireError`] when there are not sixteen bytes.
pub fn epoch(bytes: &[u8]) -> Result<Epoch, WireError> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| WireError::new("epoch", "expected 16 bytes"))?;
    Ok(Epoch::from_bytes(bytes))
}

/// Reads a state digest; `None` where the sender says none.
///
/// # Errors
/// [`WireError`] when there are neither 0 nor 32 bytes.
pub fn state_digest(bytes: &[u8]) -> Result<Option<StateDigest>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    hash32("state digest", bytes).map(|bytes| Some(StateDigest::from_bytes(bytes)))
}

/// Reads a 32-byte hash.
///
/// # Errors
/// [`WireError`] when there are not 32 bytes.
pub fn hash32(place: &str, bytes: &[u8]) -> Result<[u8; 32], WireError> {
    <[u8; 32]>::try_from(bytes).map_err(|_| WireError::new(place, "expected 32 bytes"))
}

#[cfg(test)]
mod tests;
