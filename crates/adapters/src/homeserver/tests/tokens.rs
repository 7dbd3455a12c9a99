//! Whose a token is, whatever the homeserver answers.

use super::{tokens as tokens_of, *};

async fn ask(tokens: &HomeserverTokens, freshness: Freshness) -> Result<Caller, WhoseTokenError> {
    tokens.whose(credentials("secret-token"), freshness).await
}

/// An error and its causes.
fn told(error: &WhoseTokenError) -> String {
    format!("{error}: {:?}", error)
}

#[tokio::test]
async fn the_caller_s_own_token_and_address_are_passed_on() {
    let homeserver = Peer::start(json(200, &alice())).await;
    let settings = HomeserverSettings {
        base_url: homeserver.base_url.join("/behind/a%20path/").unwrap(),
        ..homeserver.settings()
    };
    let tokens = tokens_of(&settings);
    let credentials = Credentials {
        user_id: Some(UserId::parse("@a&b=c:example.org").unwrap()),
        client_ip: Some("192.0.2.7".parse().unwrap()),
        ..credentials("secret-token")
    };
    let caller = tokens.whose(credentials, Freshness::ForChange).await.unwrap();
    assert_eq!(caller.user_id.as_str(), "@alice:example.org");
    assert_eq!(caller.device_id, Some(DeviceId("DEVICE".to_owned())));
    assert!(!caller.is_guest);
    let asked = homeserver.asked().remove(0).to_ascii_lowercase();
    let path = "/behind/a%20path/_matrix/client/v3/account/whoami?user_id=%40a%26b%3dc%3aexample.org";
    assert!(asked.starts_with(&format!("get {path} http/1.1\r\n")), "{asked}");
    assert!(asked.contains("\r\nauthorization: bearer secret-token\r\n"), "{asked}");
    assert!(asked.contains("\r\nx-forwarded-for: 192.0.2.7\r\n"), "{asked}");
}

#[tokio::test]
async fn guests_and_application_services_are_told_apart() {
    let homeserver = Peer::start(json(200, &json!({"user_id": "@g:b", "is_guest": true}))).await;
    let tokens = homeserver.tokens();
    let guest = ask(&tokens, Freshness::ForChange).await.unwrap();
    assert!(guest.is_guest && guest.device_id.is_none());
    homeserver.now(json(200, &json!({"user_id": "@bot:b"})));
    assert!(!ask(&tokens, Freshness::ForChange).await.unwrap().is_guest);
}

#[tokio::test]
async fn a_refusal_is_passed_on_whole() {
    let homeserver = Peer::start(Does::Hang).await;
    let tokens = homeserver.tokens();
    for (status, body) in [
        (401, json!({"errcode": "M_UNKNOWN_TOKEN", "error": "expired", "soft_logout": true})),
        (401, json!({"errcode": "M_USER_LOCKED", "error": "locked", "soft_logout": true, "more": [1]})),
        (403, json!({"errcode": "M_USER_SUSPENDED", "error": "suspended"})),
        (429, json!({"errcode": "M_LIMIT_EXCEEDED", "error": "slow down", "retry_after_ms": 1234})),
    ] {
        homeserver.now(json(status, &body));
        let Err(WhoseTokenError::Refused(refusal)) = ask(&tokens, Freshness::ForReading).await else {
            unreachable!("{status} {body} is a refusal");
        };
        assert_eq!((refusal.status, Value::Object(refusal.body)), (status, body));
    }
}

