//! `portreeve hub restore`: going on from a store that was put back.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::app::restore::Restoration;
use crate::cli::failure::Failure;
use crate::cli::print::Printer;
use crate::cli::run::load_hub;

/// Arguments of `hub restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The configuration of the hub.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Another hub's witness of the same store; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub witness: Vec<PathBuf>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Yes: no other process serves the store that was lost, and none will. One that did would go on
    /// renewing the leases of its own enforcement points.
    #[arg(long)]
    pub i_have_stopped_the_old_hub: bool,
}

/// Shows what was found, asks, and begins a new epoch.
///
/// # Errors
/// A [`Failure`] when the store or a witness cannot be used, or nobody said yes.
pub fn run(args: &RestoreArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let config = load_hub(&args.config)?.config;
    let restoration = Restoration::open(&config, &args.witness)?;
    let mut report = found(&restoration);
    if !out.is_json() {
        show(&report, out)?;
    }
    if args.dry_run {
        if out.is_json() {
            out.json(&report)?;
        }
        out.note("nothing was changed");
        return Ok(());
    }
    if !args.i_have_stopped_the_old_hub {
        confirm(out)?;
    }
    let minted = restoration.begin()?;
    report["restored"] = json!({
        "epoch": minted.position.epoch.to_string(),
        "revision": minted.position.revision,
        "parent_epoch": minted.parent.epoch.to_string(),
        "parent_revision": minted.parent.revision,
        "receipts_voided": minted.voided,
    });
    if out.is_json() {
        return Ok(out.json(&report)?);
    }
    let (epoch, revision) = (minted.position.epoch, minted.position.revision);
    out.line(format_args!("began epoch {epoch}; the next revision is {}", revision + 1))?;
    out.line(format_args!("voided receipts: {}", minted.voided))?;
    NEXT.iter().for_each(|step| out.note(step));
    Ok(())
}

fn found(restoration: &Restoration) -> Value {
    let found = restoration.found();
    let position =
        |at: crate::core::id::Position| json!({ "epoch": at.epoch.to_string(), "revision": at.revision });
    json!({
        "store": found.store,
        "head": position(found.head),
        "witness": found.witness.display().to_string(),
        "witnessed": found.witnessed.map(position),
        "against": found.against,
        "commits_lost": found.commits_lost(),
        "restored": Value::Null,
    })
}

fn show(report: &Value, out: &mut Printer<'_>) -> Result<(), Failure> {
    let at = |place: &str| {
        let (revision, epoch) = (&report[place]["revision"], &report[place]["epoch"]);
        format!("revision {revision} of epoch {}", epoch.as_str().unwrap_or_default())
    };
    out.line(format_args!("store         {}", report["store"].as_str().unwrap_or_default()))?;
    out.line(format_args!("it ends at    {}", at("head")))?;
    out.line(format_args!("witness       {}", report["witness"].as_str().unwrap_or_default()))?;
    if report["witnessed"].is_null() {
        out.line("named up to   not known: the witness is empty")?;
    } else {
        out.line(format_args!("named up to   {}", at("witnessed")))?;
    }
    let lost = match report["commits_lost"].as_u64() {
        Some(lost) => lost.to_string(),
        None => "not known".to_owned(),
    };
    out.line(format_args!("commits lost  {lost}"))?;
    match report["against"].as_str() {
        Some(against) => out.line(format_args!("finding       {against}"))?,
        None => out.line("finding       the witness says nothing against this store")?,
    }
    Ok(())
}

/// Asks for a yes at a terminal.
fn confirm(out: &mut Printer<'_>) -> Result<(), Failure> {
    let input = std::io::stdin();
    if out.is_json() || !input.is_terminal() {
        return Err(Failure::usage(
            "say that no other process serves the store that was lost: --i-have-stopped-the-old-hub",
        ));
    }
    out.note(
        "A new epoch will begin over this store. Receipts given so far are void; revocations made after",
    );
    out.note(
        "revision and epoch above stay in force at the enforcement points, and must be made again here.",
    );
    out.note("Is every hub of the store that was lost stopped, for good? Type `restore` to go on:");
    let mut answer = String::new();
    input
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Failure::failed(format!("cannot read the answer: {e}")))?;
    if answer.trim() == "restore" { Ok(()) } else { Err(Failure::failed("nothing was changed")) }
}

const NEXT: [&str; 4] = [
    "next:",
    "  1. start the hub; enforcement points repair what differs and keep every revocation they know",
    "  2. `portreeve fleet drift` names those that hold revocations this store does not know: make these again",
    "  3. `portreeve apply` what was changed since the backup; start other hubs of this store again",
];
