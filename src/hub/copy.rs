//! A store that is moved to another engine, while no hub runs.
//!
//! What was revoked stays revoked, names and revisions go on, and the lineage is a new one: whoever goes
//! back to the store that was left is refused by every enforcement point that has seen the new one.

use std::sync::Arc;

use super::keys::ClusterKey;
use super::restore::refuse_absent;
use super::service::lock_beside_store;
use super::settings::{HubError, HubSettings, StoreSettings};
use super::store::{FaultKind, Minted, PostgresStore, SqliteStore, StateStore as _, StoreFault};
use crate::core::time::Clock;

/// What was copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// How many records.
    pub records: usize,
    /// The new lineage.
    pub minted: Minted,
}

/// Copies the store of `from` to that of `to`: from an SQLite file to an empty PostgreSQL database. Blocks.
///
/// # Errors
/// [`HubError`] names what cannot be used, and what holds it; nothing was copied then.
pub fn copy(from: &HubSettings, to: &HubSettings, clock: Arc<dyn Clock>) -> Result<Copied, HubError> {
    let (StoreSettings::Sqlite(file), StoreSettings::Postgres(database)) = (&from.store, &to.store) else {
        let place = from.store_file().map_or_else(String::new, |file| file.display().to_string());
        let fault = StoreFault::at(place, FaultKind::Foreign, "a store is copied from SQLite to PostgreSQL");
        return Err(fault.with_remedy("name the configurations the other way round").into());
    };
    refuse_absent(file)?;
    let _lock = lock_beside_store(from)?;
    let now = clock.now().wall;
    let store = SqliteStore::open(file, clock)?;
    // The cluster's key stays what it is: it is known to the store before that is left.
    ClusterKey::of(&store, &from.data_dir)?.admit(&store, &from.data_dir)?;
    let dump = store.dump()?;
    let minted = PostgresStore::fill(database, &dump, now)?;
    let records = dump.cells.iter().map(|cell| cell.records.len()).sum();
    Ok(Copied { from: store.describe(), to: database.describe(), records, minted })
}
