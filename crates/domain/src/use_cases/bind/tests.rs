#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::Timestamp;
use crate::ports::{MockIdentityServer, RemoteValidation};
use crate::testing::{CommitFailure, FixedClock, Fixture, ServerReply};
use crate::use_cases::interleaving::{at_once, contacts};
use crate::use_cases::{Changes, ContactsPorts, Delete, Policy};

const HOUR: Duration = Duration::from_secs(60 * 60);
const ID: &str = "id.example";
const ADDRESS: &str = "shared@example.org";
const ALICE: &str = "@alice:example.org";

fn request(server: &str, user: &str, sid: &Sid) -> Bind {
    Bind {
        user_id: Fixture::user(user),
        id_server: Fixture::server(server),
        id_access_token: IdAccessToken::new("token"),
        sid: sid.clone(),
        client_secret: Fixture::secret("secret"),
    }
}

fn refusal(status: u16, body: &Value) -> RemoteRefusal {
    RemoteRefusal { status, body: body.as_object().cloned().unwrap() }
}

fn calls(fixture: &Fixture) -> Vec<&'static str> {
    fixture.identity_servers.asked().into_iter().map(|asked| asked.call).collect()
}

fn states(fixture: &Fixture) -> Vec<BindingState> {
    fixture.store.all_bindings().into_iter().map(|binding| binding.state).collect()
}

fn published(fixture: &Fixture, server: &str) -> Option<String> {
    let owner = fixture.identity_servers.published(&Fixture::server(server), &Fixture::address(ADDRESS));
    owner.map(|owner| owner.to_string())
}

/// A server that says this of its session, and is not to be asked to bind.
fn saying(fixture: &Fixture, said: Option<RemoteValidation>) -> Contacts {
    let mut server = MockIdentityServer::new();
    server.expect_validated().times(1).returning(move |_, _, _| Ok(said.clone()));
    server.expect_bind().never();
    fixture.contacts_with(ContactsPorts { identity_servers: Arc::new(server), ..fixture.ports.clone() })
}

