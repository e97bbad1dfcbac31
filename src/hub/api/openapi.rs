//! The API's own description, OpenAPI 3.1.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{admission, apply, fleet, held, issuers, receipts, records, revocations, status};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Portreeve hub",
        version = "1",
        description = "Records of machine identities, revocations and their receipts. Times are RFC 3339."
    ),
    paths(
        show,
        status::show,
        fleet::show,
        admission::set_scope,
        admission::remove,
        admission::mint,
        apply::apply,
        held::list,
        held::show,
        held::approve,
        held::reject,
        records::list,
        records::create,
        records::show,
        records::replace,
        records::remove,
        records::transition,
        issuers::keys,
        issuers::refresh,
        issuers::status_lists,
        issuers::refresh_lists,
        revocations::revoke,
        receipts::of_revocation,
        receipts::of_revision,
    ),
    modifiers(&AdminToken)
)]
struct Description;

struct AdminToken;

impl Modify for AdminToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = openapi.components.get_or_insert_with(Default::default);
        components.add_security_scheme("admin", SecurityScheme::Http(scheme));
    }
}

/// The API's description.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "hub",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(super) async fn show() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
