//! `portreeve fleet`: enforcement points as the hub sees them.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::print::{Printer, Table, cell};
use crate::cli::revoke::{is_effective, members, receipts_table};
use crate::cli::target::{Context, HubTarget};

/// Arguments of `fleet`.
#[derive(Args, Clone, Debug)]
pub struct FleetArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: FleetAction,
}

/// What can be asked about the fleet.
#[derive(Subcommand, Clone, Debug)]
pub enum FleetAction {
    /// Print every enforcement point.
    Status,
    /// Print where a revision is in force.
    Receipts {
        /// The revision, as `revoke` prints it.
        revision: u64,
    },
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: FleetArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        FleetAction::Status => status(cx).await,
        FleetAction::Receipts { revision } => receipts(cx, revision).await,
    }
}

async fn status(cx: &mut Context<'_, '_>) -> Result<(), Failure> {
    let fleet = cx.client.get("/v1/fleet").await?;
    if cx.out.is_json() {
        return Ok(cx.out.json(&fleet)?);
    }
    if members(&fleet).is_empty() {
        cx.out.note("no enforcement point is connected");
        return Ok(());
    }
    Ok(cx.out.line(fleet_table(members(&fleet)))?)
}

/// Every field that any enforcement point reports, its name first.
fn fleet_table(members: &[Value]) -> Table {
    let fields = members.iter().filter_map(Value::as_object).flat_map(|member| member.keys());
    let mut names: Vec<&str> = fields.map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    names.sort_by_key(|name| FLEET_FIRST.iter().position(|first| first == name).unwrap_or(FLEET_FIRST.len()));
    let heads: Vec<String> = names.iter().map(|name| name.to_uppercase().replace('_', " ")).collect();
    let mut table = Table::new(heads.iter().map(String::as_str));
    for member in members {
        table.row(names.iter().map(|name| cell(member.get(name))));
    }
    table
}

const FLEET_FIRST: [&str; 4] = ["spoke_id", "incarnation", "state", "revision"];

async fn receipts(cx: &mut Context<'_, '_>, revision: u64) -> Result<(), Failure> {
    let receipts = cx.client.get(&format!("/v1/revisions/{revision}/receipts")).await?;
    if cx.out.is_json() {
        return Ok(cx.out.json(&receipts)?);
    }
    if members(&receipts).is_empty() {
        cx.out.note("warning: no enforcement point is connected");
    } else {
        cx.out.line(receipts_table(&receipts))?;
    }
    let since = cell(receipts.get("effective_since"));
    if is_effective(&receipts) {
        Ok(cx.out.line(format_args!("revision {revision} is in force everywhere since {since}"))?)
    } else {
        Ok(cx.out.line(format_args!("revision {revision} is not yet in force everywhere"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_name_comes_first_and_unknown_fields_are_shown() {
        let members =
            [json!({ "age_ms": 3, "spoke_id": "edge-1", "revision": 7 }), json!({ "spoke_id": "b" })];
        let text = fleet_table(&members).to_string();
        assert_eq!(text, "SPOKE ID  REVISION  AGE MS\nedge-1    7         3\nb         -         -");
    }
}