#[tokio::test]
async fn an_address_is_published_for_the_account_whether_or_not_it_is_on_it() {
    for server in [ID, "binds.example"] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(server, ADDRESS, "secret");
        fixture.clock.advance(48 * HOUR);
        fixture.contacts.bind(request(server, ALICE, &sid)).await.unwrap();
        assert_eq!(published(&fixture, server).as_deref(), Some(ALICE));
        let expected = Binding {
            user_id: Fixture::user(ALICE),
            address: Fixture::address(ADDRESS),
            server: Fixture::server(server),
            state: BindingState::Bound,
            since: FixedClock::START.plus(48 * HOUR),
        };
        assert_eq!((fixture.store.all_bindings(), fixture.store.all_threepids()), (vec![expected], vec![]));
        assert!(fixture.identity_servers.asked().iter().all(|asked| asked.with_token), "v2");
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_to_bind_is_not_asked() {
    let fixture = Fixture::trusting();
    for server in ["validates.example", "stranger.example", "id.example:8090"] {
        let sid = fixture.proven_at(server, ADDRESS, "secret");
        let answer = fixture.contacts.bind(request(server, ALICE, &sid)).await;
        assert!(matches!(answer, Err(BindError::ServerNotTrusted)), "{server}: {answer:?}");
    }
    assert_eq!((calls(&fixture), states(&fixture)), (vec![], vec![]));
}

#[tokio::test]
async fn what_is_not_validated_is_not_bound_and_the_servers_words_are_passed_on() {
    let fixture = Fixture::trusting();
    let address = Fixture::address(ADDRESS);
    let unproven = fixture.identity_servers.open(&Fixture::server(ID), &Fixture::secret("secret"), &address);
    for (sid, errcode) in [(unproven, "M_SESSION_NOT_VALIDATED"), (Sid::new("unknown"), "M_NO_VALID_SESSION")]
    {
        match fixture.contacts.bind(request(ID, ALICE, &sid)).await {
            Err(BindError::Refused(refusal)) => assert_eq!(refusal.errcode(), Some(errcode)),
            other => assert!(matches!(other, Err(BindError::Refused(_))), "{other:?}"),
        }
    }
    let word = |medium: &str, address: &str| {
        let (medium, address) = (medium.to_owned(), address.to_owned());
        Some(RemoteValidation { medium, address, validated_at: Timestamp::from_ms(0) })
    };
    for said in [None, word("m.pigeon", ADDRESS), word("email", "none"), word("msisdn", ADDRESS)] {
        let answer = saying(&fixture, said.clone()).bind(request(ID, ALICE, &Sid::new("sid"))).await;
        assert!(matches!(answer, Err(BindError::NotValidated)), "{answer:?}");
    }
    assert_eq!(states(&fixture), []);
    assert_eq!(calls(&fixture), ["validated", "validated"]);
}

#[tokio::test]
async fn it_is_recorded_as_pending_before_the_server_is_asked() {
    let fixture = Fixture::trusting();
    let store = fixture.store.clone();
    let mut server = MockIdentityServer::new();
    server.expect_validated().times(1).returning(|_, _, _| {
        let (medium, address) = ("email".to_owned(), " Shared@EXAMPLE.org".to_owned());
        Ok(Some(RemoteValidation { medium, address, validated_at: FixedClock::START }))
    });
    server.expect_bind().times(1).returning(move |_, _, _, _| {
        let recorded = store.all_bindings();
        assert_eq!((recorded.len(), recorded[0].state), (1, BindingState::Pending));
        Ok(Fixture::address(ADDRESS))
    });
    let ports = ContactsPorts { identity_servers: Arc::new(server), ..fixture.ports.clone() };
    fixture.contacts_with(ports).bind(request(ID, ALICE, &Sid::new("sid"))).await.unwrap();
    assert_eq!(states(&fixture), [BindingState::Bound]);
}

#[tokio::test]
async fn a_refused_or_lost_bind_is_completed_by_the_same_request() {
    let token = refusal(401, &json!({"errcode": "M_UNKNOWN_TOKEN", "error": "who", "soft_logout": true}));
    for reply in [ServerReply::Refused(token), ServerReply::Down, ServerReply::AnswerLost] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        let (word, last) = (fixture.identity_servers.clone(), reply.clone());
        let mut server = MockIdentityServer::new();
        server.expect_validated().returning(move |server, session, token| {
            let said = futures_util::FutureExt::now_or_never(crate::ports::IdentityServer::validated(
                &*word, server, session, token,
            ));
            word.next_is(last.clone());
            said.unwrap()
        });
        let real = fixture.identity_servers.clone();
        server.expect_bind().returning(move |server, session, user, token| {
            futures_util::FutureExt::now_or_never(crate::ports::IdentityServer::bind(
                &*real, server, session, user, token,
            ))
            .unwrap()
        });
        let ports = ContactsPorts { identity_servers: Arc::new(server), ..fixture.ports.clone() };
        let answer = fixture.contacts_with(ports).bind(request(ID, ALICE, &sid)).await;
        match (&reply, answer) {
            (ServerReply::Refused(_), Err(BindError::Refused(passed))) => {
                assert_eq!(passed, refusal(403, &json!({"errcode": "M_FORBIDDEN", "error": "who"})));
            }
            (_, answer) => assert!(matches!(answer, Err(BindError::Unavailable(_))), "{reply:?}: {answer:?}"),
        }
        assert_eq!(states(&fixture), [BindingState::Pending], "{reply:?}");
        fixture.contacts.bind(request(ID, ALICE, &sid)).await.unwrap();
        assert_eq!(states(&fixture), [BindingState::Bound], "{reply:?}");
        assert_eq!(published(&fixture, ID).as_deref(), Some(ALICE));
    }
}

