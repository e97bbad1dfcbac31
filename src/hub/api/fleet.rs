//! The fleet.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::admission::AdmissionView;
use super::problem::Problem;
use crate::hub::roster::Fleet;

/// The fleet: who holds state, and who may.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FleetView {
    #[serde(flatten)]
    fleet: Fleet,
    /// Every enforcement point whose admission is not the hub's default.
    admissions: Vec<AdmissionView>,
}

/// Every enforcement point incarnation that may hold state under a lease.
#[utoipa::path(
    get, path = "/v1/fleet", tag = "fleet", security(("admin" = [])),
    responses(
        (status = 200, description = "The members", body = FleetView),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(State(context): Shared) -> Result<Json<FleetView>, Problem> {
    let admissions = context.work(|context| context.enrolling.admissions.all()).await??;
    let admissions = admissions.iter().map(|(id, held)| AdmissionView::of(id, held)).collect();
    Ok(Json(FleetView { fleet: context.roster.fleet(), admissions }))
}
