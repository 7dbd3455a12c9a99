//! `GET /health/live` and `GET /health/ready`, for whoever keeps the server running.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::Api;
use super::error::{ApiError, json_response};

/// The process answers.
pub(crate) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Storage answers, too; 503 where it does not.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Response, ApiError> {
    api.store.check().await?;
    Ok(json_response(StatusCode::OK, &json!({ "status": "ok" })))
}
