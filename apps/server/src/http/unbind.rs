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
use super::json::{FromJson, Json};
use super::openapi::{AskedBy, Gives, Operation, Takes, UNBIND_RESULT};

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "unbind",
    summary: "Has identity servers forget an address; it stays on the account",
    specification: Some("post_matrixclientv3account3pidunbind"),
    asked_by: AskedBy::Account,
    takes: Takes::Json(Body::FIELDS),
    gives: Gives::Json(&[UNBIND_RESULT]),
    fails: &[(400, "M_SERVER_NOT_TRUSTED"), (403, "M_FORBIDDEN")],
    asks_identity_servers: true,
    ..Operation::BASE
};

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use threepid_domain::testing::{Fixture, ServerReply};
    use threepid_domain::use_cases::Changes;

    use crate::http::testing::{BIND, Server, UNBIND, error, refused};

    fn body(id_server: Option<&str>) -> Value {
        json!({ "medium": "email", "address": "A@Example.org", "id_server": id_server })
    }

    /// Alice's address is bound at `id.example`.
    async fn bound() -> Server {
        let server = Server::trusting(|policy| policy.changes = Changes::Forbidden);
        let sid = server.proven_at("id.example", "a@example.org", "secret");
        let bind = json!({
            "id_server": "id.example", "id_access_token": "t", "sid": sid, "client_secret": "secret",
        });
        assert_eq!(server.post(BIND, "alice", bind.to_string()).await.status.as_u16(), 200);
        server
    }

    #[tokio::test]
    async fn identity_servers_forget_the_address_in_every_version() {
        for (version, id_server) in [("r0", None), ("v3", Some("id.example")), ("unstable", None)] {
            let server = bound().await;
            let uri = format!("/_matrix/client/{version}/account/3pid/unbind");
            for expected in ["success", if id_server.is_some() { "success" } else { "no-support" }] {
                let answer = server.post(&uri, "alice", body(id_server).to_string()).await;
                let expected = json!({ "id_server_unbind_result": expected });
                assert_eq!((answer.status.as_u16(), answer.json()), (200, expected), "{version}");
            }
            let (id, address) = (Fixture::server("id.example"), Fixture::address("a@example.org"));
            assert_eq!(server.identity_servers.published(&id, &address), None);
        }
    }

    #[tokio::test]
    async fn each_failure_has_its_status_and_code() {
        let server = bound().await;
        for (reply, id_server, expected) in [
            (None, Some("stranger.example"), error(400, "M_SERVER_NOT_TRUSTED")),
            (None, Some("validates.example"), error(400, "M_SERVER_NOT_TRUSTED")),
            (None, Some("https://id.example"), error(400, "M_INVALID_PARAM")),
            (Some((400, "M_INVALID_PARAM")), None, error(400, "M_INVALID_PARAM")),
            (Some((404, "M_NOT_FOUND")), None, error(404, "M_NOT_FOUND")),
            (Some((501, "M_UNRECOGNIZED")), None, error(501, "M_UNRECOGNIZED")),
            (Some((401, "M_UNAUTHORIZED")), None, error(403, "M_FORBIDDEN")),
            (Some((403, "M_UNKNOWN_TOKEN")), None, error(403, "M_FORBIDDEN")),
        ] {
            if let Some((status, errcode)) = reply {
                let body = json!({ "errcode": errcode, "error": "no", "soft_logout": true });
                server.identity_servers.next_is(refused(status, &body));
            }
            let answer = server.post(UNBIND, "alice", body(id_server).to_string()).await;
            assert_eq!(answer.error(), expected, "{reply:?} {id_server:?}");
            assert!(!answer.text.contains("soft_logout"), "{}", answer.text);
        }
        server.identity_servers.next_is(ServerReply::Down);
        let down = server.post(UNBIND, "alice", body(None).to_string()).await;
        assert_eq!((down.error(), down.header("retry-after")), (error(503, "M_UNKNOWN"), "5"));
        for (token, expected) in
            [("", error(401, "M_MISSING_TOKEN")), ("guest", error(403, "M_GUEST_ACCESS_FORBIDDEN"))]
        {
            assert_eq!(server.post(UNBIND, token, body(None).to_string()).await.error(), expected);
        }
        assert_eq!(server.store.all_bindings().len(), 1, "the record stays");
    }
}
