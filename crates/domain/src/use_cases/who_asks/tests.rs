#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::time::Duration;

use super::*;
use crate::model::{AccessToken, RemoteRefusal};
use crate::ports::{MockAccessTokens, MockHomeserverCapabilities, Verdict};
use crate::testing::{FixedTokens, Fixture, ScriptedLimiter};

fn shown(token: &str, ip: Option<&str>) -> Credentials {
    let client_ip = ip.map(|ip| ip.parse().unwrap());
    Credentials { access_token: AccessToken::new(token), user_id: None, client_ip }
}

fn counted(subject: &str) -> Vec<(Limit, String)> {
    vec![(Limit::FailedTokensPerClient, subject.to_owned())]
}

async fn answer_is_counted(answer: fn() -> WhoseTokenError) -> bool {
    let mut tokens = MockAccessTokens::new();
    tokens.expect_whose().returning(move |_, _| Err(answer()));
    let limiter = Arc::new(ScriptedLimiter::default());
    let who = WhoAsks::new(Arc::new(tokens), None, limiter.clone());
    assert!(who.whose(shown("t", Some("192.0.2.1")), Freshness::ForChange).await.is_err());
    !limiter.taken().is_empty()
}

fn refused(status: u16) -> WhoseTokenError {
    WhoseTokenError::Refused(RemoteRefusal { status, body: serde_json::Map::new() })
}

#[tokio::test]
async fn only_tokens_that_are_nobodys_are_counted_and_for_the_clients_network() {
    let tokens = FixedTokens::new().with("alice", Fixture::user("@alice:example.org"));
    let limiter = Arc::new(ScriptedLimiter::default());
    let who = WhoAsks::new(Arc::new(tokens), None, limiter.clone());
    for ip in [Some("2001:db8:1:2:3::4"), None] {
        who.whose(shown("alice", ip), Freshness::ForChange).await.unwrap();
        assert!(who.capabilities(shown("alice", ip)).await.unwrap().is_none());
    }
    assert_eq!(limiter.taken(), []);
    let nobody = who.whose(shown("guess", Some("2001:db8:1:2:3::4")), Freshness::ForReading).await;
    assert!(matches!(nobody, Err(WhoAsksError::Whose(WhoseTokenError::Unknown))), "{nobody:?}");
    assert_eq!(limiter.taken(), counted("2001:db8:1:2::/64"));
    assert!(who.whose(shown("guess", None), Freshness::ForReading).await.is_err());
    assert_eq!(limiter.taken().len(), 1, "who has no address cannot be counted");
    assert!(answer_is_counted(|| WhoseTokenError::Unknown).await);
    assert!(answer_is_counted(|| refused(401)).await);
    assert!(!answer_is_counted(|| refused(403)).await);
    assert!(!answer_is_counted(|| refused(429)).await);
    assert!(!answer_is_counted(|| Unavailable::new("homeserver", "down").into()).await);
}

#[tokio::test]
async fn a_client_over_the_limit_is_refused_before_anybody_is_asked() {
    let limiter = Arc::new(ScriptedLimiter::default());
    // Mocks without expectations fail whoever asks them.
    let who = WhoAsks::new(
        Arc::new(MockAccessTokens::new()),
        Some(Arc::new(MockHomeserverCapabilities::new())),
        limiter.clone(),
    );
    let retry_after = Duration::from_secs(5);
    let over = OverLimit { limit: Limit::FailedTokensPerClient, retry_after };
    for _ in 0..2 {
        limiter.next_look_is(Verdict::RetryAfter(retry_after));
    }
    let whose = who.whose(shown("alice", Some("192.0.2.1")), Freshness::ForChange).await;
    assert!(matches!(whose, Err(WhoAsksError::Limited(limited)) if limited == over), "{whose:?}");
    let capabilities = who.capabilities(shown("alice", Some("192.0.2.1"))).await;
    assert!(matches!(capabilities, Err(WhoAsksError::Limited(limited)) if limited == over));
    assert_eq!(limiter.taken(), [], "being refused costs nothing more");
}

#[tokio::test]
async fn a_token_that_the_homeserver_refuses_at_its_capabilities_is_counted_too() {
    for (status, counts) in [(200, 0), (401, 1), (429, 0)] {
        let mut homeserver = MockHomeserverCapabilities::new();
        homeserver.expect_capabilities().returning(move |_| {
            Ok(AnswerAsWritten { status, content_type: None, retry_after: None, body: Vec::new() })
        });
        let limiter = Arc::new(ScriptedLimiter::default());
        let who =
            WhoAsks::new(Arc::new(MockAccessTokens::new()), Some(Arc::new(homeserver)), limiter.clone());
        let answer = who.capabilities(shown("t", Some("192.0.2.1"))).await.unwrap();
        assert_eq!(answer.map(|answer| answer.status), Some(status));
        assert_eq!(limiter.taken().len(), counts, "{status}");
    }
}
