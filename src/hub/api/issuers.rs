//! Keys and status lists of issuers.

use axum::Json;
use axum::extract::{Path, State};

use super::Shared;
use super::exchange::name;
use super::problem::Problem;
use crate::core::id::Name;
use crate::hub::issuers::lists::IssuerLists;
use crate::hub::issuers::{Attempted, IssuerKeys};
use crate::hub::model::Faults;

/// An issuer's keys, and how fetching them went.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/issuer/{name}/keys", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("name" = String, Path, description = "The issuer's name"),
    ),
    responses(
        (status = 200, description = "The keys", body = IssuerKeys),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn keys(
    State(context): Shared,
    Path((tenant, issuer)): Path<(String, String)>,
) -> Result<Json<IssuerKeys>, Problem> {
    let key = (name(&tenant, "tenant")?, name(&issuer, "name")?);
    shown(&context, key).await
}

async fn shown(
    context: &std::sync::Arc<super::Context>,
    key: (Name, Name),
) -> Result<Json<IssuerKeys>, Problem> {
    let unknown = format!("no issuer of tenant `{}` is named `{}`", key.0, key.1);
    let found = context.work(move |context| context.issuers.keys(&key)).await??;
    found.map(Json).ok_or_else(|| Problem::not_found(unknown))
}

/// Fetches an issuer's keys now. What went wrong is in the answer.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/issuer/{name}/refresh", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("name" = String, Path, description = "The issuer's name"),
    ),
    responses(
        (status = 200, description = "The keys afterwards", body = IssuerKeys),
        (status = 409, description = "The keys are inline, or being fetched just now", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn refresh(
    State(context): Shared,
    Path((tenant, issuer)): Path<(String, String)>,
) -> Result<Json<IssuerKeys>, Problem> {
    let key = (name(&tenant, "tenant")?, name(&issuer, "name")?);
    match context.issuers.refresh(&key).await? {
        Attempted::Done(_) | Attempted::NotDue(_) => shown(&context, key).await,
        Attempted::Busy(_) => Err(Problem::conflict(Faults::one(
            "",
            "the keys are being fetched just now: ask again in a moment",
        ))),
        Attempted::NotFetched => {
            // Which of both it is, the record says.
            let Json(_) = shown(&context, key.clone()).await?;
            let message = format!("the keys of issuer `{}` are inline: nothing is fetched", key.1);
            Err(Problem::conflict(Faults::one("spec.keys", message)))
        }
    }
}

/// An issuer's status lists, and how fetching them went.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/issuer/{name}/status-lists", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("name" = String, Path, description = "The issuer's name"),
    ),
    responses(
        (status = 200, description = "The lists", body = IssuerLists),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn status_lists(
    State(context): Shared,
    Path((tenant, issuer)): Path<(String, String)>,
) -> Result<Json<IssuerLists>, Problem> {
    let key = (name(&tenant, "tenant")?, name(&issuer, "name")?);
    shown_lists(&context, key).await
}

async fn shown_lists(
    context: &std::sync::Arc<super::Context>,
    key: (Name, Name),
) -> Result<Json<IssuerLists>, Problem> {
    let unknown = format!("no issuer of tenant `{}` is named `{}`", key.0, key.1);
    let found = context.work(move |context| context.issuers.lists().show(&key)).await??;
    found.map(Json).ok_or_else(|| Problem::not_found(unknown))
}

/// Fetches an issuer's status lists now. What went wrong is in the answer.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/issuer/{name}/status-lists/refresh", tag = "records", security(("admin" = [])),
    params(
        ("tenant" = String, Path, description = "The tenant"),
        ("name" = String, Path, description = "The issuer's name"),
    ),
    responses(
        (status = 200, description = "The lists afterwards", body = IssuerLists),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn refresh_lists(
    State(context): Shared,
    Path((tenant, issuer)): Path<(String, String)>,
) -> Result<Json<IssuerLists>, Problem> {
    let key = (name(&tenant, "tenant")?, name(&issuer, "name")?);
    let Json(_) = shown_lists(&context, key.clone()).await?;
    context.issuers.lists().refresh(&key).await?;
    shown_lists(&context, key).await
}
