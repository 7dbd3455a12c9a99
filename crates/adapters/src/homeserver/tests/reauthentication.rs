//! Every answer to the homeserver's own challenge, bare and answered.

use serde_json::Map;
use threepid_domain::ports::{
    Answered, AskedAgain, ChallengeToPassOn, Reauthentication as _, ReauthenticationError,
};

use super::*;

fn reauthentication(settings: &HomeserverSettings) -> HomeserverReauthentication {
    let probe = |user: &UserId, sid: &Sid| DeviceId(format!("probe of {user} for {sid}"));
    Homeserver::new(settings).unwrap().reauthentication(probe)
}

fn asked_again() -> AskedAgain {
    AskedAgain {
        credentials: credentials("secret-token"),
        user_id: UserId::parse("@alice:example.org").unwrap(),
        sid: Sid::new("s1"),
    }
}

fn auth() -> Map<String, Value> {
    let auth = json!({"type": "m.login.password", "password": "hush", "session": "uia"});
    auth.as_object().cloned().unwrap_or_default()
}

fn challenge_body() -> Value {
    json!({
        "flows": [{"stages": ["m.login.sso"]}, {"stages": ["m.login.password", "org.example.more"]}],
        "params": {"m.login.sso": {"a": [1, null]}},
        "session": "uia",
    })
}

/// What an answer comes to, in a few words.
#[derive(Debug, PartialEq)]
enum Told {
    Asked(ChallengeToPassOn),
    Proven,
    NotAsked,
    Refused(u16, Value),
    Unavailable,
}

impl From<ReauthenticationError> for Told {
    fn from(error: ReauthenticationError) -> Self {
        match error {
            ReauthenticationError::NotAsked => Self::NotAsked,
            ReauthenticationError::Refused(refusal) => {
                Self::Refused(refusal.status, Value::Object(refusal.body))
            }
            ReauthenticationError::Unavailable(error) => {
                let told = format!("{error}: {error:?}");
                assert!(!told.contains("secret-token") && !told.contains("hush"), "{told}");
                Self::Unavailable
            }
        }
    }
}

async fn bare(peer: &Peer) -> Told {
    reauthentication(&peer.settings()).challenge(asked_again()).await.map_or_else(Told::from, Told::Asked)
}

async fn answered(peer: &Peer) -> Told {
    match reauthentication(&peer.settings()).answer(asked_again(), auth()).await {
        Ok(Answered::Proven) => Told::Proven,
        Ok(Answered::Again(challenge)) => Told::Asked(challenge),
        Err(error) => error.into(),
    }
}

fn asked(body: &Value) -> Told {
    Told::Asked(ChallengeToPassOn {
        session: "uia".to_owned(),
        body: body.as_object().cloned().unwrap_or_default(),
    })
}

#[tokio::test]
async fn one_device_that_cannot_exist_is_named_with_the_callers_token() {
    let peer = Peer::start(json(401, &challenge_body())).await;
    let settings = HomeserverSettings { base_url: peer.base_url.join("/below/").unwrap(), ..peer.settings() };
    let credentials = Credentials {
        user_id: Some(UserId::parse("@alice:example.org").unwrap()),
        client_ip: Some("192.0.2.7".parse().unwrap()),
        ..credentials("secret-token")
    };
    let asked_again = AskedAgain { credentials, ..asked_again() };
    reauthentication(&settings).challenge(asked_again.clone()).await.unwrap();
    reauthentication(&settings).answer(asked_again, auth()).await.unwrap();
    let bodies = [
        json!({"devices": ["probe of @alice:example.org for s1"]}),
        json!({"devices": ["probe of @alice:example.org for s1"], "auth": auth()}),
    ];
    assert_eq!(peer.asked().len(), 2);
    for (request, body) in peer.asked().iter().zip(bodies) {
        let (head, sent) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        let path = "/below/_matrix/client/v3/delete_devices?user_id=%40alice%3aexample.org";
        assert!(head.starts_with(&format!("post {path} http/1.1\r\n")), "{head}");
        for line in [
            "authorization: bearer secret-token",
            "content-type: application/json",
            "x-forwarded-for: 192.0.2.7",
        ] {
            assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
        }
        assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), body);
    }
}

