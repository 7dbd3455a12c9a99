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
use super::openapi::{AskedBy, CLIENT_SECRET, Field, Kind, Operation, SID, Takes};

/// What the client sends.
pub(crate) struct Body {
    sid: Sid,
    client_secret: ClientSecret,
    auth: Option<Auth>,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[
        SID,
        CLIENT_SECRET,
        Field::optional("auth", Kind::Any, "The answer to a challenge, with its `session`."),
    ];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            sid: object.parsed("sid", parse_sid)?,
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            auth: object.map("auth")?.map(Auth),
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "addReauthenticated",
    summary: "Adds a proven address once the caller has proven again who they are",
    about: "The first request is answered 401 with the homeserver's challenge; the second carries its answer.",
    specification: Some("post_matrixclientv3account3pidadd"),
    asked_by: AskedBy::Account,
    takes: Takes::Json(Body::FIELDS),
    fails: &[
        (400, "M_THREEPID_AUTH_FAILED"),
        (400, "M_THREEPID_IN_USE"),
        (400, "M_SERVER_NOT_TRUSTED"),
        (403, "M_THREEPID_DENIED"),
        (403, "M_FORBIDDEN"),
    ],
    asks_identity_servers: true,
    challenges: true,
    ..Operation::BASE
};

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use threepid_domain::model::{RemoteRefusal, Sid, Validation};
    use threepid_domain::testing::{AskedAgainReply, ServerReply};
    use threepid_domain::use_cases::{Changes, DeprecatedAdd};

    use crate::http::testing::{ADD, REQUEST_TOKEN, Server, error, refused};

    fn body(sid: &Sid, auth: Option<Value>) -> String {
        let mut body = json!({ "sid": sid, "client_secret": "secret" });
        if let Some(auth) = auth {
            body["auth"] = auth;
        }
        body.to_string()
    }

    fn password(session: &Value, password: &str) -> Option<Value> {
        Some(json!({ "type": "m.login.password", "password": password, "session": session }))
    }

    #[tokio::test]
    async fn the_challenge_is_passed_on_whole_and_its_answer_adds_the_address_in_every_version() {
        let server = Server::new();
        for version in ["r0", "v3", "unstable"] {
            let uri = format!("/_matrix/client/{version}/account/3pid/add");
            let sid = server.proven(&format!("{version}@example.org"), "secret").await;
            let challenge = server.post(&uri, "alice", body(&sid, None)).await;
            let session = challenge.json()["session"].clone();
            let expected =
                json!({ "flows": [{ "stages": ["m.login.password"] }], "params": {}, "session": session });
            assert_eq!((challenge.status.as_u16(), challenge.json()), (401, expected));
            assert_eq!(challenge.header("cache-control"), "no-store");

            let wrong = server.post(&uri, "alice", body(&sid, password(&session, "wrong"))).await;
            assert_eq!(wrong.error(), error(401, "M_FORBIDDEN"));
            assert_eq!(wrong.json()["session"], session);
            let added = server.post(&uri, "alice", body(&sid, password(&session, "right"))).await;
            assert_eq!((added.status.as_u16(), added.json()), (200, json!({})));
        }
        assert_eq!(server.store.all_threepids().len(), 3);
    }

    #[tokio::test]
    async fn each_failure_has_its_status_and_code() {
        let server = Server::trusting(|policy| policy.deprecated_add = DeprecatedAdd::Off);
        let answered = async |sid: &Sid| {
            let session = server.post(ADD, "bob", body(sid, None)).await.json()["session"].clone();
            server.post(ADD, "bob", body(sid, password(&session, "right"))).await
        };
        let (unproven, _) = server.pending("a@example.org", "secret").await;
        let other_secret = server.proven("b@example.org", "other").await;
        for sid in [&unproven, &other_secret, &Sid::new("unknown")] {
            assert_eq!(answered(sid).await.error(), error(400, "M_THREEPID_AUTH_FAILED"), "{sid}");
        }
        let taken = server.proven("c@example.org", "secret").await;
        let hers = server.proven("c@example.org", "alice").await;
        let mut session = json!(null);
        for _ in 0..2 {
            let body = json!({ "sid": hers, "client_secret": "alice", "auth": password(&session, "right") });
            session = server.post(ADD, "alice", body.to_string()).await.json()["session"].clone();
        }
        assert_eq!(answered(&taken).await.error(), error(400, "M_THREEPID_IN_USE"));
        server.store.set_available(false);
        let down = server.post(ADD, "bob", body(&taken, None)).await;
        assert_eq!((down.error(), down.header("retry-after")), (error(503, "M_UNKNOWN"), "5"));
    }

    #[tokio::test]
    async fn whoever_is_not_asked_is_not_believed_and_the_homeservers_word_is_passed_on_whole() {
        let server = Server::new();
        let sid = server.proven("a@example.org", "secret").await;
        let locked = json!({ "errcode": "M_USER_LOCKED", "error": "locked", "soft_logout": true, "x": [1] });
        let refusal = RemoteRefusal { status: 401, body: locked.as_object().cloned().unwrap_or_default() };
        server.reauthentication.next_is(AskedAgainReply::Refused(refusal));
        let answer = server.post(ADD, "alice", body(&sid, None)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (401, locked));
        server.reauthentication.next_is(AskedAgainReply::NotAsked);
        assert_eq!(server.post(ADD, "alice", body(&sid, None)).await.error(), error(403, "M_FORBIDDEN"));
        server.reauthentication.next_is(AskedAgainReply::Down);
        let down = server.post(ADD, "alice", body(&sid, None)).await;
        assert_eq!((down.error(), down.header("retry-after")), (error(503, "M_UNKNOWN"), "5"));
        assert!(server.store.all_threepids().is_empty());
    }

    #[tokio::test]
    async fn in_identity_server_validation_the_proxied_session_is_added() {
        let server = Server::trusting(|policy| policy.validation = Validation::IdentityServer);
        let asked = json!({ "client_secret": "secret", "email": "a@example.org", "send_attempt": 1 });
        let sid = server.post(REQUEST_TOKEN, "", asked.to_string()).await.json()["sid"].clone();
        let sid = Sid::new(sid.as_str().unwrap_or_default());
        let answered = async || {
            let session = server.post(ADD, "alice", body(&sid, None)).await.json()["session"].clone();
            server.post(ADD, "alice", body(&sid, password(&session, "right"))).await
        };
        assert_eq!(answered().await.error(), error(400, "M_THREEPID_AUTH_FAILED"), "not validated there");
        server.identity_servers.next_is(ServerReply::Down);
        assert_eq!(answered().await.error(), error(503, "M_UNKNOWN"));
        let terms = json!({ "errcode": "M_TERMS_NOT_SIGNED", "error": "sign" });
        server.identity_servers.next_is(refused(403, &terms));
        assert_eq!(answered().await.error(), error(403, "M_TERMS_NOT_SIGNED"));
        let id = threepid_domain::testing::Fixture::server("id.example");
        server.identity_servers.prove(&id, &sid, threepid_domain::testing::FixedClock::START);
        assert_eq!(answered().await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn what_is_missing_or_malformed_is_named_before_anybody_is_asked() {
        let server = Server::new();
        for (body, errcode, name) in [
            (json!({ "client_secret": "s" }), "M_MISSING_PARAM", "sid"),
            (json!({ "sid": "s" }), "M_MISSING_PARAM", "client_secret"),
            (json!({ "sid": 1, "client_secret": "s" }), "M_BAD_JSON", "sid"),
            (json!({ "sid": "", "client_secret": "s" }), "M_INVALID_PARAM", "sid"),
            (json!({ "sid": "s", "client_secret": "ß" }), "M_INVALID_PARAM", "client_secret"),
            (json!({ "sid": "s", "client_secret": "s", "auth": "x" }), "M_BAD_JSON", "auth"),
            (json!({ "sid": "s", "client_secret": "s", "auth": [] }), "M_BAD_JSON", "auth"),
        ] {
            let answer = server.post(ADD, "alice", body.to_string()).await;
            assert_eq!(answer.error(), error(400, errcode), "{body}");
            assert!(answer.text.contains(name), "{body}: {}", answer.text);
        }
        let sid = server.proven("a@example.org", "secret").await;
        assert_eq!(server.post(ADD, "", body(&sid, None)).await.error(), error(401, "M_MISSING_TOKEN"));
        let guest = server.post(ADD, "guest", body(&sid, None)).await;
        assert_eq!(guest.error(), error(403, "M_GUEST_ACCESS_FORBIDDEN"));
        let forbidding = Server::trusting(|policy| policy.changes = Changes::Forbidden);
        assert_eq!(forbidding.post(ADD, "alice", body(&sid, None)).await.error(), error(403, "M_FORBIDDEN"));
        assert!(server.reauthentication.challenged().is_empty());
        assert!(forbidding.reauthentication.challenged().is_empty());
    }
}
