//! `POST /_threepid/submit_token`: a client gives back the token or the code that its user typed or pasted.
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
use super::client_ip::ClientIp;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object, parse_sid};
use super::openapi::{CLIENT_SECRET, Field, Gives, Kind, Operation, SID, TOKEN, Takes};

/// What the client sends.
pub(crate) struct Body {
    sid: Sid,
    client_secret: ClientSecret,
    token: Token,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[SID, CLIENT_SECRET, TOKEN];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            sid: object.parsed("sid", parse_sid)?,
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            token: Token::new(object.string("token")?),
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "submitToken",
    summary: "Gives back the token or code that was sent to an address",
    about: "The token is that of the link, or the code of the newest message, in digits of any script and with spaces as \
            they come. Five wrong ones burn a session. The right one on a validated session says success again.",
    takes: Takes::Json(Body::FIELDS),
    gives: Gives::Json(&[Field::required("success", Kind::Boolean, "Always true; what fails is an error.")]),
    fails: &[(400, "M_TOKEN_INCORRECT"), (400, "M_SESSION_EXPIRED"), (429, "M_LIMIT_EXCEEDED")],
    ..Operation::BASE
};

/// Judges the token.
pub(crate) async fn handle(
    State(api): State<Api>,
    ClientIp(client_ip): ClientIp,
    Json(Body { sid, client_secret, token }): Json<Body>,
) -> Result<Response, ApiError> {
    let submit = SubmitToken { sid, token, door: Door::Client(client_secret), client_ip };
    api.finish(|contacts| async move { contacts.submit_token(submit).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({ "success": true })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use threepid_domain::model::{Sid, Token};

    use crate::http::testing::{SUBMIT_TOKEN, Server, error};

    fn body(sid: &Sid, client_secret: &str, token: &Token) -> String {
        json!({ "sid": sid, "client_secret": client_secret, "token": token.expose() }).to_string()
    }

    #[tokio::test]
    async fn the_right_token_succeeds_again_and_again() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        for _ in 0..2 {
            let answer = server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &token)).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "success": true })));
        }
    }

    #[tokio::test]
    async fn a_wrong_token_an_unknown_session_and_a_wrong_secret_are_answered_alike() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        let wrong = Token::new("wrong");
        let unknown = Sid::new("unknown");
        let mut texts = Vec::new();
        for body in [
            body(&sid, "secret", &wrong),
            body(&sid, "other", &token),
            body(&unknown, "secret", &token),
            body(&sid, "secret", &Token::new("")),
        ] {
            let answer = server.post(SUBMIT_TOKEN, "", body).await;
            assert_eq!(answer.error(), error(400, "M_TOKEN_INCORRECT"));
            texts.push(answer.text);
        }
        texts.dedup();
        assert_eq!(texts.len(), 1);
        assert_eq!(server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &token)).await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn five_wrong_tokens_burn_the_session() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        for _ in 0..5 {
            server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &Token::new("wrong"))).await;
        }
        let answer = server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &token)).await;
        assert_eq!(answer.error(), error(400, "M_TOKEN_INCORRECT"));
    }

    #[tokio::test]
    async fn a_token_past_its_time_is_expired_for_the_right_secret_only() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        server.clock.advance(Duration::from_secs(60 * 60));
        let answer = server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &token)).await;
        assert_eq!(answer.error(), error(400, "M_SESSION_EXPIRED"));
        let answer = server.post(SUBMIT_TOKEN, "", body(&sid, "other", &token)).await;
        assert_eq!(answer.error(), error(400, "M_TOKEN_INCORRECT"));
    }

    #[tokio::test]
    async fn bad_bodies_are_told_apart() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        for (name, value, errcode) in [
            ("sid", json!("a/b"), "M_INVALID_PARAM"),
            ("sid", json!(""), "M_INVALID_PARAM"),
            ("client_secret", json!("a b"), "M_INVALID_PARAM"),
            ("sid", Value::Null, "M_MISSING_PARAM"),
            ("client_secret", Value::Null, "M_MISSING_PARAM"),
            ("token", Value::Null, "M_MISSING_PARAM"),
            ("token", json!(123_456), "M_BAD_JSON"),
        ] {
            let mut body = json!({ "sid": sid, "client_secret": "secret", "token": token.expose() });
            body[name] = value.clone();
            let answer = server.post(SUBMIT_TOKEN, "", body.to_string()).await;
            assert_eq!(answer.error(), error(400, errcode), "{name} {value}");
        }
        assert_eq!(server.post(SUBMIT_TOKEN, "", "{").await.error(), error(400, "M_NOT_JSON"));
    }

    #[tokio::test]
    async fn an_outage_is_503_and_counts_no_wrong_token() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        server.store.set_available(false);
        let answer = server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &token)).await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
        server.store.set_available(true);
        assert_eq!(server.post(SUBMIT_TOKEN, "", body(&sid, "secret", &token)).await.status.as_u16(), 200);
    }
}
