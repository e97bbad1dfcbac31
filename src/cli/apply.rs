//! `portreeve apply`: bring the hub's records to what files say, all or nothing.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::{query_value, warnings};
use crate::cli::document;
use crate::cli::failure::Failure;
use crate::cli::print::{Printer, Table, cell};
use crate::cli::target::HubTarget;

/// Arguments of `apply`.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// The hub; the tenant is for documents that name none.
    #[command(flatten)]
    pub hub: HubTarget,
    /// A file, or a folder of files; may be repeated. `-` for standard input.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH", num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Print what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Why what denies more identities than may be denied at once is done all the same; it is on record.
    #[arg(long, value_name = "REASON", conflicts_with = "dry_run",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub break_glass: Option<String>,
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: ApplyArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    let documents = document::load(&args.files, &cx.tenant)?;
    if documents.is_empty() {
        return Err(Failure::input("the files hold no document"));
    }
    let body: Vec<Value> = documents.iter().map(document::Document::to_json).collect();
    let path = match &args.break_glass {
        _ if args.dry_run => "/v1/apply?dry_run=true".to_owned(),
        Some(reason) => format!("/v1/apply?break_glass={}", query_value(reason)),
        None => "/v1/apply".to_owned(),
    };
    let reply = cx.client.post(&path, &json!({ "documents": body })).await;
    let reply =
        reply.map_err(|error| Failure::from(error).map_details(|line| document::placed(line, &documents)))?;
    for warning in warnings(&reply) {
        cx.out.note(format_args!("warning: {}", document::placed(&warning, &documents)));
    }
    if cx.out.is_json() {
        return Ok(cx.out.json(&reply)?);
    }
    let table = changes(&reply);
    cx.out.line(table)?;
    for tenant in list(&reply, "tenants") {
        let (tenant, revision) = (cell(tenant.get("tenant")), cell(tenant.get("revision")));
        if !args.dry_run {
            cx.out.line(format_args!("tenant {tenant} is at revision {revision}"))?;
        }
    }
    if args.dry_run {
        cx.out.note("nothing was changed (dry run)");
    }
    Ok(())
}

fn changes(reply: &Value) -> Table {
    let mut table = Table::new(["TENANT", "KIND", "NAME", "ACTION"]);
    for tenant in list(reply, "tenants") {
        for change in list(tenant, "changes") {
            let fields = ["kind", "name", "action"].map(|field| cell(change.get(field)));
            table.row(std::iter::once(cell(tenant.get("tenant"))).chain(fields));
        }
    }
    table
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
