#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::SessionState;
use crate::ports::{Conflict, MockStore, Verdict};
use crate::testing::{CommitFailure, FixedClock, Fixture};
use crate::use_cases::Policy;
use crate::use_cases::interleaving::{at_once, contacts};

const HOUR: Duration = Duration::from_secs(60 * 60);
const ALICE: &str = "alice@example.org";

fn on(store: MockStore) -> Contacts {
    Fixture::new().contacts_on(Arc::new(store))
}

fn down() -> Unavailable {
    Unavailable::new("store", "down")
}

fn wrong() -> Token {
    Token::new("wrong")
}

async fn requested() -> (Fixture, Sid, Token) {
    let fixture = Fixture::new();
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    let token = fixture.newest_token(&sid);
    (fixture, sid, token)
}

fn state(fixture: &Fixture) -> SessionState {
    fixture.store.sessions().remove(0).record().state.clone()
}

async fn by_client(
    fixture: &Fixture,
    sid: &Sid,
    secret: &str,
    token: Token,
) -> Result<Confirmed, SubmitTokenError> {
    let door = Door::Client(Fixture::secret(secret));
    fixture.contacts.submit_token(SubmitToken { sid: sid.clone(), token, door, client_ip: None }).await
}

#[tokio::test]
async fn the_right_token_proves_the_address_through_either_door() {
    let (fixture, sid, token) = requested().await;
    fixture.submit(&sid, token).await.unwrap();
    assert_eq!(state(&fixture), SessionState::Validated { at: FixedClock::START });

    let (fixture, sid, token) = requested().await;
    by_client(&fixture, &sid, "secret", token).await.unwrap();
    assert_eq!(state(&fixture), SessionState::Validated { at: FixedClock::START });
}

#[tokio::test]
async fn the_right_token_again_says_success_and_changes_nothing() {
    let (fixture, sid, token) = requested().await;
    fixture.submit(&sid, token.clone()).await.unwrap();
    let before = fixture.store.sessions();
    fixture.clock.advance(HOUR / 2);
    fixture.submit(&sid, token.clone()).await.unwrap();
    assert_eq!(fixture.store.sessions(), before);
    fixture.add("@alice:example.org", &sid, "secret").await.unwrap();
    fixture.submit(&sid, token).await.unwrap();
}

#[tokio::test]
async fn the_browser_goes_where_the_request_said() {
    let fixture = Fixture::new();
    let mut request = Fixture::request_for(ALICE, "secret", 1);
    let link = NextLink::parse("https://app.example/done").unwrap();
    request.next_link = Some(link.clone());
    let sid = fixture.contacts.request_email_token(request).await.unwrap().sid;
    let confirmed = fixture.submit(&sid, fixture.newest_token(&sid)).await.unwrap();
    assert_eq!(confirmed.next_link, Some(link));
}

#[tokio::test]
async fn what_does_not_fit_is_incorrect_and_nothing_more() {
    let (fixture, sid, token) = requested().await;
    let foreign = fixture.request("bob@example.org", "secret", 1).await.unwrap();
    let before = fixture.store.sessions();
    let unknown = fixture.submit(&Sid::new("unknown"), token.clone()).await;
    assert!(matches!(unknown, Err(SubmitTokenError::Incorrect)));
    let other_secret = by_client(&fixture, &sid, "other", token.clone()).await;
    assert!(matches!(other_secret, Err(SubmitTokenError::Incorrect)));
    assert_eq!(fixture.store.sessions(), before, "neither costs the session a try");
    assert!(matches!(fixture.submit(&foreign, token).await, Err(SubmitTokenError::Incorrect)));
}

#[tokio::test]
async fn strangers_without_the_secret_cannot_burn_a_session() {
    let (fixture, sid, token) = requested().await;
    for _ in 0..10 {
        let answer = by_client(&fixture, &sid, "other", wrong()).await;
        assert!(matches!(answer, Err(SubmitTokenError::Incorrect)));
    }
    assert!(by_client(&fixture, &sid, "secret", token).await.is_ok());
}

#[tokio::test]
async fn five_wrong_tokens_burn_the_session_whatever_comes_after() {
    let (fixture, sid, token) = requested().await;
    for tries in 1..=5_u8 {
        assert!(matches!(fixture.submit(&sid, wrong()).await, Err(SubmitTokenError::Incorrect)));
        let expected =
            if tries < 5 { SessionState::Pending { wrong_tokens: tries } } else { SessionState::Burnt };
        assert_eq!(state(&fixture), expected, "the count is stored");
    }
    assert!(matches!(fixture.submit(&sid, token.clone()).await, Err(SubmitTokenError::Incorrect)));
    fixture.clock.advance(HOUR * 2);
    assert!(
        matches!(fixture.submit(&sid, token).await, Err(SubmitTokenError::Incorrect)),
        "nor is its age told"
    );
}

