#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::model::{AccessToken, SessionState, Validation};
use crate::ports::{MockReauthentication, Verdict};
use crate::testing::{
    AskedAgainReply, CommitFailure, FakeReauthentication, FixedClock, Fixture, ServerReply,
};
use crate::use_cases::interleaving::{at_once, contacts};
use crate::use_cases::{ContactsPorts, DeprecatedAdd, Policy};

const ADDRESS: &str = "shared@example.org";
const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

fn request(user: &str, sid: &Sid, auth: Option<(Option<&str>, &str)>) -> AddReauthenticated {
    AddReauthenticated {
        user_id: Fixture::user(user),
        credentials: Credentials { access_token: AccessToken::new("token"), user_id: None, client_ip: None },
        sid: sid.clone(),
        client_secret: Fixture::secret("secret"),
        auth: auth.map(|(session, password)| Auth(FakeReauthentication::auth(session, password))),
    }
}

/// An answer with the right password.
fn right(user: &str, sid: &Sid, session: &str) -> AddReauthenticated {
    request(user, sid, Some((Some(session), "right")))
}

/// The session of the challenge that the client is to answer.
fn challenged(answer: Result<(), AddReauthenticatedError>) -> String {
    match answer {
        Err(AddReauthenticatedError::Challenged(challenge)) => {
            assert_eq!(challenge.body["session"], Value::from(challenge.session.as_str()));
            assert!(challenge.body["flows"].is_array());
            challenge.session
        }
        other => {
            assert!(matches!(other, Err(AddReauthenticatedError::Challenged(_))), "{other:?}");
            String::new()
        }
    }
}

async fn challenge_for(fixture: &Fixture, user: &str, sid: &Sid) -> String {
    challenged(fixture.contacts.add_reauthenticated(request(user, sid, None)).await)
}

fn owners(fixture: &Fixture) -> Vec<String> {
    fixture.store.all_threepids().into_iter().map(|threepid| threepid.user_id.to_string()).collect()
}

fn is_unspent(fixture: &Fixture, sid: &Sid) -> bool {
    let sessions = fixture.store.sessions();
    let session = sessions.iter().find(|session| session.sid() == sid).unwrap();
    matches!(session.record().state, SessionState::Validated { .. })
}

async fn is_remembered(fixture: &Fixture, session: &str) -> bool {
    fixture.ports.store.challenge(session).await.unwrap().is_some()
}

fn refusal(status: u16, body: &Value) -> RemoteRefusal {
    RemoteRefusal { status, body: body.as_object().cloned().unwrap() }
}

#[tokio::test]
async fn whoever_answers_nothing_gets_a_challenge_which_is_remembered() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    let expected = Challenge {
        session: session.clone(),
        user_id: Fixture::user(ALICE),
        sid: sid.clone(),
        issued_at: FixedClock::START,
    };
    assert_eq!(fixture.ports.store.challenge(&session).await.unwrap(), Some(expected));
    let asked = fixture.reauthentication.challenged().remove(0);
    assert_eq!(
        (asked.user_id, asked.sid, asked.credentials.access_token.expose()),
        (Fixture::user(ALICE), sid.clone(), "token")
    );
    assert!(is_unspent(&fixture, &sid));
    assert_eq!((owners(&fixture), fixture.reauthentication.answered()), (vec![], vec![]));
}

#[tokio::test]
async fn the_right_answer_adds_the_address_and_spends_both() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
    let threepid = fixture.store.all_threepids().remove(0);
    assert_eq!((threepid.user_id, threepid.address), (Fixture::user(ALICE), Fixture::address(ADDRESS)));
    assert!(!is_unspent(&fixture, &sid) && !is_remembered(&fixture, &session).await);
}

#[tokio::test]
async fn a_wrong_answer_may_be_followed_by_the_right_one() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    for _ in 0..3 {
        let wrong = request(ALICE, &sid, Some((Some(&session), "wrong")));
        match fixture.contacts.add_reauthenticated(wrong).await {
            Err(AddReauthenticatedError::Challenged(again)) => {
                assert_eq!(
                    (again.session.as_str(), &again.body["errcode"]),
                    (session.as_str(), &json!("M_FORBIDDEN"))
                );
            }
            other => assert!(matches!(other, Err(AddReauthenticatedError::Challenged(_))), "{other:?}"),
        }
        assert!(is_unspent(&fixture, &sid) && is_remembered(&fixture, &session).await);
    }
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
    assert_eq!(owners(&fixture), [ALICE]);
}

