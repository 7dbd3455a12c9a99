//! `POST /account/3pid/bind`: [an identity server publishes an address] for the caller's account.
//!
//! [an identity server publishes an address]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pidbind

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{ClientSecret, IdAccessToken, IdentityServerName, Sid};
use threepid_domain::use_cases::Bind;

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object, parse_sid};

/// What the client sends.
pub(crate) struct Body {
    id_server: IdentityServerName,
    id_access_token: IdAccessToken,
    sid: Sid,
    client_secret: ClientSecret,
}

impl FromJson for Body {
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            id_server: object.parsed("id_server", IdentityServerName::parse)?,
            id_access_token: IdAccessToken::new(object.string("id_access_token")?),
            sid: object.parsed("sid", parse_sid)?,
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
        })
    }
}

/// Binds, recorded before and after.
pub(crate) async fn handle(
    State(api): State<Api>,
    Caller { user_id, .. }: Caller,
    Json(Body { id_server, id_access_token, sid, client_secret }): Json<Body>,
) -> Result<Response, ApiError> {
    let bind = Bind { user_id, id_server, id_access_token, sid, client_secret };
    api.finish(|contacts| async move { contacts.bind(bind).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
