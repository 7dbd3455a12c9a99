//! `GET /capabilities`: [what the server can do], as the homeserver says it, but for what is ours: `m.3pid_changes`.
//!
//! The overlay is cut into the homeserver's own text, so that every other byte stays as it was written: numbers that no
//! program could read, the order of keys, unknown fields.
//!
//! [what the server can do]: https://spec.matrix.org/v1.18/client-server-api/#get_matrixclientv3capabilities

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::json;
use serde_json::value::RawValue;
use threepid_domain::ports::AnswerAsWritten;
use threepid_domain::use_cases::Changes;

use super::Api;
use super::caller::Shown;
use super::error::{ApiError, json_response, set_retry_after};
use super::openapi::{AskedBy, Field, Gives, Kind, Operation};

/// What clients look at before they offer to change contacts.
const CHANGES: &str = "m.3pid_changes";

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "capabilities",
    summary: "What the server can do: the homeserver's answer, but for m.3pid_changes",
    specification: Some("get_matrixclientv3capabilities"),
    asked_by: AskedBy::AccountOrGuest,
    gives: Gives::Json(&[Field::required("capabilities", Kind::Any, "By name.")]),
    ..Operation::BASE
};

/// Says what the server can do. Guests may know it, too.
pub(crate) async fn handle(State(api): State<Api>, Shown(credentials): Shown) -> Result<Response, ApiError> {
    let changes = json!({ "enabled": api.contacts.changes() == Changes::Permitted });
    match api.who_asks.capabilities(credentials).await? {
        Some(answer) => Ok(passed_on(answer, &changes.to_string())),
        // Without a homeserver there is nothing else to be had.
        None => {
            let capabilities = json!({ CHANGES: changes, "m.change_password": { "enabled": false } });
            Ok(json_response(StatusCode::OK, &json!({ "capabilities": capabilities })))
        }
    }
}

fn passed_on(answer: AnswerAsWritten, changes: &str) -> Response {
    let AnswerAsWritten { status, content_type, retry_after, body } = answer;
    let body = match std::str::from_utf8(&body).ok().filter(|_| status == 200) {
        Some(text) => overlaid(text, changes).map_or(body, String::into_bytes),
        None => body,
    };
    let mut response = json_response(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), &());
    *response.body_mut() = Body::from(body);
    match content_type.map(HeaderValue::try_from) {
        Some(Ok(content_type)) => drop(response.headers_mut().insert(CONTENT_TYPE, content_type)),
        _ => drop(response.headers_mut().remove(CONTENT_TYPE)),
    }
    set_retry_after(&mut response, retry_after.map(Duration::from_secs));
    response
}

/// `text` with the capability set to `changes`; `None` where it is no object with an object of capabilities.
fn overlaid(text: &str, changes: &str) -> Option<String> {
    let answer = object(text)?;
    let capabilities = answer.get("capabilities")?.get();
    let known = object(capabilities)?;
    let (place, value) = match known.get(CHANGES) {
        Some(old) => (place(text, old.get())?, changes.to_owned()),
        None => {
            let end = place(text, capabilities)?.end.checked_sub(1)?;
            let comma = if known.is_empty() { "" } else { "," };
            (end..end, format!("{comma}\"{CHANGES}\":{changes}"))
        }
    };
    Some(format!("{}{value}{}", text.get(..place.start)?, text.get(place.end..)?))
}

/// A JSON object's values as they are written.
fn object(text: &str) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(text).ok()
}

