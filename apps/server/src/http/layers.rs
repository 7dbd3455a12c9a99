//! What stands around every route: request ids and logs outermost, then CORS, the catcher of panics, and the time limit,
//! so that whatever answers, the answer has its id, its headers and its line of log.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONNECTION,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use tracing::Instrument;

use super::Api;
use super::error::ApiError;
use crate::metrics::{Metrics, Requests};

tokio::task_local! {
    /// The id of the request that the task answers.
    static ID_OF_REQUEST: String;
}

/// The id of the request that is being answered here, where [`around`] stands around the routes.
pub(crate) fn request_id() -> Option<String> {
    ID_OF_REQUEST.try_with(String::clone).ok()
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts everything around `router`, as one layer: each would cost every request a copy of what is below it.
pub(crate) fn around(router: Router, api: &Api) -> Router {
    router.layer(from_fn_with_state(api.clone(), trace))
}

/// Answers for endpoints that do not exist.
pub(crate) async fn not_found() -> ApiError {
    ApiError::NotFound
}

/// Answers for methods that an endpoint does not have.
pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}

/// What answers, whatever happens.
async fn answer(api: &Api, request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return preflight();
    }
    let answer = AssertUnwindSafe(tokio::time::timeout(api.settings.request_timeout, next.run(request)));
    match answer.catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(_elapsed)) => ApiError::TimedOut.into_response(),
        // What a panic says of itself may hold a secret, and is told to nobody.
        Err(_panic) => {
            if let Some(metrics) = &api.metrics {
                metrics.panicked();
            }
            tracing::error!("a handler panicked");
            ApiError::Panicked.into_response()
        }
    }
}

/// The answer to every preflight.
fn preflight() -> Response {
    let mut preflight = Response::new(Body::empty());
    *preflight.status_mut() = StatusCode::NO_CONTENT;
    preflight.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    preflight
}

