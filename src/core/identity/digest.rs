//! What a whole cell is, in 32 bytes: equal digests mean equal tables.
//!
//! LtHash16 (Lewi, Kim, Maykov, Weis: *Securing Update Propagation with Homomorphic Hashing*,
//! 2019): the element of each record is 1,024 numbers of 16 bits, and the sum of all elements is
//! the cell's. A change takes one element out and puts one in, whatever the number of records.
//! An element is made from the record as the table holds it, so that a fault in decoding or in
//! memory shows, not only one on the wire.
//!
//! Deliberately absent: XOR of hashes. It is linear, and duplicates cancel.

use std::fmt;

use crate::core::id::Name;
use crate::core::identity::record::{Fields, RecordKind, Written};

/// Buckets of a cell.
pub const BUCKETS: u16 = 1024;

/// Numbers in an element and in a sum.
const LANES: usize = 1024;

/// The digest of one cell: of every record it holds, tombstones included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateDigest([u8; 32]);

impl StateDigest {
    /// Takes the bytes of a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StateDigest {
    /// The first eight bytes: enough to tell two apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The bucket that a record belongs to, the same in every process: repairs name buckets.
pub fn bucket_of(kind: RecordKind, name: &Name) -> u16 {
    bucket(kind, name.as_str())
}

pub(super) fn bucket(kind: RecordKind, name: &str) -> u16 {
    let mut hasher = blake3::Hasher::new_derive_key("portreeve state v1 bucket");
    hasher.update(kind.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(name.as_bytes());
    let [first, second, ..] = *hasher.finalize().as_bytes();
    u16::from_be_bytes([first, second]) % BUCKETS
}

/// What a record adds to its cell's sum, before it is spread over the lanes.
pub(super) struct Element(blake3::OutputReader);

impl Element {
    /// The element of one record; without a value, of its tombstone.
    pub(super) fn new(
        kind: RecordKind,
        name: &str,
        generation: u32,
        revision: u64,
        value: Option<&impl Written>,
    ) -> Self {
        let mut fields = Fields::new("portreeve state v1 element");
        fields.text(kind.as_str());
        fields.text(name);
        fields.number(u64::from(generation));
        fields.number(revision);
        fields.option(value, |fields, value| value.write(fields));
        Self(fields.finish())
    }

    fn lanes(mut self) -> [u16; LANES] {
        let mut bytes = [0; LANES * 2];
        self.0.fill(&mut bytes);
        let mut lanes = [0; LANES];
        for (lane, pair) in lanes.iter_mut().zip(bytes.chunks_exact(2)) {
            if let [low, high] = *pair {
                *lane = u16::from_le_bytes([low, high]);
            }
        }
        lanes
    }
}

/// The sum of elements.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sum([u16; LANES]);

impl Default for Sum {
    fn default() -> Self {
        Self([0; LANES])
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({})", self.digest())
    }
}

impl Sum {
    pub(super) fn add(&mut self, element: Element) {
        for (lane, more) in self.0.iter_mut().zip(element.lanes()) {
            *lane = lane.wrapping_add(more);
        }
    }

    pub(super) fn remove(&mut self, element: Element) {
        for (lane, less) in self.0.iter_mut().zip(element.lanes()) {
            *lane = lane.wrapping_sub(less);
        }
    }

    pub(super) fn digest(&self) -> StateDigest {
        let mut hasher = blake3::Hasher::new_derive_key("portreeve state v1 digest");
        let mut bytes = [0; LANES * 2];
        for (pair, lane) in bytes.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&lane.to_le_bytes());
        }
        hasher.update(&bytes);
        StateDigest(*hasher.finalize().as_bytes())
    }
}
