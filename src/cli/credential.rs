//! `portreeve credential`: credentials as the hub knows them, never the secret.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

use crate::cli::api_key;
use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records::{self, Spec, set};
use crate::cli::revoke::{self, HowArgs};
use crate::cli::target::HubTarget;
use crate::cli::value::{Span, When};
use crate::core::id::Name;
use crate::core::identity::{CredentialKind, RecordKind};

/// Arguments of `credential`.
#[derive(Args, Clone, Debug)]
pub struct CredentialArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: CredentialAction,
}

/// What can be done with credentials.
#[derive(Subcommand, Clone, Debug)]
pub enum CredentialAction {
    /// Print all credentials.
    List,
    /// Print a credential.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Make a credential known. Of an API key this makes the key too, and prints it this once.
    Create(CreateArgs),
    /// Make an identity's next API key, print it, and end the one before after an overlap.
    Rotate(RotateArgs),
    /// Revoke a credential; the same as `revoke credential`.
    Revoke {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Why, and whether to wait.
        #[command(flatten)]
        how: HowArgs,
    },
}

/// Arguments of `credential create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Its name: unique in the tenant, never reused.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// What kind of credential.
    #[arg(long, value_parser = PossibleValuesParser::new(CredentialKind::ALL.map(CredentialKind::as_str)))]
    pub kind: String,
    /// What a signing key is recognised by: its RFC 7638 thumbprint, SHA-256 in base64url.
    #[arg(long, required_if_eq("kind", "signing-key"))]
    pub fingerprint: Option<String>,
    /// A PEM file of the certificate that is to be known.
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint", required_if_eq("kind", "certificate"))]
    pub certificate: Option<PathBuf>,
    /// The one identity it belongs to; an API key needs one.
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub identity: Option<Name>,
    /// When it was made.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub issued: Option<When>,
    /// When it is to be replaced.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub rotate_by: Option<When>,
    /// From when on it no longer works.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub expires: Option<When>,
    /// The platform it comes from.
    #[arg(long)]
    pub source: Option<String>,
}

/// Arguments of `credential rotate`.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// The API key that is to be replaced.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// The new one's name; without it, the old one's with the next number.
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub to: Option<Name>,
    /// How long the old one still works.
    #[arg(long, default_value = "24h", value_name = "SPAN", value_parser = Span::parse)]
    pub overlap: Span,
    /// When the new one is to be replaced; without it, after as long as the old one was given.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub rotate_by: Option<When>,
    /// From when on the new one no longer works.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub expires: Option<When>,
}

const KIND: RecordKind = RecordKind::Credential;

const COLUMNS: [Column; 7] = [
    ("NAME", &["/name"]),
    ("KIND", &["/spec/kind"]),
    ("IDENTITY", &["/spec/identity"]),
    ("STATUS", &["/spec/status"]),
    ("ROTATE BY", &["/spec/rotate_by"]),
    ("EXPIRES", &["/spec/expires"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: CredentialArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        CredentialAction::List => records::list(cx, KIND, &COLUMNS).await,
        CredentialAction::Show { name } => records::show(cx, KIND, &name).await,
        CredentialAction::Create(args) if args.kind == CredentialKind::ApiKey.as_str() => {
            api_key::create(cx, &args).await
        }
        CredentialAction::Rotate(args) => api_key::rotate(cx, &args).await,
        CredentialAction::Create(args) => records::create(cx, KIND, &args.name, created(&args)?).await,
        CredentialAction::Revoke { name, how } => {
            let target = json!({ "credential": name.as_str() });
            revoke::revoke(cx, target, &format!("credential `{name}`"), &how).await
        }
    }
}

fn created(args: &CreateArgs) -> Result<Spec, Failure> {
    let mut spec = Spec::new();
    set(&mut spec, "kind", Some(&args.kind));
    let thumbprint = args.certificate.as_deref().map(thumbprint).transpose()?;
    set(&mut spec, "fingerprint", args.fingerprint.as_ref().or(thumbprint.as_ref()));
    set(&mut spec, "identity", args.identity.as_ref());
    set(&mut spec, "issued", args.issued);
    set(&mut spec, "rotate_by", args.rotate_by);
    set(&mut spec, "expires", args.expires);
    set(&mut spec, "source", args.source.as_ref());
    Ok(spec)
}

/// SHA-256 of the first certificate of a file, in base64url.
fn thumbprint(file: &Path) -> Result<String, Failure> {
    let der = CertificateDer::from_pem_file(file).map_err(|error| {
        Failure::input(format!("cannot read `{}`: {error}; expected a certificate in PEM", file.display()))
    })?;
    Ok(URL_SAFE_NO_PAD.encode(digest(&SHA256, &der)))
}