#[tokio::test]
async fn a_challenge_is_passed_on_whole_and_so_is_what_a_wrong_answer_gets() {
    let mut again = challenge_body();
    again["completed"] = json!(["m.login.password"]);
    again["errcode"] = json!("M_FORBIDDEN");
    again["error"] = json!("Invalid username or password");
    for body in [challenge_body(), again] {
        let peer = Peer::start(json(401, &body)).await;
        assert_eq!(bare(&peer).await, asked(&body));
        assert_eq!(answered(&peer).await, asked(&body));
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_no_proof_and_an_answered_challenge_is() {
    let peer = Peer::start(json(200, &json!({}))).await;
    assert_eq!(bare(&peer).await, Told::NotAsked);
    assert_eq!(answered(&peer).await, Told::Proven);
}

#[tokio::test]
async fn the_homeservers_own_refusal_is_passed_on_whole() {
    let peer = Peer::start(Does::Hang).await;
    for (status, body) in [
        (401, json!({"errcode": "M_UNKNOWN_TOKEN", "error": "expired", "soft_logout": true})),
        (401, json!({"errcode": "M_USER_LOCKED", "error": "locked", "soft_logout": true, "more": [1]})),
        (403, json!({"errcode": "M_USER_SUSPENDED", "error": "suspended"})),
        (403, json!({"errcode": "M_USER_DEACTIVATED", "error": "gone"})),
        (403, json!({"errcode": "M_FORBIDDEN", "flows": [], "session": "uia"})),
        (401, json!({"errcode": "M_FORBIDDEN", "flows": {}, "session": "uia"})),
        (429, json!({"errcode": "M_LIMIT_EXCEEDED", "error": "slow down", "retry_after_ms": 1234})),
    ] {
        peer.now(json(status, &body));
        assert_eq!(bare(&peer).await, Told::Refused(status, body.clone()));
        assert_eq!(answered(&peer).await, Told::Refused(status, body));
    }
    peer.now(Does::Answer(head(429, "Retry-After: 7\r\n", b"slow"), b"slow".to_vec()));
    let slow = json!({"errcode": "M_LIMIT_EXCEEDED", "error": "Too many requests", "retry_after_ms": 7000});
    assert_eq!(bare(&peer).await, Told::Refused(429, slow.clone()));
    assert_eq!(answered(&peer).await, Told::Refused(429, slow));
}

#[tokio::test]
async fn a_homeserver_that_cannot_ask_has_asked_nobody() {
    let peer = Peer::start(Does::Hang).await;
    for does in [
        Does::Answer("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), Vec::new()),
        json(202, &json!({})),
        json(404, &json!({"errcode": "M_UNRECOGNIZED", "error": "no"})),
        html(404),
        json(400, &json!({"errcode": "M_BAD_JSON", "error": "no"})),
        json(405, &json!({"errcode": "M_UNRECOGNIZED"})),
        json(401, &json!({"flows": [], "errcode": "M_FORBIDDEN"})),
        json(401, &json!({"flows": [], "session": 7})),
    ] {
        peer.now(does.clone());
        assert_eq!(bare(&peer).await, Told::NotAsked, "{does:?}");
        assert_eq!(answered(&peer).await, Told::NotAsked, "{does:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_unavailable() {
    let peer = Peer::start(Does::Hang).await;
    let redirect = format!("Location: {}elsewhere\r\n", peer.base_url);
    let mut large = challenge_body();
    large["filler"] = json!("x".repeat(64 * 1024));
    for does in [
        html(200),
        json(200, &json!([])),
        json(200, &json!({"errcode": "M_UNKNOWN"})),
        html(401),
        html(403),
        json(401, &json!({"session": "uia"})),
        json(401, &large),
        json(500, &challenge_body()),
        html(502),
        json(501, &json!({"errcode": "M_UNRECOGNIZED"})),
        Does::Answer(head(307, &redirect, b""), Vec::new()),
        Does::Answer("nonsense\r\n\r\n".to_owned(), Vec::new()),
        Does::AnswerAndClose(head(200, "", b"{}"), Vec::new()),
    ] {
        peer.now(does.clone());
        assert_eq!(bare(&peer).await, Told::Unavailable, "{does:?}");
        assert_eq!(answered(&peer).await, Told::Unavailable, "{does:?}");
    }
    assert!(peer.asked().iter().all(|request| request.starts_with("POST /_matrix/")), "no redirect followed");
}

#[tokio::test]
async fn a_homeserver_that_hangs_is_unavailable_in_bounded_time() {
    let peer = Peer::start(Does::Hang).await;
    let settings = HomeserverSettings { timeout: Duration::from_millis(200), ..peer.settings() };
    let begun = Instant::now();
    let hangs = reauthentication(&settings).challenge(asked_again()).await;
    assert!(matches!(hangs, Err(ReauthenticationError::Unavailable(_))), "{hangs:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_answer_is_never_sent_twice() {
    let peer = Peer::start(Does::AnswerAndClose(String::new(), Vec::new())).await;
    assert_eq!(answered(&peer).await, Told::Unavailable);
    assert_eq!(peer.asked().len(), 1, "homeservers count wrong answers");
}
