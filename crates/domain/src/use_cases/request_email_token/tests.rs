#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::model::{AddressRules, Rule, SessionState};
use crate::model::{
    Medium, OutboxMessage, Payload, RemoteRefusal, RemoteSession, Sid, UnitOfWork, Validation,
};
use crate::ports::{
    CommitError, Conflict, EVERYBODY, Limit, MockIdentityServer, MockStore, OpenedRemotely, OverLimit,
    RemoteTokenRequest, Unavailable, Verdict,
};
use crate::testing::{Asked, CommitFailure, FixedClock, Fixture, ServerReply};
use crate::use_cases::interleaving::{at_once, contacts};
use crate::use_cases::{Changes, ContactsPorts, DECISIONS, Policy, SubmitTokenError};

const HOUR: Duration = Duration::from_secs(60 * 60);
const ALICE: &str = "alice@example.org";

fn on(store: MockStore) -> Contacts {
    Fixture::new().contacts_on(Arc::new(store))
}

fn down() -> Unavailable {
    Unavailable::new("store", "down")
}

#[tokio::test]
async fn a_first_request_opens_a_session_and_owes_one_mail() {
    let fixture = Fixture::new();
    let sid = fixture.request(" Alice@EXAMPLE.org", "secret", 1).await.unwrap();
    assert!(sid.is_well_formed());
    let sessions = fixture.store.sessions();
    assert_eq!(sessions.len(), 1);
    let record = sessions[0].record();
    assert_eq!((&record.sid, record.current, record.revision), (&sid, true, 1));
    assert_eq!(record.address, Fixture::address(ALICE));
    let rows = fixture.store.outbox_rows();
    assert_eq!(rows.len(), 1);
    let expected = OutboxMessage {
        id: rows[0].message.id.clone(),
        payload: Payload::ValidationMail {
            to: Fixture::email(ALICE),
            sid,
            generation: record.tokens[0].generation,
            with_code: false,
        },
        created_at: FixedClock::START,
        due_at: FixedClock::START,
        not_after: FixedClock::START.plus(HOUR),
    };
    assert_eq!(rows[0].message, expected);
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_sid_and_no_mail() {
    let fixture = Fixture::new();
    let sid = fixture.request(ALICE, "secret", 5).await.unwrap();
    for (spelling, attempt) in [(ALICE, 5), (ALICE, 4), (ALICE, 0), ("ALICE@Example.ORG", 5)] {
        assert_eq!(fixture.request(spelling, "secret", attempt).await.unwrap(), sid);
    }
    assert_eq!(fixture.store.outbox_rows().len(), 1);
}

#[tokio::test]
async fn a_higher_attempt_sends_again_and_the_older_token_stays_good() {
    let fixture = Fixture::new();
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    let first = fixture.newest_token(&sid);
    fixture.clock.advance(HOUR / 2);
    assert_eq!(fixture.request(ALICE, "secret", (1 << 53) - 1).await.unwrap(), sid);
    assert_ne!(fixture.newest_token(&sid), first);
    let rows = fixture.store.outbox_rows();
    assert_eq!(rows.len(), 2);
    assert_ne!(rows[0].message.id, rows[1].message.id);
    assert_eq!(rows[1].message.not_after, FixedClock::START.plus(HOUR * 3 / 2));
    assert!(fixture.submit(&sid, first).await.is_ok());
}

#[tokio::test]
async fn another_secret_or_another_address_is_another_session() {
    let fixture = Fixture::new();
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_ne!(fixture.request(ALICE, "Secret", 1).await.unwrap(), sid);
    assert_ne!(fixture.request("bob@example.org", "secret", 1).await.unwrap(), sid);
    assert_eq!(fixture.store.outbox_rows().len(), 3);
}

#[tokio::test]
async fn a_proven_address_gets_no_more_mail() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ALICE, "secret").await;
    assert_eq!(fixture.request(ALICE, "secret", 2).await.unwrap(), sid);
    fixture.clock.advance(HOUR * 24 - Duration::from_millis(1));
    assert_eq!(fixture.request(ALICE, "secret", 3).await.unwrap(), sid);
    assert_eq!(fixture.store.outbox_rows().len(), 1);
}

