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
    let (of, named) = (tenant.clone(), revocation.clone());
    let found = context.work(move |context| context.feed.store().record(&of, kind, &named)).await??;
    let found = found.ok_or_else(|| Problem::not_found(detail))?;
    let asked = Asked { revision: found.revision, revocation: Some((tenant, revocation)) };
    answer(&context, asked, &params).await
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
    answer(&context, Asked { revision, revocation: None }, &params).await
}

/// A commit whose receipt is asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) revision: u64,
    /// The tenant and the revocation, where they are known.
    pub(super) revocation: Option<(Name, Name)>,
}

/// What is known of a commit.
pub(super) enum Known {
    /// The log, or a record, says what it was.
    Facts(Box<RevisionFacts>),
    /// Only receipts are left of it, or the epoch that was left.
    Kept(Box<Receipt>),
}

impl Known {
    /// The receipt as of now.
    pub(super) fn receipt(&self, context: &Context) -> Receipt {
        match self {
            Self::Facts(facts) => context.roster.receipt(facts),
            Self::Kept(receipt) => (**receipt).clone(),
        }
    }
}

/// What is known of a commit; also of a revocation just made, or made long ago.
pub(super) async fn known(context: &Arc<Context>, asked: Asked) -> Result<Known, Problem> {
    let revision = asked.revision;
    match context.work(move |context| context.feed.store().logged(revision)).await? {
        Err(StoreError::Compacted { .. }) => {
            // Whoever holds state at another hub counts, too.
            context.roster.meet().await?;
            Ok(context.work(move |context| trimmed(context, &asked)).await??)
        }
        logged => Ok(Known::Facts(Box::new(facts(context, revision, logged?).await?))),
    }
}

/// A commit that the log does not hold: trimmed, or from before a restoration.
fn trimmed(context: &Context, asked: &Asked) -> Result<Known, StoreError> {
    let store = context.feed.store();
    let revision = asked.revision;
    let (kept, guarantee) = (store.receipts(revision)?, store.guarantee()?);
    if let Some((cell, revocation)) = revocation_of(&**store, asked)? {
        return Ok(Known::Facts(Box::new(RevisionFacts {
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
    Ok(Known::Kept(Box::new(Receipt::kept(revision, &kept, &guarantee))))
}

/// The revocation that was made by a commit, and whose it is.
fn revocation_of(store: &dyn StateStore, asked: &Asked) -> Result<Option<(Name, Revocation)>, StoreError> {
    let places: Vec<_> = match (&asked.revocation, Name::parse(&format!("r{}", asked.revision))) {
        (Some(named), _) => vec![named.clone()],
        (None, Ok(name)) => store.cells()?.1.into_iter().map(|cell| (cell.tenant, name.clone())).collect(),
        (None, Err(_)) => Vec::new(),
    };
    for (tenant, name) in places {
        let found = store.record(&tenant, RecordKind::Revocation, &name)?;
        let record = found.and_then(|found| found.change().ok()).and_then(|change| change.record);
        if let Some(Record::Revocation(revocation)) = record {
            return Ok(Some((tenant, revocation.as_ref().clone())));
        }
    }
    Ok(None)
}

async fn facts(
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

async fn answer(context: &Arc<Context>, asked: Asked, params: &WaitParams) -> Result<Json<Receipt>, Problem> {
    let known = known(context, asked).await?;
    if let Known::Kept(receipt) = known {
        return Ok(Json(*receipt));
    }
    let wait = Duration::from_millis(params.wait_ms.unwrap_or(0).min(WAIT_MS_MAX));
    let mut changes = context.roster.subscribe();
    let news = async {
        loop {
            changes.mark_unchanged();
            let receipt = known.receipt(context);
            let is_news = params.seen.is_none_or(|seen| receipt.settled != seen);
            if receipt.state == ReceiptState::Effective || params.seen.is_none() {
                return receipt;
            }
            // Each look and each answer costs as much as there are members: in a large fleet news is gathered.
            tokio::time::sleep(pace(receipt.members.len())).await;
            if is_news {
                return known.receipt(context);
            }
            // A lease can end without anyone saying so: look again soon.
            tokio::time::timeout(LOOK_AGAIN, changes.changed()).await.ok();
        }
    };
    let receipt = tokio::select! {
        receipt = tokio::time::timeout(wait, news) => receipt.ok(),
        () = context.shutdown.cancelled() => None,
    };
    Ok(Json(receipt.unwrap_or_else(|| known.receipt(context))))
}

/// How long news is gathered: 20 µs a member, so that a thousand acknowledgements make some dozen answers.
fn pace(members: usize) -> Duration {
    Duration::from_micros(20 * members as u64).min(PACE_MAX)
}

const PACE_MAX: Duration = Duration::from_millis(100);
const WAIT_MS_MAX: u64 = 30_000;
const LOOK_AGAIN: Duration = Duration::from_millis(200);
