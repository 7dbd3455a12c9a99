//! What generators make up: bodies for every handler, and what proxies and clients write about addresses. Whatever
//! comes, nothing panics and nothing is answered with 5xx.

#![expect(clippy::expect_used, reason = "without a runtime there is nothing to test")]

use http::{HeaderName, HeaderValue, Method};
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use threepid_domain::testing::Fixture;
use threepid_domain::use_cases::Policy;

use super::testing::{
    ACCOUNT_3PID, ADD, BIND, CONFIRM, DELETE, REQUEST_CODE, REQUEST_TOKEN, SUBMIT_TOKEN, Server, UNBIND,
    request,
};

const HANDLERS: [&str; 9] =
    [REQUEST_TOKEN, REQUEST_CODE, ACCOUNT_3PID, ADD, BIND, UNBIND, DELETE, SUBMIT_TOKEN, CONFIRM];

/// Every name that some handler reads.
const NAMES: [&str; 19] = [
    "client_secret",
    "email",
    "country",
    "phone_number",
    "code",
    "send_attempt",
    "next_link",
    "id_server",
    "id_access_token",
    "sid",
    "token",
    "three_pid_creds",
    "threePidCreds",
    "bind",
    "auth",
    "medium",
    "address",
    "session",
    "type",
];

/// Values that some handler takes, so that generated bodies get past the first check.
fn plausible() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("secret")),
        Just(json!("alice@example.org")),
        Just(json!("sid1")),
        Just(json!("GB")),
        Just(json!("07700 900813")),
        Just(json!("012345")),
        Just(json!(1)),
        Just(json!("email")),
        Just(json!("id.example")),
        Just(json!("https://app.example/")),
        Just(json!("javascript:alert(1)")),
        Just(json!("m.login.password")),
        Just(json!(true)),
        Just(Value::Null),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => plausible(),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => "[\\x00-\\x7f]{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            hash_map(names(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

/// A body: mostly an object of names that are read, sometimes any JSON, any text, any bytes, or JSON that breaks off.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let object = hash_map(names(), any_json(), 0..10)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()).to_string())
        .boxed();
    prop_oneof![
        6 => object.clone().prop_map(String::into_bytes),
        1 => any_json().prop_map(|value| value.to_string().into_bytes()),
        1 => any::<String>().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..200),
        1 => (object, any::<prop::sample::Index>()).prop_map(|(text, cut)| {
            let mut bytes = text.into_bytes();
            bytes.truncate(cut.index(bytes.len().max(1)));
            bytes
        }),
        1 => hash_map(names(), any::<String>(), 0..6).prop_map(|pairs| {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(pairs);
            form.finish().into_bytes()
        }),
    ]
}

fn header_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "((for|by|proto|FOR)=|[\"\\[\\]:;,. 0-9a-fA-F]){0,30}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..60),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

proptest! {
    #[test]
    fn whatever_body_comes_no_handler_answers_5xx(body in bodies(), handler in 0..HANDLERS.len(), token in 0..3_usize) {
        let (uri, token) = (HANDLERS[handler], ["alice", "", "nobody"][token]);
        let status = runtime().block_on(async {
            let policy = Policy { trusted: Fixture::trusted(), mails_code: true, ..Policy::default() };
            let server = Server::with_sms(|builder| builder.policy(policy));
            server.pending("alice@example.org", "secret").await;
            server.post(uri, token, body).await.status.as_u16()
        });
        // 503 is what an identity server that is down would be; the fakes are up.
        prop_assert!(status < 500, "{uri}: {status}");
    }

    #[test]
    fn whatever_query_comes_the_page_answers_200_or_400(query in "[ -~]{0,80}") {
        let uri = format!("{CONFIRM}?{query}");
        let Ok(uri) = uri.parse::<http::Uri>() else { return Ok(()) };
        let answer = runtime().block_on(async {
            let server = Server::with_sms(|builder| builder);
            server.send(request(Method::GET, &uri.to_string(), "", "".into())).await
        });
        prop_assert!(matches!(answer.status.as_u16(), 200 | 400), "{uri}: {}", answer.status);
    }

    #[test]
    fn whatever_headers_come_a_request_is_answered(
        values in vec((prop::sample::select(&["forwarded", "x-forwarded-for", "authorization", "x-request-id"][..]), header_text()), 0..6)
    ) {
        let mut listing = request(Method::GET, ACCOUNT_3PID, "", "".into());
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                listing.headers_mut().append(HeaderName::from_static(name), value);
            }
        }
        let answer = runtime().block_on(async { Server::new().send(listing).await });
        prop_assert!(answer.status.as_u16() < 500, "{}", answer.status);
    }
}