#[tokio::test]
async fn an_answer_without_a_session_answers_the_challenge_that_is_asked_just_then() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let wrong = fixture.contacts.add_reauthenticated(request(ALICE, &sid, Some((None, "wrong")))).await;
    let session = challenged(wrong);
    assert!(is_remembered(&fixture, &session).await, "it can be answered now");
    fixture.contacts.add_reauthenticated(request(ALICE, &sid, Some((None, "right")))).await.unwrap();
    assert_eq!(
        (owners(&fixture), fixture.reauthentication.answered()),
        (vec![ALICE.to_owned()], vec!["uia1".to_owned(), "uia2".to_owned()])
    );

    let sid = fixture.proven("other@example.org", "secret").await;
    let mut strange = request(ALICE, &sid, Some((None, "right")));
    if let Some(Auth(auth)) = &mut strange.auth {
        auth.insert("session".to_owned(), json!({"no": "text"}));
    }
    fixture.contacts.add_reauthenticated(strange).await.unwrap();
    assert!(fixture.reauthentication.answered().ends_with(&["uia3".to_owned()]));
}

#[tokio::test]
async fn a_completed_session_is_good_for_nothing_else() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
    // The homeserver would let it through for anything from now on.
    let other = fixture.proven("other@example.org", "secret").await;
    for (user, sid) in [(ALICE, &other), (BOB, &other), (BOB, &sid), (ALICE, &sid)] {
        let replayed = fixture.contacts.add_reauthenticated(right(user, sid, &session)).await;
        assert_ne!(challenged(replayed), session, "{user} {sid}");
    }
    assert_eq!(fixture.reauthentication.answered(), [session], "no replay got as far as the homeserver");
    assert_eq!(owners(&fixture), [ALICE]);
    assert!(is_unspent(&fixture, &other));
}

#[tokio::test]
async fn a_challenge_is_answered_by_its_user_for_its_session_alone() {
    let fixture = Fixture::new();
    let (sid, other) =
        (fixture.proven(ADDRESS, "secret").await, fixture.proven("o@example.org", "secret").await);
    let session = challenge_for(&fixture, ALICE, &sid).await;
    for (user, sid, session) in [
        (ALICE, &other, session.as_str()),
        (BOB, &sid, session.as_str()),
        (BOB, &other, session.as_str()),
        (ALICE, &sid, "unknown"),
        (ALICE, &sid, ""),
    ] {
        let fresh = challenged(fixture.contacts.add_reauthenticated(right(user, sid, session)).await);
        assert_ne!(fresh, session, "{user} {sid} {session}");
        assert!(is_remembered(&fixture, &fresh).await, "the fresh one can be answered");
    }
    assert_eq!((fixture.reauthentication.answered(), owners(&fixture)), (vec![], vec![]));
    assert!(is_remembered(&fixture, &session).await, "hers still stands");
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
}

#[tokio::test]
async fn an_answer_counts_only_where_somebody_is_asked() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    for auth in [None, Some((None, "right")), Some((Some(session.as_str()), "right"))] {
        fixture.reauthentication.next_is(AskedAgainReply::NotAsked);
        let answer = fixture.contacts.add_reauthenticated(request(ALICE, &sid, auth)).await;
        assert!(matches!(answer, Err(AddReauthenticatedError::NotAsked)), "{answer:?}");
    }
    assert_eq!((fixture.reauthentication.answered(), owners(&fixture)), (vec![], vec![]));
    assert!(is_unspent(&fixture, &sid) && is_remembered(&fixture, &session).await);
}

