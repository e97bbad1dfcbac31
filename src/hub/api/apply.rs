//! Sets of documents.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::exchange::{Body, Params};
use super::held::{Ask, Outcome, kept};
use super::problem::Problem;
use super::{Caller, Shared};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::hub::authority::{Applied, Document, Pass, Refusal};
use crate::hub::held::Request;
use crate::hub::model::{Faults, Spec, read_reason};

/// Documents to apply.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `documents`")]
pub(crate) struct Documents {
    /// The documents, of any tenants; at least one.
    documents: Vec<DocumentSpec>,
}

/// One document.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `kind`, `tenant`, `name`, `spec`")]
pub(crate) struct DocumentSpec {
    /// The kind of record.
    kind: String,
    /// The tenant; made with its first record.
    tenant: String,
    /// The record's name.
    name: String,
    /// What it says.
    #[schema(value_type = Spec)]
    spec: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyParams {
    #[serde(default)]
    dry_run: bool,
    break_glass: Option<String>,
}

/// Creates and updates records: one transaction a tenant, every document judged before the first.
#[utoipa::path(
    post, path = "/v1/apply", tag = "records", security(("admin" = [])),
    params(
        ("dry_run" = Option<bool>, Query, description = "Only say what would be done"),
        ("break_glass" = Option<String>, Query, description = "Why what denies more identities than may be denied at once is let through"),
    ),
    request_body = Documents,
    responses(
        (status = 200, description = "What was, or would be, done", body = Applied),
        (status = 202, description = "Parts of it, in `held`, wait for a second approval", body = Applied),
        (status = 409, description = "A step that a document may not take", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A document is not valid", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn apply(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Params(params): Params<ApplyParams>,
    Body(documents): Body<Documents>,
) -> Result<(StatusCode, Json<Applied>), Problem> {
    let documents = read(documents)?;
    let break_glass = params.break_glass.as_deref().map(read_reason).transpose()?;
    let dry_run = params.dry_run;
    let applied = context.work(move |context| {
        let mut applied = context.authority.apply(&documents, dry_run, &mut Pass::guarded())?;
        for (tenant, excess) in std::mem::take(&mut applied.guarded) {
            let ask = part(&tenant, &documents, &by, break_glass.clone());
            match ask.hold(context, excess)? {
                Outcome::Held(held) => applied.held.push(held),
                Outcome::Applied(mut done) => {
                    applied.tenants.append(&mut done.tenants);
                    applied.warnings.append(&mut done.warnings);
                }
                Outcome::Revoked(_) | Outcome::Record(_) => {}
            }
        }
        Ok::<_, Refusal>(applied)
    });
    let applied = applied.await??;
    let status = if applied.held.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(applied)))
}

/// One tenant's documents, to be held.
fn part(tenant: &Name, documents: &[Document], by: &Arc<str>, break_glass: Option<Arc<str>>) -> Ask {
    let own = documents.iter().filter(|document| document.tenant == *tenant);
    let documents: Vec<_> = own.map(kept).collect();
    Ask {
        tenant: tenant.clone(),
        what: format!("apply {} documents", documents.len()),
        request: Request::Apply { documents, expect_revision: None },
        by: Arc::clone(by),
        break_glass,
    }
}

fn read(given: Documents) -> Result<Vec<Document>, Faults> {
    let mut faults = Faults::at("");
    if given.documents.is_empty() {
        faults.push("documents", "is empty");
    }
    let mut documents = Vec::with_capacity(given.documents.len());
    for (place, given) in given.documents.into_iter().enumerate() {
        let at = format!("documents[{place}]");
        let kind = RecordKind::parse(&given.kind);
        if kind.is_none() {
            let message = format_args!("`{}` is no kind of record", given.kind.escape_debug());
            faults.push(format_args!("{at}.kind"), message);
        }
        let mut named = |text: &str, part: &str| {
            Name::parse(text).map_err(|error| faults.push(format_args!("{at}.{part}"), error)).ok()
        };
        let (tenant, name) = (named(&given.tenant, "tenant"), named(&given.name, "name"));
        if let (Some(kind), Some(tenant), Some(name)) = (kind, tenant, name) {
            documents.push(Document { kind, tenant, name, spec: given.spec, at: format!("{at}.spec") });
        }
    }
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}
