//! Who is asking: the account behind the access token.
//!
//! Tokens come by `Authorization: Bearer`, or by the `access_token` query that older clients use; the header wins. See
//! [using access tokens].
//!
//! [using access tokens]: https://spec.matrix.org/v1.18/client-server-api/#using-access-tokens

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use threepid_domain::model::{AccessToken, UserId};
use threepid_domain::ports::{Credentials, Freshness, WhoseTokenError};
use url::form_urlencoded;

use super::Api;
use super::client_ip::ClientIp;
use super::error::ApiError;

/// The account that asks. Guests do not get this far.
pub(crate) struct Caller {
    /// The account.
    pub(crate) user_id: UserId,
    /// What the client showed to say so.
    pub(crate) credentials: Credentials,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Shown(credentials) = Shown::from_request_parts(parts, api).await?;
        let freshness = if parts.method.is_safe() { Freshness::ForReading } else { Freshness::ForChange };
        let caller = api.who_asks.whose(credentials.clone(), freshness).await?;
        if caller.is_guest { Err(ApiError::Guest) } else { Ok(Self { user_id: caller.user_id, credentials }) }
    }
}

/// What a client shows, before anybody is asked whose it is.
pub(crate) struct Shown(pub(crate) Credentials);

impl FromRequestParts<Api> for Shown {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let token = bearer(&parts.headers)?.or_else(|| query_value(query, "access_token"));
        let token = token.filter(|token| !token.is_empty()).ok_or(ApiError::MissingToken)?;
        // Homeservers are asked with the token in a header; what does not fit into one is nobody's.
        if HeaderValue::from_str(&token).is_err() {
            return Err(WhoseTokenError::Unknown.into());
        }
        let user_id = query_value(query, "user_id").map(|id| UserId::parse(&id)).transpose();
        let user_id = user_id.map_err(|error| ApiError::InvalidParam("user_id", error.to_string()))?;
        let Ok(ClientIp(client_ip)) = ClientIp::from_request_parts(parts, api).await;
        Ok(Self(Credentials { access_token: AccessToken::new(token), user_id, client_ip }))
    }
}

/// The token in the header; `None` where there is no header, or one of another scheme, such as a proxy's.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let Ok(value) = value.to_str() else { return Err(WhoseTokenError::Unknown.into()) };
    let (scheme, token) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()))
}