#[tokio::test]
async fn after_its_end_a_new_session_takes_the_place_and_the_count_starts_over() {
    for end in ["expired", "proof expired", "burnt", "consumed"] {
        let fixture = Fixture::new();
        let old = fixture.request(ALICE, "secret", 7).await.unwrap();
        match end {
            "expired" => fixture.clock.advance(HOUR),
            "proof expired" => {
                fixture.submit(&old, fixture.newest_token(&old)).await.unwrap();
                fixture.clock.advance(HOUR * 24);
            }
            "burnt" => {
                for _ in 0..5 {
                    let answer = fixture.submit(&old, crate::model::Token::new("wrong")).await;
                    assert!(matches!(answer, Err(SubmitTokenError::Incorrect)));
                }
            }
            _ => {
                // Spent, and the address given up since.
                use crate::ports::Store;
                fixture.submit(&old, fixture.newest_token(&old)).await.unwrap();
                let mut session = fixture.store.sessions().remove(0);
                let user = Fixture::user("@alice:example.org");
                session.spend(&user, FixedClock::START, &crate::model::Lifetimes::default()).unwrap();
                fixture.store.commit(UnitOfWork::new().put_session(session)).await.unwrap();
            }
        }
        let new = fixture.request(ALICE, "secret", 1).await.unwrap();
        assert_ne!(new, old, "{end}");
        assert_eq!(fixture.store.outbox_rows().len(), 2, "{end}");
        assert_eq!(fixture.request(ALICE, "secret", 1).await.unwrap(), new, "{end}");
        let currents: Vec<_> = fixture.store.sessions().into_iter().filter(|s| s.record().current).collect();
        assert_eq!(currents.len(), 1, "{end}");
        assert_eq!(currents[0].sid(), &new, "{end}");
        assert!(fixture.submit(&new, fixture.newest_token(&new)).await.is_ok(), "{end}");
    }
}

#[tokio::test]
async fn a_server_without_mail_says_so_and_counts_nothing() {
    let fixture = Fixture::with_policy(Policy::default());
    let answer = fixture.request(ALICE, "secret", 1).await;
    assert!(matches!(answer, Err(RequestTokenError::MediumNotSupported(Medium::Email))));
    assert_eq!(fixture.limiter.taken(), []);
    assert_eq!(fixture.store.sessions(), []);
}

#[tokio::test]
async fn a_denied_address_opens_nothing() {
    let rules = AddressRules::new(vec![], vec![Rule::domain("example.org").unwrap()]);
    let fixture = Fixture::with_policy(Policy { sends_mail: true, rules, ..Policy::default() });
    assert!(matches!(fixture.request(ALICE, "secret", 1).await, Err(RequestTokenError::Denied)));
    assert_eq!(fixture.store.sessions(), []);
    assert_eq!(fixture.store.outbox_rows(), []);
    assert!(fixture.request("alice@example.net", "secret", 1).await.is_ok());
}

#[tokio::test]
async fn an_address_in_use_opens_nothing_for_anybody() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ALICE, "secret").await;
    fixture.add("@alice:example.org", &sid, "secret").await.unwrap();
    for secret in ["secret", "other"] {
        assert!(matches!(fixture.request(ALICE, secret, 9).await, Err(RequestTokenError::InUse)));
    }
    assert_eq!(fixture.store.outbox_rows().len(), 1);
}

#[tokio::test]
async fn requests_are_limited_per_client_and_per_address() {
    let fixture = Fixture::new();
    let mut request = Fixture::request_for(ALICE, "secret", 1);
    request.client_ip = Some("192.0.2.7".parse().unwrap());
    fixture.contacts.request_email_token(request.clone()).await.unwrap();
    let taken = fixture.limiter.taken();
    assert_eq!(taken[0], (Limit::RequestTokenPerClient, "192.0.2.7".to_owned()));
    assert_eq!(taken[1].0, Limit::RequestTokenPerAddress);
    assert!(!taken[1].1.contains("alice"), "the limiter keeps no address");
    fixture.request("Alice@example.ORG", "other", 1).await.unwrap();
    assert_eq!(fixture.limiter.taken()[3], taken[1], "spellings of one address are one subject");

    let retry_after = Duration::from_secs(1);
    for (before, limit) in [Limit::RequestTokenPerClient, Limit::RequestTokenPerAddress, Limit::MailsInAll]
        .into_iter()
        .enumerate()
    {
        (0..before).for_each(|_| fixture.limiter.next_is(Verdict::Allowed));
        fixture.limiter.next_is(Verdict::RetryAfter(retry_after));
        request.send_attempt = Fixture::attempt(2);
        let answer = fixture.contacts.request_email_token(request.clone()).await;
        let expected = OverLimit { limit, retry_after };
        assert!(matches!(answer, Err(RequestTokenError::Limited(over)) if over == expected), "{limit:?}");
    }
    assert_eq!(fixture.store.outbox_rows().len(), 2, "no mail beyond the limit");
}

