//! The fleet.

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::problem::Problem;
use crate::hub::roster::Fleet;

/// Every enforcement point incarnation that may hold state under a lease.
#[utoipa::path(
    get, path = "/v1/fleet", tag = "fleet", security(("admin" = [])),
    responses(
        (status = 200, description = "The members", body = Fleet),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(State(context): Shared) -> Json<Fleet> {
    Json(context.roster.fleet())
}
