//! `portreeve token`: tokens for trying things out.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::failure::Failure;
use crate::cli::print::Printer;
use crate::cli::token::{DEV_ISSUER_FILE, DevIssuer, TokenError};
use crate::cli::value::Span;
use crate::core::time::Timestamp;

/// Arguments of `token`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TokenAction,
}

/// What can be done with tokens.
#[derive(Subcommand, Clone, Debug)]
pub enum TokenAction {
    /// Sign a token with the key of the issuer that `portreeve dev` made, and print it.
    Mint(MintArgs),
}

/// Arguments of `token mint`.
#[derive(Args, Clone, Debug)]
pub struct MintArgs {
    /// The identity it is for.
    #[arg(long, value_name = "NAME")]
    pub identity: String,
    /// The subject it asserts; without it, the identity's name.
    #[arg(long)]
    pub subject: Option<String>,
    /// How long it lives; at most an hour.
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = Span::parse)]
    pub ttl: Span,
    /// For whom it is meant; without it, the issuer's own audience.
    #[arg(long)]
    pub audience: Option<String>,
    /// The data folder of `portreeve dev`.
    #[arg(long, value_name = "DIR", conflicts_with = "key_file")]
    pub data: Option<PathBuf>,
    /// The issuer's key file; without this and `--data`, the file that PORTREEVE_DEV_ISSUER names.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The key file as the environment names it; an argument of its own, since `--data` goes before it.
    #[arg(long, env = "PORTREEVE_DEV_ISSUER", hide = true)]
    pub default_key_file: Option<PathBuf>,
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub fn run(args: TokenArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let TokenAction::Mint(args) = args.action;
    let file =
        args.key_file.or_else(|| args.data.map(|data| data.join(DEV_ISSUER_FILE))).or(args.default_key_file);
    let file = file.ok_or_else(|| {
        Failure::usage("no key to sign with: name it with --data, --key-file or PORTREEVE_DEV_ISSUER")
    })?;
    let issuer = DevIssuer::load(&file)?;
    let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
    let subject = args.subject.as_deref().unwrap_or(&args.identity);
    let token = issuer.mint(subject, args.audience.as_deref(), args.ttl.length(), now, &fresh_jti()?)?;
    if out.is_json() {
        return Ok(out.json(&serde_json::json!({ "token": token }))?);
    }
    Ok(out.line(token)?)
}

fn fresh_jti() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TokenError::Crypto("draw random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