#[tokio::test]
async fn a_server_that_is_down_before_anything_is_recorded_leaves_nothing() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.identity_servers.next_is(ServerReply::Down);
    let answer = fixture.contacts.bind(request(ID, ALICE, &sid)).await;
    assert!(matches!(answer, Err(BindError::Unavailable(_))));
    assert_eq!((calls(&fixture), states(&fixture)), (vec!["validated"], vec![]));
}

#[tokio::test]
async fn a_crash_between_any_two_steps_is_resumed_by_the_same_request() {
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        for step in [0, 1] {
            let fixture = Fixture::trusting();
            let sid = fixture.proven_at(ID, ADDRESS, "secret");
            fixture.store.fail_commits_after(step, 1, failure);
            let lost = fixture.contacts.bind(request(ID, ALICE, &sid)).await;
            assert!(matches!(lost, Err(BindError::Unavailable(_))), "{failure:?} of commit {step}");
            assert_eq!(published(&fixture, ID).is_some(), step == 1, "nothing is asked that is not recorded");
            fixture.contacts.bind(request(ID, ALICE, &sid)).await.unwrap();
            assert_eq!(states(&fixture), [BindingState::Bound], "{failure:?} of commit {step}");
        }
    }
}

#[tokio::test]
async fn a_server_that_publishes_another_address_than_it_validated_is_not_believed() {
    let fixture = Fixture::trusting();
    let mut server = MockIdentityServer::new();
    server.expect_validated().times(1).returning(|_, _, _| {
        let (medium, address) = ("email".to_owned(), ADDRESS.to_owned());
        Ok(Some(RemoteValidation { medium, address, validated_at: FixedClock::START }))
    });
    server.expect_bind().times(1).returning(|_, _, _, _| Ok(Fixture::address("other@example.org")));
    let ports = ContactsPorts { identity_servers: Arc::new(server), ..fixture.ports.clone() };
    let answer = fixture.contacts_with(ports).bind(request(ID, ALICE, &Sid::new("sid"))).await;
    assert!(matches!(answer, Err(BindError::Unavailable(_))), "{answer:?}");
    assert_eq!(states(&fixture), [BindingState::Pending]);
}

#[tokio::test]
async fn a_new_bind_cancels_an_owed_unbind() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.bind(request(ID, ALICE, &sid)).await.unwrap();
    fixture.identity_servers.next_is(ServerReply::Down);
    let delete =
        Delete { user_id: Fixture::user(ALICE), address: Fixture::address(ADDRESS), id_server: None };
    fixture.contacts.delete(delete).await.unwrap();
    fixture.clock.advance(HOUR);
    let claimed = fixture.relay.claim(10).await.unwrap().remove(0);
    fixture.contacts.bind(request(ID, ALICE, &sid)).await.unwrap();
    assert_eq!(fixture.store.outbox_rows(), []);
    fixture.relay.deliver(claimed).await.unwrap();
    assert_eq!(states(&fixture), [BindingState::Bound], "not even the relay that had it in hand undoes it");
    assert_eq!(published(&fixture, ID).as_deref(), Some(ALICE));
}

#[tokio::test]
async fn a_server_that_forbids_changes_still_binds() {
    let policy = Policy { changes: Changes::Forbidden, trusted: Fixture::trusted(), ..Policy::default() };
    let fixture = Fixture::with_policy(policy);
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.bind(request(ID, ALICE, &sid)).await.unwrap();
    assert_eq!(states(&fixture), [BindingState::Bound]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_bind_at_once_is_one_binding() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let contacts = contacts(&fixture);
    let answers = at_once((0..20).map(|_| {
        let (contacts, bind) = (contacts.clone(), request(ID, ALICE, &sid));
        async move { contacts.bind(bind).await }
    }))
    .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fixture.store.all_bindings().len(), 1);
}
