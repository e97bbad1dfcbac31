//! Waiting until a revision is in force everywhere, receipt by receipt.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Table, aligned, cell, plain};
use crate::cli::target::Context;
use crate::cli::value::When;

/// Longest time the hub is asked to hold one answer back.
const POLL_WAIT: Duration = Duration::from_secs(10);
/// Shortest time between two questions that brought nothing new.
const POLL_PAUSE: Duration = Duration::from_millis(250);

/// What is shown of a receipt.
const MEMBER_COLUMNS: [Column; 7] = [
    ("ENFORCEMENT POINT", &["/spoke_id"]),
    ("INCARNATION", &["/incarnation"]),
    ("STATE", &["/state"]),
    ("AT", &["/at"]),
    ("PURGED", &["/purged"]),
    ("ENDED STREAMS", &["/ended_streams"]),
    ("WAIVED ROUTES", &["/waived_routes"]),
];

/// Widths of those columns when rows are printed one by one.
const MEMBER_WIDTHS: [usize; 7] = [20, 32, 8, 27, 6, 13, 13];

/// The enforcement points that a revision is waited for, or was.
pub(in crate::cli) fn members(receipts: &Value) -> &[Value] {
    receipts.get("members").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether no enforcement point can decide on older state.
pub(in crate::cli) fn is_effective(receipts: &Value) -> bool {
    receipts.get("state").and_then(Value::as_str) == Some("EFFECTIVE")
}

/// Whether an enforcement point can no longer decide on older state: it confirmed, or its
/// lease ran out. Every state but `pending` is such.
fn has_answered(member: &Value) -> bool {
    member.get("state").and_then(Value::as_str).is_some_and(|state| state != "pending")
}

/// Waits until `revision` is in force everywhere, printing receipts as they arrive.
pub(super) async fn until_effective(
    cx: &mut Context<'_, '_>,
    committed: Value,
    revision: u64,
    timeout: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let mut shown = Shown::default();
    loop {
        let asked = Instant::now();
        let left = deadline.saturating_duration_since(asked);
        let wait = left.min(POLL_WAIT);
        let path = format!(
            "/v1/revisions/{revision}/receipts?wait_ms={}&seen={}",
            wait.as_millis(),
            shown.settled()
        );
        let news = match cx.client.get_waiting(&path, wait).await {
            Ok(receipts) => {
                let news = shown.show(cx, &receipts)?;
                if is_effective(&receipts) {
                    return finish(cx, &committed, &receipts);
                }
                shown.last = Some(receipts);
                news
            }
            Err(error) if error.is_passing() && !left.is_zero() => {
                cx.out.note(format_args!("warning: {error}; still waiting"));
                false
            }
            Err(error) => {
                let committed = format!("the revocation is committed as revision {revision}");
                return Err(Failure::from(error).with_details(vec![committed]));
            }
        };
        if left.is_zero() {
            return give_up(cx, &committed, &shown, revision, timeout);
        }
        // A hub that answers at once with nothing new is not asked at full speed.
        if !news && asked.elapsed() < POLL_PAUSE {
            tokio::time::sleep(POLL_PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }
}

/// What has been printed so far.
#[derive(Default)]
struct Shown {
    members: BTreeSet<(String, String)>,
    last: Option<Value>,
}

impl Shown {
    /// How many were settled in the last answer: the hub answers again once that changes.
    fn settled(&self) -> u64 {
        self.last.as_ref().and_then(|receipts| receipts.get("settled")).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Prints the receipts that are new; says whether there were any.
    fn show(&mut self, cx: &mut Context<'_, '_>, receipts: &Value) -> Result<bool, Failure> {
        let mut news = false;
        for member in members(receipts).iter().filter(|member| has_answered(member)) {
            let [spoke, incarnation] = ["spoke_id", "incarnation"].map(|field| cell(member.get(field)));
            if !self.members.insert((spoke, incarnation)) {
                continue;
            }
            if !cx.out.is_json() {
                if self.members.len() == 1 {
                    let head = MEMBER_COLUMNS.map(|(head, _)| head.to_owned());
                    cx.out.line(aligned(&head, &MEMBER_WIDTHS))?;
                }
                cx.out.line(aligned(&row(member), &MEMBER_WIDTHS))?;
            }
            news = true;
        }
        Ok(news)
    }
}

fn row(member: &Value) -> Vec<String> {
    MEMBER_COLUMNS.iter().map(|(_, at)| cell(at.iter().find_map(|pointer| member.pointer(pointer)))).collect()
}

fn finish(cx: &mut Context<'_, '_>, committed: &Value, receipts: &Value) -> Result<(), Failure> {
    if members(receipts).is_empty() {
        cx.out.note(
            "warning: no enforcement point is connected: the revocation is committed, nothing enforces it",
        );
    }
    if cx.out.is_json() {
        return Ok(cx.out.json(&json!({ "revocation": committed, "receipts": receipts }))?);
    }
    let since = cell(receipts.get("effective_since"));
    let elapsed = elapsed(committed, receipts).map(|t| format!(", {t} after its commit")).unwrap_or_default();
    let count = members(receipts).len();
    let points = if count == 1 { "enforcement point" } else { "enforcement points" };
    Ok(cx.out.line(format_args!("in force everywhere since {since}{elapsed} ({count} {points})"))?)
}

/// From commit to effect, as the hub's clock saw both.
fn elapsed(committed: &Value, receipts: &Value) -> Option<String> {
    let time = |value: Option<&Value>| When::parse(value?.as_str()?).ok();
    let from = time(receipts.get("committed_at").or_else(|| committed.get("committed_at")))?;
    let span = time(receipts.get("effective_since"))?.since(from)?;
    Some(if span < Duration::from_secs(1) {
        format!("{:.1} ms", span.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", span.as_secs_f64())
    })
}

fn give_up(
    cx: &mut Context<'_, '_>,
    committed: &Value,
    shown: &Shown,
    revision: u64,
    timeout: Duration,
) -> Result<(), Failure> {
    let receipts = shown.last.as_ref();
    if cx.out.is_json() {
        cx.out.json(&json!({ "revocation": committed, "receipts": receipts }))?;
    }
    let missing: Vec<String> = receipts
        .map_or(&[][..], members)
        .iter()
        .filter(|member| !has_answered(member))
        .map(|member| cell(member.get("spoke_id")))
        .collect();
    let who =
        if missing.is_empty() { "the hub has not said for whom".to_owned() } else { missing.join(", ") };
    let after = format!("{}.{:03}s", timeout.as_secs(), timeout.subsec_millis());
    let details = vec![
        format!("missing: {}", plain(&who)),
        format!("the revocation is committed as revision {revision} and stays so"),
        format!("look again: portreeve fleet receipts {revision}"),
    ];
    Err(Failure::failed(format!("not in force everywhere after {after}")).with_details(details))
}

/// The receipts as a table.
pub(in crate::cli) fn receipts_table(receipts: &Value) -> Table {
    Table::of(&MEMBER_COLUMNS, members(receipts))
}
