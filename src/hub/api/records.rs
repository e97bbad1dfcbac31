//! Records, one at a time.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::exchange::{Body, Params, kind, name};
use super::held::{Ask, HeldAnswer, Outcome, accepted, kept};
use super::problem::Problem;
use super::{Caller, Shared};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::hub::authority::{Document, Pass, RecordView, Refusal};
use crate::hub::held::Request;
use crate::hub::model::life::Transition;
use crate::hub::model::{Faults, IdentityStatusSpec, Spec, read_reason};
use crate::hub::store::StoredRecord;

/// A page of records.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecordPage {
    /// The records, by name.
    items: Vec<RecordView>,
    /// Ask again with `after` set to this; `null`: there are no more.
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageParams {
    after: Option<String>,
    limit: Option<usize>,
}

/// A record to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `name` and `spec`")]
pub(crate) struct NewRecord {
    /// Its name.
    name: String,
    /// What it says.
    #[schema(value_type = Spec)]
    spec: Value,
}

/// A record to replace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `spec`")]
pub(crate) struct Replacement {
    /// What it says.
    #[schema(value_type = Spec)]
    spec: Value,
    /// The revision it must stand at.
    #[serde(default)]
    expect_revision: Option<u64>,
}

/// A step in an identity's life.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `status` and `reason`")]
pub(crate) struct StatusChange {
    /// `active`, `suspended` or `retired`.
    status: IdentityStatusSpec,
    /// Why.
    reason: String,
    /// With `active`: the revocations of the whole identity that this lifts, all by name.
    #[serde(default)]
    lifts: Vec<String>,
    /// Whether it is let through although more identities are denied than may be at once; it is on
    /// record then, with the reason.
    #[serde(default)]
    break_glass: bool,
}

/// What a removal made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Removed {
    /// Its revision.
    revision: u64,
}

/// Lists the live records of a kind.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/{kind}", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("kind" = String, Path, description = "identity, credential, issuer, revocation, policy, exception, resource"),
        ("after" = Option<String>, Query, description = "Names after this one"),
        ("limit" = Option<usize>, Query, description = "At most this many; 100 unless told, at most 1000"),
    ),
    responses(
        (status = 200, description = "A page", body = RecordPage),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(context): Shared,
    Path((tenant, kind_text)): Path<(String, String)>,
    Params(params): Params<PageParams>,
) -> Result<Json<RecordPage>, Problem> {
    let (tenant, kind) = (name(&tenant, "tenant")?, kind(&kind_text)?);
    let after = params.after.map(|after| name(&after, "after")).transpose()?;
    let limit = params.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::invalid(Faults::one("limit", "expected 1 to 1000")));
    }
    let page = context
        .work(move |context| {
            let page = context.feed.store().page(&tenant, kind, after.as_ref(), limit)?;
            let items = page.records.iter().map(|record| view(&tenant, record));
            let items = items.collect::<Result<Vec<_>, Refusal>>()?;
            Ok::<_, Refusal>(RecordPage { items, next: page.next.map(|name| name.to_string()) })
        })
        .await??;
    Ok(Json(page))
}

/// Shows one record.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/{kind}/{name}", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("kind" = String, Path, description = "The kind"),
        ("name" = String, Path, description = "The record's name"),
    ),
    responses(
        (status = 200, description = "The record", body = RecordView),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(context): Shared,
    Path((tenant, kind_text, record)): Path<(String, String, String)>,
) -> Result<Json<RecordView>, Problem> {
    let (tenant, kind, record) = (name(&tenant, "tenant")?, kind(&kind_text)?, name(&record, "name")?);
    let detail = format!("no {kind_text} of tenant `{tenant}` is named `{record}`");
    let found = context
        .work(move |context| {
            let found = context.feed.store().record(&tenant, kind, &record)?;
            let live = found.filter(|found| found.body.is_some());
            live.map(|found| view(&tenant, &found)).transpose()
        })
        .await??;
    found.map(Json).ok_or_else(|| Problem::not_found(detail))
}

fn view(tenant: &Name, record: &StoredRecord) -> Result<RecordView, Refusal> {
    let change = record.change().map_err(Refusal::Unreadable)?;
    Ok(RecordView::of(tenant, &change))
}