#[tokio::test]
async fn only_mails_are_counted_for_everybody_together_and_each_once() {
    let fixture = Fixture::new();
    let in_all = || {
        let taken = fixture.limiter.taken().into_iter();
        taken.filter(|taken| *taken == (Limit::MailsInAll, EVERYBODY.to_owned())).count()
    };
    fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!(in_all(), 1);
    fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!(in_all(), 1, "the same attempt again sends nothing");
    let mut store = MockStore::new();
    store.expect_owner().returning(|_| Ok(None));
    store.expect_current_session().returning(|_| Ok(None));
    store.expect_commit().times(1).returning(|_| Err(CommitError::Conflict(Conflict::SessionExists)));
    store.expect_commit().times(1).returning(|_| Ok(()));
    let request = Fixture::request_for(ALICE, "other", 1);
    fixture.contacts_on(Arc::new(store)).request_email_token(request).await.unwrap();
    assert_eq!(in_all(), 2, "a decision that is made anew sends one mail");
}

#[tokio::test]
async fn a_limiter_that_cannot_count_lets_nothing_through() {
    let fixture = Fixture::new();
    fixture.limiter.next_is_unavailable();
    assert!(matches!(fixture.request(ALICE, "secret", 1).await, Err(RequestTokenError::Unavailable(_))));
    assert_eq!(fixture.store.outbox_rows(), []);
}

#[tokio::test]
async fn a_store_that_fails_at_any_call_is_said_to_be_unavailable() {
    let request = || Fixture::request_for(ALICE, "secret", 1);
    let mut store = MockStore::new();
    store.expect_owner().times(1).returning(|_| Err(down()));
    store.expect_current_session().returning(|_| Ok(None));
    let answer = on(store).request_email_token(request()).await;
    assert!(matches!(answer, Err(RequestTokenError::Unavailable(_))), "owner");

    let mut store = MockStore::new();
    store.expect_owner().returning(|_| Ok(None));
    store.expect_current_session().times(1).returning(|_| Err(down()));
    let answer = on(store).request_email_token(request()).await;
    assert!(matches!(answer, Err(RequestTokenError::Unavailable(_))), "current_session");

    let mut store = MockStore::new();
    store.expect_owner().returning(|_| Ok(None));
    store.expect_current_session().returning(|_| Ok(None));
    store.expect_commit().times(1).returning(|_| Err(down().into()));
    let answer = on(store).request_email_token(request()).await;
    assert!(matches!(answer, Err(RequestTokenError::Unavailable(_))), "commit");
}

#[tokio::test]
async fn a_conflict_is_decided_anew_on_what_is_stored_by_then() {
    // Another request under the same key comes first: its session is the answer, and no mail is owed besides.
    let other = Fixture::new();
    let theirs = other.request(ALICE, "secret", 1).await.unwrap();
    let session = other.store.sessions().remove(0);
    let mut store = MockStore::new();
    store.expect_owner().returning(|_| Ok(None));
    let reads = AtomicUsize::new(0);
    store.expect_current_session().times(2).returning(move |_| {
        let first = reads.fetch_add(1, Ordering::SeqCst) == 0;
        Ok(if first { None } else { Some(session.clone()) })
    });
    store.expect_commit().times(1).returning(|_| Err(CommitError::Conflict(Conflict::SessionExists)));
    let answer = on(store).request_email_token(Fixture::request_for(ALICE, "secret", 1)).await;
    assert_eq!(answer.unwrap().sid, theirs);
}

