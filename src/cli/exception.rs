//! `portreeve exception`: bounded, visible liftings of named rules.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records::{self, Spec, set, set_in};
use crate::cli::target::HubTarget;
use crate::cli::value::{self, When};
use crate::core::id::Name;
use crate::core::identity::RecordKind;

/// Arguments of `exception`.
#[derive(Args, Clone, Debug)]
pub struct ExceptionArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: ExceptionAction,
}

/// What can be done with exceptions.
#[derive(Subcommand, Clone, Debug)]
pub enum ExceptionAction {
    /// Print all exceptions.
    List,
    /// Print an exception.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Make an exception.
    Create(Box<CreateArgs>),
    /// End an exception before its time.
    Delete {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
}

/// Arguments of `exception create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Its name: unique in the tenant, never reused.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// For this identity only; may be repeated.
    #[arg(long = "identity", value_name = "NAME", required = true, value_parser = Name::parse)]
    pub identities: Vec<Name>,
    /// For this resource only; may be repeated. Without it: every resource of the tenant.
    #[arg(long = "resource", value_name = "NAME", value_parser = Name::parse)]
    pub resources: Vec<Name>,
    /// The reason that is lifted, such as `hygiene.ownerless`; may be repeated.
    #[arg(long, required = true, value_delimiter = ',', value_name = "REASON", value_parser = value::lifts)]
    pub lifts: Vec<String>,
    /// Why.
    #[arg(long)]
    pub reason: String,
    /// The ticket.
    #[arg(long)]
    pub ticket: Option<String>,
    /// The team that answers for it.
    #[arg(long, value_name = "TEAM", required_unless_present = "owner_person")]
    pub owner_team: Option<String>,
    /// The person who answers for it.
    #[arg(long, value_name = "PERSON")]
    pub owner_person: Option<String>,
    /// How to reach them.
    #[arg(long, value_name = "ADDRESS")]
    pub owner_contact: Option<String>,
    /// The person who approved it.
    #[arg(long, value_name = "PERSON", required_unless_present = "approver_team")]
    pub approver_person: Option<String>,
    /// The team that approved it.
    #[arg(long, value_name = "TEAM")]
    pub approver_team: Option<String>,
    /// From when on it no longer holds.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub expires: When,
}

const KIND: RecordKind = RecordKind::Exception;

const COLUMNS: [Column; 6] = [
    ("NAME", &["/name"]),
    ("IDENTITIES", &["/spec/identities"]),
    ("LIFTS", &["/spec/lifts"]),
    ("OWNER", &["/spec/owner/team", "/spec/owner/person"]),
    ("EXPIRES", &["/spec/expires"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: ExceptionArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        ExceptionAction::List => records::list(cx, KIND, &COLUMNS).await,
        ExceptionAction::Show { name } => records::show(cx, KIND, &name).await,
        ExceptionAction::Create(args) => records::create(cx, KIND, &args.name, created(&args)).await,
        ExceptionAction::Delete { name } => records::delete(cx, KIND, &name).await,
    }
}

fn created(args: &CreateArgs) -> Spec {
    let names = |names: &[Name]| names.iter().map(|n| Value::from(n.as_str())).collect::<Value>();
    let mut spec = Spec::new();
    spec.insert("identities".to_owned(), names(&args.identities));
    if !args.resources.is_empty() {
        spec.insert("resources".to_owned(), names(&args.resources));
    }
    spec.insert("lifts".to_owned(), json!(args.lifts));
    set(&mut spec, "reason", Some(&args.reason));
    set(&mut spec, "ticket", args.ticket.as_ref());
    set_in(&mut spec, "owner", "team", args.owner_team.as_ref());
    set_in(&mut spec, "owner", "person", args.owner_person.as_ref());
    set_in(&mut spec, "owner", "contact", args.owner_contact.as_ref());
    set_in(&mut spec, "approver", "person", args.approver_person.as_ref());
    set_in(&mut spec, "approver", "team", args.approver_team.as_ref());
    set(&mut spec, "expires", Some(args.expires));
    spec
}
