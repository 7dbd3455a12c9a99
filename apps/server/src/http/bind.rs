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
use super::openapi::{AskedBy, CLIENT_SECRET, Field, ID_ACCESS_TOKEN, ID_SERVER, Operation, SID, Takes};

/// What the client sends.
pub(crate) struct Body {
    id_server: IdentityServerName,
    id_access_token: IdAccessToken,
    sid: Sid,
    client_secret: ClientSecret,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[ID_SERVER, ID_ACCESS_TOKEN, SID, CLIENT_SECRET];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            id_server: object.parsed("id_server", IdentityServerName::parse)?,
            id_access_token: IdAccessToken::new(object.string("id_access_token")?),
            sid: object.parsed("sid", parse_sid)?,
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "bind",
    summary: "Has an identity server publish an address for the caller's account",
    specification: Some("post_matrixclientv3account3pidbind"),
    asked_by: AskedBy::Account,
    takes: Takes::Json(Body::FIELDS),
    fails: &[(400, "M_SERVER_NOT_TRUSTED"), (400, "M_SESSION_NOT_VALIDATED"), (403, "M_FORBIDDEN")],
    asks_identity_servers: true,
    ..Operation::BASE
};

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use threepid_domain::model::Sid;
    use threepid_domain::testing::{Fixture, ServerReply};
    use threepid_domain::use_cases::Changes;

    use crate::http::testing::{ACCOUNT_3PID, BIND, Server, error, refused};

    fn body(server: &str, sid: &Sid) -> Value {
        json!({ "id_server": server, "id_access_token": "token", "sid": sid, "client_secret": "secret" })
    }

    fn published(server: &Server) -> Option<String> {
        let (id, address) = (Fixture::server("id.example"), Fixture::address("a@example.org"));
        server.identity_servers.published(&id, &address).map(String::from)
    }

    #[tokio::test]
    async fn an_address_is_published_in_every_version_and_stays_off_the_account() {
        for version in ["r0", "v3", "unstable"] {
            let server = Server::trusting(|policy| policy.changes = Changes::Forbidden);
            let sid = server.proven_at("id.example", "a@example.org", "secret");
            let uri = format!("/_matrix/client/{version}/account/3pid/bind");
            let answer = server.post(&uri, "alice", body("ID.Example", &sid).to_string()).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})), "{version}");
            assert_eq!(published(&server).as_deref(), Some("@alice:example.org"));
            assert_eq!(server.get(ACCOUNT_3PID, "alice").await.json(), json!({ "threepids": [] }));
        }
    }

    #[tokio::test]
    async fn each_failure_has_its_status_and_code() {
        let server = Server::trusting(|_| {});
        let sid = server.proven_at("id.example", "a@example.org", "secret");
        for name in ["stranger.example", "validates.example"] {
            let answer = server.post(BIND, "alice", body(name, &sid).to_string()).await;
            assert_eq!(answer.error(), error(400, "M_SERVER_NOT_TRUSTED"), "{name}");
        }
        assert_eq!(server.asked(), [""; 0]);
        let unknown = server.post(BIND, "alice", body("id.example", &Sid::new("x")).to_string()).await;
        assert_eq!(unknown.error(), error(404, "M_NO_VALID_SESSION"), "the server's own word");
        let token = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "who", "soft_logout": true });
        for (reply, expected) in [
            (refused(401, &token), error(403, "M_FORBIDDEN")),
            (
                refused(403, &json!({ "errcode": "M_TERMS_NOT_SIGNED", "error": "x" })),
                error(403, "M_TERMS_NOT_SIGNED"),
            ),
            (ServerReply::Down, error(503, "M_UNKNOWN")),
        ] {
            server.identity_servers.next_is(reply);
            let answer = server.post(BIND, "alice", body("id.example", &sid).to_string()).await;
            assert_eq!(answer.error(), expected);
            assert!(!answer.text.contains("soft_logout"));
            assert_eq!(answer.header("retry-after"), if expected.0 == 503 { "5" } else { "" });
        }
        let slow = json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 2001 });
        server.identity_servers.next_is(refused(429, &slow));
        let answer = server.post(BIND, "alice", body("id.example", &sid).to_string()).await;
        assert_eq!((answer.error(), answer.header("retry-after")), (error(429, "M_LIMIT_EXCEEDED"), "3"));
        assert_eq!(published(&server), None);
    }

    #[tokio::test]
    async fn what_is_missing_or_malformed_is_named_before_anybody_is_asked() {
        let server = Server::trusting(|_| {});
        let long = format!("{}.example", "a".repeat(300));
        for (name, value, errcode) in [
            ("id_server", json!(null), "M_MISSING_PARAM"),
            ("id_access_token", json!(null), "M_MISSING_PARAM"),
            ("sid", json!(null), "M_MISSING_PARAM"),
            ("client_secret", json!(null), "M_MISSING_PARAM"),
            ("id_access_token", json!(7), "M_BAD_JSON"),
            ("id_server", json!("https://id.example"), "M_INVALID_PARAM"),
            ("id_server", json!("id.example/_matrix"), "M_INVALID_PARAM"),
            ("id_server", json!("user@id.example"), "M_INVALID_PARAM"),
            ("id_server", json!("id example"), "M_INVALID_PARAM"),
            ("id_server", json!("bücher.example"), "M_INVALID_PARAM"),
            ("id_server", json!(""), "M_INVALID_PARAM"),
            ("id_server", json!(long), "M_INVALID_PARAM"),
            ("sid", json!("ß"), "M_INVALID_PARAM"),
        ] {
            let mut body = body("id.example", &Sid::new("sid"));
            body[name] = value.clone();
            let answer = server.post(BIND, "alice", body.to_string()).await;
            assert_eq!(answer.error(), error(400, errcode), "{name} {value}");
            assert!(answer.text.contains(name), "{name} {value}: {}", answer.text);
        }
        let body = body("id.example", &Sid::new("sid")).to_string();
        assert_eq!(server.post(BIND, "", body.clone()).await.error(), error(401, "M_MISSING_TOKEN"));
        assert_eq!(server.post(BIND, "guest", body).await.error(), error(403, "M_GUEST_ACCESS_FORBIDDEN"));
        assert_eq!(server.asked(), [""; 0]);
    }
}
