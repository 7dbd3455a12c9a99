//! What stands around every route: request ids and logs outermost, then CORS, the catcher of panics, and the time limit,
//! so that whatever answers, the answer has its id, its headers and its line of log.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use super::Api;
use super::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts everything around `router`.
pub(crate) fn around(router: Router, api: &Api) -> Router {
    router
        .layer(from_fn_with_state(api.clone(), time_limit))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(cors))
        .layer(from_fn_with_state(api.clone(), trace))
}

/// Answers for endpoints that do not exist.
pub(crate) async fn not_found() -> ApiError {
    ApiError::NotFound
}

/// Answers for methods that an endpoint does not have.
pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}

async fn time_limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(api.settings.request_timeout, next.run(request)).await;
    answer.unwrap_or_else(|_elapsed| ApiError::TimedOut.into_response())
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let what =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = what.unwrap_or("?"), "a handler panicked");
    ApiError::Panicked.into_response()
}

/// The headers that the specification recommends [on all requests], and an answer to every preflight.
///
/// [on all requests]: https://spec.matrix.org/v1.18/client-server-api/#web-browser-clients
async fn cors(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        let mut preflight = Response::new(Body::empty());
        *preflight.status_mut() = StatusCode::NO_CONTENT;
        preflight.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        preflight
    } else {
        next.run(request).await
    };
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization"),
        (ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After, X-Request-Id"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A span and a line of log per request, under an id that the answer carries.
///
/// The route is logged as it is written here, never the path or query as they came: those hold tokens.
async fn trace(State(api): State<Api>, request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_sane(id));
    let id = given.map_or_else(|| api.request_ids.next(), str::to_owned);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = tracing::info_span!("request", request_id = id, method = %request.method(), route);
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, ms) = (response.status().as_u16(), begun.elapsed().as_secs_f64() * 1000.0);
    span.in_scope(|| {
        if route.starts_with("/health/") {
            tracing::debug!(status, ms, "answered");
        } else {
            tracing::info!(status, ms, "answered");
        }
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Whether a request id that a client or proxy gave may stand in the log: 1 to 64 of `[0-9a-zA-Z._-]`.
fn is_sane(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Ids for requests that bring none: a beginning that differs from process to process, and a count.
pub(crate) struct RequestIds {
    beginning: String,
    count: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(random: &str) -> Self {
        Self { beginning: random.chars().take(8).collect(), count: AtomicU64::new(1) }
    }

    fn next(&self) -> String {
        format!("{}-{}", self.beginning, self.count.fetch_add(1, Ordering::Relaxed))
    }
}