#[tokio::test]
async fn a_proxy_s_429_is_passed_on_in_the_words_of_matrix() {
    let body = b"<html>slow</html>".to_vec();
    let answer = Does::Answer(head(429, "Retry-After: 7\r\n", &body), body);
    let homeserver = Peer::start(answer).await;
    let Err(WhoseTokenError::Refused(refusal)) = ask(&homeserver.tokens(), Freshness::ForReading).await
    else {
        unreachable!("429 is passed on");
    };
    assert_eq!((refusal.status, refusal.errcode()), (429, Some("M_LIMIT_EXCEEDED")));
    assert_eq!(refusal.body.get("retry_after_ms"), Some(&json!(7000)));
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_unavailable() {
    let homeserver = Peer::start(Does::Hang).await;
    let tokens = homeserver.tokens();
    let large = json!({"user_id": "@alice:example.org", "filler": "x".repeat(64 * 1024)});
    let redirect = format!("Location: {}elsewhere\r\n", homeserver.base_url);
    for does in [
        html(401),
        html(403),
        html(404),
        html(200),
        html(502),
        json(401, &json!({"error": "no errcode"})),
        json(401, &json!({"errcode": 7})),
        json(403, &json!([])),
        json(404, &json!({"errcode": "M_UNRECOGNIZED"})),
        json(400, &json!({"errcode": "M_UNKNOWN"})),
        json(500, &json!({"errcode": "M_UNKNOWN_TOKEN"})),
        json(200, &json!({})),
        json(200, &json!({"user_id": "alice"})),
        json(200, &json!({"user_id": ["@alice:example.org"]})),
        json(200, &json!({"user_id": "@alice:example.org", "is_guest": "no"})),
        json(200, &large),
        json(204, &alice()),
        Does::Answer(head(302, &redirect, b""), Vec::new()),
        Does::Answer("nonsense\r\n\r\n".to_owned(), Vec::new()),
        Does::AnswerAndClose(String::new(), Vec::new()),
        Does::AnswerAndClose(head(200, "", b"{}"), Vec::new()),
    ] {
        homeserver.now(does.clone());
        let error = ask(&tokens, Freshness::ForChange).await.unwrap_err();
        assert!(matches!(error, WhoseTokenError::Unavailable(_)), "{does:?}: {error:?}");
        assert!(!told(&error).contains("secret-token"), "{error:?}");
    }
    assert!(
        homeserver.asked().iter().all(|request| request.starts_with("GET /_matrix/")),
        "no redirect followed"
    );
}

#[tokio::test]
async fn an_answer_of_exactly_the_largest_size_is_read() {
    let padding = 64 * 1024 - json!({"user_id": "@alice:example.org", "filler": ""}).to_string().len();
    let body = json!({"user_id": "@alice:example.org", "filler": "x".repeat(padding)});
    assert_eq!(body.to_string().len(), 64 * 1024);
    let homeserver = Peer::start(json(200, &body)).await;
    assert!(ask(&homeserver.tokens(), Freshness::ForChange).await.is_ok());
}

#[tokio::test]
async fn a_homeserver_that_hangs_or_is_not_there_is_unavailable_in_bounded_time() {
    let homeserver = Peer::start(Does::Hang).await;
    let settings = HomeserverSettings { timeout: Duration::from_millis(200), ..homeserver.settings() };
    let begun = Instant::now();
    let hangs = ask(&tokens_of(&settings), Freshness::ForReading).await;
    assert!(matches!(hangs, Err(WhoseTokenError::Unavailable(_))), "{hangs:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let tokens = tokens_of(&HomeserverSettings::new(gone));
    let refused = ask(&tokens, Freshness::ForReading).await;
    assert!(matches!(refused, Err(WhoseTokenError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn good_answers_are_remembered_for_reading_alone() {
    let homeserver = Peer::start(json(200, &alice())).await;
    let tokens = homeserver.tokens();
    for _ in 0..3 {
        ask(&tokens, Freshness::ForReading).await.unwrap();
    }
    assert_eq!(homeserver.asked().len(), 1);
    ask(&tokens, Freshness::ForChange).await.unwrap();
    assert_eq!(homeserver.asked().len(), 2);
    tokens.whose(credentials("another"), Freshness::ForReading).await.unwrap();
    assert_eq!(homeserver.asked().len(), 3);
}

#[tokio::test]
async fn a_refusal_ends_what_was_remembered_and_is_not_remembered_itself() {
    let homeserver = Peer::start(json(200, &alice())).await;
    let tokens = homeserver.tokens();
    ask(&tokens, Freshness::ForReading).await.unwrap();
    homeserver.now(json(401, &json!({"errcode": "M_UNKNOWN_TOKEN", "error": "signed out"})));
    ask(&tokens, Freshness::ForChange).await.unwrap_err();
    let read = ask(&tokens, Freshness::ForReading).await;
    assert!(matches!(read, Err(WhoseTokenError::Refused(_))), "{read:?}");
    homeserver.now(json(200, &alice()));
    ask(&tokens, Freshness::ForReading).await.unwrap();
}

#[tokio::test]
async fn an_outage_and_a_429_end_nothing_that_was_remembered() {
    let homeserver = Peer::start(json(200, &alice())).await;
    let tokens = homeserver.tokens();
    ask(&tokens, Freshness::ForReading).await.unwrap();
    for does in [html(502), html(401), html(429)] {
        homeserver.now(does);
        ask(&tokens, Freshness::ForChange).await.unwrap_err();
        ask(&tokens, Freshness::ForReading).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_remembered_ends_by_itself() {
    let homeserver = Peer::start(json(200, &alice())).await;
    let settings = HomeserverSettings { remember: Duration::from_millis(50), ..homeserver.settings() };
    let tokens = tokens_of(&settings);
    ask(&tokens, Freshness::ForReading).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while homeserver.asked().len() < 2 {
        assert!(Instant::now() < deadline, "it is still remembered");
        ask(&tokens, Freshness::ForReading).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_remembered_where_the_time_is_zero_or_for_application_services() {
    let homeserver = Peer::start(json(200, &alice())).await;
    let settings = HomeserverSettings { remember: Duration::ZERO, ..homeserver.settings() };
    let tokens = tokens_of(&settings);
    ask(&tokens, Freshness::ForReading).await.unwrap();
    ask(&tokens, Freshness::ForReading).await.unwrap();
    assert_eq!(homeserver.asked().len(), 2);

    let tokens = homeserver.tokens();
    let masquerading = Credentials {
        user_id: Some(UserId::parse("@alice:example.org").unwrap()),
        ..credentials("as-token")
    };
    tokens.whose(masquerading.clone(), Freshness::ForReading).await.unwrap();
    tokens.whose(masquerading, Freshness::ForReading).await.unwrap();
    assert_eq!(homeserver.asked().len(), 4);
}

#[tokio::test]
async fn a_connection_that_was_closed_in_silence_costs_nobody_an_answer() {
    let body = alice().to_string().into_bytes();
    let homeserver = Peer::start(Does::AnswerAndClose(head(200, "", &body), body)).await;
    let tokens = homeserver.tokens();
    for _ in 0..20 {
        ask(&tokens, Freshness::ForChange).await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_stand_in_a_header_is_nobody_s_token() {
    let homeserver = Peer::start(json(200, &alice())).await;
    for strange in ["a\r\nX-Evil: 1", "a\nb", "a\0"] {
        let judged = homeserver.tokens().whose(credentials(strange), Freshness::ForReading).await;
        assert!(matches!(judged, Err(WhoseTokenError::Unknown)), "{judged:?}");
    }
    assert_eq!(homeserver.asked().len(), 0);
}

#[test]
fn settings_that_reach_no_homeserver_are_refused_by_name() {
    let usual = || HomeserverSettings::new(Url::parse("https://matrix.example.org/").unwrap());
    for bad in ["ftp://a.example", "https://user@a.example", "https://a.example/?a", "https://a.example/#a"] {
        let settings = HomeserverSettings { base_url: Url::parse(bad).unwrap(), ..usual() };
        let refused = Homeserver::new(&settings);
        assert!(matches!(refused, Err(InvalidHomeserver::BaseUrl)), "{bad}: {refused:?}");
    }
    let settings = HomeserverSettings { timeout: Duration::ZERO, ..usual() };
    assert!(matches!(Homeserver::new(&settings), Err(InvalidHomeserver::Timeout)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, "no certificate").unwrap();
    for path in [path, folder.path().join("gone.pem")] {
        let refused = Homeserver::new(&HomeserverSettings { extra_ca: Some(path), ..usual() });
        assert!(matches!(refused, Err(InvalidHomeserver::ExtraCa { .. })), "{refused:?}");
    }
}
