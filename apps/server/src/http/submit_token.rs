//! `POST /_threepid/submit_token`: a client gives back the token that its user typed or pasted.
//!
//! The parameters are those of the identity service's [submitToken], without an access token.
//!
//! [submitToken]: https://spec.matrix.org/v1.18/identity-service-api/#post_matrixidentityv2validateemailsubmittoken

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{ClientSecret, Sid, Token};
use threepid_domain::use_cases::{Door, SubmitToken};

use super::Api;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object, parse_sid};

/// What the client sends.
pub(crate) struct Body {
    sid: Sid,
    client_secret: ClientSecret,
    token: Token,
}

impl FromJson for Body {
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            sid: object.parsed("sid", parse_sid)?,
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            token: Token::new(object.string("token")?),
        })
    }
}

/// Judges the token.
pub(crate) async fn handle(
    State(api): State<Api>,
    Json(Body { sid, client_secret, token }): Json<Body>,
) -> Result<Response, ApiError> {
    let submit = SubmitToken { sid, token, door: Door::Client(client_secret) };
    api.finish(|contacts| async move { contacts.submit_token(submit).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({ "success": true })))
}
