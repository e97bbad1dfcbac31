//! `portreeve revocation`: what has been taken away, and what waits for a second approval. Made by
//! `portreeve revoke`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer, Table, cell};
use crate::cli::records;
use crate::cli::target::{Context, HubTarget};
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
    /// Print what denies more identities than may be denied at once: what waits, and what became of it.
    Held,
    /// Approve what another principal asked for.
    Approve(AnswerArgs),
    /// Reject what somebody asked for.
    Reject(AnswerArgs),
}

/// An answer to a held change.
#[derive(Args, Clone, Debug)]
pub struct AnswerArgs {
    /// Its name, such as `h0123456789`.
    pub id: String,
    /// Why; kept with it.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
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
        RevocationAction::Held => held(cx).await,
        RevocationAction::Approve(args) => answer(cx, &args, "approve").await,
        RevocationAction::Reject(args) => answer(cx, &args, "reject").await,
    }
}

const HELD_COLUMNS: [Column; 8] = [
    ("NAME", &["/id"]),
    ("STATE", &["/state"]),
    ("TENANT", &["/tenant"]),
    ("WHAT", &["/what"]),
    ("DENIED", &["/denied"]),
    ("REQUESTED BY", &["/requested_by"]),
    ("ANSWERED BY", &["/answered_by"]),
    ("EXPIRES", &["/expires_at"]),
];

async fn held(cx: &mut Context<'_, '_>) -> Result<(), Failure> {
    let held = cx.client.get("/v1/held").await?;
    if cx.out.is_json() {
        return Ok(cx.out.json(&held)?);
    }
    let rows = held.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    if rows.is_empty() {
        cx.out.note("nothing is held");
        return Ok(());
    }
    Ok(cx.out.line(Table::of(&HELD_COLUMNS, &rows))?)
}

async fn answer(cx: &mut Context<'_, '_>, args: &AnswerArgs, answer: &str) -> Result<(), Failure> {
    if !args.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::input(format!("`{}` names no held change", args.id.escape_debug())));
    }
    let path = format!("/v1/held/{}/{answer}", args.id);
    let reply = cx.client.post(&path, &json!({ "reason": args.reason })).await?;
    if cx.out.is_json() {
        return Ok(cx.out.json(&reply)?);
    }
    let of = |field: &str| cell(reply.pointer(&format!("/held/{field}")));
    cx.out.line(format_args!("{} ({}) is {}", of("id"), of("what"), of("state")))?;
    let revisions = reply.pointer("/held/revisions").and_then(Value::as_array).cloned().unwrap_or_default();
    for revision in revisions {
        cx.out.line(format_args!("committed as revision {revision}"))?;
        cx.out.note(format_args!("where it is in force: portreeve fleet receipts {revision}"));
    }
    Ok(())
}
