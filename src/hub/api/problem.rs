//! Refusals as problem details (RFC 9457).

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::hub::authority::Refusal;
use crate::hub::held::HeldError;
use crate::hub::model::{Fault, Faults};
use crate::hub::store::{FaultKind, StoreError};

/// Problem details (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// What kind of problem: `urn:portreeve:problem:` and a word.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
    /// Each fault, with its path in the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    #[serde(skip)]
    allow: &'static str,
}

impl Problem {
    fn new(status: StatusCode, word: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:portreeve:problem:{word}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            allow: "",
        }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "the request cannot be read", detail)
    }

    pub(super) fn invalid(faults: Faults) -> Self {
        let detail = faults.to_string();
        let base = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "the request is not valid", detail);
        Self { errors: faults.into_list(), ..base }
    }

    pub(super) fn conflict(faults: Faults) -> Self {
        let detail = faults.to_string();
        let base =
            Self::new(StatusCode::CONFLICT, "conflict", "the request does not go with what is held", detail);
        Self { errors: faults.into_list(), ..base }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing", detail)
    }

    pub(super) fn method(detail: impl Into<String>, allow: &'static str) -> Self {
        let title = "the method is not for this address";
        Self { allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", title, detail) }
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the request is too large", detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "send the admin token: `authorization: Bearer prt_admin_…`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "the admin token is missing or wrong", detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the hub cannot do it now", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let allow = self.allow;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portreeve-hub\""));
        }
        if !allow.is_empty() {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Faults> for Problem {
    fn from(faults: Faults) -> Self {
        Self::invalid(faults)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(faults) => Self::invalid(faults),
            Refusal::Conflict(faults) => Self::conflict(faults),
            Refusal::Unknown(detail) => Self::not_found(detail),
            // Whoever asks holds it; nothing is left to be said where it cannot be.
            Refusal::Guarded(_) => Self::conflict(Faults::one("", refusal.to_string())),
            Refusal::Held(error) => Self::from(error),
            Refusal::Unreadable(error) => {
                tracing::error!(%error, "a stored record cannot be read");
                Self::unavailable("a stored record cannot be read; the hub's log says which")
            }
            Refusal::Store { error, committed } => {
                let mut problem = Self::from(error);
                if !committed.is_empty() {
                    let names: Vec<_> = committed.iter().map(|name| format!("`{name}`")).collect();
                    problem.detail = format!("{}; committed before it: {}", problem.detail, names.join(", "));
                }
                problem
            }
        }
    }
}

impl From<HeldError> for Problem {
    fn from(error: HeldError) -> Self {
        let detail = error.to_string();
        match error {
            HeldError::Unknown(_) => Self::not_found(detail),
            HeldError::SamePrincipal { .. } => {
                Self::new(StatusCode::FORBIDDEN, "same-principal", "another principal has to approve", detail)
            }
            HeldError::Store(error) => Self::from(error),
            HeldError::Over { .. } | HeldError::Full | HeldError::TooLong | HeldError::Unreadable(_) => {
                Self::conflict(Faults::one("", detail))
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict(_) | StoreError::Moved { .. } | StoreError::Item(_) => {
                Self::conflict(Faults::one("", error.to_string()))
            }
            StoreError::Malformed { .. } | StoreError::ItemTooLong { .. } | StoreError::Compacted { .. } => {
                Self::invalid(Faults::one("", error.to_string()))
            }
            StoreError::Fault(fault) => {
                tracing::error!(%error, "the store refused");
                let detail = match fault.kind() {
                    FaultKind::Unreachable => "the hub's database does not answer; nothing was changed",
                    FaultKind::Unknown => {
                        "it is not known whether this was changed: read it before trying again"
                    }
                    FaultKind::Behind => {
                        "the hub's store is not the one it served from, so it takes no changes: stop it, \
                         put that back or run `portreeve hub restore`"
                    }
                    FaultKind::Superseded => "a new epoch was begun on the store: start this hub again",
                    FaultKind::Full => "the hub's disk is full; nothing of this change was kept",
                    _ => "the hub's store failed; the hub's log says how",
                };
                Self::unavailable(detail)
            }
        }
    }
}
