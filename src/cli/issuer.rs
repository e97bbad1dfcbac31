//! `portreeve issuer`: who vouches for identities.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records::{self, Spec, set};
use crate::cli::target::HubTarget;
use crate::cli::value::{Span, read_jwks};
use crate::core::id::Name;
use crate::core::identity::{RecordKind, TokenProfile};

/// Arguments of `issuer`.
#[derive(Args, Clone, Debug)]
pub struct IssuerArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: IssuerAction,
}

/// What can be done with issuers.
#[derive(Subcommand, Clone, Debug)]
pub enum IssuerAction {
    /// Print all issuers.
    List,
    /// Print an issuer.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Make an issuer.
    Create(CreateArgs),
    /// Replace an issuer's keys.
    SetKeys {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// A JSON Web Key Set of public keys.
        #[arg(long, value_name = "FILE")]
        jwks: PathBuf,
    },
    /// End an issuer: its tokens are refused from then on.
    Delete {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
}

/// Arguments of `issuer create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Its name: unique in the tenant, never reused.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// The exact `iss` of its tokens.
    #[arg(long)]
    pub iss: String,
    /// What its tokens look like.
    #[arg(long, default_value = "generic", value_parser = PossibleValuesParser::new(TokenProfile::ALL.map(TokenProfile::as_str)))]
    pub profile: String,
    /// A JSON Web Key Set of public keys.
    #[arg(long, value_name = "FILE")]
    pub jwks: PathBuf,
    /// The only algorithms taken from it, such as `ES256`; separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "LIST")]
    pub algorithms: Vec<String>,
    /// Audiences it may issue for, separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "LIST")]
    pub audiences: Vec<String>,
    /// Longest time from issue to expiry of a token.
    #[arg(long, default_value = "1h", value_name = "SPAN", value_parser = Span::parse)]
    pub max_lifetime: Span,
}

const KIND: RecordKind = RecordKind::Issuer;

const COLUMNS: [Column; 7] = [
    ("NAME", &["/name"]),
    ("ISS", &["/spec/iss"]),
    ("PROFILE", &["/spec/profile"]),
    ("ALGORITHMS", &["/spec/algorithms"]),
    ("AUDIENCES", &["/spec/audiences"]),
    ("MAX LIFETIME", &["/spec/max_lifetime"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: IssuerArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        IssuerAction::List => records::list(cx, KIND, &COLUMNS).await,
        IssuerAction::Show { name } => records::show(cx, KIND, &name).await,
        IssuerAction::Create(args) => records::create(cx, KIND, &args.name, created(&args)?).await,
        IssuerAction::SetKeys { name, jwks } => {
            let keys = json!({ "inline": read_jwks(&jwks)? });
            records::modify(cx, KIND, &name, |spec| {
                spec.insert("keys".to_owned(), keys.clone());
                Ok(())
            })
            .await
        }
        IssuerAction::Delete { name } => records::delete(cx, KIND, &name).await,
    }
}

fn created(args: &CreateArgs) -> Result<Spec, Failure> {
    let mut spec = Spec::new();
    set(&mut spec, "iss", Some(&args.iss));
    set(&mut spec, "profile", Some(&args.profile));
    spec.insert("algorithms".to_owned(), json!(args.algorithms));
    spec.insert("audiences".to_owned(), json!(args.audiences));
    spec.insert("keys".to_owned(), json!({ "inline": read_jwks(&args.jwks)? }));
    set(&mut spec, "max_lifetime", Some(args.max_lifetime.as_str()));
    Ok(spec)
}