#[tokio::test]
async fn a_homeserver_that_refuses_or_fails_at_either_step_spends_nothing() {
    let locked = refusal(401, &json!({"errcode": "M_USER_LOCKED", "error": "no", "soft_logout": true}));
    for at_the_answer in [false, true] {
        for reply in
            [AskedAgainReply::Refused(locked.clone()), AskedAgainReply::Down, AskedAgainReply::NotAsked]
        {
            let fixture = Fixture::new();
            let sid = fixture.proven(ADDRESS, "secret").await;
            let session = challenge_for(&fixture, ALICE, &sid).await;
            if at_the_answer {
                fixture.reauthentication.next_is(AskedAgainReply::Usual);
            }
            fixture.reauthentication.next_is(reply.clone());
            let answer = fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await;
            let is_passed_on = match (&reply, &answer) {
                (AskedAgainReply::Refused(whole), Err(AddReauthenticatedError::Refused(passed))) => {
                    passed == whole
                }
                (AskedAgainReply::NotAsked, Err(AddReauthenticatedError::NotAsked))
                | (AskedAgainReply::Down, Err(AddReauthenticatedError::Add(AddError::Unavailable(_)))) => {
                    true
                }
                _ => false,
            };
            assert!(is_passed_on, "{reply:?}: {answer:?}");
            assert_eq!(fixture.reauthentication.answered().len(), usize::from(at_the_answer));
            assert!(is_unspent(&fixture, &sid) && is_remembered(&fixture, &session).await);
            fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_homeserver_that_begins_anew_is_followed() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    let mut forgetful = MockReauthentication::new();
    let body = |session: &str| json!({"flows": [], "session": session}).as_object().cloned().unwrap();
    let challenge =
        move |session: &str| ChallengeToPassOn { session: session.to_owned(), body: body(session) };
    forgetful.expect_challenge().times(1).returning(move |_| Ok(challenge("bare")));
    forgetful.expect_answer().times(1).returning(move |_, _| Ok(Answered::Again(challenge("anew"))));
    let reauthentication: Option<Arc<dyn Reauthentication>> = Some(Arc::new(forgetful));
    let ports = ContactsPorts { reauthentication, ..fixture.ports.clone() };
    let answer = fixture.contacts_with(ports).add_reauthenticated(right(ALICE, &sid, &session)).await;
    assert_eq!(challenged(answer), "anew");
    assert!(is_remembered(&fixture, "anew").await && !is_remembered(&fixture, "bare").await);
}

#[tokio::test]
async fn who_is_asking_is_asked_before_anything_is_told_about_the_session() {
    let fixture = Fixture::new();
    let unproven = fixture.request(ADDRESS, "secret", 1).await.unwrap();
    let other_secret = fixture.proven("other@example.org", "other").await;
    let unknown = Sid::new("unknown");
    for sid in [&unproven, &other_secret, &unknown] {
        let session = challenge_for(&fixture, ALICE, sid).await;
        let answer = fixture.contacts.add_reauthenticated(right(ALICE, sid, &session)).await;
        let failed = matches!(answer, Err(AddReauthenticatedError::Add(AddError::AuthFailed)));
        assert!(failed, "{sid}: {answer:?}");
        assert!(is_remembered(&fixture, &session).await, "an answer that permitted nothing is kept: {sid}");
    }
    // The link is opened now, and the answer is still good.
    let session = challenge_for(&fixture, ALICE, &unproven).await;
    let early = fixture.contacts.add_reauthenticated(right(ALICE, &unproven, &session)).await;
    assert!(early.is_err());
    fixture.submit(&unproven, fixture.newest_token(&unproven)).await.unwrap();
    fixture.contacts.add_reauthenticated(right(ALICE, &unproven, &session)).await.unwrap();
    assert_eq!(owners(&fixture), [ALICE]);
}

#[tokio::test]
async fn another_accounts_address_is_refused_and_nothing_is_spent() {
    let fixture = Fixture::new();
    let (hers, his) = (fixture.proven(ADDRESS, "alice").await, fixture.proven(ADDRESS, "secret").await);
    fixture.add(ALICE, &hers, "alice").await.unwrap();
    let session = challenge_for(&fixture, BOB, &his).await;
    let answer = fixture.contacts.add_reauthenticated(right(BOB, &his, &session)).await;
    assert!(matches!(answer, Err(AddReauthenticatedError::Add(AddError::InUse))), "{answer:?}");
    assert!(is_unspent(&fixture, &his) && is_remembered(&fixture, &session).await);
    assert_eq!(owners(&fixture), [ALICE]);
}

#[tokio::test]
async fn proof_and_answer_are_spent_together_or_not_at_all() {
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        let fixture = Fixture::new();
        let sid = fixture.proven(ADDRESS, "secret").await;
        let session = challenge_for(&fixture, ALICE, &sid).await;
        fixture.store.fail_commits(1, failure);
        let lost = fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await;
        assert!(matches!(lost, Err(AddReauthenticatedError::Add(AddError::Unavailable(_)))), "{failure:?}");
        let is_kept = failure == CommitFailure::BeforeApply;
        assert_eq!((is_unspent(&fixture, &sid), is_remembered(&fixture, &session).await), (is_kept, is_kept));
        let again = fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await;
        if is_kept {
            again.unwrap();
        } else {
            // It was spent, so who is asking is asked anew; the address is there.
            let fresh = challenged(again);
            fixture.contacts.add_reauthenticated(right(ALICE, &sid, &fresh)).await.unwrap();
        }
        assert_eq!(owners(&fixture), [ALICE]);
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_remembered_is_not_passed_on() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    for auth in [None, Some((None, "right")), Some((Some("unknown"), "right"))] {
        fixture.store.fail_commits(1, CommitFailure::BeforeApply);
        let answer = fixture.contacts.add_reauthenticated(request(ALICE, &sid, auth)).await;
        let is_down = matches!(answer, Err(AddReauthenticatedError::Add(AddError::Unavailable(_))));
        assert!(is_down, "{answer:?}");
    }
    assert_eq!((owners(&fixture), fixture.reauthentication.answered()), (vec![], vec![]));
}

#[tokio::test]
async fn the_operators_switches_hold() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let forbidden = Policy { changes: Changes::Forbidden, ..Policy::default() };
    let contacts = Contacts::new(fixture.ports.clone(), forbidden);
    let answer = contacts.add_reauthenticated(request(ALICE, &sid, None)).await;
    assert!(matches!(answer, Err(AddReauthenticatedError::ChangesForbidden)));
    assert_eq!(fixture.reauthentication.challenged(), []);

    // The other door may be shut, and who has written out that nobody is asked again asks nobody.
    let policy = Policy { deprecated_add: DeprecatedAdd::Off, ..Policy::default() };
    let ports = ContactsPorts { reauthentication: None, ..fixture.ports.clone() };
    Contacts::new(ports, policy).add_reauthenticated(request(ALICE, &sid, None)).await.unwrap();
    assert_eq!((owners(&fixture), fixture.reauthentication.challenged()), (vec![ALICE.to_owned()], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_answer_at_once_adds_once() {
    for _ in 0..10 {
        let fixture = Fixture::new();
        let sid = fixture.proven(ADDRESS, "secret").await;
        let session = challenge_for(&fixture, ALICE, &sid).await;
        let contacts = contacts(&fixture);
        let answers = at_once((0..10).map(|_| {
            let (contacts, add) = (contacts.clone(), right(ALICE, &sid, &session));
            async move { contacts.add_reauthenticated(add).await }
        }))
        .await;
        // Whoever comes late finds the address there, or the challenge spent.
        let late =
            |answer: &Result<(), _>| matches!(answer, Ok(()) | Err(AddReauthenticatedError::Challenged(_)));
        assert!(answers.iter().any(Result::is_ok) && answers.iter().all(late), "{answers:?}");
        assert_eq!(owners(&fixture), [ALICE]);
        assert_eq!(fixture.store.sessions()[0].record().revision, 3, "opened, proven, spent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_completed_session_replayed_for_many_proofs_at_once_permits_one() {
    let fixture = Fixture::new();
    let mut sids = Vec::new();
    for count in 0..10 {
        sids.push(fixture.proven(&format!("{count}@example.org"), "secret").await);
    }
    let session = challenge_for(&fixture, ALICE, &sids[0]).await;
    let contacts = contacts(&fixture);
    let answers = at_once(sids.iter().map(|sid| {
        let (contacts, add) = (contacts.clone(), right(ALICE, sid, &session));
        async move { contacts.add_reauthenticated(add).await }
    }))
    .await;
    assert!(answers[0].is_ok());
    for answer in answers.into_iter().skip(1) {
        challenged(answer);
    }
    assert_eq!(owners(&fixture), [ALICE]);
}

#[test]
fn neither_answer_nor_challenge_is_shown_by_debug() {
    let add = request(ALICE, &Sid::new("sid"), Some((Some("session"), "hunter2")));
    let shown = format!("{add:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("session\": "), "{shown}");
    let challenge = ChallengeToPassOn { session: "hunter2".to_owned(), body: Map::new() };
    assert!(!format!("{:?}", AddReauthenticatedError::Challenged(challenge)).contains("hunter2"));
}

/// A server that has an identity server validate.
fn proxying() -> Fixture {
    Fixture::with_policy(Policy {
        validation: Validation::IdentityServer,
        trusted: Fixture::trusted(),
        ..Policy::default()
    })
}

/// Asked through us at `id.example`, and proven there.
async fn proven_remotely(fixture: &Fixture, email: &str) -> Sid {
    let sid = fixture.request(email, "secret", 1).await.unwrap();
    fixture.identity_servers.prove(&Fixture::server("id.example"), &sid, FixedClock::START);
    sid
}

async fn answered(fixture: &Fixture, user: &str, sid: &Sid) -> Result<(), AddReauthenticatedError> {
    let session = challenge_for(fixture, user, sid).await;
    fixture.contacts.add_reauthenticated(right(user, sid, &session)).await
}

#[tokio::test]
async fn the_identity_server_that_was_asked_for_the_session_is_asked_over_version_one() {
    let fixture = proxying();
    let sid = proven_remotely(&fixture, ADDRESS).await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
    assert_eq!(owners(&fixture), [ALICE]);
    let asked = fixture.identity_servers.asked().pop().unwrap();
    assert_eq!((asked.call, asked.server.as_str(), asked.with_token), ("validated", "id.example", false));
    assert!(!is_remembered(&fixture, &session).await, "the challenge is spent with the proof");

    let calls = fixture.identity_servers.asked().len();
    answered(&fixture, ALICE, &sid).await.unwrap();
    let others = answered(&fixture, BOB, &sid).await;
    assert!(matches!(others, Err(AddReauthenticatedError::Add(AddError::AuthFailed))));
    assert_eq!(fixture.identity_servers.asked().len(), calls, "answered from the record");
}

#[tokio::test]
async fn a_foreign_session_that_was_not_asked_for_through_us_proves_nothing() {
    let fixture = proxying();
    let sid = fixture.proven_at("id.example", ADDRESS, "secret");
    let answer = answered(&fixture, ALICE, &sid).await;
    assert!(matches!(answer, Err(AddReauthenticatedError::Add(AddError::AuthFailed))));
    assert_eq!(fixture.identity_servers.asked(), []);
}

#[tokio::test]
async fn an_answer_for_another_address_than_was_asked_is_no_proof() {
    let fixture = proxying();
    let sid = proven_remotely(&fixture, ADDRESS).await;
    let (medium, address) = ("email".to_owned(), "victim@example.org".to_owned());
    let said = crate::ports::RemoteValidation { medium, address, validated_at: FixedClock::START };
    fixture.identity_servers.says(&Fixture::server("id.example"), &sid, said);
    let session = challenge_for(&fixture, ALICE, &sid).await;
    let answer = fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await;
    assert!(matches!(answer, Err(AddReauthenticatedError::Add(AddError::AuthFailed))), "{answer:?}");
    assert!(owners(&fixture).is_empty() && is_remembered(&fixture, &session).await);
}

#[tokio::test]
async fn an_identity_server_that_is_down_refuses_or_is_trusted_no_more_spends_nothing() {
    let fixture = proxying();
    let sid = proven_remotely(&fixture, ADDRESS).await;
    let session = challenge_for(&fixture, ALICE, &sid).await;
    let token = refusal(401, &json!({"errcode": "M_UNAUTHORIZED", "error": "who"}));
    for reply in [ServerReply::Down, ServerReply::Refused(token)] {
        fixture.identity_servers.next_is(reply.clone());
        let answer = fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await;
        match answer {
            Err(AddReauthenticatedError::Add(AddError::Refused(passed))) => {
                assert_eq!((passed.status, passed.errcode()), (403, Some("M_FORBIDDEN")));
            }
            other => {
                let is_down = matches!(other, Err(AddReauthenticatedError::Add(AddError::Unavailable(_))));
                assert!(is_down && reply == ServerReply::Down, "{reply:?}: {other:?}");
            }
        }
        assert!(owners(&fixture).is_empty() && is_remembered(&fixture, &session).await);
    }
    let nobody = Policy { validation: Validation::IdentityServer, ..Policy::default() };
    let untrusting = Contacts::new(fixture.ports.clone(), nobody);
    let answer = untrusting.add_reauthenticated(right(ALICE, &sid, &session)).await;
    assert!(matches!(answer, Err(AddReauthenticatedError::Add(AddError::AuthFailed))), "{answer:?}");
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_foreign_proof_presented_by_many_accounts_at_once_is_spent_by_one() {
    let fixture = proxying();
    let sid = proven_remotely(&fixture, ADDRESS).await;
    let mut adds = Vec::new();
    for user in 0..10 {
        let user = format!("@user{user}:example.org");
        let session = challenge_for(&fixture, &user, &sid).await;
        adds.push(right(&user, &sid, &session));
    }
    let contacts = contacts(&fixture);
    let answers = at_once(adds.into_iter().map(|add| {
        let contacts = contacts.clone();
        async move { contacts.add_reauthenticated(add).await }
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert_eq!(owners(&fixture).len(), 1);
}

#[tokio::test]
async fn wrong_answers_are_counted_before_they_are_judged_and_no_others() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let counted = || {
        let of = |list: Vec<(Limit, String)>| {
            let subject = (Limit::FailedReauthenticationPerAccount, ALICE.to_owned());
            list.into_iter().filter(|entry| *entry == subject).count()
        };
        (of(fixture.limiter.taken()), of(fixture.limiter.given_back()))
    };
    let session = challenge_for(&fixture, ALICE, &sid).await;
    assert_eq!(counted(), (0, 0), "a question is no answer");
    let wrong = request(ALICE, &sid, Some((Some(&session), "wrong")));
    challenged(fixture.contacts.add_reauthenticated(wrong.clone()).await);
    assert_eq!(counted(), (1, 0));
    challenged(fixture.contacts.add_reauthenticated(right(ALICE, &sid, "unknown")).await);
    assert_eq!(counted(), (2, 1), "what was not judged is given back");
    for reply in [
        AskedAgainReply::Refused(refusal(401, &json!({ "errcode": "M_UNKNOWN_TOKEN" }))),
        AskedAgainReply::Refused(refusal(429, &json!({ "errcode": "M_LIMIT_EXCEEDED" }))),
        AskedAgainReply::NotAsked,
        AskedAgainReply::Down,
    ] {
        fixture.reauthentication.next_is(AskedAgainReply::Usual);
        fixture.reauthentication.next_is(reply);
        assert!(fixture.contacts.add_reauthenticated(wrong.clone()).await.is_err());
    }
    assert_eq!(counted(), (6, 4), "of these one was an answer that was refused");

    let retry_after = Duration::from_secs(6);
    fixture.limiter.next_is(Verdict::RetryAfter(retry_after));
    let asked = (fixture.reauthentication.challenged().len(), fixture.reauthentication.answered().len());
    let limited = fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await;
    let over = OverLimit { limit: Limit::FailedReauthenticationPerAccount, retry_after };
    assert!(matches!(limited, Err(AddReauthenticatedError::Limited(limited)) if limited == over));
    let now = (fixture.reauthentication.challenged().len(), fixture.reauthentication.answered().len());
    assert_eq!((now, counted()), (asked, (7, 4)), "over the limit nobody is asked, and no answer is right");
    fixture.contacts.add_reauthenticated(right(ALICE, &sid, &session)).await.unwrap();
    assert_eq!(counted(), (8, 5), "a right answer is given back");
}
