//! `POST /account/3pid/email/requestToken`: [a client wants to prove an email address].
//!
//! It asks for no access token. This server sends the mail, so an `id_server` only has to be well-formed.
//!
//! [a client wants to prove an email address]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pidemailrequesttoken

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{ClientSecret, EmailAddress, IdentityServerName, NextLink, SendAttempt};
use threepid_domain::use_cases::RequestEmailToken;

use super::Api;
use super::client_ip::ClientIp;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object};

/// What the client sends.
pub(crate) struct Body {
    client_secret: ClientSecret,
    email: EmailAddress,
    send_attempt: SendAttempt,
    next_link: Option<NextLink>,
}

impl FromJson for Body {
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        object.optional_parsed("id_server", IdentityServerName::parse)?;
        object.optional_string("id_access_token")?;
        Ok(Self {
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            email: object.parsed("email", EmailAddress::parse)?,
            send_attempt: object.integer("send_attempt", SendAttempt::new)?,
            next_link: object.optional_parsed("next_link", NextLink::parse)?,
        })
    }
}

/// Opens or continues a session, and owes the mail.
pub(crate) async fn handle(
    State(api): State<Api>,
    ClientIp(client_ip): ClientIp,
    Json(Body { client_secret, email, send_attempt, next_link }): Json<Body>,
) -> Result<Response, ApiError> {
    let request = RequestEmailToken { client_secret, email, send_attempt, next_link, client_ip };
    let sid = api.finish(|contacts| async move { contacts.request_email_token(request).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({ "sid": sid })))
}
