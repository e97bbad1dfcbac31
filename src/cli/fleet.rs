//! `portreeve fleet`: enforcement points as the hub sees them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::{Exit, Failure};
use crate::cli::join_token::{scope_of, shown_scope};
use crate::cli::print::{Column, Printer, Table, cell};
use crate::cli::revoke::{is_effective, members, receipts_table};
use crate::cli::target::{Context, HubAddress};
use crate::core::id::Name;
use crate::wire::signed::check_receipt;

/// Arguments of `fleet`.
#[derive(Args, Clone, Debug)]
pub struct FleetArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubAddress,
    /// What to do.
    #[command(subcommand)]
    pub action: FleetAction,
}

/// What can be asked about the fleet.
#[derive(Subcommand, Clone, Debug)]
pub enum FleetAction {
    /// Print every enforcement point.
    Status,
    /// Print where a revocation is in force, and since when.
    Receipts {
        /// The revocation's name, such as `r17`, or a revision.
        revocation: String,
        /// Check every signature, and that what it covers names the revocation.
        #[arg(long)]
        verify: bool,
    },
    /// Print where what is in force is not what the hub holds: tables that differed, frozen
    /// tenants, revocations that a restored store does not know.
    Drift,
    /// Give an enforcement point the tenants it may hold. It drops what it loses before it decides again.
    Scope {
        /// The enforcement point.
        #[arg(value_parser = Name::parse)]
        id: Name,
        /// Which tenants.
        #[command(flatten)]
        tenants: Tenants,
    },
    /// Turn an enforcement point away: its certificates and join tokens of today no longer count.
    Remove {
        /// The enforcement point.
        #[arg(value_parser = Name::parse)]
        id: Name,
    },
}

/// Which tenants an enforcement point may hold.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct Tenants {
    /// One of its tenants; once for each.
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub tenant: Vec<Name>,
    /// Every tenant, those to come included.
    #[arg(long)]
    pub all: bool,
    /// No tenant.
    #[arg(long)]
    pub none: bool,
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: FleetArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        FleetAction::Status => status(cx).await,
        FleetAction::Receipts { revocation, verify } => receipts(cx, &revocation, verify).await,
        FleetAction::Drift => drift(cx).await,
        FleetAction::Scope { id, tenants } => {
            let body = scope_of(&tenants.tenant, tenants.all);
            let set = cx.client.put(&format!("/v1/fleet/{id}/scope"), &body).await?;
            admitted(cx, &set)
        }
        FleetAction::Remove { id } => {
            let removed = cx.client.delete(&format!("/v1/fleet/{id}")).await?;
            admitted(cx, &removed)
        }
    }
}

fn admitted(cx: &mut Context<'_, '_, ()>, admission: &Value) -> Result<(), Failure> {
    if cx.out.is_json() {
        return Ok(cx.out.json(admission)?);
    }
    let (id, version) = (cell(admission.get("id")), cell(admission.get("scope_version")));
    if admission.get("removed") == Some(&json!(true)) {
        return Ok(cx
            .out
            .line(format_args!("{id} was removed from the fleet; a join token admits it anew"))?);
    }
    let scope = shown_scope(admission);
    Ok(cx.out.line(format_args!("{id} may hold {scope} (scope version {version})"))?)
}

const STATUS_COLUMNS: [Column; 8] = [
    ("ENFORCEMENT POINT", &["/spoke_id"]),
    ("INCARNATION", &["/incarnation"]),
    ("CONNECTED", &["/connected"]),
    ("LAST PING", &["/last_ping"]),
    ("DENY AFTER MS", &["/deny_after_max_ms"]),
    ("SCOPE", &["/scope_shown"]),
    ("IN FORCE", &["/in_force"]),
    ("BUILD", &["/build"]),
];

