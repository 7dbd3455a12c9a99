//! `POST /account/3pid`: [a proven address goes to the caller's account].
//!
//! [a proven address goes to the caller's account]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pid

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use threepid_domain::model::{ClientSecret, IdAccessToken, IdentityServerName, Sid};
use threepid_domain::use_cases::Add;

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object, parse_sid};
use super::openapi::{
    AskedBy, CLIENT_SECRET, Field, ID_ACCESS_TOKEN, ID_SERVER, Kind, Operation, SID, Takes,
};

/// What proves an address: a session of this server's, or of an identity server's.
const CREDS: Kind = Kind::Object(&[SID, CLIENT_SECRET, ID_SERVER.or_none(), ID_ACCESS_TOKEN.or_none()]);

/// The credentials, under either spelling: `threePidCreds` is that of r0.0.1.
pub(crate) struct Body {
    sid: Sid,
    client_secret: ClientSecret,
    id_server: Option<IdentityServerName>,
    id_access_token: Option<IdAccessToken>,
    bind: bool,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[
        Field::either("three_pid_creds", CREDS, "What proves the address."),
        Field::either("threePidCreds", CREDS, "The same under the name that r0.0.1 gave it."),
        Field::optional("bind", Kind::Boolean, "Whether the identity server is to publish the address, too."),
    ];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        let creds = match object.object("three_pid_creds")? {
            Some(creds) => creds,
            None => object.object("threePidCreds")?.ok_or(ApiError::MissingParam("three_pid_creds"))?,
        };
        Ok(Self {
            sid: creds.parsed("sid", parse_sid)?,
            client_secret: creds.parsed("client_secret", ClientSecret::parse)?,
            id_server: creds.optional_parsed("id_server", IdentityServerName::parse)?,
            id_access_token: creds.optional_string("id_access_token")?.map(IdAccessToken::new),
            bind: object.optional_bool("bind")?.unwrap_or(false),
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "addProven",
    summary: "Adds a proven address to the caller's account",
    about: "The same request again answers 200. The specification deprecates it, since it asks for no password; \
        an operator may have switched it off.",
    specification: Some("post_matrixclientv3account3pid"),
    deprecated: true,
    asked_by: AskedBy::Account,
    takes: Takes::Json(Body::FIELDS),
    fails: &[
        (400, "M_THREEPID_IN_USE"),
        (400, "M_SERVER_NOT_TRUSTED"),
        (403, "M_THREEPID_AUTH_FAILED"),
        (403, "M_THREEPID_DENIED"),
        (403, "M_FORBIDDEN"),
    ],
    asks_identity_servers: true,
    ..Operation::BASE
};

/// Spends the session and adds its address.
pub(crate) async fn handle(
    State(api): State<Api>,
    Caller { user_id, .. }: Caller,
    Json(Body { sid, client_secret, id_server, id_access_token, bind }): Json<Body>,
) -> Result<Response, ApiError> {
    let add = Add { user_id, sid, client_secret, id_server, id_access_token, bind };
    api.finish(|contacts| async move { contacts.add(add).await }).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use threepid_domain::model::Sid;
    use threepid_domain::testing::ServerReply;
    use threepid_domain::use_cases::DeprecatedAdd;

    use crate::http::testing::{ACCOUNT_3PID, Server, error, refused};

    fn creds(sid: &Sid, client_secret: &str) -> Value {
        json!({ "sid": sid, "client_secret": client_secret })
    }

    async fn addresses(server: &Server, token: &str) -> Vec<Value> {
        let listing = server.get(ACCOUNT_3PID, token).await.json();
        let threepids = listing["threepids"].as_array().cloned().unwrap_or_default();
        threepids.into_iter().map(|threepid| threepid["address"].clone()).collect()
    }

    #[tokio::test]
    async fn a_proven_address_is_added_under_both_spellings_and_both_versions() {
        let server = Server::new();
        for (email, spelling, version) in [
            ("a@example.org", "three_pid_creds", "v3"),
            ("b@example.org", "threePidCreds", "v3"),
            ("c@example.org", "three_pid_creds", "r0"),
        ] {
            let sid = server.proven(email, "secret").await;
            let uri = format!("/_matrix/client/{version}/account/3pid");
            let body = json!({ spelling: creds(&sid, "secret"), "bind": true }).to_string();
            let answer = server.post(&uri, "alice", body).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})), "{email}");
        }
        assert_eq!(addresses(&server, "alice").await, ["a@example.org", "b@example.org", "c@example.org"]);
    }

    #[tokio::test]
    async fn the_same_request_again_is_harmless() {
        let server = Server::new();
        let sid = server.proven("a@example.org", "secret").await;
        let body = json!({ "three_pid_creds": creds(&sid, "secret") }).to_string();
        for _ in 0..2 {
            assert_eq!(server.post(ACCOUNT_3PID, "alice", body.clone()).await.status.as_u16(), 200);
        }
        let answer = server.post(ACCOUNT_3PID, "bob", body).await;
        assert_eq!(answer.error(), error(403, "M_THREEPID_AUTH_FAILED"));
        assert_eq!(addresses(&server, "bob").await, Vec::<Value>::new());
    }

    #[tokio::test]
    async fn a_session_that_proves_nothing_is_refused_in_one_way() {
        let server = Server::new();
        let (unproven, _) = server.pending("a@example.org", "secret").await;
        let proven = server.proven("b@example.org", "secret").await;
        let mut texts = Vec::new();
        for (sid, secret) in [(&unproven, "secret"), (&proven, "other"), (&Sid::new("unknown"), "secret")] {
            let body = json!({ "three_pid_creds": creds(sid, secret) }).to_string();
            let answer = server.post(ACCOUNT_3PID, "alice", body).await;
            assert_eq!(answer.error(), error(403, "M_THREEPID_AUTH_FAILED"));
            texts.push(answer.text);
        }
        texts.dedup();
        assert_eq!(texts.len(), 1, "which of them it was is not told");
    }

    #[tokio::test]
    async fn another_accounts_address_is_in_use() {
        let server = Server::new();
        let sid = server.proven("a@example.org", "secret").await;
        server.added("@bob:example.org", "a@example.org").await;
        let body = json!({ "three_pid_creds": creds(&sid, "secret") }).to_string();
        assert_eq!(server.post(ACCOUNT_3PID, "alice", body).await.error(), error(400, "M_THREEPID_IN_USE"));
    }

    #[tokio::test]
    async fn a_proof_survives_an_outage() {
        let server = Server::new();
        let sid = server.proven("a@example.org", "secret").await;
        let body = json!({ "three_pid_creds": creds(&sid, "secret") }).to_string();
        server.store.set_available(false);
        let answer = server.post(ACCOUNT_3PID, "alice", body.clone()).await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
        server.store.set_available(true);
        assert_eq!(server.post(ACCOUNT_3PID, "alice", body).await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn bad_bodies_are_told_apart() {
        let server = Server::new();
        let sid = "a".repeat(256);
        for (body, errcode, name) in [
            (json!({}), "M_MISSING_PARAM", "three_pid_creds"),
            (json!({ "three_pid_creds": null }), "M_MISSING_PARAM", "three_pid_creds"),
            (json!({ "three_pid_creds": "x" }), "M_BAD_JSON", "three_pid_creds"),
            (json!({ "threePidCreds": [] }), "M_BAD_JSON", "threePidCreds"),
            (json!({ "three_pid_creds": { "client_secret": "s" } }), "M_MISSING_PARAM", "sid"),
            (json!({ "three_pid_creds": { "sid": "s" } }), "M_MISSING_PARAM", "client_secret"),
            (json!({ "three_pid_creds": { "sid": 1, "client_secret": "s" } }), "M_BAD_JSON", "sid"),
            (json!({ "three_pid_creds": { "sid": "", "client_secret": "s" } }), "M_INVALID_PARAM", "sid"),
            (json!({ "three_pid_creds": { "sid": sid, "client_secret": "s" } }), "M_INVALID_PARAM", "sid"),
            (
                json!({ "three_pid_creds": { "sid": "s", "client_secret": "ß" } }),
                "M_INVALID_PARAM",
                "client_secret",
            ),
            (
                json!({ "bind": 1, "three_pid_creds": { "sid": "s", "client_secret": "s" } }),
                "M_BAD_JSON",
                "bind",
            ),
        ] {
            let answer = server.post(ACCOUNT_3PID, "alice", body.to_string()).await;
            assert_eq!(answer.error(), error(400, errcode), "{body}");
            assert!(answer.text.contains(name), "{body}: {}", answer.text);
        }
    }

    #[tokio::test]
    async fn an_identity_server_is_ignored_if_its_name_can_be_one() {
        let server = Server::new();
        let sid = server.proven("a@example.org", "secret").await;
        for (name, is_good) in [
            ("https://id.example", false),
            ("id.example/x", false),
            ("user@id.example", false),
            ("id example", false),
            ("id.example:8090", true),
        ] {
            let mut creds = creds(&sid, "secret");
            creds["id_server"] = name.into();
            let body = json!({ "three_pid_creds": creds }).to_string();
            let answer = server.post(ACCOUNT_3PID, "alice", body).await;
            if is_good {
                assert_eq!(answer.status.as_u16(), 200, "{name}: {}", answer.text);
            } else {
                assert_eq!(answer.error(), error(400, "M_INVALID_PARAM"), "{name}");
            }
        }
    }

    fn foreign(sid: &Sid, id_server: Option<&str>, bind: bool) -> String {
        let creds = json!({
            "sid": sid, "client_secret": "secret", "id_server": id_server, "id_access_token": "token",
        });
        json!({ "three_pid_creds": creds, "bind": bind }).to_string()
    }

    #[tokio::test]
    async fn a_session_of_an_identity_server_is_added_and_bound() {
        for version in ["r0", "v3", "unstable"] {
            let server = Server::trusting(|_| {});
            let sid = server.proven_at("id.example", "a@example.org", "secret");
            let uri = format!("/_matrix/client/{version}/account/3pid");
            for _ in 0..2 {
                let answer = server.post(&uri, "alice", foreign(&sid, Some("ID.example"), true)).await;
                assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})), "{version}");
            }
            assert_eq!(addresses(&server, "alice").await, ["a@example.org"]);
            assert_eq!(server.asked(), ["validated", "bind"]);
        }
    }

    #[tokio::test]
    async fn each_failure_with_an_identity_server_has_its_status_and_code() {
        let server = Server::trusting(|_| {});
        let sid = server.proven_at("id.example", "a@example.org", "secret");
        for (sid, id_server, bind, expected) in [
            (&sid, None, false, error(400, "M_MISSING_PARAM")),
            (&sid, Some("stranger.example"), false, error(400, "M_SERVER_NOT_TRUSTED")),
            (&sid, Some("binds.example"), false, error(400, "M_SERVER_NOT_TRUSTED")),
            (&sid, Some("validates.example"), true, error(400, "M_SERVER_NOT_TRUSTED")),
            (&sid, Some("validates.example"), false, error(403, "M_THREEPID_AUTH_FAILED")),
            (&Sid::new("unknown"), Some("id.example"), false, error(403, "M_THREEPID_AUTH_FAILED")),
        ] {
            let answer = server.post(ACCOUNT_3PID, "alice", foreign(sid, id_server, bind)).await;
            assert_eq!(answer.error(), expected, "{sid} {id_server:?} {bind}");
        }
        let terms = json!({ "errcode": "M_TERMS_NOT_SIGNED", "error": "sign" });
        let token = json!({ "errcode": "M_UNAUTHORIZED", "error": "who", "soft_logout": true });
        for (reply, expected) in [
            (refused(403, &terms), error(403, "M_TERMS_NOT_SIGNED")),
            (refused(401, &token), error(403, "M_FORBIDDEN")),
            (ServerReply::Down, error(503, "M_UNKNOWN")),
        ] {
            server.identity_servers.next_is(reply);
            let answer = server.post(ACCOUNT_3PID, "alice", foreign(&sid, Some("id.example"), true)).await;
            assert_eq!(answer.error(), expected);
            assert!(!answer.text.contains("soft_logout"), "{}", answer.text);
        }
        assert_eq!(addresses(&server, "alice").await, [""; 0]);
        server.added("@bob:example.org", "a@example.org").await;
        let answer = server.post(ACCOUNT_3PID, "alice", foreign(&sid, Some("id.example"), true)).await;
        assert_eq!(answer.error(), error(400, "M_THREEPID_IN_USE"));
    }

    #[tokio::test]
    async fn a_bind_that_fails_is_the_answer_while_the_address_stays() {
        let server = Server::trusting(|_| {});
        let sid = server.proven_at("id.example", "a@example.org", "secret");
        let body = |bind| foreign(&sid, Some("id.example"), bind);
        assert_eq!(server.post(ACCOUNT_3PID, "alice", body(false)).await.status.as_u16(), 200);
        let terms = json!({ "errcode": "M_TERMS_NOT_SIGNED", "error": "sign" });
        server.identity_servers.next_is(refused(403, &terms));
        let answer = server.post(ACCOUNT_3PID, "alice", body(true)).await;
        assert_eq!(answer.error(), error(403, "M_TERMS_NOT_SIGNED"));
        assert_eq!(addresses(&server, "alice").await, ["a@example.org"]);
        assert_eq!(server.post(ACCOUNT_3PID, "alice", body(true)).await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn the_operators_switches_are_forbidden_to_overstep() {
        for deprecated_add in [DeprecatedAdd::Off, DeprecatedAdd::IdentityServerOnly] {
            let server = Server::trusting(|policy| policy.deprecated_add = deprecated_add);
            let sid = server.proven("a@example.org", "secret").await;
            let answer = server.post(ACCOUNT_3PID, "alice", foreign(&sid, None, false)).await;
            assert_eq!(answer.error(), error(403, "M_FORBIDDEN"), "{deprecated_add:?}");
        }
    }
}
