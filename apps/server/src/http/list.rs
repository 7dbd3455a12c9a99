//! `GET /account/3pid`: the [threepids of an account].
//!
//! [threepids of an account]: https://spec.matrix.org/v1.18/client-server-api/#get_matrixclientv3account3pid

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use threepid_domain::model::{Medium, Threepid};

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, json_response};
use super::openapi::{ADDRESS, AskedBy, Field, Gives, Kind, LARGEST_INTEGER, MEDIUM, Operation};

const THREEPID: &[Field] = &[
    MEDIUM,
    ADDRESS,
    Field::required(
        "validated_at",
        Kind::Integer(LARGEST_INTEGER),
        "When it was proven last, in milliseconds.",
    ),
    Field::required(
        "added_at",
        Kind::Integer(LARGEST_INTEGER),
        "When it came to the account, in milliseconds.",
    ),
];

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "list",
    summary: "The addresses of the caller's account, oldest first",
    specification: Some("get_matrixclientv3account3pid"),
    asked_by: AskedBy::Account,
    gives: Gives::Json(&[Field::required("threepids", Kind::List(THREEPID), "")]),
    ..Operation::BASE
};

/// Lists the caller's threepids, oldest first.
pub(crate) async fn handle(
    State(api): State<Api>,
    Caller { user_id, .. }: Caller,
) -> Result<Response, ApiError> {
    let threepids = api.contacts.list(&user_id).await?;
    let threepids = threepids.iter().map(Entry::from).collect();
    Ok(json_response(StatusCode::OK, &Listing { threepids }))
}

#[derive(Serialize)]
struct Listing<'a> {
    threepids: Vec<Entry<'a>>,
}

/// One threepid on the wire; times in milliseconds since the epoch.
#[derive(Serialize)]
struct Entry<'a> {
    medium: Medium,
    address: &'a str,
    validated_at: u64,
    added_at: u64,
}

impl<'a> From<&'a Threepid> for Entry<'a> {
    fn from(threepid: &'a Threepid) -> Self {
        Self {
            medium: threepid.address.medium(),
            address: threepid.address.as_str(),
            validated_at: threepid.validated_at.as_ms(),
            added_at: threepid.added_at.as_ms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use serde_json::json;
    use threepid_domain::testing::FixedClock;

    use crate::http::testing::{ACCOUNT_3PID, Server, error, request};

    #[tokio::test]
    async fn an_accounts_threepids_are_listed_oldest_first_with_times_in_milliseconds() {
        let server = Server::new();
        server.added("@alice:example.org", "Second@example.org").await;
        server.clock.advance(Duration::from_millis(1500));
        server.added("@alice:example.org", "first@bücher.example").await;
        server.added("@bob:example.org", "bob@example.org").await;
        let start = FixedClock::START.as_ms();
        let later = start + 1500;
        let expected = json!({ "threepids": [
            { "medium": "email", "address": "second@example.org", "validated_at": start, "added_at": start },
            { "medium": "email", "address": "first@bücher.example", "validated_at": later, "added_at": later },
        ]});
        for version in ["r0", "v3"] {
            let answer = server.get(&format!("/_matrix/client/{version}/account/3pid"), "alice").await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, expected.clone()));
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }

    #[tokio::test]
    async fn an_account_without_threepids_gets_an_empty_list() {
        let answer = Server::new().get(ACCOUNT_3PID, "alice").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "threepids": [] })));
    }

    #[tokio::test]
    async fn head_answers_as_get_without_a_body() {
        let server = Server::new();
        let answer = server.send(request(Method::HEAD, ACCOUNT_3PID, "alice", "".into())).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ""));
    }

    #[tokio::test]
    async fn storage_that_cannot_answer_is_503_with_a_time_to_come_back() {
        let server = Server::new();
        server.store.set_available(false);
        let answer = server.get(ACCOUNT_3PID, "alice").await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
        assert!(!answer.text.contains("switched off"), "the cause is the operator's: {}", answer.text);
    }
}
