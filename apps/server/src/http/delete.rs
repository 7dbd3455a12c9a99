//! `POST /account/3pid/delete`: [an address leaves the caller's account], and the identity servers that have it.
//!
//! [an address leaves the caller's account]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3piddelete

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{Address, IdentityServerName, Medium};
use threepid_domain::use_cases::Delete;

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object};

/// What the client sends; `/unbind` takes the same.
pub(crate) struct Body {
    pub(super) address: Address,
    pub(super) id_server: Option<IdentityServerName>,
}

impl FromJson for Body {
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        let medium =
            object.parsed("medium", |text| Medium::parse(text).ok_or("medium must be email or msisdn"))?;
        Ok(Self {
            address: object.parsed("address", |text| Address::parse(medium, text))?,
            id_server: object.optional_parsed("id_server", IdentityServerName::parse)?,
        })
    }
}

/// Removes the address, then unbinds it as far as that can be done at once.
pub(crate) async fn handle(
    State(api): State<Api>,
    Caller { user_id, .. }: Caller,
    Json(Body { address, id_server }): Json<Body>,
) -> Result<Response, ApiError> {
    let delete = Delete { user_id, address, id_server };
    let result = api.finish(|contacts| async move { contacts.delete(delete).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({ "id_server_unbind_result": result.as_str() })))
}