#[tokio::test]
async fn an_old_token_has_expired_for_whoever_knows_the_secret() {
    let (fixture, sid, token) = requested().await;
    fixture.clock.advance(HOUR - Duration::from_millis(1));
    fixture.request(ALICE, "secret", 2).await.unwrap();
    fixture.clock.advance(Duration::from_millis(1));
    let expired = by_client(&fixture, &sid, "secret", token.clone()).await;
    assert!(matches!(expired, Err(SubmitTokenError::Expired)));
    assert!(matches!(fixture.submit(&sid, token.clone()).await, Err(SubmitTokenError::Expired)));
    let other = by_client(&fixture, &sid, "other", token).await;
    assert!(matches!(other, Err(SubmitTokenError::Incorrect)));
    assert_eq!(state(&fixture), SessionState::Pending { wrong_tokens: 0 }, "an old token is no wrong one");
    assert!(fixture.submit(&sid, fixture.newest_token(&sid)).await.is_ok());
}

#[tokio::test]
async fn a_store_that_fails_at_any_call_is_said_to_be_unavailable() {
    let (fixture, sid, token) = requested().await;
    let submit = |token| SubmitToken { sid: sid.clone(), token, door: Door::Link, client_ip: None };
    let mut store = MockStore::new();
    store.expect_session().times(1).returning(|_| Err(down()));
    let answer = on(store).submit_token(submit(token.clone())).await;
    assert!(matches!(answer, Err(SubmitTokenError::Unavailable(_))), "session");

    for token in [token, wrong()] {
        let session = fixture.store.sessions().remove(0);
        let mut store = MockStore::new();
        store.expect_session().times(1).returning(move |_| Ok(Some(session.clone())));
        store.expect_commit().times(1).returning(|_| Err(down().into()));
        let answer = on(store).submit_token(submit(token)).await;
        assert!(
            matches!(answer, Err(SubmitTokenError::Unavailable(_))),
            "an answer is given once it is stored"
        );
    }
}

#[tokio::test]
async fn a_conflict_is_judged_anew_on_what_is_stored_by_then() {
    let (fixture, sid, token) = requested().await;
    let pending = fixture.store.sessions().remove(0);
    for _ in 0..5 {
        let _ = fixture.submit(&sid, wrong()).await;
    }
    let burnt = fixture.store.sessions().remove(0);
    let mut store = MockStore::new();
    let mut reads = vec![burnt, pending];
    store.expect_session().times(2).returning(move |_| Ok(reads.pop()));
    store.expect_commit().times(1).returning(|_| Err(CommitError::Conflict(Conflict::StaleSession)));
    let answer = on(store).submit_token(SubmitToken { sid, token, door: Door::Link, client_ip: None }).await;
    assert!(matches!(answer, Err(SubmitTokenError::Incorrect)), "burnt while it was on its way");
}

#[tokio::test]
async fn a_storm_of_conflicts_ends() {
    let (fixture, sid, token) = requested().await;
    let session = fixture.store.sessions().remove(0);
    let mut store = MockStore::new();
    store.expect_session().times(DECISIONS).returning(move |_| Ok(Some(session.clone())));
    store.expect_commit().returning(|_| Err(CommitError::Conflict(Conflict::StaleSession)));
    let answer = on(store).submit_token(SubmitToken { sid, token, door: Door::Link, client_ip: None }).await;
    assert!(matches!(answer, Err(SubmitTokenError::Unavailable(_))));
}

