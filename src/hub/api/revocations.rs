//! Taking away.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exchange::{Body, name};
use super::problem::Problem;
use super::{Shared, receipts};
use crate::hub::authority::Revoke;
use crate::hub::model::{TargetSpec, read_reason};
use crate::hub::roster::Receipt;

/// What to revoke, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `target` and `reason`")]
pub(crate) struct NewRevocation {
    /// What.
    target: TargetSpec,
    /// Why.
    reason: String,
}

/// A revocation that stands, with its receipt as of now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RevocationMade {
    /// Its name.
    name: String,
    #[serde(flatten)]
    receipt: Receipt,
}

/// Revokes a token, a credential, what was issued before a time, or a whole identity.
/// What is revoked already stays as it is: 200 with the revocation that stands.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/revocations", tag = "revocations", security(("admin" = [])),
    params(("tenant" = String, Path, description = "The tenant")),
    request_body = NewRevocation,
    responses(
        (status = 201, description = "The revocation", body = RevocationMade),
        (status = 200, description = "It was revoked before", body = RevocationMade),
        (status = 404, description = "What is named does not exist", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    State(context): Shared,
    Path(tenant): Path<String>,
    Body(new): Body<NewRevocation>,
) -> Result<(StatusCode, Json<RevocationMade>), Problem> {
    let tenant = name(&tenant, "tenant")?;
    let asked = Revoke {
        target: new.target.read(context.clock.now().wall)?,
        reason: read_reason(&new.reason)?,
        requested_by: Arc::from("admin"),
    };
    let revoked = context.work(move |context| context.authority.revoke(&tenant, &asked)).await??;
    let facts = receipts::facts(&context, revoked.revision).await?;
    let status = if revoked.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let made = RevocationMade { name: revoked.name.to_string(), receipt: context.roster.receipt(&facts) };
    Ok((status, Json(made)))
}
