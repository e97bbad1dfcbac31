//! What a store keeps beside records and log: items, receipts, and what its heads are worth.

use std::fmt;

use bytes::Bytes;

use super::StoreError;
use crate::core::id::{Epoch, Position};
use crate::core::time::Timestamp;

/// Largest value of an item, in bytes.
pub const ITEM_BYTES_MAX: usize = 256 * 1024;

/// A small thing a hub keeps beside the records, compared-and-set on its version.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Item {
    /// Its key within its space.
    pub key: String,
    /// Its value; at most [`ITEM_BYTES_MAX`].
    pub value: Bytes,
    /// Rises with every write in the store; never the same twice, not even after a removal.
    pub version: u64,
}

/// A head of the store, as a heartbeat read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// How far the store is.
    pub position: Position,
    /// The hash over every commit of every cell up to there.
    pub global_hash: [u8; 32],
}

/// Whether an acknowledged commit survives the loss of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guarantee {
    /// It does, as far as the store can tell: one file, or a synchronous standby.
    Holds,
    /// It may not; says why, for receipts.
    NotGuaranteed(String),
}

/// The completion of a revocation at one incarnation, as signed by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredReceipt {
    /// The commit it is about.
    pub revision: u64,
    /// The enforcement point.
    pub spoke_id: String,
    /// Its process start.
    pub incarnation: [u8; 16],
    /// When the hub had it.
    pub at: Timestamp,
    /// The revision in force there by then.
    pub in_force: u64,
    /// Cached verifications purged.
    pub purged: u64,
    /// Streams ended.
    pub ended_streams: u64,
    /// The acknowledgement, as signed.
    pub ack: Bytes,
    /// The signature over it.
    pub signature: Bytes,
    /// The public half of the key that signed it.
    pub key: [u8; 32],
    /// Whether the store was restored since: it no longer says anything.
    pub voided: bool,
}

/// What beginning a new epoch came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Minted {
    /// The new lineage, and the revision it goes on from.
    pub position: Position,
    /// Where it left the one before.
    pub parent: Position,
    /// How many receipts it voided.
    pub voided: u64,
}

/// An item that is not as its writer expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("item `{key}` of `{space}` {}: read it again and retry", Versions(.expected, .found))]
pub struct ItemConflict {
    /// The space.
    pub space: String,
    /// The key.
    pub key: String,
    /// The version expected; `None`: none.
    pub expected: Option<u64>,
    /// The version found; `None`: there is none.
    pub found: Option<u64>,
}

struct Versions<'a>(&'a Option<u64>, &'a Option<u64>);

impl fmt::Display for Versions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (None, Some(found)) => write!(f, "exists already, at version {found}"),
            (Some(expected), None) => write!(f, "does not exist, expected at version {expected}"),
            (Some(expected), Some(found)) => write!(f, "is at version {found}, not {expected}"),
            (None, None) => f.write_str("does not exist"),
        }
    }
}

/// Compares an item's version with what its writer expects.
pub(super) fn compare_item(
    space: &str,
    key: &str,
    expected: Option<u64>,
    found: Option<u64>,
) -> Result<(), StoreError> {
    if expected == found {
        return Ok(());
    }
    Err(ItemConflict { space: space.to_owned(), key: key.to_owned(), expected, found }.into())
}

/// Refuses a value that is too long.
pub(super) fn check_item(space: &str, key: &str, value: &[u8]) -> Result<(), StoreError> {
    if value.len() <= ITEM_BYTES_MAX {
        return Ok(());
    }
    Err(StoreError::ItemTooLong { space: space.to_owned(), key: key.to_owned(), bytes: value.len() })
}

/// The hash over every commit of every cell, after one more of `tenant`.
pub fn global_hash(before: &[u8; 32], tenant: &str, history_hash: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("portreeve state v1 global");
    hasher.update(before);
    hasher.update(tenant.as_bytes());
    hasher.update(history_hash);
    *hasher.finalize().as_bytes()
}

/// The global hash a new epoch begins with: a fork never comes back to the hash of what it left.
pub(super) fn epoch_hash(before: &[u8; 32], begins: Position) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("portreeve state v1 epoch");
    hasher.update(before);
    hasher.update(begins.epoch.as_bytes());
    hasher.update(&begins.revision.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// An epoch ordered above `before`; `None` when the system has no random bytes.
pub(super) fn next_epoch(before: Option<Epoch>) -> Option<Epoch> {
    let counter = before.map_or(0, |epoch| {
        let [a, b, c, d, e, f, g, h, ..] = *epoch.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    });
    let mut bytes = [0; 16];
    let (head, random) = bytes.split_at_mut(8);
    head.copy_from_slice(&counter.checked_add(1)?.to_be_bytes());
    aws_lc_rs::rand::fill(random).ok()?;
    Some(Epoch::from_bytes(bytes))
}
