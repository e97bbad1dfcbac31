//! Moving a hub's store to another engine.

use std::sync::Arc;

use super::AppError;
use super::clock::HubClock;
use crate::config::HubConfig;
use crate::hub::copy::{Copied, copy as copy_store};

/// Copies the store of one configuration to that of another. Blocks.
///
/// # Errors
/// [`AppError`] names what cannot be used, and what holds it.
pub fn copy(from: &HubConfig, to: &HubConfig) -> Result<Copied, AppError> {
    Ok(copy_store(&super::hub::settings(from), &super::hub::settings(to), Arc::new(HubClock::default()))?)
}
