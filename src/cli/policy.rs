//! `portreeve policy`: Cedar policy sets.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records::{self, Spec, set};
use crate::cli::target::{Context, HubTarget};
use crate::cli::value::read_text;
use crate::core::id::Name;
use crate::core::identity::{PolicyMode, RecordKind};

/// Arguments of `policy`.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: PolicyAction,
}

/// What can be done with policy sets.
#[derive(Subcommand, Clone, Debug)]
pub enum PolicyAction {
    /// Print all policy sets.
    List,
    /// Print a policy set.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Only its Cedar text.
        #[arg(long)]
        text: bool,
    },
    /// Make a policy set.
    Create {
        /// Its name: unique in the tenant, never reused.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// A file of Cedar policies; `-` for standard input.
        #[arg(long, value_name = "FILE")]
        cedar: PathBuf,
        /// Whether it decides, or is evaluated and reported only.
        #[arg(long, default_value = "enforce", value_parser = modes())]
        mode: String,
    },
    /// Replace a policy set's Cedar text.
    Update {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// A file of Cedar policies; `-` for standard input.
        #[arg(long, value_name = "FILE")]
        cedar: PathBuf,
    },
    /// Let a policy set decide.
    Enforce {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Let a policy set be evaluated and reported only.
    Shadow {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// End a policy set.
    Delete {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
}

const KIND: RecordKind = RecordKind::PolicySet;

const COLUMNS: [Column; 4] = [
    ("NAME", &["/name"]),
    ("MODE", &["/spec/mode"]),
    ("GENERATION", &["/generation"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: PolicyArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        PolicyAction::List => records::list(cx, KIND, &COLUMNS).await,
        PolicyAction::Show { name, text: true } => show_text(cx, &name).await,
        PolicyAction::Show { name, text: false } => records::show(cx, KIND, &name).await,
        PolicyAction::Create { name, cedar, mode } => {
            let mut spec = Spec::new();
            set(&mut spec, "cedar", Some(read_text(&cedar)?));
            set(&mut spec, "mode", Some(mode));
            records::create(cx, KIND, &name, spec).await
        }
        PolicyAction::Update { name, cedar } => put(cx, &name, "cedar", read_text(&cedar)?).await,
        PolicyAction::Enforce { name } => put(cx, &name, "mode", PolicyMode::Enforce.as_str()).await,
        PolicyAction::Shadow { name } => put(cx, &name, "mode", PolicyMode::Shadow.as_str()).await,
        PolicyAction::Delete { name } => records::delete(cx, KIND, &name).await,
    }
}

async fn put(
    cx: &mut Context<'_, '_>,
    name: &Name,
    field: &str,
    value: impl AsRef<str>,
) -> Result<(), Failure> {
    records::modify(cx, KIND, name, |spec| {
        set(spec, field, Some(value.as_ref()));
        Ok(())
    })
    .await
}

async fn show_text(cx: &mut Context<'_, '_>, name: &Name) -> Result<(), Failure> {
    let record = records::fetch(cx, KIND, name).await?;
    match record.pointer("/spec/cedar").and_then(Value::as_str) {
        Some(cedar) => Ok(cx.out.bytes(cedar.as_bytes())?),
        None => Err(Failure::failed(format!("the hub gave policy `{name}` without Cedar text"))),
    }
}

fn modes() -> PossibleValuesParser {
    PossibleValuesParser::new([PolicyMode::Enforce, PolicyMode::Shadow].map(PolicyMode::as_str))
}
