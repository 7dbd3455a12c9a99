//! `POST /account/3pid/unbind`: [identity servers forget an address] of the caller's account.
//!
//! [identity servers forget an address]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pidunbind

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::use_cases::Unbind;

use super::Api;
use super::caller::Caller;
use super::delete::Body;
use super::error::{ApiError, json_response};
use super::json::Json;

/// Unbinds, here and now.
pub(crate) async fn handle(
    State(api): State<Api>,
    Caller { user_id, .. }: Caller,
    Json(Body { address, id_server }): Json<Body>,
) -> Result<Response, ApiError> {
    let unbind = Unbind { user_id, address, id_server };
    let result = api.finish(|contacts| async move { contacts.unbind(unbind).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({ "id_server_unbind_result": result.as_str() })))
}
