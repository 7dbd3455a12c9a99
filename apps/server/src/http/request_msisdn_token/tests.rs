#![expect(clippy::panic, reason = "what a test stands on fails it")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use threepid_adapters::limits::{LimitSettings, Limiter};
use threepid_domain::model::{AddressRules, ClientSecret, Rule, Sid, Token, Validation};
use threepid_domain::ports::{Limit, Verdict};
use threepid_domain::testing::{CommitFailure, FixedClock, Fixture, ServerReply};
use threepid_domain::use_cases::{Door, Policy, RequestTokenError, SubmitToken, SubmitTokenError};
use tokio_util::sync::CancellationToken;

use crate::http::testing::{ACCOUNT_3PID, REQUEST_CODE, SUBMIT_TOKEN, Server, error, refused};

const SUBMIT_URL: &str = "https://contacts.example/_threepid/submit_token";

fn body() -> Value {
    json!({ "client_secret": "secret", "country": "GB", "phone_number": "07700 900813", "send_attempt": 1 })
}

fn body_with(name: &str, value: Value) -> String {
    let mut body = body();
    body[name] = value;
    body.to_string()
}

fn opened(sid: &str) -> Value {
    json!({ "sid": sid, "submit_url": SUBMIT_URL, "msisdn": "447700900813", "intl_fmt": "+44 7700 900813" })
}

#[tokio::test]
async fn a_number_is_requested_proven_and_added() {
    let server = Server::with_sms(|builder| builder);
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, opened("sid1")));
    let stop = CancellationToken::new();
    let Some(relay) = server.app.worker() else { panic!("there is a gateway") };
    let relay = tokio::spawn(relay.run(stop.clone()));
    let arrived = tokio::time::timeout(Duration::from_secs(10), async {
        while server.sms.taken().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    assert!(arrived.await.is_ok(), "no SMS in time");
    stop.cancel();
    assert!(relay.await.is_ok());
    let sms = server.sms.taken().remove(0);
    assert_eq!(sms.to.as_str(), "447700900813");
    let code = sms.text;
    let submit = json!({ "sid": "sid1", "client_secret": "secret", "token": code });
    let answer = server.post(SUBMIT_TOKEN, "", submit.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "success": true })));
    let add = json!({ "three_pid_creds": { "sid": "sid1", "client_secret": "secret" } });
    let answer = server.post(ACCOUNT_3PID, "alice", add.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    let listed = server.get(ACCOUNT_3PID, "alice").await.json();
    let threepid = &listed["threepids"][0];
    assert_eq!((&threepid["medium"], &threepid["address"]), (&json!("msisdn"), &json!("447700900813")));
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!(answer.error(), error(400, "M_THREEPID_IN_USE"));
}

#[tokio::test]
async fn every_generation_and_every_spelling_is_one_session_and_one_sms() {
    let server = Server::with_sms(|builder| builder);
    for generation in ["r0", "v3", "unstable"] {
        for spelling in ["07700 900813", "+44 7700 900813", "0044 7700-900813", "٠٧٧٠٠٩٠٠٨١٣"] {
            let uri = REQUEST_CODE.replace("v3", generation);
            let answer = server.post(&uri, "", body_with("phone_number", json!(spelling))).await;
            assert_eq!((answer.status.as_u16(), answer.json()), (200, opened("sid1")), "{uri} {spelling}");
        }
    }
    assert_eq!(server.store.outbox_rows().len(), 1);
    let answer = server.post(REQUEST_CODE, "", body_with("send_attempt", json!(2))).await;
    assert_eq!(answer.json(), opened("sid1"));
    assert_eq!(server.store.outbox_rows().len(), 2);
}

#[tokio::test]
async fn a_plus_wins_over_the_country() {
    let server = Server::with_sms(|builder| builder);
    let answer = server.post(REQUEST_CODE, "", body_with("country", json!("US"))).await;
    assert_eq!(answer.error(), error(400, "M_INVALID_PARAM"), "no American number");
    let mut given = body();
    given["country"] = json!("US");
    given["phone_number"] = json!("+447700900813");
    let answer = server.post(REQUEST_CODE, "", given.to_string()).await;
    assert_eq!(answer.json(), opened("sid1"));
}

