//! The one table from what went wrong to status, error code and a sentence that a client can act on.
//!
//! They follow the [standard error response]; where the specification leaves a choice, what is deployed.
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
use threepid_domain::model::{Medium, RemoteRefusal};
use threepid_domain::ports::{OverLimit, Unavailable, WhoseTokenError};
use threepid_domain::use_cases::{
    AddError, AddReauthenticatedError as AgainError, BindError, DeleteError, RequestTokenError,
    SubmitTokenError, UnbindError, WhoAsksError,
};

/// When a client may try again once something cannot answer.
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(5);

/// The same for every proof that failed.
const NOT_PROVEN: &str =
    "The session proves no address to this account; open the link or enter the code that was sent first";

/// A row of the table: status, error code, and a sentence without its full stop.
type Row = (u16, &'static str, &'static str);

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
    Limited(#[from] OverLimit),
    #[error(transparent)]
    WhoseToken(#[from] WhoseTokenError),
    #[error(transparent)]
    RequestToken(#[from] RequestTokenError),
    #[error(transparent)]
    SubmitToken(#[from] SubmitTokenError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(transparent)]
    AddReauthenticated(#[from] AgainError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Unbind(#[from] UnbindError),
    #[error(transparent)]
    Delete(#[from] DeleteError),
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
    fn row(&self) -> Row {
        match self {
            Self::NotJson(_) => (400, "M_NOT_JSON", "The body is not JSON"),
            Self::BadJson(_) => (400, "M_BAD_JSON", "The body has the wrong shape"),
            Self::MissingParam(_) => (400, "M_MISSING_PARAM", "A parameter is missing"),
            Self::InvalidParam(..) => (400, "M_INVALID_PARAM", "A parameter is invalid"),
            Self::TooLarge => (413, "M_TOO_LARGE", "The body is too large"),
            Self::BodyTimeout => (408, "M_UNKNOWN", "The body did not arrive in time; send it again"),
            Self::BodyBroken => (400, "M_UNKNOWN", "The body broke off; send it again"),
            Self::MissingToken => (401, "M_MISSING_TOKEN", "Send an access token: 'Authorization: Bearer …'"),
            Self::Guest => (403, "M_GUEST_ACCESS_FORBIDDEN", "Guests have no contacts; register an account"),
            Self::WhoseToken(WhoseTokenError::Unknown) => {
                (401, "M_UNKNOWN_TOKEN", "The access token is not known; log in again")
            }
            Self::RequestToken(RequestTokenError::MediumNotSupported(Medium::Msisdn)) => (
                400,
                "M_THREEPID_MEDIUM_NOT_SUPPORTED",
                "This server sends no SMS, so it can prove no phone number",
            ),
            Self::RequestToken(RequestTokenError::MediumNotSupported(Medium::Email)) => (
                400,
                "M_THREEPID_MEDIUM_NOT_SUPPORTED",
                "This server sends no mail, so it can prove no address",
            ),
            Self::RequestToken(RequestTokenError::Denied) => {
                (403, "M_THREEPID_DENIED", "This server does not permit the address; use another one")
            }
            Self::RequestToken(RequestTokenError::InUse) => {
                (400, "M_THREEPID_IN_USE", "The address belongs to an account already")
            }
            Self::Limited(_)
            | Self::RequestToken(RequestTokenError::Limited(_))
            | Self::SubmitToken(SubmitTokenError::Limited(_))
            | Self::AddReauthenticated(AgainError::Limited(_)) => {
                (429, "M_LIMIT_EXCEEDED", "Too many requests; wait, then try again")
            }
            Self::SubmitToken(SubmitTokenError::Incorrect) => {
                (400, "M_TOKEN_INCORRECT", "The token is not one of this session's; request a new one")
            }
            Self::SubmitToken(SubmitTokenError::Expired) => {
                (400, "M_SESSION_EXPIRED", "The session has expired; request a new token")
            }
            Self::Add(AddError::AuthFailed) => (403, "M_THREEPID_AUTH_FAILED", NOT_PROVEN),
            // As deployed: the specification names no status here.
            Self::AddReauthenticated(AgainError::Add(AddError::AuthFailed)) => {
                (400, "M_THREEPID_AUTH_FAILED", NOT_PROVEN)
            }
            Self::Add(AddError::InUse) | Self::AddReauthenticated(AgainError::Add(AddError::InUse)) => {
                (400, "M_THREEPID_IN_USE", "The address belongs to another account")
            }
            Self::Add(AddError::Denied) | Self::AddReauthenticated(AgainError::Add(AddError::Denied)) => {
                (403, "M_THREEPID_DENIED", "This server does not permit the address; use another one")
            }
            Self::Add(AddError::IdServerMissing)
            | Self::AddReauthenticated(AgainError::Add(AddError::IdServerMissing)) => {
                (400, "M_MISSING_PARAM", "The session is none of this server's; name its 'id_server'")
            }
            Self::AddReauthenticated(AgainError::Challenged(_)) => {
                (401, "M_UNAUTHORIZED", "Prove who you are first")
            }
            Self::AddReauthenticated(AgainError::NotAsked) => {
                (403, "M_FORBIDDEN", "Nobody can ask you here who you are; tell the administrator")
            }
            Self::Bind(BindError::NotValidated) => (
                400,
                "M_SESSION_NOT_VALIDATED",
                "The identity server has not validated the session; open the link in its mail first",
            ),
            Self::RequestToken(RequestTokenError::ServerNotTrusted)
            | Self::Add(AddError::ServerNotTrusted)
            | Self::AddReauthenticated(AgainError::Add(AddError::ServerNotTrusted))
            | Self::Bind(BindError::ServerNotTrusted)
            | Self::Unbind(UnbindError::ServerNotTrusted) => {
                (400, "M_SERVER_NOT_TRUSTED", "This server does not trust the identity server for that")
            }
            Self::RequestToken(RequestTokenError::ChangesForbidden)
            | Self::Add(AddError::ChangesForbidden)
            | Self::AddReauthenticated(
                AgainError::ChangesForbidden | AgainError::Add(AddError::ChangesForbidden),
            )
            | Self::Delete(DeleteError::ChangesForbidden) => {
                (403, "M_FORBIDDEN", "This server does not permit this change of contacts")
            }
            // A refusal is passed on whole; here stands what becomes of one that makes no sense.
            Self::WhoseToken(WhoseTokenError::Refused(_) | WhoseTokenError::Unavailable(_))
            | Self::RequestToken(RequestTokenError::Refused(_) | RequestTokenError::Unavailable(_))
            | Self::SubmitToken(SubmitTokenError::Unavailable(_))
            | Self::Add(AddError::Refused(_) | AddError::Unavailable(_))
            | Self::AddReauthenticated(
                AgainError::Refused(_) | AgainError::Add(AddError::Refused(_) | AddError::Unavailable(_)),
            )
            | Self::Bind(BindError::Refused(_) | BindError::Unavailable(_))
            | Self::Unbind(UnbindError::Refused(_) | UnbindError::Unavailable(_))
            | Self::Delete(DeleteError::Unavailable(_))
            | Self::Unavailable(_)
            | Self::TimedOut => (503, "M_UNKNOWN", "This cannot be done right now; try again in a while"),
            Self::NotFound => (404, "M_UNRECOGNIZED", "There is no such endpoint here"),
            Self::MethodNotAllowed => (405, "M_UNRECOGNIZED", "This endpoint does not have this method"),
            Self::Panicked => (500, "M_UNKNOWN", "Something went wrong on this server"),
        }
    }

    /// What is wrong in particular.
    fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::NotJson(why) => Some(why.as_ref().into()),
            Self::BadJson(why) => Some(why.into()),
            Self::MissingParam(name) => Some((*name).into()),
            Self::InvalidParam(name, why) => Some(format!("{name}: {why}").into()),
            _ => None,
        }
    }

    /// The status that it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        let passed_on = self.refusal().map(|(status, _)| status);
        let status = || StatusCode::from_u16(self.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        passed_on.unwrap_or_else(status)
    }

    /// Another server's refusal. Clients act on fields of it that we need not know.
    fn refusal(&self) -> Option<(StatusCode, &Map<String, Value>)> {
        let RemoteRefusal { status, body } = match self {
            Self::WhoseToken(WhoseTokenError::Refused(refusal))
            | Self::RequestToken(RequestTokenError::Refused(refusal))
            | Self::Add(AddError::Refused(refusal))
            | Self::AddReauthenticated(
                AgainError::Refused(refusal) | AgainError::Add(AddError::Refused(refusal)),
            )
            | Self::Bind(BindError::Refused(refusal))
            | Self::Unbind(UnbindError::Refused(refusal)) => refusal,
            _ => return None,
        };
        // 501 is how an identity server says that it does not unbind.
        let passed_on =
            |status: &StatusCode| status.is_client_error() || *status == StatusCode::NOT_IMPLEMENTED;
        Some((StatusCode::from_u16(*status).ok().filter(passed_on)?, body))
    }

    /// The limit of ours that the client is over.
    pub(crate) fn over_limit(&self) -> Option<&OverLimit> {
        match self {
            Self::Limited(over)
            | Self::RequestToken(RequestTokenError::Limited(over))
            | Self::SubmitToken(SubmitTokenError::Limited(over))
            | Self::AddReauthenticated(AgainError::Limited(over)) => Some(over),
            _ => None,
        }
    }

    /// How long a client waits before it tries again, where waiting helps.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match (self.over_limit(), self.refusal()) {
            (Some(over), _) => Some(over.retry_after),
            (_, Some((_, body))) => {
                body.get("retry_after_ms").and_then(Value::as_u64).map(Duration::from_millis)
            }
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_OUTAGE),
        }
    }

    /// Writes into the log what the client is not told.
    pub(crate) fn log(&self) {
        if let Self::AddReauthenticated(AgainError::NotAsked) = self {
            tracing::warn!(
                "nobody was asked who is asking, so nothing was added: the homeserver has a grace period for \
                 re-authentication (Synapse: ui_auth.session_timeout) or cannot ask, the caller is an application \
                 service, or the local account has no password"
            );
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(error = chain(self), "answered that it cannot be done now");
        }
    }

    fn body(&self) -> Map<String, Value> {
        if let Some((_, body)) = self.refusal() {
            return body.clone();
        }
        if let Self::AddReauthenticated(AgainError::Challenged(challenge)) = self {
            return challenge.body.clone();
        }
        let (_, errcode, sentence) = self.row();
        let error = match self.detail() {
            Some(detail) => format!("{sentence}: {detail}."),
            None => format!("{sentence}."),
        };
        let mut body = Map::new();
        body.insert("errcode".to_owned(), errcode.into());
        body.insert("error".to_owned(), error.into());
        if let Some(OverLimit { retry_after, .. }) = self.over_limit() {
            let ms = u64::try_from(retry_after.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            body.insert("retry_after_ms".to_owned(), ms.into());
        }
        body
    }
}

impl From<WhoAsksError> for ApiError {
    fn from(error: WhoAsksError) -> Self {
        match error {
            WhoAsksError::Limited(over) => over.into(),
            WhoAsksError::Whose(error) => error.into(),
        }
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

/// `Retry-After` in whole seconds, rounded up, so that who obeys it does not come too early.
pub(crate) fn set_retry_after(response: &mut Response, wait: Option<Duration>) {
    if let Some(wait) = wait {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
}

/// A JSON answer. It belongs to one client: nobody in between keeps it, and no browser guesses what it is.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => json_text(status, body),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            let body = json!({ "errcode": "M_UNKNOWN", "error": "Something went wrong on this server." });
            json_text(StatusCode::INTERNAL_SERVER_ERROR, body.to_string())
        }
    }
}

/// The same, of JSON that is written already.
pub(crate) fn json_text(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
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
