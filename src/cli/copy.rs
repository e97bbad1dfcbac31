//! `hub copy`: the store of one configuration becomes that of another.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::app;
use crate::cli::failure::Failure;
use crate::cli::print::Printer;
use crate::cli::run::load_hub;

/// Arguments of `hub copy`.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    /// The hub's configuration as it is, over SQLite; no hub may run with it.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The hub's configuration as it shall be, over an empty PostgreSQL database.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

/// Copies the store.
///
/// # Errors
/// A [`Failure`] when a store cannot be used; nothing was copied then.
pub fn run(args: &CopyArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let done = app::copy::copy(&load_hub(&args.from)?.config, &load_hub(&args.to)?.config)?;
    let (position, parent) = (done.minted.position, done.minted.parent);
    if out.is_json() {
        let value = json!({
            "from": done.from, "to": done.to, "records": done.records,
            "epoch": position.epoch.to_string(), "revision": position.revision,
            "parent_epoch": parent.epoch.to_string(), "receipts_voided": done.minted.voided,
        });
        return Ok(out.json(&value)?);
    }
    out.line(format_args!("copied {} records from {} to {}", done.records, done.from, done.to))?;
    out.line(format_args!("epoch    {}, which goes on from revision {}", position.epoch, position.revision))?;
    out.line(format_args!("receipts {} of before are void", done.minted.voided))?;
    Ok(out.line("start the hub with the new configuration, and never again with the old one")?)
}
