//! `POST /account/3pid/add`: [a proven address goes to the caller's account], once the caller has proven again who they
//! are.
//!
//! [a proven address goes to the caller's account]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pidadd

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{ClientSecret, Sid};
use threepid_domain::use_cases::{AddReauthenticated, Auth};

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object, parse_sid};

/// What the client sends.
pub(crate) struct Body {
    sid: Sid,
    client_secret: ClientSecret,
    auth: Option<Auth>,
}

impl FromJson for Body {
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            sid: object.parsed("sid", parse_sid)?,
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            auth: object.map("auth")?.map(Auth),
        })
    }
}

/// Asks again who is asking, then spends the session and adds its address.
pub(crate) async fn handle(
    State(api): State<Api>,
    caller: Caller,
    Json(Body { sid, client_secret, auth }): Json<Body>,
) -> Result<Response, ApiError> {
    let Caller { user_id, credentials } = caller;
    let add = AddReauthenticated { user_id, credentials, sid, client_secret, auth };
    api.finish(|contacts| async move { contacts.add_reauthenticated(add).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