#[tokio::test]
async fn without_a_gateway_the_medium_is_not_supported() {
    let server = Server::new();
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!(answer.error(), error(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"));
    assert!(answer.text.contains("SMS"), "{}", answer.text);
}

#[tokio::test]
async fn a_number_that_the_rules_refuse_is_denied() {
    let Ok(rule) = Rule::country("GB") else { panic!("a rule") };
    let rules = AddressRules::new(Vec::new(), vec![rule]);
    let server = Server::with_sms(|builder| builder.policy(Policy { rules, ..Policy::default() }));
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!(answer.error(), error(403, "M_THREEPID_DENIED"));
}

#[tokio::test]
async fn a_parameter_that_is_missing_is_named() {
    let server = Server::with_sms(|builder| builder);
    for name in ["client_secret", "country", "phone_number", "send_attempt"] {
        let mut without = body();
        without.as_object_mut().map(|object| object.remove(name));
        for body in [without.to_string(), body_with(name, Value::Null)] {
            let answer = server.post(REQUEST_CODE, "", body).await;
            assert_eq!(answer.error(), error(400, "M_MISSING_PARAM"));
            assert!(answer.text.contains(name), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_parameter_that_is_bad_is_named() {
    let server = Server::with_sms(|builder| builder);
    for (name, value, errcode) in [
        ("client_secret", json!("a b"), "M_INVALID_PARAM"),
        ("country", json!(""), "M_INVALID_PARAM"),
        ("country", json!("gb"), "M_INVALID_PARAM"),
        ("country", json!("ZZ"), "M_INVALID_PARAM"),
        ("country", json!("GBR"), "M_INVALID_PARAM"),
        ("country", json!("44"), "M_INVALID_PARAM"),
        ("country", json!(44), "M_BAD_JSON"),
        ("phone_number", json!(""), "M_INVALID_PARAM"),
        ("phone_number", json!("phone"), "M_INVALID_PARAM"),
        ("phone_number", json!("0800 FLOWERS"), "M_INVALID_PARAM"),
        ("phone_number", json!("07700 900813 ext. 3"), "M_INVALID_PARAM"),
        ("phone_number", json!("07700"), "M_INVALID_PARAM"),
        ("phone_number", json!("0909 8790000"), "M_INVALID_PARAM"),
        ("phone_number", json!("+999123456789"), "M_INVALID_PARAM"),
        ("phone_number", json!("07700\r\n900813"), "M_INVALID_PARAM"),
        ("phone_number", json!("1".repeat(60_000)), "M_INVALID_PARAM"),
        ("phone_number", json!(7_700_900_813_u64), "M_BAD_JSON"),
        ("send_attempt", json!(-1), "M_INVALID_PARAM"),
        ("next_link", json!("javascript:alert(1)"), "M_INVALID_PARAM"),
        ("id_server", json!("https://id.example"), "M_INVALID_PARAM"),
        ("id_access_token", json!(1), "M_BAD_JSON"),
    ] {
        let answer = server.post(REQUEST_CODE, "", body_with(name, value.clone())).await;
        assert_eq!(answer.error(), error(400, errcode), "{name} {value}");
        assert!(answer.text.contains(name), "{}", answer.text);
    }
    assert!(server.store.sessions().is_empty());
}

#[tokio::test]
async fn who_asks_too_often_learns_when_to_come_back_and_an_outage_loses_nothing() {
    let server = Server::with_sms(|builder| builder);
    server.limiter.next_is(Verdict::RetryAfter(Duration::from_millis(2001)));
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!(answer.error(), error(429, "M_LIMIT_EXCEEDED"));
    assert_eq!(answer.header("retry-after"), "3");
    server.store.fail_commits(1, CommitFailure::BeforeApply);
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
    let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(server.store.outbox_rows().len(), 1);
}

#[tokio::test]
async fn in_identity_server_validation_the_identity_servers_answer_is_the_answer() {
    let server = Server::trusting(|policy| policy.validation = Validation::IdentityServer);
    let answer = server.post(REQUEST_CODE, "", body_with("id_server", json!("ID.example"))).await;
    let told = json!({ "sid": "remote1", "msisdn": "447700900813", "intl_fmt": "+44 7700 900813" });
    assert_eq!((answer.status.as_u16(), answer.json()), (200, told));
    assert!(server.store.outbox_rows().is_empty());
    let answer = server.post(REQUEST_CODE, "", body_with("id_server", json!("binds.example"))).await;
    assert_eq!(answer.error(), error(400, "M_SERVER_NOT_TRUSTED"));
    for (reply, expected) in [
        (
            refused(400, &json!({ "errcode": "M_INVALID_PARAM", "error": "no" })),
            error(400, "M_INVALID_PARAM"),
        ),
        (ServerReply::Down, error(503, "M_UNKNOWN")),
    ] {
        server.identity_servers.next_is(reply);
        let answer = server.post(REQUEST_CODE, "", body().to_string()).await;
        assert_eq!(answer.error(), expected);
    }
}

#[tokio::test]
async fn over_the_bound_on_guesses_both_doors_say_so_and_nothing_is_judged() {
    let server = Server::with_sms(|builder| builder);
    let (sid, code) = server.pending_number("447700900813", "secret").await;
    let over = || {
        server.limiter.next_is(Verdict::Allowed);
        server.limiter.next_is(Verdict::RetryAfter(Duration::from_secs(8640)));
    };
    let submit = json!({ "sid": sid, "client_secret": "secret", "token": code.expose() }).to_string();
    over();
    let answer = server.post(SUBMIT_TOKEN, "", submit.clone()).await;
    assert_eq!(answer.error(), error(429, "M_LIMIT_EXCEEDED"));
    assert_eq!(answer.header("retry-after"), "8640");
    over();
    let form = format!("sid={}&code={}", sid.as_str(), code.expose());
    let answer = server.post("/_threepid/confirm", "", form).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "8640"));
    assert_eq!(server.post(SUBMIT_TOKEN, "", submit).await.status.as_u16(), 200);
}

/// Everything that one can do who wants somebody else's number and has many machines: for four days, a hundred thousand
/// guesses, from as many client addresses, in as many sessions of one's own as the limits let one open.
#[tokio::test]
async fn a_hundred_thousand_guesses_from_everywhere_get_in_never() {
    const GUESSES: u64 = 100_000;
    const DAYS: u64 = 4;
    let clock = Arc::new(FixedClock::default());
    let Ok(limiter) = Limiter::in_memory(&LimitSettings::default(), clock.clone()) else {
        panic!("a limiter")
    };
    let server = Server::with_sms(|builder| builder.clock(clock.clone()).rate_limiter(Arc::new(limiter)));
    let contacts = &server.app.api.contacts;
    let (mut sessions, mut judged, mut held_back) = (Vec::<(Sid, ClientSecret)>::new(), 0_u64, 0_u64);
    let pause = Duration::from_secs(DAYS * 24 * 60 * 60) / u32::try_from(GUESSES).unwrap_or(u32::MAX);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for guess in 0..GUESSES {
        clock.advance(pause);
        let client_ip = format!("2001:db8:{:x}:{:x}::1", guess >> 16, guess & 0xffff).parse().ok();
        let mut request = Fixture::msisdn_request_for("447700900813", &format!("secret{guess}"), 1);
        request.client_ip = client_ip;
        let client_secret = request.client_secret.clone();
        match contacts.request_msisdn_token(request).await {
            Ok(opened) => sessions.push((opened.sid, client_secret)),
            Err(RequestTokenError::Limited(_)) => {}
            Err(other) => panic!("{other}"),
        }
        // Those of the last hour in turn: their codes are good, and the limit on tries at one session is not met.
        let turn = usize::try_from(guess).unwrap_or(0) % sessions.len().clamp(1, 12);
        let Some((sid, client_secret)) = sessions.iter().rev().nth(turn).cloned() else {
            panic!("a session")
        };
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let token = Token::new(format!("{:06}", state % 1_000_000));
        let door = if guess % 2 == 0 { Door::Client(client_secret) } else { Door::Link };
        match contacts.submit_token(SubmitToken { sid, token, door, client_ip }).await {
            Ok(_) => panic!("guess {guess} got in"),
            Err(SubmitTokenError::Incorrect) => judged += 1,
            Err(SubmitTokenError::Limited(over)) => {
                assert_eq!(over.limit, Limit::CodesPerAddress);
                held_back += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(judged + held_back, GUESSES);
    // Ten at once and ten a day, of a million codes.
    assert!((40..=10 + 10 * DAYS + 1).contains(&judged), "{judged} of {GUESSES} were judged");
    assert!(sessions.len() > 1_000, "opening sessions was not what held them back: {}", sessions.len());
}