async fn status(cx: &mut Context<'_, '_, ()>) -> Result<(), Failure> {
    let fleet = cx.client.get("/v1/fleet").await?;
    if cx.out.is_json() {
        return Ok(cx.out.json(&fleet)?);
    }
    let hub = cx.client.get("/v1/status").await?;
    hub_warnings(&hub).iter().for_each(|warning| cx.out.note(format_args!("warning: {warning}")));
    if members(&fleet).is_empty() {
        cx.out.note("no enforcement point is connected");
        return Ok(());
    }
    let rows: Vec<Value> = members(&fleet).iter().map(with_positions).collect();
    Ok(cx.out.line(Table::of(&STATUS_COLUMNS, &rows))?)
}

/// What is amiss with the hub itself.
fn hub_warnings(hub: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if hub.get("serving") == Some(&json!(false)) {
        warnings.push(
            "the hub's store was put back, and it streams nothing: see `portreeve hub restore`".to_owned(),
        );
    }
    let of = |field: &str| hub.pointer(&format!("/witness/{field}"));
    let file = cell(of("file"));
    if of("present") == Some(&json!(false)) {
        warnings.push(format!("the witness `{file}` is gone: start the hub again, and find out who took it"));
    } else if of("apart") == Some(&json!(false)) {
        warnings.push(format!(
            "the witness `{file}` lies on the store's own file system, and goes back with it: \
             set `hub.witness` to a file on another volume"
        ));
    }
    warnings
}

/// A member with its positions in one word: `demo 17`, and `demo 15+17` where revocations are ahead.
fn with_positions(member: &Value) -> Value {
    let cells = member.get("cells").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let words = cells.iter().map(|held| {
        let (tenant, at) = (cell(held.get("tenant")), cell(held.get("revision")));
        let kills = cell(held.get("kill_revision"));
        if kills == at { format!("{tenant} {at}") } else { format!("{tenant} {at}+{kills}") }
    });
    let mut row = member.clone();
    row["scope_shown"] = json!(shown_scope(member));
    row["in_force"] = json!(words.collect::<Vec<_>>().join(", "));
    let incarnation = cell(member.get("incarnation"));
    row["incarnation"] = json!(incarnation.get(..8).unwrap_or(&incarnation));
    row
}

async fn receipts(cx: &mut Context<'_, '_, ()>, revocation: &str, verify: bool) -> Result<(), Failure> {
    let digits = revocation.strip_prefix('r').unwrap_or(revocation);
    let revision: u64 = digits.parse().map_err(|_| {
        Failure::input(format!(
            "`{revocation}` names no revocation: give a name such as `r17`, or a revision"
        ))
    })?;
    let receipts = cx.client.get(&format!("/v1/revisions/{revision}/receipts")).await?;
    let checked = if verify { Some(verified(&receipts, revision)?) } else { None };
    if cx.out.is_json() {
        return Ok(cx.out.json(&receipts)?);
    }
    let is_void = receipts.get("state") == Some(&json!("VOID"));
    if members(&receipts).is_empty() && !is_void {
        cx.out.note("warning: no enforcement point is connected");
    } else if !members(&receipts).is_empty() {
        cx.out.line(receipts_table(&receipts))?;
    }
    let guarantee = cell(receipts.get("guarantee"));
    cx.out.line(format_args!("committed at    {}", cell(receipts.get("committed_at"))))?;
    cx.out.line(format_args!("effective by    {} ({guarantee})", cell(receipts.get("effective_by"))))?;
    cx.out.line(format_args!("effective since {}", cell(receipts.get("effective_since"))))?;
    if let Some(checked) = checked {
        cx.out.line(format_args!("{checked} signed receipts are good"))?;
    }
    if is_void {
        return Ok(cx.out.line(format_args!(
            "revision {revision} is void: the store was restored since, and does not hold it"
        ))?);
    }
    let not = if is_effective(&receipts) { "" } else { "not yet " };
    Ok(cx.out.line(format_args!("revision {revision} is {not}in force everywhere"))?)
}

