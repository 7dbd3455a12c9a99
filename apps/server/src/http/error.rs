//! The one table from what went wrong to status, error code and a sentence that a client can act on.
//!
//! Statuses and codes follow the [standard error response] and `docs/api.md`.
//!
//! [standard error response]: https://spec.matrix.org/v1.18/client-server-api/#standard-error-response

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use threepid_domain::model::RemoteRefusal;
use threepid_domain::ports::{Unavailable, WhoseTokenError};
use threepid_domain::use_cases::{AddError, RequestTokenError, SubmitTokenError};

/// When a client may try again once something cannot answer.
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(5);

/// Whatever keeps a request from its 200.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the body is not JSON")]
    NotJson(Cow<'static, str>),
    #[error("the body has the wrong shape")]
    BadJson(String),
    #[error("a parameter is missing")]
    MissingParam(&'static str),
    #[error("a parameter is invalid")]
    InvalidParam(&'static str, String),
    #[error("the body is too large")]
    TooLarge,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body broke off")]
    BodyBroken,
    #[error("no access token")]
    MissingToken,
    #[error("a guest asked")]
    Guest,
    #[error(transparent)]
    WhoseToken(#[from] WhoseTokenError),
    #[error(transparent)]
    RequestToken(#[from] RequestTokenError),
    #[error(transparent)]
    SubmitToken(#[from] SubmitTokenError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the request took too long")]
    TimedOut,
    #[error("no such endpoint")]
    NotFound,
    #[error("no such method")]
    MethodNotAllowed,
    #[error("a handler panicked")]
    Panicked,
}

impl ApiError {
    /// The table.
    fn row(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        use StatusCode as S;
        let (status, errcode, sentence): (_, _, Cow<'static, str>) = match self {
            Self::NotJson(why) => (S::BAD_REQUEST, "M_NOT_JSON", format!("The body is not JSON: {why}.").into()),
            Self::BadJson(why) => (S::BAD_REQUEST, "M_BAD_JSON", format!("The body has the wrong shape: {why}.").into()),
            Self::MissingParam(name) => {
                (S::BAD_REQUEST, "M_MISSING_PARAM", format!("The parameter '{name}' is missing.").into())
            }
            Self::InvalidParam(name, why) => {
                (S::BAD_REQUEST, "M_INVALID_PARAM", format!("The parameter '{name}' is invalid: {why}.").into())
            }
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", "The body is too large.".into()),
            Self::BodyTimeout => (S::REQUEST_TIMEOUT, "M_UNKNOWN", "The body did not arrive in time. Send it again.".into()),
            Self::BodyBroken => (S::BAD_REQUEST, "M_UNKNOWN", "The body broke off. Send it again.".into()),
            Self::MissingToken => (
                S::UNAUTHORIZED,
                "M_MISSING_TOKEN",
                "An access token is needed: send it as 'Authorization: Bearer …'.".into(),
            ),
            Self::Guest => {
                (S::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "Guests have no contacts. Register an account first.".into())
            }
            Self::WhoseToken(WhoseTokenError::Unknown) => {
                (S::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "The access token is not known. Log in again.".into())
            }
            Self::RequestToken(RequestTokenError::MediumNotSupported) => (
                S::BAD_REQUEST,
                "M_THREEPID_MEDIUM_NOT_SUPPORTED",
                "This server sends no mail, so email addresses cannot be added.".into(),
            ),
            Self::RequestToken(RequestTokenError::Denied) => {
                (S::FORBIDDEN, "M_THREEPID_DENIED", "This server does not permit this address. Use another one.".into())
            }
            Self::RequestToken(RequestTokenError::InUse) => {
                (S::BAD_REQUEST, "M_THREEPID_IN_USE", "The address belongs to an account already.".into())
            }
            Self::RequestToken(RequestTokenError::Limited { .. }) => {
                (S::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many requests. Wait, then try again.".into())
            }
            Self::SubmitToken(SubmitTokenError::Incorrect) => (
                S::BAD_REQUEST,
                "M_TOKEN_INCORRECT",
                "The token is incorrect, or its session is not known. Request a new one.".into(),
            ),
            Self::SubmitToken(SubmitTokenError::Expired) => {
                (S::BAD_REQUEST, "M_SESSION_EXPIRED", "The session has expired. Request a new token.".into())
            }
            Self::Add(AddError::AuthFailed) => (
                S::FORBIDDEN,
                "M_THREEPID_AUTH_FAILED",
                "This session does not prove an address to this account. Open the link in the mail, or request a new one.".into(),
            ),
            Self::Add(AddError::InUse) => {
                (S::BAD_REQUEST, "M_THREEPID_IN_USE", "The address belongs to another account.".into())
            }
            // Passed on whole by `into_response`; this is what remains of one that makes no sense.
            Self::WhoseToken(WhoseTokenError::Refused(_) | WhoseTokenError::Unavailable(_))
            | Self::RequestToken(RequestTokenError::Unavailable(_))
            | Self::SubmitToken(SubmitTokenError::Unavailable(_))
            | Self::Add(AddError::Unavailable(_))
            | Self::Unavailable(_)
            | Self::TimedOut => {
                (S::SERVICE_UNAVAILABLE, "M_UNKNOWN", "This cannot be done right now. Try again in a while.".into())
            }
            Self::NotFound => (S::NOT_FOUND, "M_UNRECOGNIZED", "There is no such endpoint here.".into()),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "This endpoint does not have this method.".into())
            }
            Self::Panicked => (S::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Something went wrong on this server.".into()),
        };
        (status, errcode, sentence)
    }

    /// The status that it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::WhoseToken(WhoseTokenError::Refused(refusal)) => refusal_status(refusal),
            _ => None,
        }
        .unwrap_or_else(|| self.row().0)
    }

    /// How long a client waits before it tries again, where waiting helps.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RequestToken(RequestTokenError::Limited { retry_after }) => Some(*retry_after),
            Self::WhoseToken(WhoseTokenError::Refused(refusal)) if refusal.status == 429 => {
                refusal.body.get("retry_after_ms").and_then(Value::as_u64).map(Duration::from_millis)
            }
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_OUTAGE),
        }
    }

    /// Writes into the log what the client is not told.
    pub(crate) fn log(&self) {
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(error = chain(self), "answered that it cannot be done now");
        }
    }

    fn body(&self) -> Map<String, Value> {
        if let Self::WhoseToken(WhoseTokenError::Refused(refusal)) = self
            && refusal_status(refusal).is_some()
        {
            return refusal.body.clone();
        }
        let (_, errcode, sentence) = self.row();
        let mut body = Map::new();
        body.insert("errcode".to_owned(), errcode.into());
        body.insert("error".to_owned(), sentence.into());
        if let Self::RequestToken(RequestTokenError::Limited { retry_after }) = self {
            let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            body.insert("retry_after_ms".to_owned(), ms.into());
        }
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let mut response = json_response(self.status(), &self.body());
        set_retry_after(&mut response, self.retry_after());
        response
    }
}

/// The status of another server's refusal, where it is one.
fn refusal_status(refusal: &RemoteRefusal) -> Option<StatusCode> {
    StatusCode::from_u16(refusal.status).ok().filter(StatusCode::is_client_error)
}

/// `Retry-After` in whole seconds, rounded up, so that who obeys it does not come too early.
pub(crate) fn set_retry_after(response: &mut Response, wait: Option<Duration>) {
    if let Some(wait) = wait {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
}

/// A JSON answer. It belongs to one client: nobody in between keeps it, and no browser guesses what it is.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            let body = json!({ "errcode": "M_UNKNOWN", "error": "Something went wrong on this server." });
            (StatusCode::INTERNAL_SERVER_ERROR, body.to_string().into_bytes())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An error and its causes in one line, for logs.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