#[tokio::test]
async fn after_a_lost_answer_the_token_says_success_again() {
    let (fixture, sid, token) = requested().await;
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        fixture.store.fail_commits(1, failure);
        let lost = fixture.submit(&sid, token.clone()).await;
        assert!(matches!(lost, Err(SubmitTokenError::Unavailable(_))), "{failure:?}");
    }
    assert!(fixture.submit(&sid, token).await.is_ok());
    assert_eq!(state(&fixture), SessionState::Validated { at: FixedClock::START });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guesses_at_once_are_all_counted() {
    let (fixture, sid, token) = requested().await;
    let contacts = contacts(&fixture);
    let answers = at_once((0..12).map(|_| {
        let submit = SubmitToken { sid: sid.clone(), token: wrong(), door: Door::Link, client_ip: None };
        let contacts = contacts.clone();
        async move { contacts.submit_token(submit).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(SubmitTokenError::Incorrect))), "{answers:?}");
    assert_eq!(state(&fixture), SessionState::Burnt);
    assert!(matches!(fixture.submit(&sid, token).await, Err(SubmitTokenError::Incorrect)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_right_token_many_times_at_once_is_right_each_time_and_proves_once() {
    let (fixture, sid, token) = requested().await;
    let contacts = contacts(&fixture);
    let answers = at_once((0..20).map(|_| {
        let submit =
            SubmitToken { sid: sid.clone(), token: token.clone(), door: Door::Link, client_ip: None };
        let contacts = contacts.clone();
        async move { contacts.submit_token(submit).await }
    }))
    .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fixture.store.sessions()[0].record().revision, 2);
}

#[tokio::test]
async fn tokens_are_counted_per_client_and_per_session_of_ours() {
    let (fixture, sid, token) = requested().await;
    let from = Some("2001:db8::7".parse().unwrap());
    let submit = |sid: Sid| {
        let submit = SubmitToken { sid, token: wrong(), door: Door::Link, client_ip: from };
        fixture.contacts.submit_token(submit)
    };
    let before = fixture.limiter.taken().len();
    assert!(submit(Sid::new("unknown")).await.is_err());
    let client = (Limit::SubmitPerClient, "2001:db8::/64".to_owned());
    assert_eq!(fixture.limiter.taken()[before..], *std::slice::from_ref(&client));
    assert!(submit(sid.clone()).await.is_err());
    let session = (Limit::SubmitPerSession, sid.as_str().to_owned());
    assert_eq!(fixture.limiter.taken()[before + 1..], [client, session]);
    let wrong_secret = by_client(&fixture, &sid, "other", token.clone()).await;
    assert!(matches!(wrong_secret, Err(SubmitTokenError::Incorrect)));
    assert_eq!(fixture.limiter.taken().len(), before + 3, "a stranger to the session uses nothing of it up");

    let retry_after = Duration::from_secs(3);
    let wrong_tokens = state(&fixture);
    for (before, limit) in [Limit::SubmitPerClient, Limit::SubmitPerSession].into_iter().enumerate() {
        (0..before).for_each(|_| fixture.limiter.next_is(Verdict::Allowed));
        fixture.limiter.next_is(Verdict::RetryAfter(retry_after));
        let limited = submit(sid.clone()).await;
        let expected = OverLimit { limit, retry_after };
        assert!(matches!(limited, Err(SubmitTokenError::Limited(over)) if over == expected), "{limit:?}");
    }
    assert_eq!(state(&fixture), wrong_tokens, "what is beyond the limit is not judged");
}

const NUMBER: &str = "447700900813";

/// A server whose mails carry codes, and a session that was sent one.
async fn requested_code() -> (Fixture, Sid, Token) {
    let policy = Policy { sends_mail: true, mails_code: true, ..Policy::default() };
    let fixture = Fixture::with_policy(policy);
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    let code = Token::new(fixture.newest_code(&sid).expose());
    (fixture, sid, code)
}

/// A code that is not `right`.
fn other_than(right: &Token) -> Token {
    Token::new(if right.expose() == "000000" { "000001" } else { "000000" })
}

#[tokio::test]
async fn a_code_proves_the_address_through_either_door_again_and_again() {
    let (fixture, sid, code) = requested_code().await;
    for _ in 0..2 {
        fixture.submit(&sid, code.clone()).await.unwrap();
        by_client(&fixture, &sid, "secret", code.clone()).await.unwrap();
    }
    assert_eq!(state(&fixture), SessionState::Validated { at: FixedClock::START });
    assert!(fixture.submit(&sid, fixture.newest_token(&sid)).await.is_ok(), "the link as well");
}

#[tokio::test]
async fn a_code_is_read_with_spaces_and_in_any_script() {
    let (fixture, sid, code) = requested_code().await;
    let digits = code.expose();
    let arabic: String =
        digits.chars().filter_map(|c| char::from_u32('\u{660}' as u32 + c.to_digit(10)?)).collect();
    for written in [format!(" {digits}\n"), format!("{} {}", &digits[..3], &digits[3..]), arabic] {
        by_client(&fixture, &sid, "secret", Token::new(written)).await.unwrap();
    }
}

#[tokio::test]
async fn only_the_newest_code_is_good_while_older_links_stay_good() {
    let (fixture, sid, first) = requested_code().await;
    let first_token = fixture.newest_token(&sid);
    fixture.request(ALICE, "secret", 2).await.unwrap();
    let second = Token::new(fixture.newest_code(&sid).expose());
    assert_ne!(first, second);
    assert!(matches!(fixture.submit(&sid, first).await, Err(SubmitTokenError::Incorrect)));
    assert_eq!(state(&fixture), SessionState::Pending { wrong_tokens: 1 });
    assert!(fixture.submit(&sid, first_token).await.is_ok());
    assert!(fixture.submit(&sid, second).await.is_ok());
}

#[tokio::test]
async fn a_client_needs_its_secret_for_a_code_as_for_a_token() {
    let (fixture, sid, code) = requested_code().await;
    let answer = by_client(&fixture, &sid, "other", code.clone()).await;
    assert!(matches!(answer, Err(SubmitTokenError::Incorrect)));
    assert_eq!(state(&fixture), SessionState::Pending { wrong_tokens: 0 });
    assert!(fixture.limiter.taken().iter().all(|(limit, _)| *limit != Limit::CodesPerAddress));
    assert!(by_client(&fixture, &sid, "secret", code).await.is_ok());
}

#[tokio::test]
async fn wrong_codes_of_any_length_burn_the_session_as_wrong_tokens_do() {
    let (fixture, sid, code) = requested_code().await;
    for given in ["1", "", "1234567890123", "12345a", other_than(&code).expose()] {
        let answer = by_client(&fixture, &sid, "secret", Token::new(given)).await;
        assert!(matches!(answer, Err(SubmitTokenError::Incorrect)), "{given:?}");
    }
    assert_eq!(state(&fixture), SessionState::Burnt);
    let answer = by_client(&fixture, &sid, "secret", code).await;
    assert!(matches!(answer, Err(SubmitTokenError::Incorrect)));
}

#[tokio::test]
async fn a_session_whose_messages_carry_no_code_takes_none() {
    let (fixture, sid, token) = requested().await;
    let code = Token::new(fixture.newest_code(&sid).expose());
    assert!(matches!(fixture.submit(&sid, code).await, Err(SubmitTokenError::Incorrect)));
    assert_eq!(state(&fixture), SessionState::Pending { wrong_tokens: 1 });
    assert!(fixture.limiter.taken().iter().all(|(limit, _)| *limit != Limit::CodesPerAddress));
    assert!(fixture.submit(&sid, token).await.is_ok());
}

#[tokio::test]
async fn an_old_code_has_expired() {
    let (fixture, sid, code) = requested_code().await;
    fixture.clock.advance(HOUR);
    assert!(matches!(fixture.submit(&sid, code.clone()).await, Err(SubmitTokenError::Expired)));
    let answer = by_client(&fixture, &sid, "other", code).await;
    assert!(matches!(answer, Err(SubmitTokenError::Incorrect)));
}

#[tokio::test]
async fn guesses_are_counted_for_the_address_over_all_sessions_and_right_codes_are_not() {
    let fixture = Fixture::new();
    let mine = fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    let other = fixture.request_sms(NUMBER, "other", 1).await.unwrap();
    let code = Token::new(fixture.newest_code(&mine).expose());
    let counted = |of: Vec<(Limit, String)>| {
        of.into_iter().filter(|(limit, _)| *limit == Limit::CodesPerAddress).map(|(_, subject)| subject)
    };
    for sid in [&mine, &other] {
        let wrong = other_than(&Token::new(fixture.newest_code(sid).expose()));
        assert!(fixture.submit(sid, wrong).await.is_err());
    }
    assert!(fixture.submit(&mine, Token::new("12345")).await.is_err(), "no code, so no guess at one");
    let subjects: Vec<_> = counted(fixture.limiter.taken()).collect();
    assert_eq!((subjects.len(), &subjects[0]), (2, &subjects[1]));
    assert!(!subjects[0].contains("7700900"), "the limiter keeps no number");
    assert_eq!(counted(fixture.limiter.given_back()).count(), 0);
    fixture.submit(&mine, code.clone()).await.unwrap();
    assert_eq!(counted(fixture.limiter.taken()).count(), 3);
    assert_eq!(counted(fixture.limiter.given_back()).collect::<Vec<_>>(), [subjects[0].clone()]);

    let retry_after = Duration::from_secs(8640);
    fixture.limiter.next_is(Verdict::Allowed);
    fixture.limiter.next_is(Verdict::RetryAfter(retry_after));
    let limited = fixture.submit(&mine, code).await;
    let expected = OverLimit { limit: Limit::CodesPerAddress, retry_after };
    assert!(matches!(limited, Err(SubmitTokenError::Limited(over)) if over == expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guesses_at_a_code_that_come_at_once_are_each_counted_once() {
    let (fixture, sid, code) = requested_code().await;
    let contacts = contacts(&fixture);
    let answers = at_once((0..12).map(|_| {
        let token = other_than(&code);
        let submit = SubmitToken { sid: sid.clone(), token, door: Door::Link, client_ip: None };
        let contacts = contacts.clone();
        async move { contacts.submit_token(submit).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(SubmitTokenError::Incorrect))), "{answers:?}");
    assert_eq!(state(&fixture), SessionState::Burnt);
    let guesses = fixture.limiter.taken().into_iter().filter(|(limit, _)| *limit == Limit::CodesPerAddress);
    assert_eq!(guesses.count(), 12);
}
