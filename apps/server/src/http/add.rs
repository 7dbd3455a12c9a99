//! `POST /account/3pid`: [a proven address goes to the caller's account].
//!
//! [a proven address goes to the caller's account]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pid

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{ClientSecret, IdentityServerName, Sid};
use threepid_domain::use_cases::Add;

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object, parse_sid};

/// The credentials, under either spelling: `threePidCreds` is that of r0.0.1.
pub(crate) struct Body {
    sid: Sid,
    client_secret: ClientSecret,
}

impl FromJson for Body {
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        let creds = match object.object("three_pid_creds")? {
            Some(creds) => creds,
            None => object.object("threePidCreds")?.ok_or(ApiError::MissingParam("three_pid_creds"))?,
        };
        // Sessions here are this server's own: nothing is bound for them, and no identity server is asked.
        object.optional_bool("bind")?;
        creds.optional_parsed("id_server", IdentityServerName::parse)?;
        creds.optional_string("id_access_token")?;
        Ok(Self {
            sid: creds.parsed("sid", parse_sid)?,
            client_secret: creds.parsed("client_secret", ClientSecret::parse)?,
        })
    }
}

/// Spends the session and adds its address.
pub(crate) async fn handle(
    State(api): State<Api>,
    Caller(user_id): Caller,
    Json(Body { sid, client_secret }): Json<Body>,
) -> Result<Response, ApiError> {
    let add = Add { user_id, sid, client_secret };
    api.finish(|contacts| async move { contacts.add(add).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
