//! A whole store, as another engine is filled with it.

use super::{CellImage, Head, Item, StoreIdentity, StoredMember, StoredReceipt, StoredRecord};
use crate::core::id::Name;

/// Everything of a store but its log, at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// Which store it is of.
    pub identity: StoreIdentity,
    /// How far it goes.
    pub head: Head,
    /// Every cell.
    pub cells: Vec<CellImage>,
    /// Names that were let go of, with their tenants.
    pub dropped: Vec<(Name, StoredRecord)>,
    /// Every item, with its space.
    pub items: Vec<(String, Item)>,
    /// Every receipt.
    pub receipts: Vec<StoredReceipt>,
    /// The roster.
    pub members: Vec<StoredMember>,
}