#[tokio::test]
async fn a_stale_session_is_read_and_written_again() {
    let other = Fixture::new();
    let sid = other.request(ALICE, "secret", 1).await.unwrap();
    let session = other.store.sessions().remove(0);
    let mut store = MockStore::new();
    store.expect_owner().returning(|_| Ok(None));
    store.expect_current_session().times(2).returning(move |_| Ok(Some(session.clone())));
    let commits = AtomicUsize::new(0);
    store.expect_commit().times(2).returning(move |unit| {
        assert_eq!(unit.changes().len(), 2, "session and mail together");
        let first = commits.fetch_add(1, Ordering::SeqCst) == 0;
        if first { Err(CommitError::Conflict(Conflict::StaleSession)) } else { Ok(()) }
    });
    let answer = on(store).request_email_token(Fixture::request_for(ALICE, "secret", 2)).await;
    assert_eq!(answer.unwrap().sid, sid);
}

#[tokio::test]
async fn a_storm_of_conflicts_ends() {
    let mut store = MockStore::new();
    store.expect_owner().returning(|_| Ok(None));
    store.expect_current_session().returning(|_| Ok(None));
    store.expect_commit().times(DECISIONS).returning(|_| Err(CommitError::Conflict(Conflict::SessionExists)));
    let answer = on(store).request_email_token(Fixture::request_for(ALICE, "secret", 1)).await;
    assert!(matches!(answer, Err(RequestTokenError::Unavailable(_))));
}

#[tokio::test]
async fn after_a_lost_answer_a_retry_finds_the_session_and_its_one_mail() {
    let fixture = Fixture::new();
    fixture.store.fail_commits(1, CommitFailure::AfterApply);
    assert!(matches!(fixture.request(ALICE, "secret", 1).await, Err(RequestTokenError::Unavailable(_))));
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!(fixture.store.sessions()[0].sid(), &sid);
    assert_eq!((fixture.store.sessions().len(), fixture.store.outbox_rows().len()), (1, 1));
}

