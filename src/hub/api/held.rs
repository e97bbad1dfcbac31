//! Changes that deny too many identities at once: held, listed, answered.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exchange::Body;
use super::problem::Problem;
use super::{Caller, Context, Shared};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::hub::authority::{Applied, Authority, Document, Pass, RecordView, Refusal, Revoke, Revoked};
use crate::hub::guard::Excess;
use crate::hub::held::{Asked, Held, HeldDocument, Request};
use crate::hub::model::life::Transition;
use crate::hub::model::{Faults, read_reason};

/// What waits, or waited, for a second approval.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldPage {
    /// Each, oldest first; those that are over stay for thirty days.
    items: Vec<Held>,
}

/// A change that was held and not committed: it has no revision and no T.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldAnswer {
    /// It.
    pub(super) held: Held,
}

/// Why it is answered so.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `reason`")]
pub(crate) struct Answer {
    /// Why.
    reason: String,
}

/// Lists changes that wait for a second approval, and those that were answered.
#[utoipa::path(
    get, path = "/v1/held", tag = "revocations", security(("admin" = [])),
    responses(
        (status = 200, description = "All of them", body = HeldPage),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(context): Shared) -> Result<Json<HeldPage>, Problem> {
    let now = context.clock.now().wall;
    let items = context.work(move |context| context.authority.held().list(now)).await??;
    Ok(Json(HeldPage { items }))
}

/// Shows one.
#[utoipa::path(
    get, path = "/v1/held/{id}", tag = "revocations", security(("admin" = [])),
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "It", body = HeldAnswer),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(context): Shared,
    Path(id): Path<String>,
) -> Result<Json<HeldAnswer>, Problem> {
    let now = context.clock.now().wall;
    let held = context.work(move |context| context.authority.held().show(&id, now)).await??;
    Ok(Json(HeldAnswer { held }))
}