/// Ends the connection where the rest of a body was not read: whoever sent it, or shares the connection through a
/// proxy, is told not to send another request after it.
fn close_after_an_unread_body(response: &mut Response) {
    if matches!(response.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The headers that the specification recommends [on all requests].
///
/// [on all requests]: https://spec.matrix.org/v1.18/client-server-api/#web-browser-clients
fn permit_browsers(response: &mut Response) {
    // Each value is checked once, when this is compiled.
    static PERMISSIONS: [(HeaderName, HeaderValue); 4] = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS")),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
        ),
        (ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After, X-Request-Id")),
    ];
    let headers = response.headers_mut();
    headers.reserve(8);
    for (name, value) in &PERMISSIONS {
        headers.insert(name, value.clone());
    }
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
    let requests = api.metrics.as_ref().map(Metrics::requests);
    let _in_flight = requests.map(Requests::begun);
    let (begun, method) = (Instant::now(), request.method().clone());
    let answer = ID_OF_REQUEST.scope(id.clone(), answer(&api, request, next));
    let mut response = answer.instrument(span.clone()).await;
    close_after_an_unread_body(&mut response);
    permit_browsers(&mut response);
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    if let Some(requests) = requests {
        requests.answered(&method, route, status, took);
    }
    let ms = took.as_secs_f64() * 1000.0;
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

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use async_trait::async_trait;
    use axum::body::Body;
    use axum::routing::get;
    use http::Method;
    use serde_json::json;
    use threepid_domain::ports::{Limit, MockRateLimiter, RateLimiter, Unavailable, Verdict};
    use tokio::sync::Notify;
    use tower::ServiceExt;

    use super::*;
    use crate::HttpSettings;
    use crate::http::testing::{
        ACCOUNT_3PID, Answer, CONFIRM, REQUEST_TOKEN, SUBMIT_TOKEN, Server, error, request,
    };

    fn token_request() -> String {
        json!({ "client_secret": "secret", "email": "a@example.org", "send_attempt": 1 }).to_string()
    }

    fn assert_cors(answer: &Answer, what: &str) {
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "GET, POST, PUT, DELETE, OPTIONS"),
            ("access-control-allow-headers", "X-Requested-With, Content-Type, Authorization"),
        ] {
            assert_eq!(answer.header(name), value, "{what}: {name}");
        }
    }

    /// A limiter that lets a command wait in its midst.
    #[derive(Default)]
    struct Gate {
        reached: Notify,
        open: Notify,
    }

    #[async_trait]
    impl RateLimiter for Gate {
        async fn take(&self, limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
            if limit == Limit::RequestTokenPerAddress {
                self.reached.notify_one();
                self.open.notified().await;
            }
            Ok(Verdict::Allowed)
        }

        async fn look(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
            Ok(Verdict::Allowed)
        }

        async fn give_back(&self, _limit: Limit, _subject: String) -> Result<(), Unavailable> {
            Ok(())
        }
    }

    async fn broken() -> &'static str {
        panic!("broken")
    }

    fn panicking() -> Server {
        let mut limiter = MockRateLimiter::new();
        limiter.expect_known().returning(|_, _| Verdict::Allowed);
        limiter.expect_take_each().returning(|_| panic!("hush-limiter"));
        Server::built(|builder| builder.rate_limiter(Arc::new(limiter)))
    }

    #[tokio::test]
    async fn every_answer_has_cors_headers_and_a_request_id() {
        let server = Server::new();
        let too_large = "x".repeat(65_537);
        for (method, uri, token, body, status) in [
            (Method::GET, ACCOUNT_3PID, "alice", "", 200),
            (Method::GET, ACCOUNT_3PID, "", "", 401),
            (Method::GET, ACCOUNT_3PID, "guest", "", 403),
            (Method::POST, REQUEST_TOKEN, "", "{", 400),
            (Method::POST, REQUEST_TOKEN, "", &too_large, 413),
            (Method::PUT, ACCOUNT_3PID, "alice", "", 405),
            (Method::GET, SUBMIT_TOKEN, "", "", 405),
            (Method::GET, "/_matrix/client/v3/account/nothing", "", "", 404),
            (Method::GET, "/", "", "", 404),
            (Method::GET, CONFIRM, "", "", 400),
            (Method::GET, "/health/live", "", "", 200),
        ] {
            let answer = server.send(request(method.clone(), uri, token, body.to_owned().into())).await;
            assert_eq!(answer.status.as_u16(), status, "{method} {uri}");
            let closes = if status == 413 { "close" } else { "" };
            assert_eq!(answer.header("connection"), closes, "{method} {uri}");
            assert_cors(&answer, uri);
            assert!(answer.header("x-request-id").starts_with("message1-"), "{uri}");
        }
        server.store.set_available(false);
        let answer = server.get(ACCOUNT_3PID, "alice").await;
        assert_eq!(answer.status.as_u16(), 503);
        assert_cors(&answer, "an outage");
        let answer = panicking().post(REQUEST_TOKEN, "", token_request()).await;
        assert_eq!(answer.status.as_u16(), 500);
        assert_cors(&answer, "a panic");
    }

    #[tokio::test]
    async fn a_preflight_is_answered_everywhere_without_a_token_and_does_nothing() {
        let server = Server::new();
        for uri in [ACCOUNT_3PID, REQUEST_TOKEN, SUBMIT_TOKEN, CONFIRM, "/health/ready", "/nowhere"] {
            let answer = server.send(request(Method::OPTIONS, uri, "", token_request().into())).await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""), "{uri}");
            assert_cors(&answer, uri);
        }
        assert!(server.store.sessions().is_empty());
        assert!(server.tokens.asked().is_empty());
    }

    #[tokio::test]
    async fn what_does_not_exist_is_unrecognized() {
        let server = Server::new();
        for (method, uri) in [
            (Method::GET, "/".to_owned()),
            (Method::GET, format!("{ACCOUNT_3PID}/")),
            (Method::POST, format!("{REQUEST_TOKEN}/")),
            (Method::POST, format!("{ACCOUNT_3PID}/nothing")),
            (Method::GET, ACCOUNT_3PID.replace("v3", "v4")),
        ] {
            let answer = server.send(request(method, &uri, "alice", "{}".into())).await;
            assert_eq!(answer.error(), error(404, "M_UNRECOGNIZED"), "{uri}");
        }
        for (method, uri, allowed) in [
            (Method::PUT, ACCOUNT_3PID, "GET,HEAD,POST"),
            (Method::DELETE, ACCOUNT_3PID, "GET,HEAD,POST"),
            (Method::GET, REQUEST_TOKEN, "POST"),
            (Method::GET, SUBMIT_TOKEN, "POST"),
            (Method::PUT, CONFIRM, "GET,HEAD,POST"),
        ] {
            let answer = server.send(request(method, uri, "alice", "{}".into())).await;
            assert_eq!(answer.error(), error(405, "M_UNRECOGNIZED"), "{uri}");
            assert_eq!(answer.header("allow"), allowed, "{uri}");
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_command_or_a_handler_is_500_and_no_more_than_that() {
        let answer = panicking().post(REQUEST_TOKEN, "", token_request()).await;
        assert_eq!(answer.error(), error(500, "M_UNKNOWN"));
        assert!(!answer.text.contains("limiter"), "{}", answer.text);
        let server = Server::new();
        let extra = Router::new().route("/broken", get(broken).post(|| async { "whole" }));
        let router = crate::http::standalone(&server.app.api, Some(extra));
        let server = Server { router, ..server };
        assert_eq!(server.get("/broken", "").await.error(), error(500, "M_UNKNOWN"));
        assert_eq!(server.post("/broken", "", "").await.text, "whole");
    }

    #[tokio::test]
    async fn a_request_id_is_kept_if_it_may_stand_in_a_log() {
        let server = Server::new();
        let long = "a".repeat(65);
        for (given, is_kept) in
            [("abc-1.2_3", true), ("", false), ("a b", false), ("a\"b", false), (&long, false), ("ä", false)]
        {
            let mut request = request(Method::GET, "/health/live", "", Body::empty());
            let Ok(value) = HeaderValue::from_str(given) else { panic!("{given} is no header") };
            request.headers_mut().insert(REQUEST_ID, value);
            let answer = server.send(request).await;
            assert_eq!(answer.header("x-request-id") == given, is_kept, "{given}");
        }
        let (first, second) = (server.get("/", "").await, server.get("/", "").await);
        assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    }

    #[tokio::test]
    async fn a_command_that_has_begun_is_finished_when_the_client_goes_away() {
        let gate = Arc::new(Gate::default());
        let server = Server::built(|builder| builder.rate_limiter(gate.clone()));
        let request = request(Method::POST, REQUEST_TOKEN, "", token_request().into());
        let client = tokio::spawn(server.router.clone().oneshot(request));
        gate.reached.notified().await;
        client.abort();
        assert!(client.await.is_err_and(|error| error.is_cancelled()));
        assert!(server.store.sessions().is_empty());
        gate.open.notify_one();
        let commands = &server.app.api.commands;
        commands.close();
        assert!(tokio::time::timeout(Duration::from_secs(10), commands.wait()).await.is_ok());
        assert_eq!(server.store.outbox_rows().len(), 1, "its mail is owed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_503_and_its_command_is_finished() {
        let gate = Arc::new(Gate::default());
        let server = Server::built(|builder| builder.rate_limiter(gate.clone()));
        let answer = server.post(REQUEST_TOKEN, "", token_request()).await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
        gate.open.notify_one();
        let commands = &server.app.api.commands;
        commands.close();
        commands.wait().await;
        assert_eq!(server.store.outbox_rows().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let never = || Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, io::Error>>());
        let server = Server::new();
        let answer = server.send(request(Method::POST, REQUEST_TOKEN, "", never())).await;
        assert_eq!(answer.error(), error(408, "M_UNKNOWN"));
        let answer = server.send(request(Method::POST, CONFIRM, "", never())).await;
        assert_eq!(answer.status.as_u16(), 408);
        let broken = futures_util::stream::iter([Err::<bytes::Bytes, _>(io::Error::other("cut off"))]);
        let answer = server.send(request(Method::POST, REQUEST_TOKEN, "", Body::from_stream(broken))).await;
        assert_eq!(answer.error(), error(400, "M_UNKNOWN"));
    }

    #[tokio::test]
    async fn the_router_for_embedding_leaves_other_paths_to_its_host() {
        let server = Server::new();
        let host = Router::new().fallback(|| async { "the host" }).merge(server.app.router());
        let server = Server { router: host, ..server };
        assert_eq!(server.get("/elsewhere", "").await.text, "the host");
        assert_eq!(server.get(ACCOUNT_3PID, "alice").await.json(), json!({ "threepids": [] }));
        let answer = server.send(request(Method::PUT, ACCOUNT_3PID, "alice", Body::empty())).await;
        assert_eq!(answer.json()["errcode"], "M_UNRECOGNIZED");
    }

    /// What was logged.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
        }
    }

    fn recorder(lines: &Lines) -> impl tracing::Subscriber + Send + Sync + use<> {
        let lines = lines.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish()
    }

    #[tokio::test]
    async fn what_a_panic_says_is_neither_answered_nor_logged() {
        let lines = Lines::default();
        let server = panicking();
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let _guard = tracing::subscriber::set_default(recorder(&lines));
        let answer = server.post(REQUEST_TOKEN, "", token_request()).await;
        assert_eq!(answer.error(), error(500, "M_UNKNOWN"));
        let all = lines.text();
        assert!(
            all.lines().any(|line| line.contains("a handler panicked") && line.contains("request_id")),
            "{all}"
        );
        assert!(
            !answer.text.contains("hush-limiter") && !all.contains("hush-limiter"),
            "{} {all}",
            answer.text
        );
    }

    #[tokio::test]
    async fn a_request_is_one_line_of_log_without_secrets_and_an_outage_tells_its_cause_once() {
        let lines = Lines::default();
        let server = Server::built(|builder| builder.http(HttpSettings::default()));
        // While there is only one subscriber, tracing asks the one of the thread that comes to a line first whether the line
        // is wanted, and keeps the answer for all. That thread may be another test's, which has none.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let _guard = tracing::subscriber::set_default(recorder(&lines));
        let (sid, token) = server.pending("hidden@example.org", "hush-secret").await;
        let before = lines.text();
        let mut listing =
            request(Method::GET, &format!("{ACCOUNT_3PID}?access_token=hush-token"), "alice", Body::empty());
        listing.headers_mut().insert(REQUEST_ID, HeaderValue::from_static("given-1"));
        server.send(listing).await;
        let line = lines.text().split_off(before.len());
        assert_eq!(line.lines().count(), 1, "{line}");
        for part in
            ["request_id=\"given-1\"", "method=GET", "/_matrix/client/v3/account/3pid", "status=200", "ms="]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
        server.get(&format!("{CONFIRM}?sid={}&token={}", sid.as_str(), token.expose()), "").await;
        server.get("/nowhere/hush-path?access_token=hush-token", "hush-token").await;
        let body = json!({ "sid": sid, "client_secret": "hush-secret", "token": token.expose() }).to_string();
        server.post(SUBMIT_TOKEN, "", body).await;
        server
            .post(REQUEST_TOKEN, "", r#"{"email":"hidden@example.org","client_secret":"hush secret"}"#)
            .await;
        assert!(!lines.text().contains("cannot be done"));
        server.store.set_available(false);
        server.get(ACCOUNT_3PID, "alice").await;
        let all = lines.text();
        assert_eq!(all.matches("switched off by the test").count(), 1, "{all}");
        for secret in ["hush", "hidden@example.org", token.expose(), "access_token"] {
            assert!(!all.contains(secret), "{secret} is in the log:\n{all}");
        }
    }
}
