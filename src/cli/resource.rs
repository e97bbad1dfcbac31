//! `portreeve resource`: what is protected.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records::{self, Spec};
use crate::cli::target::HubTarget;
use crate::cli::value::read_text;
use crate::core::id::Name;
use crate::core::identity::RecordKind;

/// Arguments of `resource`.
#[derive(Args, Clone, Debug)]
pub struct ResourceArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: ResourceAction,
}

/// What can be done with resources.
#[derive(Subcommand, Clone, Debug)]
pub enum ResourceAction {
    /// Print all resources.
    List,
    /// Print a resource.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Make a resource.
    Create {
        /// Its name: unique in the tenant, never reused.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// A YAML or JSON file with its environment, owner and routes; `-` for standard input.
        #[arg(short = 'f', long = "file", value_name = "SPEC")]
        file: PathBuf,
    },
    /// End a resource.
    Delete {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
}

const KIND: RecordKind = RecordKind::Resource;

const COLUMNS: [Column; 4] = [
    ("NAME", &["/name"]),
    ("ENVIRONMENT", &["/spec/environment"]),
    ("OWNER", &["/spec/owner/team", "/spec/owner/person"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: ResourceArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        ResourceAction::List => records::list(cx, KIND, &COLUMNS).await,
        ResourceAction::Show { name } => records::show(cx, KIND, &name).await,
        ResourceAction::Create { name, file } => records::create(cx, KIND, &name, read_spec(&file)?).await,
        ResourceAction::Delete { name } => records::delete(cx, KIND, &name).await,
    }
}

fn read_spec(file: &Path) -> Result<Spec, Failure> {
    let text = read_text(file)?;
    let fault = |why: String| Failure::input(format!("`{}`: {why}", file.display()));
    let spec: Spec = serde_saphyr::from_str(&text).map_err(|e| fault(e.without_snippet().to_string()))?;
    if spec.contains_key("spec") {
        return Err(fault("holds a whole record: give it to `portreeve apply -f`".to_owned()));
    }
    Ok(spec)
}
