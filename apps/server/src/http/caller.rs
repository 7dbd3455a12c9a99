//! Who is asking: the account behind the access token.
//!
//! Tokens come by `Authorization: Bearer`, or by the `access_token` query that older clients use; the header wins. See
//! [using access tokens].
//!
//! [using access tokens]: https://spec.matrix.org/v1.18/client-server-api/#using-access-tokens

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use threepid_domain::model::{AccessToken, UserId};
use threepid_domain::ports::{Credentials, Freshness, WhoseTokenError};
use url::form_urlencoded;

use super::Api;
use super::client_ip::ClientIp;
use super::error::ApiError;

/// The account that asks. Guests do not get this far.
pub(crate) struct Caller(pub(crate) UserId);

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let token = bearer(&parts.headers)?.or_else(|| query_value(query, "access_token"));
        let token = token.filter(|token| !token.is_empty()).ok_or(ApiError::MissingToken)?;
        // Homeservers are asked with the token in a header; what does not fit into one is nobody's.
        if HeaderValue::from_str(&token).is_err() {
            return Err(WhoseTokenError::Unknown.into());
        }
        let user_id = query_value(query, "user_id").map(|id| UserId::parse(&id)).transpose();
        let user_id = user_id.map_err(|error| ApiError::InvalidParam("user_id", error.to_string()))?;
        let Ok(ClientIp(client_ip)) = ClientIp::from_request_parts(parts, api).await;
        let credentials = Credentials { access_token: AccessToken::new(token), user_id, client_ip };
        let freshness = if parts.method.is_safe() { Freshness::ForReading } else { Freshness::ForChange };
        let caller = api.access_tokens.whose(credentials, freshness).await?;
        if caller.is_guest { Err(ApiError::Guest) } else { Ok(Self(caller.user_id)) }
    }
}

/// The token in the header; `None` where there is no header, or one of another scheme, such as a proxy's.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let Ok(value) = value.to_str() else { return Err(WhoseTokenError::Unknown.into()) };
    let (scheme, token) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()))
}

/// The first value of `name` in a query or form.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
