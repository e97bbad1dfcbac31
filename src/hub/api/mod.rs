//! The hub's HTTP API, version 1. Docs: `GET /openapi.json`, which a test keeps equal to [`addresses`].

mod admission;
mod apply;
mod exchange;
mod fleet;
mod held;
mod issuers;
mod openapi;
mod problem;
mod receipts;
mod records;
mod revocations;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::handler::Handler;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::header::AUTHORIZATION;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::authority::Authority;
use super::enrolment::Enrolling;
use super::feed::Feed;
use super::issuers::Issuers;
use super::roster::Roster;
use super::stream::Shared as Streams;
use super::token::Admins;
use crate::core::time::Clock;
pub use openapi::document;
use problem::Problem;

/// Largest request body, in bytes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What every request shares.
pub(crate) struct Context {
    pub(crate) feed: Arc<Feed>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admins: Admins,
    pub(crate) streams: Arc<Streams>,
    pub(crate) enrolling: Arc<Enrolling>,
    pub(crate) shutdown: CancellationToken,
    /// Requests that may use the store at once.
    pub(crate) room: Semaphore,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

type Shared = State<Arc<Context>>;

/// The methods that are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// A route: its method, its path, who answers it.
struct Route {
    verb: Verb,
    path: &'static str,
    handler: MethodRouter<Arc<Context>>,
}

impl Route {
    fn new<T: 'static>(verb: Verb, path: &'static str, handler: impl Handler<T, Arc<Context>>) -> Self {
        Self { verb, path, handler: on(verb.filter(), handler) }
    }
}

/// Every route. The router is made from this list and nothing else.
fn routes() -> Vec<Route> {
    use Verb::{Delete, Get, Post, Put};
    let (all, one) = ("/v1/tenants/{tenant}/{kind}", "/v1/tenants/{tenant}/{kind}/{name}");
    vec![
        Route::new(Get, "/openapi.json", openapi::show),
        Route::new(Get, "/v1/status", status::show),
        Route::new(Get, "/v1/fleet", fleet::show),
        Route::new(Put, "/v1/fleet/{id}/scope", admission::set_scope),
        Route::new(Delete, "/v1/fleet/{id}", admission::remove),
        Route::new(Post, "/v1/join-tokens", admission::mint),
        Route::new(Post, "/v1/apply", apply::apply),
        Route::new(Get, "/v1/held", held::list),
        Route::new(Get, "/v1/held/{id}", held::show),
        Route::new(Post, "/v1/held/{id}/approve", held::approve),
        Route::new(Post, "/v1/held/{id}/reject", held::reject),
        Route::new(Get, all, records::list),
        Route::new(Post, all, records::create),
        Route::new(Get, one, records::show),
        Route::new(Put, one, records::replace),
        Route::new(Delete, one, records::remove),
        Route::new(Post, "/v1/tenants/{tenant}/identity/{name}/status", records::transition),
        Route::new(Get, "/v1/tenants/{tenant}/issuer/{name}/keys", issuers::keys),
        Route::new(Post, "/v1/tenants/{tenant}/issuer/{name}/refresh", issuers::refresh),
        Route::new(Get, "/v1/tenants/{tenant}/issuer/{name}/status-lists", issuers::status_lists),
        Route::new(Post, "/v1/tenants/{tenant}/issuer/{name}/status-lists/refresh", issuers::refresh_lists),
        Route::new(Post, "/v1/tenants/{tenant}/revocations", revocations::revoke),
        Route::new(Get, "/v1/tenants/{tenant}/revocations/{name}/receipts", receipts::of_revocation),
        Route::new(Get, "/v1/revisions/{revision}/receipts", receipts::of_revision),
    ]
}

/// Method and path of every route.
pub fn addresses() -> Vec<(&'static str, &'static str)> {
    routes().iter().map(|route| (route.verb.as_str(), route.path)).collect()
}

/// The router over [`routes`].
pub(crate) fn router(context: Arc<Context>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(async || Problem::not_found("no such address: `GET /openapi.json` lists them"))
        .method_not_allowed_fallback(async || {
            Problem::method("this address does not take that method: `GET /openapi.json` lists them", "")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&context), authorize))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(context)
}

/// Everything but the API's own description needs an administrator's token.
async fn authorize(State(context): Shared, mut request: Request, next: Next) -> Result<Response, Problem> {
    let mut presented = request.headers().get_all(AUTHORIZATION).iter();
    let who = match (presented.next(), presented.next()) {
        (Some(only), None) => bearer(only.as_bytes()).and_then(|token| context.admins.whose(token)),
        _ => None,
    };
    match who {
        Some(name) => {
            request.extensions_mut().insert(Caller(name));
        }
        None if request.uri().path() == "/openapi.json" => {}
        None => return Err(Problem::unauthorized()),
    }
    Ok(next.run(request).await)
}

/// The administrator who asks.
#[derive(Clone, Debug)]
struct Caller(Arc<str>);

/// The token of a bearer credential (RFC 6750 §2.1); the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}
