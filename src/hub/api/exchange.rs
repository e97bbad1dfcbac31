//! Reading requests: every refusal is a problem with the path of what is wrong.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;
use super::{BODY_BYTES_MAX, Context};
use crate::core::id::Name;
use crate::core::identity::RecordKind;
use crate::hub::blocking;
use crate::hub::model::{Faults, from_value};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Context>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Arc<Context>) -> Result<Self, Problem> {
        let bytes =
            Bytes::from_request(request, context).await.map_err(|rejection| match rejection.status() {
                http::StatusCode::PAYLOAD_TOO_LARGE => {
                    Problem::too_large(format!("expected at most {BODY_BYTES_MAX} bytes"))
                }
                _ => Problem::malformed("the body did not arrive whole"),
            })?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Problem::malformed(format!("the body is no JSON: {e}")))?;
        Ok(Self(from_value(&value, "")?))
    }
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Context>> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Context>) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::malformed(rejection.body_text())),
        }
    }
}

impl Context {
    /// Runs work on the store, when there is room for it.
    pub(super) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let _room = self.room.acquire().await.map_err(|_| Problem::unavailable("the hub is stopping"))?;
        let context = Arc::clone(self);
        Ok(blocking(&**self.feed.store(), move || work(&context)).await)
    }
}

/// A kind in an address.
pub(super) fn kind(text: &str) -> Result<RecordKind, Problem> {
    RecordKind::parse(text).ok_or_else(|| {
        let kinds: Vec<_> = RecordKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let given = text.escape_debug();
        Problem::not_found(format!("`{given}` is no kind of record: expected one of {}", kinds.join(", ")))
    })
}

/// A name in an address or a body.
pub(super) fn name(text: &str, at: &str) -> Result<Name, Problem> {
    Name::parse(text).map_err(|error| Problem::invalid(Faults::one(at, error)))
}