/// Creates a record.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/{kind}", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant; made with its first record"),
        ("kind" = String, Path, description = "The kind"),
    ),
    request_body = NewRecord,
    responses(
        (status = 201, description = "The record", body = RecordView),
        (status = 202, description = "It denies more identities than may be denied at once: held, with no T", body = HeldAnswer),
        (status = 409, description = "The name is or was taken", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Path((tenant, kind_text)): Path<(String, String)>,
    Body(new): Body<NewRecord>,
) -> Result<Response, Problem> {
    let document = document(&tenant, &kind_text, &new.name, new.spec)?;
    let made = context.work(move |context| match context.authority.create(&document, &mut Pass::guarded()) {
        Err(Refusal::Guarded(excess)) => written(&document, None, by).hold(context, excess),
        made => made.map(Outcome::Record),
    });
    answer(StatusCode::CREATED, made.await??)
}

/// A record to be written, to be held.
fn written(document: &Document, expect_revision: Option<u64>, by: Arc<str>) -> Ask {
    Ask {
        tenant: document.tenant.clone(),
        what: format!("write {} `{}`", document.kind.as_str(), document.name),
        request: Request::Apply { documents: vec![kept(document)], expect_revision },
        by,
        break_glass: None,
    }
}

fn answer(status: StatusCode, outcome: Outcome) -> Result<Response, Problem> {
    match outcome {
        Outcome::Record(view) => Ok((status, Json(view)).into_response()),
        Outcome::Held(held) => Ok(accepted(held)),
        Outcome::Revoked(_) | Outcome::Applied(_) => {
            Err(Problem::unavailable("a record came to something else"))
        }
    }
}

/// Replaces a record, or creates it when no revision is expected.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/{kind}/{name}", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("kind" = String, Path, description = "The kind"),
        ("name" = String, Path, description = "The record's name"),
    ),
    request_body = Replacement,
    responses(
        (status = 200, description = "The record", body = RecordView),
        (status = 202, description = "It denies more identities than may be denied at once: held, with no T", body = HeldAnswer),
        (status = 409, description = "It stands at another revision, or the step is not open", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replace(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Path((tenant, kind_text, record)): Path<(String, String, String)>,
    Body(replacement): Body<Replacement>,
) -> Result<Response, Problem> {
    let document = document(&tenant, &kind_text, &record, replacement.spec)?;
    let expected = replacement.expect_revision;
    let made = context.work(move |context| {
        match context.authority.replace(&document, expected, &mut Pass::guarded()) {
            Err(Refusal::Guarded(excess)) => written(&document, expected, by).hold(context, excess),
            made => made.map(Outcome::Record),
        }
    });
    answer(StatusCode::OK, made.await??)
}

const NO_DOCUMENT: &str = "status lists are not written: the hub fetches them";

fn document(tenant: &str, kind_text: &str, record: &str, spec: Value) -> Result<Document, Problem> {
    let kind = kind(kind_text)?;
    if kind == RecordKind::Revocation {
        return Err(Problem::method(
            "revocations are not written: `POST /v1/tenants/{tenant}/revocations` makes one",
            "GET",
        ));
    }
    if kind == RecordKind::StatusList {
        return Err(Problem::method(NO_DOCUMENT, "GET"));
    }
    Ok(Document {
        kind,
        tenant: name(tenant, "tenant")?,
        name: name(record, "name")?,
        spec,
        at: "spec".to_owned(),
    })
}

/// Removes a record. Its name is never used again.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}/{kind}/{name}", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("kind" = String, Path, description = "The kind; not identity, not revocation, not status-list"),
        ("name" = String, Path, description = "The record's name"),
    ),
    responses(
        (status = 200, description = "It is gone", body = Removed),
        (status = 405, description = "Records of this kind stay", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(context): Shared,
    Path((tenant, kind_text, record)): Path<(String, String, String)>,
) -> Result<Json<Removed>, Problem> {
    let (tenant, kind, record) = (name(&tenant, "tenant")?, kind(&kind_text)?, name(&record, "name")?);
    match kind {
        RecordKind::Identity => {
            let detail = format!("identities are not removed: `portreeve identity retire {record}`");
            return Err(Problem::method(detail, "GET, PUT"));
        }
        RecordKind::Revocation => {
            let detail = "revocations are not removed: `portreeve identity reinstate` names what it lifts";
            return Err(Problem::method(detail, "GET"));
        }
        RecordKind::StatusList => return Err(Problem::method(NO_DOCUMENT, "GET")),
        _ => {}
    }
    let revision = context.work(move |context| context.authority.remove(&tenant, kind, &record)).await??;
    Ok(Json(Removed { revision }))
}

/// Suspends, resumes or retires an identity.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/identity/{name}/status", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("name" = String, Path, description = "The identity's name"),
    ),
    request_body = StatusChange,
    responses(
        (status = 200, description = "The identity", body = RecordView),
        (status = 202, description = "It denies more identities than may be denied at once: held, with no T", body = HeldAnswer),
        (status = 409, description = "The step is not open", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn transition(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Path((tenant, identity)): Path<(String, String)>,
    Body(change): Body<StatusChange>,
) -> Result<Response, Problem> {
    let (tenant, identity) = (name(&tenant, "tenant")?, name(&identity, "name")?);
    let reason = read_reason(&change.reason)?;
    let lifts = change.lifts.iter().map(|lifted| name(lifted, "lifts")).collect::<Result<_, _>>()?;
    let asked = Transition { to: change.status.into(), lifts };
    let request =
        Request::Status { name: identity.to_string(), status: change.status, reason: reason.to_string() };
    let ask = Ask {
        tenant: tenant.clone(),
        what: format!("identity `{identity}` to {}", asked.to.as_str()),
        request,
        by,
        break_glass: change.break_glass.then(|| Arc::clone(&reason)),
    };
    let done = context.work(move |context| {
        match context.authority.transition(&tenant, &identity, &asked, &reason, &mut Pass::guarded()) {
            Err(Refusal::Guarded(excess)) => ask.hold(context, excess),
            done => done.map(Outcome::Record),
        }
    });
    answer(StatusCode::OK, done.await??)
}
