//! Who may come to the state stream, and for which tenants.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::exchange::{Body, name};
use super::problem::Problem;
use crate::core::id::Name;
use crate::hub::admission::{Admission, AdmissionError, SCOPE_MAX, Scope};
use crate::hub::enrolment::IN_CLEAR;
use crate::hub::model::{Faults, Time};

/// Tenants whose state an enforcement point may hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `tenants`, or with `all`")]
pub(crate) struct NewScope {
    /// These tenants; an empty list: none.
    tenants: Option<Vec<String>>,
    /// Every tenant, those to come included.
    all: Option<bool>,
}

/// A join token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `id`")]
pub(crate) struct NewJoinToken {
    /// The enforcement point it is for.
    id: String,
    /// Its scope from now on; absent: it stays as it is.
    scope: Option<NewScope>,
    /// How long it can be used, in seconds; 60 to 604800. Default: 3600.
    ttl_s: Option<u64>,
}

/// A join token, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JoinTokenMade {
    /// The token.
    token: String,
    /// Until when it can be used, once.
    expires_at: Time,
    #[serde(flatten)]
    admission: AdmissionView,
}

/// How an enforcement point is admitted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdmissionView {
    /// The enforcement point.
    id: String,
    /// The tenants of its scope; `null`: every tenant.
    scope: Option<Vec<String>>,
    /// Rises with each change of the scope.
    scope_version: u64,
    /// Whether it is turned away until it is admitted anew.
    removed: bool,
    /// Certificates from before this are turned away for good.
    refused_before: Option<Time>,
}

impl AdmissionView {
    pub(super) fn of(id: &str, admission: &Admission) -> Self {
        Self {
            id: id.to_owned(),
            scope: admission.scope.names(),
            scope_version: admission.version,
            removed: admission.removed,
            refused_before: admission.refused_before.map(Time),
        }
    }
}

impl NewScope {
    fn read(self, at: &str) -> Result<Scope, Problem> {
        let refuse = |at: String, what: &str| Problem::invalid(Faults::one(&at, what));
        match (self.tenants, self.all) {
            (None, Some(true)) => Ok(Scope::All),
            (Some(tenants), None | Some(false)) if tenants.len() <= SCOPE_MAX => {
                let read = |(place, tenant): (usize, String)| name(&tenant, &format!("{at}/tenants/{place}"));
                Ok(Scope::Tenants(
                    tenants.into_iter().enumerate().map(read).collect::<Result<BTreeSet<_>, _>>()?,
                ))
            }
            (Some(_), None | Some(false)) => Err(refuse(
                format!("{at}/tenants"),
                &format!("expected at most {SCOPE_MAX} tenants, or `all`"),
            )),
            _ => Err(refuse(at.to_owned(), "expected either `tenants` or `all: true`")),
        }
    }
}

/// Gives an enforcement point a scope, and admits it again if it was removed. Where it is connected,
/// it is told at once.
#[utoipa::path(
    put, path = "/v1/fleet/{id}/scope", tag = "fleet", security(("admin" = [])),
    params(("id" = String, Path, description = "The enforcement point")),
    request_body = NewScope,
    responses(
        (status = 200, description = "How it is admitted now", body = AdmissionView),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set_scope(
    State(context): Shared,
    Path(id): Path<String>,
    Body(new): Body<NewScope>,
) -> Result<Json<AdmissionView>, Problem> {
    let (id, scope) = (name(&id, "id")?, new.read("")?);
    let given = id.clone();
    let changed =
        context.work(move |context| context.enrolling.admissions.set_scope(&given, &scope)).await??;
    tracing::info!(spoke = %id, version = changed.version, "the scope of an enforcement point was set");
    Ok(Json(AdmissionView::of(id.as_str(), &changed)))
}

/// Turns an enforcement point away: its certificates and join tokens of today no longer count, its
/// streams end. Its state there is refused once its routes' `deny_after` has passed.
#[utoipa::path(
    delete, path = "/v1/fleet/{id}", tag = "fleet", security(("admin" = [])),
    params(("id" = String, Path, description = "The enforcement point")),
    responses(
        (status = 200, description = "How it is admitted now", body = AdmissionView),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(context): Shared,
    Path(id): Path<String>,
) -> Result<Json<AdmissionView>, Problem> {
    let id = name(&id, "id")?;
    let given = id.clone();
    let removed = context.work(move |context| context.enrolling.admissions.remove(&given)).await??;
    tracing::warn!(spoke = %id, "an enforcement point was removed from the fleet");
    Ok(Json(AdmissionView::of(id.as_str(), &removed)))
}

/// Makes a join token: shown in this answer and never again, good once, for one enforcement point.
#[utoipa::path(
    post, path = "/v1/join-tokens", tag = "fleet", security(("admin" = [])),
    request_body = NewJoinToken,
    responses(
        (status = 201, description = "The token", body = JoinTokenMade),
        (status = "default", description = "A refusal", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn mint(State(context): Shared, Body(new): Body<NewJoinToken>) -> Result<Response, Problem> {
    if !context.enrolling.is_open {
        return Err(Problem::conflict(Faults::one("", IN_CLEAR)));
    }
    let id = name(&new.id, "/id")?;
    let scope = new.scope.map(|scope| scope.read("/scope")).transpose()?;
    let seconds = new.ttl_s.unwrap_or(TTL_S);
    if !(TTL_S_MIN..=TTL_S_MAX).contains(&seconds) {
        let what = format!("expected {TTL_S_MIN} to {TTL_S_MAX} seconds");
        return Err(Problem::invalid(Faults::one("/ttl_s", what)));
    }
    let made = context.work(move |context| {
        let enrolling = &context.enrolling;
        let lifetime = Duration::from_secs(seconds);
        let made = enrolling.admissions.mint(&enrolling.authority, &id, scope.as_ref(), lifetime)?;
        Ok::<_, AdmissionError>(shown(&id, &made))
    });
    let mut response = (StatusCode::CREATED, Json(made.await??)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn shown(id: &Name, made: &crate::hub::admission::MintedToken) -> JoinTokenMade {
    tracing::info!(spoke = %id, number = made.token.number(), "a join token was made");
    JoinTokenMade {
        token: made.token.reveal().to_string(),
        expires_at: Time(made.expires),
        admission: AdmissionView::of(id.as_str(), &made.admission),
    }
}

impl From<AdmissionError> for Problem {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::Store(error) => error.into(),
            other => Self::unavailable(other.to_string()),
        }
    }
}

const TTL_S: u64 = 3600;
const TTL_S_MIN: u64 = 60;
const TTL_S_MAX: u64 = 7 * 86_400;
