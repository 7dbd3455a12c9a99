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

/// Lists the caller's threepids, oldest first.
pub(crate) async fn handle(State(api): State<Api>, Caller(user): Caller) -> Result<Response, ApiError> {
    let threepids = api.contacts.list(&user).await?;
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
