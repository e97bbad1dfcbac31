//! A whole store, as another engine is filled with it.

use super::{CellImage, Head, Item, StoreIdentity, StoredMember, StoredReceipt};

/// Everything of a store but its log, at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// Which store it is of.
    pub identity: StoreIdentity,
    /// How far it goes.
    pub head: Head,
    /// Every cell.
    pub cells: Vec<CellImage>,
    /// Every item, with its space.
    pub items: Vec<(String, Item)>,
    /// Every receipt.
    pub receipts: Vec<StoredReceipt>,
    /// The roster.
    pub members: Vec<StoredMember>,
}
