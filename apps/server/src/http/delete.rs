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
use super::openapi::{ADDRESS, AskedBy, Field, Gives, ID_SERVER, MEDIUM, Operation, Takes, UNBIND_RESULT};

/// What the client sends; `/unbind` takes the same.
pub(crate) struct Body {
    pub(super) address: Address,
    pub(super) id_server: Option<IdentityServerName>,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[MEDIUM, ADDRESS, ID_SERVER.or_none()];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        let medium =
            object.parsed("medium", |text| Medium::parse(text).ok_or("medium must be email or msisdn"))?;
        Ok(Self {
            address: object.parsed("address", |text| Address::parse(medium, text))?,
            id_server: object.optional_parsed("id_server", IdentityServerName::parse)?,
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "delete",
    summary: "Removes an address from the caller's account, and from the identity servers that have it",
    about: "The address is gone whatever the identity servers answer; what one of them owes is tried again later.",
    specification: Some("post_matrixclientv3account3piddelete"),
    asked_by: AskedBy::Account,
    takes: Takes::Json(Body::FIELDS),
    gives: Gives::Json(&[UNBIND_RESULT]),
    fails: &[(403, "M_FORBIDDEN")],
    ..Operation::BASE
};

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use threepid_domain::testing::ServerReply;
    use threepid_domain::use_cases::Changes;

    use crate::http::testing::{ACCOUNT_3PID, Answer, BIND, DELETE, Server, error, refused};

    fn body(id_server: Option<&str>) -> Value {
        json!({ "medium": "email", "address": " A@Example.ORG", "id_server": id_server })
    }

    fn result(answer: &Answer) -> (u16, String) {
        let result = answer.json()["id_server_unbind_result"].as_str().unwrap_or_default().to_owned();
        (answer.status.as_u16(), result)
    }

    fn said(result: &str) -> (u16, String) {
        (200, result.to_owned())
    }

    async fn addresses(server: &Server, token: &str) -> usize {
        let listing = server.get(ACCOUNT_3PID, token).await.json();
        listing["threepids"].as_array().map_or(0, Vec::len)
    }

    /// Alice has the address, bound at `id.example`.
    async fn bound() -> Server {
        let server = Server::trusting(|_| {});
        server.added("@alice:example.org", "a@example.org").await;
        let sid = server.proven_at("id.example", "a@example.org", "secret");
        let bind = json!({
            "id_server": "id.example", "id_access_token": "t", "sid": sid, "client_secret": "secret",
        });
        assert_eq!(server.post(BIND, "alice", bind.to_string()).await.status.as_u16(), 200);
        server
    }

    #[tokio::test]
    async fn an_address_leaves_the_account_and_the_servers_it_was_bound_at_in_every_version() {
        for version in ["r0", "v3", "unstable"] {
            let server = bound().await;
            let uri = format!("/_matrix/client/{version}/account/3pid/delete");
            let answer = server.post(&uri, "alice", body(None).to_string()).await;
            assert_eq!(result(&answer), said("success"), "{version}");
            assert_eq!(addresses(&server, "alice").await, 0);
            let again = server.post(&uri, "alice", body(None).to_string()).await;
            assert_eq!(result(&again), said("no-support"), "{version}");
        }
    }

    #[tokio::test]
    async fn whatever_an_identity_server_says_the_address_is_gone() {
        let token = json!({ "errcode": "M_UNAUTHORIZED", "error": "who" });
        for (reply, id_server, expected) in [
            (None, Some("id.example"), "success"),
            (None, Some("binds.example"), "success"),
            (None, Some("stranger.example"), "no-support"),
            (Some(ServerReply::Down), None, "no-support"),
            (Some(refused(401, &token)), None, "no-support"),
            (Some(refused(501, &token)), Some("id.example"), "no-support"),
        ] {
            let server = bound().await;
            if let Some(reply) = reply.clone() {
                server.identity_servers.next_is(reply);
            }
            let answer = server.post(DELETE, "alice", body(id_server).to_string()).await;
            assert_eq!(result(&answer), said(expected), "{reply:?} {id_server:?}");
            assert_eq!(addresses(&server, "alice").await, 0, "{reply:?} {id_server:?}");
        }
    }

    #[tokio::test]
    async fn another_accounts_address_stays() {
        let server = bound().await;
        let answer = server.post(DELETE, "bob", body(None).to_string()).await;
        assert_eq!((result(&answer), addresses(&server, "alice").await), (said("no-support"), 1));
    }

    #[tokio::test]
    async fn what_cannot_be_done_has_its_status_and_code() {
        let server = bound().await;
        let cases = [
            ("medium", json!(null), "M_MISSING_PARAM"),
            ("address", json!(null), "M_MISSING_PARAM"),
            ("medium", json!("m.pigeon"), "M_INVALID_PARAM"),
            ("medium", json!(1), "M_BAD_JSON"),
            ("address", json!("no address"), "M_INVALID_PARAM"),
            ("address", json!(""), "M_INVALID_PARAM"),
            ("id_server", json!("https://id.example"), "M_INVALID_PARAM"),
            ("id_server", json!(["id.example"]), "M_BAD_JSON"),
        ];
        for (name, value, errcode) in cases {
            let mut body = body(None);
            body[name] = value.clone();
            let answer = server.post(DELETE, "alice", body.to_string()).await;
            assert_eq!(answer.error(), error(400, errcode), "{name} {value}");
            assert!(answer.text.contains(name), "{name} {value}: {}", answer.text);
        }
        let body = body(None).to_string();
        assert_eq!(server.post(DELETE, "", body.clone()).await.error(), error(401, "M_MISSING_TOKEN"));
        let guest = server.post(DELETE, "guest", body.clone()).await;
        assert_eq!(guest.error(), error(403, "M_GUEST_ACCESS_FORBIDDEN"));
        server.store.set_available(false);
        let down = server.post(DELETE, "alice", body.clone()).await;
        assert_eq!((down.error(), down.header("retry-after")), (error(503, "M_UNKNOWN"), "5"));
        server.store.set_available(true);
        assert_eq!(addresses(&server, "alice").await, 1);
        let forbidding = Server::trusting(|policy| policy.changes = Changes::Forbidden);
        assert_eq!(forbidding.post(DELETE, "alice", body).await.error(), error(403, "M_FORBIDDEN"));
    }
}
