//! A store that was put back: what it is against its witness, and the epoch begun over it.

use std::path::PathBuf;
use std::sync::Arc;

use super::AppError;
use super::clock::HubClock;
use crate::config::HubConfig;
use crate::hub::restore::{Found, Restoring};
use crate::hub::store::Minted;

/// A restoration that waits for a yes.
#[derive(Debug)]
pub struct Restoration(Restoring);

impl Restoration {
    /// Opens the store of `config` and its witness; `others` are witnesses of other hubs of the store.
    ///
    /// # Errors
    /// [`AppError`] names what cannot be opened, and what holds it.
    pub fn open(config: &HubConfig, others: &[PathBuf]) -> Result<Self, AppError> {
        Ok(Self(Restoring::open(super::hub::settings(config), others, Arc::new(HubClock::default()))?))
    }

    /// What was found; nothing is changed yet.
    pub const fn found(&self) -> &Found {
        self.0.found()
    }

    /// Begins the new epoch.
    ///
    /// # Errors
    /// [`AppError`] when the store or its witness cannot be written.
    pub fn begin(self) -> Result<Minted, AppError> {
        Ok(self.0.begin()?)
    }
}