/// How many receipts are signed, each of them checked.
fn verified(receipts: &Value, revision: u64) -> Result<usize, Failure> {
    let mut checked = 0;
    for member in members(receipts) {
        let Some(receipt) = member.get("signed").filter(|signed| !signed.is_null()) else { continue };
        let bytes = |field: &str| {
            let text = receipt.get(field).and_then(Value::as_str).unwrap_or_default();
            URL_SAFE_NO_PAD.decode(text).unwrap_or_default()
        };
        let who = cell(member.get("spoke_id"));
        let refuse = |why: &str| {
            Failure::new(Exit::Verification, format!("the receipt of `{who}` is not good: {why}"))
        };
        let found = check_receipt(&bytes("ack"), &bytes("signature"), &bytes("key"));
        let found = found.map_err(|e| refuse(&e.to_string()))?;
        if found.spoke_id != who {
            return Err(refuse("it was signed by another enforcement point"));
        }
        if found.covers < revision {
            return Err(refuse("it covers no state as new as the revocation"));
        }
        checked += 1;
    }
    Ok(checked)
}

const DRIFT_COLUMNS: [Column; 5] = [
    ("ENFORCEMENT POINT", &["/spoke_id"]),
    ("TABLES DIFFERED", &["/drift_found"]),
    ("MENDED", &["/drift_mended"]),
    ("CARRIED REVOCATIONS", &["/carried_kills"]),
    ("LAST REFUSAL", &["/last_refusal"]),
];

const FROZEN_COLUMNS: [Column; 3] =
    [("FROZEN TENANT", &["/tenant"]), ("AT REVISION", &["/before"]), ("REFUSED", &["/refused"])];

async fn drift(cx: &mut Context<'_, '_, ()>) -> Result<(), Failure> {
    let fleet = cx.client.get("/v1/fleet").await?;
    let hub = cx.client.get("/v1/status").await?;
    let drifted: Vec<Value> = members(&fleet).iter().filter(|member| differs(member)).map(drifting).collect();
    let frozen = hub.get("frozen").and_then(Value::as_array).cloned().unwrap_or_default();
    if cx.out.is_json() {
        let serving = hub.get("serving").cloned().unwrap_or_default();
        return Ok(cx.out.json(&json!({ "serving": serving, "frozen": frozen, "members": drifted }))?);
    }
    if drifted.is_empty() && frozen.is_empty() {
        return Ok(cx.out.line("every enforcement point holds what the hub holds")?);
    }
    if !drifted.is_empty() {
        cx.out.line(Table::of(&DRIFT_COLUMNS, &drifted))?;
    }
    if !frozen.is_empty() {
        cx.out.line(Table::of(&FROZEN_COLUMNS, &frozen))?;
    }
    Ok(())
}

fn differs(member: &Value) -> bool {
    let counted = |field: &str| member.get(field).and_then(Value::as_u64).unwrap_or(0) > 0;
    let refused = member.get("refusals").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    counted("drift_found") || counted("carried_kills") || refused
}

fn drifting(member: &Value) -> Value {
    let mut row = member.clone();
    let refusals = member.get("refusals").and_then(Value::as_array);
    row["last_refusal"] = refusals.and_then(|list| list.last()).cloned().unwrap_or_default();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_amiss_with_the_hub_shows() {
        let hub = |serving: bool, present: bool, apart: Value| {
            json!({
            "serving": serving, "witness": { "file": "/w", "present": present, "apart": apart } })
        };
        for (hub, told) in [
            (hub(true, true, json!(true)), &[][..]),
            (hub(true, true, Value::Null), &[]),
            (hub(true, true, json!(false)), &["another volume"]),
            (hub(true, false, json!(true)), &["is gone"]),
            (hub(false, true, json!(true)), &["portreeve hub restore"]),
            (json!({}), &[]),
        ] {
            let warnings = hub_warnings(&hub);
            assert_eq!(warnings.len(), told.len(), "{hub}: {warnings:?}");
            assert!(warnings.iter().zip(told).all(|(warning, told)| warning.contains(told)), "{warnings:?}");
        }
    }

    #[test]
    fn revocations_ahead_of_the_order_show() {
        let cells = json!([{ "tenant": "demo", "revision": 15, "kill_revision": 17 },
                           { "tenant": "ops", "revision": 9, "kill_revision": 9 }]);
        let row = with_positions(&json!({ "incarnation": "0123456789abcdef", "cells": cells }));
        assert_eq!(row["in_force"], "demo 15+17, ops 9");
        assert_eq!(row["incarnation"], "01234567");
    }
}