#[tokio::test]
async fn no_retry_is_answered_without_a_mail_to_come() {
    let fixture = Fixture::new();
    fixture.store.fail_commits(1, CommitFailure::BeforeApply);
    assert!(matches!(fixture.request(ALICE, "secret", 1).await, Err(RequestTokenError::Unavailable(_))));
    assert_eq!((fixture.store.sessions().len(), fixture.store.outbox_rows().len()), (0, 0));
    fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!((fixture.store.sessions().len(), fixture.store.outbox_rows().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_many_times_at_once_is_one_session_and_one_mail() {
    for count in [2, 50] {
        let fixture = Fixture::new();
        let contacts = contacts(&fixture);
        let answers =
            at_once((0..count).map(|_| {
                let contacts = contacts.clone();
                async move {
                    contacts.request_email_token(Fixture::request_for(ALICE, "secret", 1)).await.unwrap()
                }
            }))
            .await;
        assert!(answers.iter().all(|opened| *opened == answers[0]), "{answers:?}");
        assert_eq!((fixture.store.sessions().len(), fixture.store.outbox_rows().len()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ended_session_is_replaced_once_however_many_ask_at_once() {
    let fixture = Fixture::new();
    let old = fixture.request(ALICE, "secret", 1).await.unwrap();
    fixture.clock.advance(HOUR);
    let contacts = contacts(&fixture);
    let answers =
        at_once(
            (0..20).map(|_| {
                let contacts = contacts.clone();
                async move {
                    contacts.request_email_token(Fixture::request_for(ALICE, "secret", 1)).await.unwrap()
                }
            }),
        )
        .await;
    assert!(answers.iter().all(|opened| *opened == answers[0] && opened.sid != old), "{answers:?}");
    assert_eq!((fixture.store.sessions().len(), fixture.store.outbox_rows().len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rising_attempts_at_once_never_send_one_token_twice() {
    let fixture = Fixture::new();
    let contacts = contacts(&fixture);
    let answers =
        at_once((1..=20).map(|attempt| {
            let contacts = contacts.clone();
            async move {
                contacts.request_email_token(Fixture::request_for(ALICE, "secret", attempt)).await.unwrap()
            }
        }))
        .await;
    assert!(answers.iter().all(|opened| *opened == answers[0]));
    let session = fixture.store.sessions().remove(0);
    assert_eq!(session.record().send_attempt, Fixture::attempt(20));
    assert_eq!(session.record().state, SessionState::Pending { wrong_tokens: 0 });
    let sent = fixture.store.outbox_rows().into_iter().filter_map(|row| match row.message.payload {
        Payload::ValidationMail { generation, .. } => Some(generation),
        _ => None,
    });
    let issued: Vec<_> = session.record().tokens.iter().map(|token| token.generation).collect();
    assert_eq!(sent.collect::<Vec<_>>(), issued, "one mail for each token");
}

/// A server that has an identity server validate, and that sends mail itself if asked to.
fn proxying() -> Fixture {
    Fixture::with_policy(Policy {
        validation: Validation::IdentityServer,
        trusted: Fixture::trusted(),
        ..Policy::default()
    })
}

fn naming(server: Option<&str>, token: Option<&str>) -> RequestEmailToken {
    RequestEmailToken {
        id_server: server.map(Fixture::server),
        id_access_token: token.map(IdAccessToken::new),
        ..Fixture::request_for(ALICE, "secret", 1)
    }
}

#[tokio::test]
async fn an_identity_server_opens_the_session_and_what_it_was_asked_for_is_remembered() {
    let fixture = proxying();
    for (request, server, with_token) in [
        (naming(None, None), "id.example", false),
        (naming(Some("id.example"), Some("token")), "id.example", true),
        (naming(Some("validates.example"), None), "validates.example", false),
    ] {
        let opened = fixture.contacts.request_email_token(request).await.unwrap();
        let server = Fixture::server(server);
        let asked = Asked { call: "request_token", server: server.clone(), with_token };
        assert_eq!(fixture.identity_servers.asked().pop(), Some(asked));
        let remembered = RemoteSession {
            server,
            sid: opened.sid.clone(),
            address: Fixture::address(ALICE),
            opened_at: FixedClock::START,
        };
        assert_eq!(fixture.ports.store.remote_sessions(&opened.sid).await.unwrap(), [remembered]);
    }
    assert_eq!((fixture.store.sessions(), fixture.store.outbox_rows()), (vec![], vec![]));
}

#[tokio::test]
async fn the_identity_server_gets_the_request_and_the_client_its_answer() {
    let fixture = proxying();
    let mut server = MockIdentityServer::new();
    server.expect_request_token().times(1).returning(|server, request, token| {
        let expected = RemoteTokenRequest {
            client_secret: Fixture::secret("secret"),
            to: RemoteRecipient::Email(Fixture::email(ALICE)),
            send_attempt: Fixture::attempt(7),
            next_link: NextLink::parse("https://app.example/").ok(),
        };
        assert_eq!((server.as_str(), request), ("validates.example", expected));
        assert_eq!(token.as_ref().map(IdAccessToken::expose), Some("token"));
        Ok(OpenedRemotely {
            sid: Sid::new("theirs"),
            submit_url: Some("https://id.example/submit".to_owned()),
        })
    });
    let ports = ContactsPorts { identity_servers: Arc::new(server), ..fixture.ports.clone() };
    let request = RequestEmailToken {
        send_attempt: Fixture::attempt(7),
        next_link: NextLink::parse("https://app.example/").ok(),
        ..naming(Some("validates.example"), Some("token"))
    };
    let opened = fixture.contacts_with(ports).request_email_token(request).await.unwrap();
    let submit_url = Some("https://id.example/submit".to_owned());
    assert_eq!(opened, Opened { sid: Sid::new("theirs"), submit_url, has_code: false });
}

#[tokio::test]
async fn only_a_server_that_validates_is_asked() {
    let fixture = proxying();
    for server in ["binds.example", "stranger.example", "id.example:8090"] {
        let answer = fixture.contacts.request_email_token(naming(Some(server), None)).await;
        assert!(matches!(answer, Err(RequestTokenError::ServerNotTrusted)), "{server}: {answer:?}");
    }
    let nobody = Fixture::with_policy(Policy {
        validation: Validation::IdentityServer,
        sends_mail: true,
        ..Policy::default()
    });
    let answer = nobody.contacts.request_email_token(naming(None, None)).await;
    assert!(matches!(answer, Err(RequestTokenError::MediumNotSupported(Medium::Email))), "{answer:?}");
    assert_eq!(fixture.identity_servers.asked(), []);
}

#[tokio::test]
async fn in_direct_validation_a_named_server_is_ignored_trusted_or_not() {
    let fixture = Fixture::trusting();
    for server in ["id.example", "stranger.example"] {
        let opened = fixture.contacts.request_email_token(naming(Some(server), Some("token"))).await.unwrap();
        let sid = fixture.store.sessions()[0].sid().clone();
        assert_eq!(opened, Opened { sid, submit_url: None, has_code: false });
    }
    assert_eq!((fixture.identity_servers.asked(), fixture.store.outbox_rows().len()), (vec![], 1));
}

#[tokio::test]
async fn our_own_rules_come_before_the_identity_server_is_asked() {
    let fixture = proxying();
    let sid = fixture.proven_at("id.example", ALICE, "secret");
    let add = Fixture::add_from("id.example", "@alice:example.org", &sid, "secret", false);
    fixture.contacts.add(add).await.unwrap();
    let before = fixture.identity_servers.asked().len();
    assert!(matches!(fixture.request(ALICE, "secret", 1).await, Err(RequestTokenError::InUse)));

    fixture.limiter.next_is(Verdict::RetryAfter(Duration::from_secs(7)));
    let limited = fixture.request("b@example.org", "secret", 1).await;
    assert!(matches!(limited, Err(RequestTokenError::Limited(_))));

    fixture.store.set_available(false);
    let down = fixture.request("b@example.org", "secret", 1).await;
    assert!(matches!(down, Err(RequestTokenError::Unavailable(_))));
    fixture.store.set_available(true);

    let rules = AddressRules::new(vec![], vec![Rule::domain("example.org").unwrap()]);
    let base =
        Policy { validation: Validation::IdentityServer, trusted: Fixture::trusted(), ..Policy::default() };
    let denying = Policy { rules, ..base.clone() };
    let forbidding = Policy { changes: Changes::Forbidden, ..base };
    let request = || Fixture::request_for("b@example.org", "secret", 1);
    let denied = Contacts::new(fixture.ports.clone(), denying).request_email_token(request()).await;
    assert!(matches!(denied, Err(RequestTokenError::Denied)));
    let forbidden = Contacts::new(fixture.ports.clone(), forbidding).request_email_token(request()).await;
    assert!(matches!(forbidden, Err(RequestTokenError::ChangesForbidden)));
    assert_eq!(fixture.identity_servers.asked().len(), before);
}

#[tokio::test]
async fn a_server_that_refuses_or_is_down_opens_nothing_and_logs_nobody_out() {
    let fixture = proxying();
    let body = |text: &str| serde_json::from_str::<serde_json::Map<_, _>>(text).unwrap();
    let terms =
        RemoteRefusal { status: 403, body: body(r#"{"errcode":"M_TERMS_NOT_SIGNED","error":"sign"}"#) };
    let token =
        RemoteRefusal { status: 401, body: body(r#"{"errcode":"M_UNAUTHORIZED","soft_logout":true}"#) };
    let as_passed_on = RemoteRefusal { status: 403, body: body(r#"{"errcode":"M_FORBIDDEN"}"#) };
    for (reply, expected) in [
        (ServerReply::Refused(terms.clone()), Some(terms)),
        (ServerReply::Refused(token), Some(as_passed_on)),
        (ServerReply::Down, None),
        (ServerReply::AnswerLost, None),
    ] {
        fixture.identity_servers.next_is(reply.clone());
        match (fixture.request(ALICE, "secret", 1).await, expected) {
            (Err(RequestTokenError::Refused(passed)), Some(expected)) => assert_eq!(passed, expected),
            (other, expected) => {
                let is_down = matches!(other, Err(RequestTokenError::Unavailable(_)));
                assert!(is_down && expected.is_none(), "{reply:?}: {other:?}");
            }
        }
    }
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!(fixture.ports.store.remote_sessions(&sid).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_that_cannot_be_remembered_is_not_said_to_be_open() {
    let fixture = proxying();
    fixture.store.fail_commits(1, CommitFailure::BeforeApply);
    assert!(matches!(fixture.request(ALICE, "secret", 1).await, Err(RequestTokenError::Unavailable(_))));
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!(fixture.ports.store.remote_sessions(&sid).await.unwrap().len(), 1);
}
