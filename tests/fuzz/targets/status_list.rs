//! Values of a status list as they come: never a panic, bounded, and one value for each place.

use std::sync::Arc;

use portreeve::core::id::Name;
use portreeve::core::identity::{StatusBits, StatusList, VALUES_BYTES_MAX};

pub(crate) fn run(bytes: &[u8]) {
    let Some((first, packed)) = bytes.split_first() else { return };
    let mut list = StatusList::withdrawn(Name::parse("main").unwrap(), Arc::from("https://issuer.test/list"));
    list.bits = StatusBits::of(1 << (first % 4)).unwrap();
    let Ok(list) = list.with_values(packed.into()) else { return };
    assert!(!list.is_withdrawn() && list.values().len() <= VALUES_BYTES_MAX);
    assert!(list.value(list.entries() - 1).is_some() && list.value(list.entries()).is_none());
}
