//! `POST /account/3pid/email/requestToken`: [a client wants to prove an email address].
//!
//! It asks for no access token. Where this server sends the mail, an `id_server` only has to be well-formed.
//!
//! [a client wants to prove an email address]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pidemailrequesttoken

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use threepid_domain::model::{
    ClientSecret, EmailAddress, IdAccessToken, IdentityServerName, NextLink, SendAttempt,
};
use threepid_domain::use_cases::{Opened, RequestEmailToken};

use super::Api;
use super::client_ip::ClientIp;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object};
use super::openapi::{
    CLIENT_SECRET, Field, Gives, ID_ACCESS_TOKEN, ID_SERVER, Kind, NEXT_LINK, Operation, SEND_ATTEMPT, SID,
    SUBMIT_URL, Takes,
};

/// What the client sends.
pub(crate) struct Body {
    client_secret: ClientSecret,
    email: EmailAddress,
    send_attempt: SendAttempt,
    next_link: Option<NextLink>,
    id_server: Option<IdentityServerName>,
    id_access_token: Option<IdAccessToken>,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[
        CLIENT_SECRET,
        Field::required("email", Kind::Text, "The address to prove.").like("alice@example.org"),
        SEND_ATTEMPT,
        NEXT_LINK,
        ID_SERVER.or_none(),
        ID_ACCESS_TOKEN.or_none(),
    ];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            email: object.parsed("email", EmailAddress::parse)?,
            send_attempt: object.integer("send_attempt", SendAttempt::new)?,
            next_link: object.optional_parsed("next_link", NextLink::parse)?,
            id_server: object.optional_parsed("id_server", IdentityServerName::parse)?,
            id_access_token: object.optional_string("id_access_token")?.map(IdAccessToken::new),
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "requestEmailToken",
    summary: "Opens a validation session and sends a mail with a link",
    about: "The same request again answers the same session and sends nothing; a higher `send_attempt` sends again.",
    specification: Some("post_matrixclientv3account3pidemailrequesttoken"),
    takes: Takes::Json(Body::FIELDS),
    gives: Gives::Json(&[SID, SUBMIT_URL]),
    fails: &[
        (400, "M_THREEPID_IN_USE"),
        (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        (400, "M_SERVER_NOT_TRUSTED"),
        (403, "M_THREEPID_DENIED"),
        (403, "M_FORBIDDEN"),
        (429, "M_LIMIT_EXCEEDED"),
    ],
    asks_identity_servers: true,
    ..Operation::BASE
};

/// Opens or continues a session, and has the mail sent.
pub(crate) async fn handle(
    State(api): State<Api>,
    ClientIp(client_ip): ClientIp,
    Json(Body { client_secret, email, send_attempt, next_link, id_server, id_access_token }): Json<Body>,
) -> Result<Response, ApiError> {
    let request = RequestEmailToken {
        client_secret,
        email,
        send_attempt,
        next_link,
        client_ip,
        id_server,
        id_access_token,
    };
    let opened = api.finish(|contacts| async move { contacts.request_email_token(request).await }).await?;
    Ok(json_response(StatusCode::OK, &session_body(&api, opened)))
}

/// What is told of a session: where its code is submitted, too, where there is one.
pub(super) fn session_body(api: &Api, opened: Opened) -> Value {
    let mut body = json!({ "sid": opened.sid });
    let ours = opened.has_code.then(|| api.links.submit_url().to_owned());
    if let Some(url) = opened.submit_url.or(ours) {
        body["submit_url"] = url.into();
    }
    body
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::time::Duration;

    use axum::extract::ConnectInfo;
    use http::{Method, Request};
    use serde_json::{Value, json};
    use threepid_domain::model::{AddressRules, Rule, Sid, Validation};
    use threepid_domain::ports::{Limit, MockIdentityServer, OpenedRemotely, Verdict};
    use threepid_domain::testing::{CommitFailure, Fixture, ServerReply};
    use threepid_domain::use_cases::Policy;

    use crate::HttpSettings;
    use crate::http::testing::{REQUEST_TOKEN, Server, error, refused, request};

    fn body() -> Value {
        json!({ "client_secret": "secret", "email": "Alice@example.org", "send_attempt": 1 })
    }

    fn body_with(name: &str, value: Value) -> String {
        let mut body = body();
        body[name] = value;
        body.to_string()
    }

    #[tokio::test]
    async fn a_session_is_opened_without_an_access_token_and_one_mail_is_owed() {
        let server = Server::new();
        for uri in [REQUEST_TOKEN, "/_matrix/client/r0/account/3pid/email/requestToken"] {
            let answer = server.post(uri, "", body().to_string()).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "sid": "sid1" })));
        }
        assert_eq!(server.store.outbox_rows().len(), 1);
        let answer = server.post(REQUEST_TOKEN, "", body_with("send_attempt", json!(2))).await;
        assert_eq!(answer.json(), json!({ "sid": "sid1" }));
        assert_eq!(server.store.outbox_rows().len(), 2);
    }

    #[tokio::test]
    async fn a_body_is_json_whatever_its_content_type() {
        let server = Server::new();
        for content_type in
            ["application/json; charset=latin1", "text/plain", "application/x-www-form-urlencoded"]
        {
            let request = Request::post(REQUEST_TOKEN)
                .header("content-type", content_type)
                .body(body().to_string().into());
            let Ok(request) = request else { panic!("{content_type} is no header") };
            assert_eq!(server.send(request).await.status.as_u16(), 200, "{content_type}");
        }
    }

    #[tokio::test]
    async fn optional_parameters_may_be_null_and_unknown_ones_anything() {
        let server = Server::new();
        let mut body = body();
        for name in ["next_link", "id_server", "id_access_token"] {
            body[name] = Value::Null;
        }
        body["org.example.more"] = json!({ "deep": [[[1.5e300]]], "text": "\"]}" });
        let answer = server.post(REQUEST_TOKEN, "", body.to_string()).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    }

    #[tokio::test]
    async fn an_address_that_an_account_has_is_in_use() {
        let server = Server::new();
        server.added("@alice:example.org", "alice@example.org").await;
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.error(), error(400, "M_THREEPID_IN_USE"));
    }

    #[tokio::test]
    async fn an_address_that_the_rules_refuse_is_denied() {
        let Ok(rule) = Rule::domain("example.org") else { panic!("a rule") };
        let rules = AddressRules::new(Vec::new(), vec![rule]);
        let server = Server::built(|builder| builder.policy(Policy { rules, ..Policy::default() }));
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.error(), error(403, "M_THREEPID_DENIED"));
    }

    #[tokio::test]
    async fn without_a_mailer_the_medium_is_not_supported() {
        let server = Server::without_mailer();
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.error(), error(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"));
    }

    #[tokio::test]
    async fn where_mails_carry_a_code_the_answer_says_where_it_is_submitted() {
        let policy = Policy { mails_code: true, ..Policy::default() };
        let server = Server::built(|builder| builder.policy(policy));
        let expected =
            json!({ "sid": "sid1", "submit_url": "https://contacts.example/_threepid/submit_token" });
        for attempt in [1, 1, 2] {
            let answer = server.post(REQUEST_TOKEN, "", body_with("send_attempt", json!(attempt))).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, expected.clone()));
        }
    }

    #[tokio::test]
    async fn who_asks_too_often_learns_when_to_come_back() {
        let server = Server::new();
        for (wait, ms, seconds) in [(2001, 2001, "3"), (1, 1, "1"), (3000, 3000, "3")] {
            server.limiter.next_is(Verdict::RetryAfter(Duration::from_millis(wait)));
            let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
            assert_eq!(answer.error(), error(429, "M_LIMIT_EXCEEDED"));
            assert_eq!(answer.json()["retry_after_ms"], json!(ms));
            assert_eq!(answer.header("retry-after"), seconds);
        }
        assert!(server.store.outbox_rows().is_empty());
    }

    #[tokio::test]
    async fn requests_are_counted_by_the_clients_address() {
        let proxies = "10.0.0.0/8".parse().ok().into_iter().collect();
        let http = HttpSettings { trusted_proxies: proxies, ..HttpSettings::default() };
        let server = Server::built(|builder| builder.http(http));
        let mut request = request(Method::POST, REQUEST_TOKEN, "", body().to_string().into());
        request
            .headers_mut()
            .insert("x-forwarded-for", "198.51.100.7".parse().unwrap_or_else(|_| unreachable!()));
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::from(([10, 0, 0, 1], 4711))));
        assert_eq!(server.send(request).await.status.as_u16(), 200);
        assert_eq!(
            server.limiter.taken().first(),
            Some(&(Limit::RequestTokenPerClient, "198.51.100.7".to_owned()))
        );
    }

    #[tokio::test]
    async fn an_outage_is_503_and_the_retry_gets_its_mail() {
        let server = Server::new();
        server.store.fail_commits(1, CommitFailure::BeforeApply);
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(answer.header("retry-after"), "5");
        server.limiter.next_is_unavailable();
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert_eq!(server.post(REQUEST_TOKEN, "", body().to_string()).await.status.as_u16(), 200);
        assert_eq!(server.store.outbox_rows().len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_json_is_told_apart_from_json_of_another_shape() {
        let server = Server::new();
        let good = body().to_string();
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let bodies: [(&[u8], &str); 16] = [
            (b"", "M_NOT_JSON"),
            (b"{", "M_NOT_JSON"),
            (b"{\"email\":", "M_NOT_JSON"),
            (b"email=alice@example.org", "M_NOT_JSON"),
            (b"{'email': 1}", "M_NOT_JSON"),
            (b"{\"a\":1,}", "M_NOT_JSON"),
            (b"{\"a\":NaN}", "M_NOT_JSON"),
            (b"{} {}", "M_NOT_JSON"),
            (b"{\"client_secret\":\"\xff\"}", "M_NOT_JSON"),
            (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
            (deep.as_bytes(), "M_NOT_JSON"),
            (b"[]", "M_BAD_JSON"),
            (b"null", "M_BAD_JSON"),
            (b"\"text\"", "M_BAD_JSON"),
            (b"1", "M_BAD_JSON"),
            (b" \n{}\t", "M_MISSING_PARAM"),
        ];
        for (body, errcode) in bodies {
            let answer = server.post(REQUEST_TOKEN, "", body.to_vec()).await;
            assert_eq!(answer.error(), error(400, errcode), "{}", String::from_utf8_lossy(body));
        }
        let broken = "[".repeat(60_000);
        assert_eq!(server.post(REQUEST_TOKEN, "", broken).await.error(), error(400, "M_NOT_JSON"));
        assert_eq!(server.post(REQUEST_TOKEN, "", format!("  {good}\n")).await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn a_parameter_that_is_missing_is_named() {
        let server = Server::new();
        for name in ["client_secret", "email", "send_attempt"] {
            let mut without = body();
            without.as_object_mut().map(|object| object.remove(name));
            for body in [without.to_string(), body_with(name, Value::Null)] {
                let answer = server.post(REQUEST_TOKEN, "", body).await;
                assert_eq!(answer.error(), error(400, "M_MISSING_PARAM"));
                assert!(answer.text.contains(name), "{}", answer.text);
            }
        }
    }

    #[tokio::test]
    async fn a_parameter_that_is_bad_is_named() {
        let server = Server::new();
        for (name, value, errcode) in [
            ("client_secret", json!(""), "M_INVALID_PARAM"),
            ("client_secret", json!("a".repeat(256)), "M_INVALID_PARAM"),
            ("client_secret", json!("a b"), "M_INVALID_PARAM"),
            ("client_secret", json!(7), "M_BAD_JSON"),
            ("email", json!("alice"), "M_INVALID_PARAM"),
            ("email", json!("a@b@example.org"), "M_INVALID_PARAM"),
            ("email", json!("a@example.org\r\nBcc: b@example.org"), "M_INVALID_PARAM"),
            ("email", json!("a\0@example.org"), "M_INVALID_PARAM"),
            ("email", json!("a,b@example.org"), "M_INVALID_PARAM"),
            ("email", json!("A <a@example.org>"), "M_INVALID_PARAM"),
            ("email", json!(["a@example.org"]), "M_BAD_JSON"),
            ("next_link", json!("javascript:alert(1)"), "M_INVALID_PARAM"),
            ("next_link", json!("/relative"), "M_INVALID_PARAM"),
            ("next_link", json!({}), "M_BAD_JSON"),
            ("id_server", json!("https://id.example"), "M_INVALID_PARAM"),
            ("id_server", json!("id.example/path"), "M_INVALID_PARAM"),
            ("id_server", json!("user@id.example"), "M_INVALID_PARAM"),
            ("id_server", json!("id .example"), "M_INVALID_PARAM"),
            ("id_server", json!(1), "M_BAD_JSON"),
            ("id_access_token", json!(1), "M_BAD_JSON"),
        ] {
            let answer = server.post(REQUEST_TOKEN, "", body_with(name, value.clone())).await;
            assert_eq!(answer.error(), error(400, errcode), "{name} {value}");
            assert!(answer.text.contains(name), "{}", answer.text);
        }
        assert!(server.store.sessions().is_empty());
    }

    #[tokio::test]
    async fn a_send_attempt_is_an_integer_as_it_is_written() {
        let server = Server::new();
        let huge = "9".repeat(400);
        for (written, status, errcode) in [
            ("0", 200, ""),
            ("-0", 200, ""),
            ("9007199254740991", 200, ""),
            ("9007199254740992", 400, "M_INVALID_PARAM"),
            ("-1", 400, "M_INVALID_PARAM"),
            ("18446744073709551616", 400, "M_INVALID_PARAM"),
            ("1000000000000000000000000000000", 400, "M_INVALID_PARAM"),
            (huge.as_str(), 400, "M_INVALID_PARAM"),
            (&format!("-{huge}"), 400, "M_INVALID_PARAM"),
            ("1.0", 400, "M_BAD_JSON"),
            ("1e3", 400, "M_BAD_JSON"),
            ("1E400", 400, "M_BAD_JSON"),
            ("\"1\"", 400, "M_BAD_JSON"),
            ("true", 400, "M_BAD_JSON"),
            ("[1]", 400, "M_BAD_JSON"),
            ("01", 400, "M_NOT_JSON"),
            ("+1", 400, "M_NOT_JSON"),
        ] {
            let body = format!(
                "{{\"client_secret\":\"secret\",\"email\":\"a@example.org\",\"send_attempt\":{written}}}"
            );
            let answer = server.post(REQUEST_TOKEN, "", body).await;
            if status == 200 {
                assert_eq!(answer.status.as_u16(), 200, "{written}: {}", answer.text);
            } else {
                assert_eq!(answer.error(), error(status, errcode), "{written}");
            }
        }
    }

    #[tokio::test]
    async fn of_a_key_that_comes_twice_the_last_counts() {
        let server = Server::new();
        let body = r#"{"client_secret":"s","email":"nonsense","send_attempt":1,"email":"a@example.org"}"#;
        assert_eq!(server.post(REQUEST_TOKEN, "", body).await.status.as_u16(), 200);
        assert_eq!(server.store.outbox_rows().len(), 1);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_too_large() {
        let server = Server::new();
        let body = |bytes: usize| {
            let rest = body_with("filler", json!("")).len();
            body_with("filler", json!("x".repeat(bytes - rest)))
        };
        assert_eq!(server.post(REQUEST_TOKEN, "", body(65_536)).await.status.as_u16(), 200);
        assert_eq!(server.post(REQUEST_TOKEN, "", body(65_537)).await.error(), error(413, "M_TOO_LARGE"));
    }

    #[tokio::test]
    async fn in_identity_server_validation_the_identity_servers_answer_is_the_answer() {
        let server = Server::trusting(|policy| policy.validation = Validation::IdentityServer);
        let answer = server.post(REQUEST_TOKEN, "", body_with("id_server", json!("ID.example"))).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "sid": "remote1" })));
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.json(), json!({ "sid": "remote2" }), "the first that validates");
        assert!(server.store.outbox_rows().is_empty());

        let answer = server.post(REQUEST_TOKEN, "", body_with("id_server", json!("binds.example"))).await;
        assert_eq!(answer.error(), error(400, "M_SERVER_NOT_TRUSTED"));
        let token = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "who", "soft_logout": true });
        for (reply, expected) in [
            (refused(401, &token), error(403, "M_FORBIDDEN")),
            (
                refused(400, &json!({ "errcode": "M_EMAIL_SEND_ERROR", "error": "no" })),
                error(400, "M_EMAIL_SEND_ERROR"),
            ),
            (ServerReply::Down, error(503, "M_UNKNOWN")),
        ] {
            server.identity_servers.next_is(reply);
            let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
            assert_eq!(answer.error(), expected);
        }
        let sid = server.proven_at("id.example", "x@example.org", "secret");
        let add = Fixture::add_from("id.example", "@bob:example.org", &sid, "secret", false);
        assert!(server.app.api.contacts.add(add).await.is_ok());
        let before = server.asked().len();
        let answer = server.post(REQUEST_TOKEN, "", body_with("email", json!("x@example.org"))).await;
        assert_eq!(answer.error(), error(400, "M_THREEPID_IN_USE"));
        assert_eq!(server.asked().len(), before);
    }

    #[tokio::test]
    async fn a_submit_url_of_the_identity_server_is_passed_on() {
        let mut remote = MockIdentityServer::new();
        remote.expect_request_token().returning(|_, _, _| {
            let submit_url = Some("https://id.example/submit".to_owned());
            Ok(OpenedRemotely { sid: Sid::new("theirs"), submit_url })
        });
        let policy = Policy {
            validation: Validation::IdentityServer,
            trusted: Fixture::trusted(),
            ..Policy::default()
        };
        let server =
            Server::built(|builder| builder.policy(policy).identity_servers(std::sync::Arc::new(remote)));
        let answer = server.post(REQUEST_TOKEN, "", body().to_string()).await;
        assert_eq!(answer.json(), json!({ "sid": "theirs", "submit_url": "https://id.example/submit" }));
    }
}
