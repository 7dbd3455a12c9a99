//! The identity service as it was before access tokens: `/_matrix/identity/api/v1`.
//!
//! Bodies are JSON. The first drafts had forms, and some servers still read nothing else; that is a setting of the
//! server.

use bytes::Bytes;
use hyper::Request;
use serde_json::{Map, Value};
use threepid_domain::model::UserId;
use threepid_domain::ports::{RemoteCredentials, RemoteRecipient, RemoteTokenRequest};
use url::form_urlencoded;

use super::requests::{NotSendable, get, post};

/// How a server reads bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Json,
    Form,
}

const PREFIX: &str = "/_matrix/identity/api/v1";

pub(super) fn request_token(
    base: &str,
    body: Body,
    request: &RemoteTokenRequest,
) -> Result<Request<Bytes>, NotSendable> {
    let mut fields = Map::new();
    fields.insert("client_secret".to_owned(), request.client_secret.expose().into());
    let path = match &request.to {
        RemoteRecipient::Email(email) => {
            fields.insert("email".to_owned(), email.as_str().into());
            "/validate/email/requestToken"
        }
        RemoteRecipient::Msisdn { number, country } => {
            fields.insert("country".to_owned(), country.as_str().into());
            fields.insert("phone_number".to_owned(), format!("+{}", number.as_str()).into());
            "/validate/msisdn/requestToken"
        }
    };
    fields.insert("send_attempt".to_owned(), request.send_attempt.get().into());
    if let Some(link) = &request.next_link {
        fields.insert("next_link".to_owned(), link.as_str().into());
    }
    send(base, path, body, fields)
}

pub(super) fn validated(base: &str, session: &RemoteCredentials) -> Result<Request<Bytes>, NotSendable> {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("sid", session.sid.as_str())
        .append_pair("client_secret", session.client_secret.expose())
        .finish();
    get(format!("{base}{PREFIX}/3pid/getValidated3pid?{query}"))
}

pub(super) fn bind(
    base: &str,
    body: Body,
    session: &RemoteCredentials,
    user_id: &UserId,
) -> Result<Request<Bytes>, NotSendable> {
    let mut fields = Map::new();
    fields.insert("client_secret".to_owned(), session.client_secret.expose().into());
    fields.insert("mxid".to_owned(), user_id.as_str().into());
    fields.insert("sid".to_owned(), session.sid.as_str().into());
    send(base, "/3pid/bind", body, fields)
}

fn send(
    base: &str,
    path: &str,
    body: Body,
    fields: Map<String, Value>,
) -> Result<Request<Bytes>, NotSendable> {
    let uri = format!("{base}{PREFIX}{path}");
    match body {
        Body::Json => post(uri, "application/json", Value::Object(fields).to_string().into()),
        Body::Form => {
            let mut form = form_urlencoded::Serializer::new(String::new());
            for (name, value) in &fields {
                let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                form.append_pair(name, &text);
            }
            post(uri, "application/x-www-form-urlencoded", form.finish().into())
        }
    }
}