/// Approves one: by another principal than asked for it. It is judged again and committed, in parts that
/// each deny no more than the limit, each with its own T.
#[utoipa::path(
    post, path = "/v1/held/{id}/approve", tag = "revocations", security(("admin" = [])),
    params(("id" = String, Path, description = "Its name")),
    request_body = Answer,
    responses(
        (status = 200, description = "It, with the revisions it was committed as", body = HeldAnswer),
        (status = 403, description = "Whoever asked cannot approve", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is over, or does not go with what is held now", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn approve(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Path(id): Path<String>,
    Body(answer): Body<Answer>,
) -> Result<Json<HeldAnswer>, Problem> {
    answered(&context, (id, by), &answer, |context, id, by, reason| Ok(release(context, id, by, reason)?.0))
        .await
}

/// Rejects one: it is never committed.
#[utoipa::path(
    post, path = "/v1/held/{id}/reject", tag = "revocations", security(("admin" = [])),
    params(("id" = String, Path, description = "Its name")),
    request_body = Answer,
    responses(
        (status = 200, description = "It", body = HeldAnswer),
        (status = 409, description = "It is over", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn reject(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Path(id): Path<String>,
    Body(answer): Body<Answer>,
) -> Result<Json<HeldAnswer>, Problem> {
    answered(&context, (id, by), &answer, |context, id, by, reason| {
        let held = context.authority.held().reject(id, (by, reason), context.clock.now().wall)?;
        tracing::warn!(held = held.id, by, reason, "a held change was rejected");
        Ok(held)
    })
    .await
}

/// Answers one as `answer` does, for `by`, with the reason given.
async fn answered(
    context: &Arc<Context>,
    (id, by): (String, Arc<str>),
    given: &Answer,
    answer: impl FnOnce(&Context, &str, &str, &str) -> Result<Held, Refusal> + Send + 'static,
) -> Result<Json<HeldAnswer>, Problem> {
    let reason = read_reason(&given.reason)?;
    let held = context.work(move |context| answer(context, &id, &by, &reason)).await??;
    Ok(Json(HeldAnswer { held }))
}

/// A change as it is asked of the authority, and again when it is let through.
pub(super) struct Ask {
    pub(super) tenant: Name,
    pub(super) request: Request,
    /// What it does, in words.
    pub(super) what: String,
    pub(super) by: Arc<str>,
    /// Why the glass is broken, if so.
    pub(super) break_glass: Option<Arc<str>>,
}

/// What came of it.
pub(super) enum Outcome {
    Revoked(Revoked),
    Applied(Applied),
    Record(RecordView),
    Held(Held),
}

impl Ask {
    /// Does what is asked, or holds it; with the glass broken, holds it on record and lets it through.
    pub(super) fn run(&self, context: &Context) -> Result<Outcome, Refusal> {
        let asked = perform(&context.authority, &self.tenant, &self.request, &self.by, &mut Pass::guarded());
        match asked {
            Err(Refusal::Guarded(excess)) => self.hold(context, excess),
            other => other,
        }
    }

    pub(super) fn hold(&self, context: &Context, excess: Excess) -> Result<Outcome, Refusal> {
        let asked = Asked {
            tenant: &self.tenant,
            what: self.what.clone(),
            excess,
            by: &self.by,
            break_glass: self.break_glass.is_some(),
        };
        let held = context.authority.held().hold(asked, &self.request, context.clock.now().wall)?;
        tracing::warn!(
            held = held.id,
            tenant = held.tenant,
            by = held.requested_by,
            what = held.what,
            denied = held.denied,
            limit = held.limit,
            break_glass = held.break_glass,
            "a change denies more identities than may be denied at once"
        );
        match &self.break_glass {
            Some(reason) => Ok(release(context, &held.id, &self.by, reason)?.1),
            None => Ok(Outcome::Held(held)),
        }
    }
}

/// Commits a held change that `by` approves.
fn release(context: &Context, id: &str, by: &str, reason: &str) -> Result<(Held, Outcome), Refusal> {
    let (authority, now) = (&context.authority, context.clock.now().wall);
    let (held, request) = authority.held().approve(id, (by, reason), now)?;
    tracing::warn!(held = id, by, reason, break_glass = held.break_glass, "a held change is let through");
    let tenant = Name::parse(&held.tenant).map_err(|e| Refusal::Invalid(Faults::one("tenant", e)))?;
    let mut pass = Pass::approved();
    let done = perform(authority, &tenant, &request, &held.requested_by, &mut pass);
    let failed = done.as_ref().err().map(ToString::to_string);
    let held = authority.held().settle(id, pass.revisions(), failed, now)?;
    Ok((held, done?))
}

/// Asks the authority.
fn perform(
    authority: &Authority,
    tenant: &Name,
    request: &Request,
    by: &str,
    pass: &mut Pass,
) -> Result<Outcome, Refusal> {
    match request {
        Request::Revoke { target, reason } => {
            let asked = Revoke {
                target: target.read(authority.now())?,
                reason: read_reason(reason)?,
                requested_by: Arc::from(by),
            };
            authority.revoke(tenant, &asked, pass).map(Outcome::Revoked)
        }
        Request::Status { name, status, reason } => {
            let name = Name::parse(name).map_err(|e| Refusal::Invalid(Faults::one("name", e)))?;
            let asked = Transition { to: (*status).into(), lifts: Vec::new() };
            authority.transition(tenant, &name, &asked, reason, pass).map(Outcome::Record)
        }
        Request::Apply { documents, expect_revision } => {
            let documents =
                documents.iter().map(|held| document(tenant, held)).collect::<Result<Vec<_>, _>>()?;
            match (&documents[..], expect_revision) {
                ([only], Some(_)) => authority.replace(only, *expect_revision, pass).map(Outcome::Record),
                (all, _) => authority.apply(all, false, pass).map(Outcome::Applied),
            }
        }
    }
}

/// A document as it is kept.
pub(super) fn kept(document: &Document) -> HeldDocument {
    HeldDocument {
        kind: document.kind.as_str().to_owned(),
        name: document.name.to_string(),
        spec: document.spec.clone(),
        at: document.at.clone(),
    }
}

fn document(tenant: &Name, held: &HeldDocument) -> Result<Document, Refusal> {
    Ok(Document {
        kind: RecordKind::parse(&held.kind).ok_or_else(|| unreadable("kind"))?,
        tenant: tenant.clone(),
        name: Name::parse(&held.name).map_err(|_| unreadable("name"))?,
        spec: held.spec.clone(),
        at: held.at.clone(),
    })
}

fn unreadable(at: &str) -> Refusal {
    Refusal::Invalid(Faults::one(at, "the held change cannot be read"))
}

/// The answer to a change that was held.
pub(super) fn accepted(held: Held) -> Response {
    (StatusCode::ACCEPTED, Json(HeldAnswer { held })).into_response()
}
