//! Receipts: is it effective everywhere, and since when.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

use super::exchange::{Params, kind, name};
use super::problem::Problem;
use super::{Context, Shared};
use crate::core::id::Name;
use crate::core::identity::{Change, Record, RecordKind, Revocation};
use crate::hub::restore;
use crate::hub::roster::{Receipt, ReceiptState, RevisionFacts};
use crate::hub::store::{Logged, StateStore, StoreError};
use crate::wire::state::decode_body;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitParams {
    wait_ms: Option<u64>,
    seen: Option<usize>,
}

/// Whether a revocation is effective. With `wait_ms` and `seen` it waits for news.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/revocations/{name}/receipts", tag = "revocations", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("name" = String, Path, description = "The revocation's name"),
        ("wait_ms" = Option<u64>, Query, description = "Answer when there is news or after this long; at most 30000"),
        ("seen" = Option<usize>, Query, description = "The `settled` last seen; another one, or EFFECTIVE, is news"),
    ),
    responses(
        (status = 200, description = "The receipt", body = Receipt),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_revocation(
    State(context): Shared,
    Path((tenant, revocation)): Path<(String, String)>,
    Params(params): Params<WaitParams>,
) -> Result<Json<Receipt>, Problem> {
    let (tenant, revocation) = (name(&tenant, "tenant")?, name(&revocation, "name")?);
    let detail = format!("no revocation of tenant `{tenant}` is named `{revocation}`");
    let kind = kind("revocation")?;
    let found =
        context.work(move |context| context.feed.store().record(&tenant, kind, &revocation)).await??;
    let found = found.ok_or_else(|| Problem::not_found(detail))?;
    answer(&context, found.revision, &params).await
}

/// Whether any commit is effective.
#[utoipa::path(
    get, path = "/v1/revisions/{revision}/receipts", tag = "revocations", security(("admin" = [])),
    params(
        ("revision" = u64, Path, description = "The revision"),
        ("wait_ms" = Option<u64>, Query, description = "Answer when there is news or after this long; at most 30000"),
        ("seen" = Option<usize>, Query, description = "The `settled` last seen; another one, or EFFECTIVE, is news"),
    ),
    responses(
        (status = 200, description = "The receipt", body = Receipt),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_revision(
    State(context): Shared,
    Path(revision): Path<String>,
    Params(params): Params<WaitParams>,
) -> Result<Json<Receipt>, Problem> {
    let revision = revision.parse().map_err(|_| Problem::not_found("expected a revision, a number"))?;
    answer(&context, revision, &params).await
}

/// A commit that the log does not hold: trimmed, or from before a restoration.
enum Trimmed {
    /// A record says what it was.
    Known(Box<RevisionFacts>),
    /// Only receipts are left of it, or the epoch that was left.
    Kept(Box<Receipt>),
}

fn trimmed(context: &Context, revision: u64) -> Result<Trimmed, StoreError> {
    let store = context.feed.store();
    let (kept, guarantee) = (store.receipts(revision)?, store.guarantee()?);
    if let Some((cell, revocation)) = revocation_of(&**store, revision)? {
        return Ok(Trimmed::Known(Box::new(RevisionFacts {
            revision,
            cell,
            // Asked for just before; by now every lease that counts from it is over.
            committed_at: revocation.at,
            committed: context.feed.acknowledged_by(revision),
            denies: true,
            kept,
            guarantee,
        })));
    }
    let was_left = restore::begins(&**store)?.is_some_and(|begins| revision <= begins);
    if kept.is_empty() && !was_left {
        return Err(StoreError::Compacted { oldest: store.oldest()? });
    }
    Ok(Trimmed::Kept(Box::new(Receipt::kept(revision, &kept, &guarantee))))
}

/// The revocation that was made by a commit, and whose it is.
fn revocation_of(store: &dyn StateStore, revision: u64) -> Result<Option<(Name, Revocation)>, StoreError> {
    let Ok(name) = Name::parse(&format!("r{revision}")) else { return Ok(None) };
    for cell in store.cells()?.1 {
        let found = store.record(&cell.tenant, RecordKind::Revocation, &name)?;
        let record = found.and_then(|found| found.change().ok()).and_then(|change| change.record);
        if let Some(Record::Revocation(revocation)) = record {
            return Ok(Some((cell.tenant, revocation.as_ref().clone())));
        }
    }
    Ok(None)
}

/// What is known of a revision; also used for a revocation just made.
pub(super) async fn facts(context: &Arc<Context>, revision: u64) -> Result<RevisionFacts, Problem> {
    let logged = context.work(move |context| context.feed.store().logged(revision)).await??;
    facts_of(context, revision, logged).await
}

async fn facts_of(
    context: &Arc<Context>,
    revision: u64,
    logged: Option<Logged>,
) -> Result<RevisionFacts, Problem> {
    let logged = logged.ok_or_else(|| Problem::not_found(format!("no commit is of revision {revision}")))?;
    // Whoever joined another hub before the commit is known from here on.
    context.roster.meet().await?;
    let own = context.feed.acknowledged(revision).map(|now| now.wall);
    // Of a shared store the time is that of the hub that committed, once it is noted.
    let own = own.filter(|_| !context.feed.store().is_shared() || logged.acknowledged_at.is_none());
    let changes = decode_body(&logged.body).map_err(|e| {
        Problem::unavailable(format!("the commit of revision {revision} cannot be read: {e}"))
    })?;
    let kept = context.work(move |context| {
        let store = context.feed.store();
        Ok::<_, StoreError>((store.receipts(revision)?, store.guarantee()?))
    });
    let (kept, guarantee) = kept.await??;
    Ok(RevisionFacts {
        kept,
        guarantee,
        denies: changes.iter().all(Change::denies),
        revision,
        cell: logged.tenant,
        committed_at: own.or(logged.acknowledged_at).unwrap_or(logged.at).max(logged.at),
        committed: context.feed.acknowledged_by(revision),
    })
}

async fn answer(
    context: &Arc<Context>,
    revision: u64,
    params: &WaitParams,
) -> Result<Json<Receipt>, Problem> {
    let facts = match context.work(move |context| context.feed.store().logged(revision)).await? {
        Err(StoreError::Compacted { .. }) => {
            match context.work(move |context| trimmed(context, revision)).await?? {
                Trimmed::Known(facts) => *facts,
                Trimmed::Kept(receipt) => return Ok(Json(*receipt)),
            }
        }
        logged => facts_of(context, revision, logged?).await?,
    };
    let wait = Duration::from_millis(params.wait_ms.unwrap_or(0).min(WAIT_MS_MAX));
    let mut changes = context.roster.subscribe();
    let news = async {
        loop {
            changes.mark_unchanged();
            let receipt = context.roster.receipt(&facts);
            let is_news = params.seen.is_none_or(|seen| receipt.settled != seen);
            if receipt.state == ReceiptState::Effective || params.seen.is_none() {
                return receipt;
            }
            // Each look and each answer costs as much as there are members: in a large fleet news is gathered.
            tokio::time::sleep(pace(receipt.members.len())).await;
            if is_news {
                return context.roster.receipt(&facts);
            }
            // A lease can end without anyone saying so: look again soon.
            tokio::time::timeout(LOOK_AGAIN, changes.changed()).await.ok();
        }
    };
    let receipt = tokio::select! {
        receipt = tokio::time::timeout(wait, news) => receipt.ok(),
        () = context.shutdown.cancelled() => None,
    };
    Ok(Json(receipt.unwrap_or_else(|| context.roster.receipt(&facts))))
}

/// How long news is gathered: 20 µs a member, so that a thousand acknowledgements make some dozen answers.
fn pace(members: usize) -> Duration {
    Duration::from_micros(20 * members as u64).min(PACE_MAX)
}

const PACE_MAX: Duration = Duration::from_millis(100);
const WAIT_MS_MAX: u64 = 30_000;
const LOOK_AGAIN: Duration = Duration::from_millis(200);