/// Where `part`, which was borrowed from `text`, stands in it.
fn place(text: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    Some(start..start.checked_add(part.len())?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use threepid_domain::ports::{MockHomeserverCapabilities, Unavailable};
    use threepid_domain::use_cases::Policy;

    use super::*;
    use crate::Builder;
    use crate::http::testing::{Server, error, request};

    const CAPABILITIES: &str = "/_matrix/client/v3/capabilities";
    const JSON: &str = "application/json; charset=utf-8";

    fn forbidding(builder: Builder) -> Builder {
        builder.policy(Policy { changes: Changes::Forbidden, ..Policy::default() })
    }

    /// Beside a homeserver that answers so.
    fn beside(status: u16, content_type: Option<&str>, body: &'static str) -> Server {
        let answer = AnswerAsWritten {
            status,
            content_type: content_type.map(str::to_owned),
            retry_after: (status == 429).then_some(7),
            body: body.as_bytes().to_vec(),
        };
        let mut homeserver = MockHomeserverCapabilities::new();
        homeserver.expect_capabilities().returning(move |credentials| {
            assert_eq!(credentials.access_token.expose(), "t");
            Ok(answer.clone())
        });
        Server::built(|builder| forbidding(builder).capabilities(Arc::new(homeserver)))
    }

    #[tokio::test]
    async fn our_capability_is_cut_into_the_homeservers_text_and_no_other_byte_moves() {
        for (body, expected) in [
            (r#"{"capabilities":{}}"#, r#"{"capabilities":{"m.3pid_changes":{"enabled":false}}}"#),
            (
                r#" {"z":1.10, "capabilities" : {"m.b":{"n":123456789012345678901234567890} },"a":1e400} "#,
                r#" {"z":1.10, "capabilities" : {"m.b":{"n":123456789012345678901234567890} ,"m.3pid_changes":{"enabled":false}},"a":1e400} "#,
            ),
            (
                "{\"capabilities\":{\"m.3pid_changes\": { \"enabled\" : true, \"x\":[{}] }\n,\"\\u00e9\":\"é\"}}",
                "{\"capabilities\":{\"m.3pid_changes\": {\"enabled\":false}\n,\"\\u00e9\":\"é\"}}",
            ),
            (
                r#"{"capabilities":{"m.3pid_changes":null,"m.a":{}}}"#,
                r#"{"capabilities":{"m.3pid_changes":{"enabled":false},"m.a":{}}}"#,
            ),
            (
                r#"{"capabilities":{"m.3pid\u005fchanges":{"enabled":true}}}"#,
                r#"{"capabilities":{"m.3pid\u005fchanges":{"enabled":false}}}"#,
            ),
        ] {
            let server = beside(200, Some(JSON), body);
            for version in ["r0", "v3"] {
                let answer = server.get(&format!("/_matrix/client/{version}/capabilities"), "t").await;
                assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, expected));
                assert_eq!(answer.header("content-type"), JSON);
                assert_eq!(answer.header("cache-control"), "no-store");
            }
        }
    }

    #[tokio::test]
    async fn every_other_answer_stays_as_it_was_written() {
        for (status, content_type, body) in [
            (200, Some(JSON), r#"{"capabilities":[]}"#),
            (200, Some(JSON), r#"{"capabilities":null, "n":1.10}"#),
            (200, Some(JSON), r#"{"other":{}}"#),
            (200, Some(JSON), r#"[{"capabilities":{}}]"#),
            (200, Some(JSON), r#"{"capabilities":{}"#),
            (200, Some("text/html"), "<html>"),
            (200, None, ""),
            (201, Some(JSON), r#"{"capabilities":{}}"#),
            (401, Some(JSON), r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true,"capabilities":{}}"#),
            (404, None, "404 page not found"),
            (429, Some(JSON), r#"{"errcode":"M_LIMIT_EXCEEDED"}"#),
        ] {
            let answer = beside(status, content_type, body).get(CAPABILITIES, "t").await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (status, body));
            assert_eq!(answer.header("content-type"), content_type.unwrap_or_default(), "{body}");
            assert_eq!(answer.header("retry-after"), if status == 429 { "7" } else { "" });
        }
    }

    #[tokio::test]
    async fn a_homeserver_that_is_down_is_503() {
        let mut homeserver = MockHomeserverCapabilities::new();
        homeserver.expect_capabilities().returning(|_| Err(Unavailable::new("homeserver", "refused")));
        let server = Server::built(|builder| builder.capabilities(Arc::new(homeserver)));
        let answer = server.get(CAPABILITIES, "t").await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
    }

    #[tokio::test]
    async fn without_a_homeserver_the_answer_is_our_own() {
        for (server, enabled) in [(Server::new(), true), (Server::built(forbidding), false)] {
            for token in ["alice", "guest"] {
                let answer = server.get(CAPABILITIES, token).await;
                let expected = json!({ "capabilities": {
                    "m.3pid_changes": { "enabled": enabled }, "m.change_password": { "enabled": false },
                }});
                assert_eq!((answer.status.as_u16(), answer.json()), (200, expected));
            }
            assert_eq!(server.get(CAPABILITIES, "nobody").await.error(), error(401, "M_UNKNOWN_TOKEN"));
            assert_eq!(server.get(CAPABILITIES, "").await.error(), error(401, "M_MISSING_TOKEN"));
            let posted = server.send(request(Method::POST, CAPABILITIES, "alice", "{}".into())).await;
            assert_eq!(posted.error(), error(405, "M_UNRECOGNIZED"));
        }
    }
}
