//! What a homeserver's answer is, before it is known what it means.

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value};
use threepid_domain::model::RemoteRefusal;
use threepid_domain::ports::Unavailable;

use super::PORT;

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// In seconds, where it is said so.
    pub(super) retry_after: Option<u64>,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as a JSON object, if it is one.
    pub(super) fn object(&self) -> Option<Map<String, Value>> {
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Some(object),
            _ => None,
        }
    }

    /// A refusal in the homeserver's own words, to be passed on whole: 401, 403 and 429 in the Matrix error format. A
    /// proxy's 429 is put into the words of Matrix; its 401 and 403 say nothing about an account.
    pub(super) fn refusal(&self) -> Option<RemoteRefusal> {
        const REFUSING: [StatusCode; 3] =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        let in_matrix = || self.object().filter(|body| body.get("errcode").is_some_and(Value::is_string));
        let body = match REFUSING.contains(&self.status).then(in_matrix)? {
            Some(body) => body,
            None if self.status == StatusCode::TOO_MANY_REQUESTS => slow_down(self.retry_after),
            None => return None,
        };
        Some(RemoteRefusal { status: self.status.as_u16(), body })
    }

    /// It is no answer to what was asked.
    pub(super) fn strange(&self, what: &str) -> Unavailable {
        Unavailable::new(PORT, format!("its answer with status {} {what}", self.status.as_u16()))
    }
}

/// What a proxy's 429 says, in the words of Matrix.
fn slow_down(retry_after: Option<u64>) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("errcode".to_owned(), "M_LIMIT_EXCEEDED".into());
    body.insert("error".to_owned(), "Too many requests".into());
    if let Some(seconds) = retry_after {
        body.insert("retry_after_ms".to_owned(), seconds.saturating_mul(1000).into());
    }
    body
}