/// The first value of `name` in a query or form.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::Arc;

    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use http::{Method, Request};
    use serde_json::{Value, json};
    use threepid_domain::model::RemoteRefusal;
    use threepid_domain::ports::{Freshness, MockAccessTokens, WhoseTokenError};
    use threepid_domain::testing::Fixture;

    use crate::http::testing::{ACCOUNT_3PID, Server, error, request};

    /// A server whose homeserver refuses every token like this.
    fn refusing(status: u16, body: Value) -> Server {
        let mut tokens = MockAccessTokens::new();
        tokens.expect_whose().returning(move |_, _| {
            let body = body.as_object().cloned().unwrap_or_default();
            Err(WhoseTokenError::Refused(RemoteRefusal { status, body }))
        });
        Server::built(|builder| builder.access_tokens(Arc::new(tokens)))
    }

    #[tokio::test]
    async fn a_token_is_taken_from_the_header_or_from_the_query_and_the_header_wins() {
        let server = Server::new();
        for (query, header, expected) in [
            ("", None, error(401, "M_MISSING_TOKEN")),
            ("?access_token=", None, error(401, "M_MISSING_TOKEN")),
            ("", Some("Bearer "), error(401, "M_MISSING_TOKEN")),
            ("", Some("Bearer"), error(401, "M_MISSING_TOKEN")),
            ("?access_token=alice", Some("Bearer "), error(401, "M_MISSING_TOKEN")),
            ("", Some("Basic YTpi"), error(401, "M_MISSING_TOKEN")),
            ("", Some("Bearer nobody"), error(401, "M_UNKNOWN_TOKEN")),
            ("?access_token=nobody", None, error(401, "M_UNKNOWN_TOKEN")),
            ("?access_token=a%0d%0ab", None, error(401, "M_UNKNOWN_TOKEN")),
            ("?access_token=alice", Some("Bearer nobody"), error(401, "M_UNKNOWN_TOKEN")),
            ("?access_token=nobody", Some("Bearer alice"), (200, String::new())),
            ("?access_token=alice", None, (200, String::new())),
            ("?access_token=alice", Some("Basic YTpi"), (200, String::new())),
            ("", Some("bearer alice"), (200, String::new())),
            ("?user_id=%40alice%3Aexample.org", Some("Bearer alice"), (200, String::new())),
            ("?user_id=alice", Some("Bearer alice"), error(400, "M_INVALID_PARAM")),
        ] {
            let mut request = Request::builder().uri(format!("{ACCOUNT_3PID}{query}"));
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let Ok(request) = request.body(Body::empty()) else { panic!("{query} {header:?} is no request") };
            let answer = server.send(request).await;
            if expected.0 == 200 {
                assert_eq!(answer.status.as_u16(), 200, "{query} {header:?}: {}", answer.text);
            } else {
                assert_eq!(answer.error(), expected, "{query} {header:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_guest_is_turned_away_from_reading_too() {
        let server = Server::new();
        for method in [Method::GET, Method::POST] {
            let answer = server.send(request(method, ACCOUNT_3PID, "guest", "{}".into())).await;
            assert_eq!(answer.error(), error(403, "M_GUEST_ACCESS_FORBIDDEN"));
        }
    }

    #[tokio::test]
    async fn the_homeservers_refusal_is_passed_on_whole() {
        for (status, body) in [
            (401, json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "gone", "soft_logout": true })),
            (
                401,
                json!({ "errcode": "M_USER_LOCKED", "error": "locked", "soft_logout": true, "x": [1.5, null] }),
            ),
            (403, json!({ "errcode": "M_FORBIDDEN", "error": "application service cannot masquerade" })),
        ] {
            let answer = refusing(status, body.clone()).get(ACCOUNT_3PID, "t").await;
            assert_eq!((answer.status.as_u16(), answer.json()), (status, body));
        }
    }

    #[tokio::test]
    async fn a_homeserver_that_asks_to_slow_down_is_obeyed() {
        let body = json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 2001 });
        let answer = refusing(429, body.clone()).get(ACCOUNT_3PID, "t").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (429, body));
        assert_eq!(answer.header("retry-after"), "3");
    }

    #[tokio::test]
    async fn a_refusal_that_is_none_is_an_outage() {
        for status in [200, 302, 500, 99, 1000] {
            let answer = refusing(status, json!({ "errcode": "M_FORBIDDEN" })).get(ACCOUNT_3PID, "t").await;
            assert_eq!(answer.error(), error(503, "M_UNKNOWN"), "{status}");
        }
    }

    #[tokio::test]
    async fn a_homeserver_that_is_down_is_503() {
        let server = Server::new();
        server.tokens.set_available(false);
        let answer = server.get(ACCOUNT_3PID, "alice").await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
    }

    #[tokio::test]
    async fn only_reading_may_do_with_an_answer_that_is_not_fresh() {
        let server = Server::new();
        for method in [Method::GET, Method::HEAD, Method::POST] {
            server.send(request(method, ACCOUNT_3PID, "alice", "{}".into())).await;
        }
        use Freshness::{ForChange, ForReading};
        assert_eq!(server.tokens.asked(), [ForReading, ForReading, ForChange]);
    }

    #[tokio::test]
    async fn the_homeserver_learns_for_whom_and_from_where_it_is_asked() {
        let mut tokens = MockAccessTokens::new();
        tokens.expect_whose().returning(|credentials, _| {
            assert_eq!(credentials.access_token.expose(), "t");
            assert_eq!(credentials.user_id, Some(Fixture::user("@bot:example.org")));
            assert_eq!(credentials.client_ip.map(|ip| ip.to_string()).as_deref(), Some("192.0.2.7"));
            Err(WhoseTokenError::Unknown)
        });
        let server = Server::built(|builder| builder.access_tokens(Arc::new(tokens)));
        let uri = format!("{ACCOUNT_3PID}?user_id=@bot:example.org");
        let mut request = request(Method::GET, &uri, "t", Body::empty());
        let peer = std::net::SocketAddr::from(([192, 0, 2, 7], 4711));
        request.extensions_mut().insert(ConnectInfo(peer));
        assert_eq!(server.send(request).await.error(), error(401, "M_UNKNOWN_TOKEN"));
    }
}
