//! `GET /health/live` and `GET /health/ready`, for whoever keeps the server running.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::Api;
use super::error::{ApiError, json_response};
use super::openapi::{Field, Gives, Kind, Operation};

const STATUS: Gives = Gives::Json(&[Field::required("status", Kind::OneOf(&["ok"]), "")]);

/// What the document says about life.
pub(crate) const LIVE: Operation =
    Operation { id: "live", summary: "The process answers", gives: STATUS, ..Operation::BASE };

/// What the document says about readiness.
pub(crate) const READY: Operation =
    Operation { id: "ready", summary: "Storage answers, too", gives: STATUS, ..Operation::BASE };

/// The process answers.
pub(crate) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Storage answers, too; 503 where it does not.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Response, ApiError> {
    api.store.check().await?;
    Ok(json_response(StatusCode::OK, &json!({ "status": "ok" })))
}

#[cfg(test)]
mod tests {
    use crate::http::testing::{Server, error};

    #[tokio::test]
    async fn the_process_lives_while_storage_is_away_but_is_not_ready() {
        let server = Server::new();
        for path in ["/health/live", "/health/ready"] {
            let answer = server.get(path, "").await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, r#"{"status":"ok"}"#), "{path}");
        }
        server.store.set_available(false);
        assert_eq!(server.get("/health/live", "").await.status.as_u16(), 200);
        let answer = server.get("/health/ready", "").await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
    }
}
