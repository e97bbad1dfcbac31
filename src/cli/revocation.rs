//! `portreeve revocation`: what has been taken away. Made by `portreeve revoke`.

use clap::{Args, Subcommand};

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records;
use crate::cli::target::HubTarget;
use crate::core::id::Name;
use crate::core::identity::RecordKind;

/// Arguments of `revocation`.
#[derive(Args, Clone, Debug)]
pub struct RevocationArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: RevocationAction,
}

/// What can be done with revocations.
#[derive(Subcommand, Clone, Debug)]
pub enum RevocationAction {
    /// Print all revocations.
    List,
    /// Print a revocation.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
}

const KIND: RecordKind = RecordKind::Revocation;

const COLUMNS: [Column; 6] = [
    ("NAME", &["/name"]),
    ("TARGET", &["/spec/target"]),
    ("REASON", &["/spec/reason"]),
    ("REQUESTED BY", &["/spec/requested_by"]),
    ("AT", &["/spec/at"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: RevocationArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        RevocationAction::List => records::list(cx, KIND, &COLUMNS).await,
        RevocationAction::Show { name } => records::show(cx, KIND, &name).await,
    }
}
