//! Taking away.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exchange::{Body, name};
use super::held::{Ask, HeldAnswer, Outcome, accepted};
use super::problem::Problem;
use super::receipts::Asked;
use super::{Caller, Shared, receipts};
use crate::core::identity::RevocationTarget;
use crate::hub::held::Request;
use crate::hub::model::{TargetSpec, Time, read_reason};
use crate::hub::roster::Receipt;

/// What to revoke, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `target` and `reason`")]
pub(crate) struct NewRevocation {
    /// What.
    target: TargetSpec,
    /// Why.
    reason: String,
    /// Whether it is let through although it denies more identities than may be denied at once;
    /// it is on record then, with the reason.
    #[serde(default)]
    break_glass: bool,
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
        (status = 202, description = "It denies more identities than may be denied at once: held, with no T", body = HeldAnswer),
        (status = 404, description = "What is named does not exist", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    State(context): Shared,
    Extension(Caller(by)): Extension<Caller>,
    Path(tenant): Path<String>,
    Body(new): Body<NewRevocation>,
) -> Result<Response, Problem> {
    let tenant = name(&tenant, "tenant")?;
    let target = new.target.read(context.clock.now().wall)?;
    let reason = read_reason(&new.reason)?;
    let what = format!("revoke {}", described(&target));
    let ask = Ask {
        tenant: tenant.clone(),
        request: Request::Revoke { target: new.target, reason: reason.to_string() },
        what,
        by,
        break_glass: new.break_glass.then_some(reason),
    };
    let revoked = match context.work(move |context| ask.run(context)).await?? {
        Outcome::Held(held) => return Ok(accepted(held)),
        Outcome::Revoked(revoked) => revoked,
        Outcome::Applied(_) | Outcome::Record(_) => {
            return Err(Problem::unavailable("a revocation came to something else"));
        }
    };
    let asked = Asked { revision: revoked.revision, revocation: Some((tenant, revoked.name.clone())) };
    let known = receipts::known(&context, asked).await?;
    let status = if revoked.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let made = RevocationMade { name: revoked.name.to_string(), receipt: known.receipt(&context) };
    Ok((status, Json(made)).into_response())
}

/// What is taken away, in words.
fn described(target: &RevocationTarget) -> String {
    match target {
        RevocationTarget::Identity { identity, .. } => format!("identity `{identity}`"),
        RevocationTarget::IssuedBefore { identity, not_before } => {
            format!("everything of identity `{identity}` issued before {}", Time(*not_before))
        }
        RevocationTarget::Credential(credential) => format!("credential `{credential}`"),
        RevocationTarget::TokenId { issuer, .. } => format!("a token of issuer `{issuer}`"),
        RevocationTarget::TokenDigest { .. } => "a token".to_owned(),
    }
}
