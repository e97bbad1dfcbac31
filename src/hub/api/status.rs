//! The hub itself.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Context, Shared};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::hub::authority::Refusal;
use crate::hub::store::CellPosition;
use crate::hub::stream::Frozen;

/// The hub: which store, how far, what is in it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    /// The cluster, 16 bytes in hexadecimal.
    cluster_id: String,
    /// The lineage, 16 bytes in hexadecimal.
    epoch: String,
    /// The head.
    revision: u64,
    /// The oldest revision that the change log holds; one past the head when it holds none.
    log_begins: u64,
    /// The store.
    store: String,
    /// Members of the roster with a live stream.
    members_connected: usize,
    /// Whether state is streamed; `false`: the store was proven to be older than what this hub has signed.
    serving: bool,
    /// The highest head named, outside the store.
    witness: WitnessStatus,
    /// Tenants whose order stands still because several enforcement points refused a batch.
    frozen: Vec<FrozenTenant>,
    /// Every tenant.
    tenants: Vec<TenantStatus>,
}

/// What shows that the store was put back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WitnessStatus {
    /// The file.
    file: String,
    /// The highest revision named.
    revision: Option<u64>,
    /// Whether it lies on another file system than the store; `null`: not known.
    apart: Option<bool>,
    /// Whether the file is there.
    present: bool,
}

/// A tenant whose order stands still; its revocations go on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FrozenTenant {
    /// The tenant.
    tenant: String,
    /// The revision that is offered.
    before: u64,
    /// The revision of the batch that was refused.
    refused: u64,
}

/// One tenant: live records of each kind.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantStatus {
    /// The tenant.
    tenant: String,
    /// The revision of its last commit.
    revision: u64,
    /// Identities by status.
    identities: IdentityCounts,
    /// Credentials.
    credentials: u64,
    /// Issuers.
    issuers: u64,
    /// Revocations.
    revocations: u64,
    /// Policy sets.
    policies: u64,
    /// Exceptions.
    exceptions: u64,
    /// Resources.
    resources: u64,
    /// Status lists of issuers.
    status_lists: u64,
}

/// Identities by status.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IdentityCounts {
    /// All.
    total: u64,
    /// Not yet allowed to act.
    pending: u64,
    /// May act.
    active: u64,
    /// Stopped.
    suspended: u64,
    /// Ended.
    retired: u64,
}

/// Says which hub this is and what it holds.
#[utoipa::path(
    get, path = "/v1/status", tag = "hub", security(("admin" = [])),
    responses(
        (status = 200, description = "The hub", body = Status),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(State(context): Shared) -> Result<Json<Status>, Problem> {
    Ok(Json(context.work(read).await??))
}

fn read(context: &Context) -> Result<Status, Refusal> {
    let store = context.feed.store();
    let (head, cells) = store.cells()?;
    Ok(Status {
        cluster_id: store.identity().cluster_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        epoch: head.epoch.to_string(),
        revision: head.revision,
        log_begins: store.oldest()?,
        store: store.describe(),
        members_connected: context.roster.connected(),
        serving: !context.streams.is_condemned(),
        witness: read_witness(context),
        frozen: context.streams.quarantine.all().into_iter().map(FrozenTenant::of).collect(),
        tenants: cells.iter().map(|cell| read_tenant(context, cell)).collect::<Result<_, _>>()?,
    })
}

fn read_witness(context: &Context) -> WitnessStatus {
    let witness = context.feed.witness();
    WitnessStatus {
        file: witness.file().display().to_string(),
        revision: witness.seen().map(|seen| seen.position.revision),
        apart: witness.apart(),
        present: witness.file().exists(),
    }
}

impl FrozenTenant {
    fn of((tenant, frozen): (Name, Frozen)) -> Self {
        Self { tenant: tenant.to_string(), before: frozen.before, refused: frozen.refused }
    }
}

fn read_tenant(context: &Context, cell: &CellPosition) -> Result<TenantStatus, Refusal> {
    let counts = context.feed.store().counts(&cell.tenant)?;
    let count = |kind| counts.iter().find(|(held, _)| *held == kind).map_or(0, |(_, count)| *count);
    let [pending, active, suspended, retired] = context.authority.identity_statuses(&cell.tenant)?;
    Ok(TenantStatus {
        tenant: cell.tenant.to_string(),
        revision: cell.revision,
        identities: IdentityCounts {
            total: count(RecordKind::Identity),
            pending,
            active,
            suspended,
            retired,
        },
        credentials: count(RecordKind::Credential),
        issuers: count(RecordKind::Issuer),
        revocations: count(RecordKind::Revocation),
        policies: count(RecordKind::PolicySet),
        exceptions: count(RecordKind::Exception),
        resources: count(RecordKind::Resource),
        status_lists: count(RecordKind::StatusList),
    })
}
