#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::BindingState;
use crate::testing::{CommitFailure, Fixture, ServerReply};
use crate::use_cases::{Bind, Changes, ContactsPorts, Delete, Policy};

const ID: &str = "id.example";
const BINDS: &str = "binds.example";
const ADDRESS: &str = "shared@example.org";
const ALICE: &str = "@alice:example.org";

fn request(user: &str, id_server: Option<&str>) -> Unbind {
    Unbind {
        user_id: Fixture::user(user),
        address: Fixture::address(ADDRESS),
        id_server: id_server.map(Fixture::server),
    }
}

fn refusal(status: u16, body: &Value) -> RemoteRefusal {
    RemoteRefusal { status, body: body.as_object().cloned().unwrap() }
}

/// The servers that were asked to unbind, in order.
fn asked(fixture: &Fixture) -> Vec<String> {
    let asked = fixture.identity_servers.asked().into_iter().filter(|asked| asked.call == "unbind");
    asked.map(|asked| asked.server.to_string()).collect()
}

fn recorded(fixture: &Fixture) -> Vec<String> {
    fixture.store.all_bindings().into_iter().map(|binding| binding.server.to_string()).collect()
}

fn published(fixture: &Fixture, server: &str) -> Option<String> {
    let owner = fixture.identity_servers.published(&Fixture::server(server), &Fixture::address(ADDRESS));
    owner.map(|owner| owner.to_string())
}

async fn bound_at(servers: &[&str], user: &str) -> Fixture {
    let fixture = Fixture::trusting();
    for server in servers {
        let bind = Bind {
            user_id: Fixture::user(user),
            id_server: Fixture::server(server),
            id_access_token: crate::model::IdAccessToken::new("token"),
            sid: fixture.proven_at(server, ADDRESS, "secret"),
            client_secret: Fixture::secret("secret"),
        };
        fixture.contacts.bind(bind).await.unwrap();
    }
    fixture
}

#[tokio::test]
async fn a_server_that_is_named_forgets_the_binding_and_so_do_we() {
    let fixture = bound_at(&[ID, BINDS], ALICE).await;
    let answer = fixture.contacts.unbind(request(ALICE, Some(ID))).await.unwrap();
    assert_eq!(answer, UnbindResult::Success);
    assert_eq!((asked(&fixture), recorded(&fixture)), (vec![ID.to_owned()], vec![BINDS.to_owned()]));
    assert_eq!(published(&fixture, ID), None);
    assert_eq!(published(&fixture, BINDS).as_deref(), Some(ALICE));
}

#[tokio::test]
async fn without_a_name_every_server_with_a_record_is_asked() {
    let fixture = bound_at(&[ID, BINDS], ALICE).await;
    assert_eq!(fixture.contacts.unbind(request(ALICE, None)).await.unwrap(), UnbindResult::Success);
    assert_eq!((asked(&fixture), recorded(&fixture)), (vec![BINDS.to_owned(), ID.to_owned()], vec![]));
    assert_eq!((published(&fixture, ID), published(&fixture, BINDS)), (None, None));
}

#[tokio::test]
async fn what_was_never_bound_here_is_asked_for_where_a_name_is_given_and_nowhere_else() {
    let fixture = Fixture::trusting();
    assert_eq!(fixture.contacts.unbind(request(ALICE, None)).await.unwrap(), UnbindResult::NoSupport);
    assert_eq!(asked(&fixture), [""; 0]);
    let named = fixture.contacts.unbind(request(ALICE, Some(ID))).await.unwrap();
    assert_eq!((named, asked(&fixture)), (UnbindResult::Success, vec![ID.to_owned()]), "bound elsewhere?");
}

#[tokio::test]
async fn another_accounts_binding_is_not_touched() {
    let fixture = bound_at(&[ID], ALICE).await;
    let bob = "@bob:example.org";
    assert_eq!(fixture.contacts.unbind(request(bob, None)).await.unwrap(), UnbindResult::NoSupport);
    fixture.contacts.unbind(request(bob, Some(ID))).await.unwrap();
    assert_eq!((recorded(&fixture), published(&fixture, ID).as_deref()), (vec![ID.to_owned()], Some(ALICE)));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_to_bind_is_not_asked() {
    let fixture = bound_at(&[ID], ALICE).await;
    for server in ["validates.example", "stranger.example", "id.example:8090"] {
        let answer = fixture.contacts.unbind(request(ALICE, Some(server))).await;
        assert!(matches!(answer, Err(UnbindError::ServerNotTrusted)), "{server}: {answer:?}");
    }
    assert_eq!((asked(&fixture), recorded(&fixture)), (vec![], vec![ID.to_owned()]));
}

#[tokio::test]
async fn all_are_asked_and_the_first_failure_is_the_answer() {
    let no = refusal(400, &json!({"errcode": "M_INVALID_PARAM", "error": "no"}));
    for (first, second, is_refused) in [
        (Some(ServerReply::Down), None, false),
        (None, Some(ServerReply::Down), false),
        (Some(ServerReply::Refused(no.clone())), Some(ServerReply::Down), true),
        (Some(ServerReply::Down), Some(ServerReply::Refused(no.clone())), false),
        (None, Some(ServerReply::Refused(no.clone())), true),
    ] {
        let fixture = bound_at(&[BINDS, ID], ALICE).await;
        let mut kept = Vec::new();
        match (&first, &second) {
            (Some(first), second) => {
                fixture.identity_servers.next_is(first.clone());
                kept.push(BINDS.to_owned());
                if let Some(second) = second {
                    fixture.identity_servers.next_is(second.clone());
                    kept.push(ID.to_owned());
                }
            }
            (None, Some(second)) => {
                // Only the second fails, so it alone is asked with a reply in the script.
                let answer = fixture.contacts.unbind(request(ALICE, Some(BINDS))).await.unwrap();
                assert_eq!(answer, UnbindResult::Success);
                fixture.identity_servers.next_is(second.clone());
                kept.push(ID.to_owned());
            }
            (None, None) => {}
        }
        match fixture.contacts.unbind(request(ALICE, None)).await {
            Err(UnbindError::Refused(passed)) => assert_eq!((is_refused, &passed), (true, &no)),
            other => assert!(!is_refused && matches!(other, Err(UnbindError::Unavailable(_))), "{other:?}"),
        }
        assert_eq!(asked(&fixture), [BINDS, ID], "{first:?} {second:?}");
        assert_eq!(recorded(&fixture), kept, "{first:?} {second:?}");
        assert_eq!(fixture.store.outbox_rows(), [], "nothing is owed");
        assert_eq!(fixture.contacts.unbind(request(ALICE, None)).await.unwrap(), UnbindResult::Success);
        assert_eq!(recorded(&fixture), [""; 0]);
    }
}

#[tokio::test]
async fn a_refusal_is_passed_on_in_words_that_log_nobody_out_and_the_record_stays() {
    for (status, body, expected_status, expected) in [
        (
            404,
            json!({"errcode": "M_NOT_FOUND", "error": "none"}),
            404,
            json!({"errcode": "M_NOT_FOUND", "error": "none"}),
        ),
        (
            501,
            json!({"errcode": "M_UNRECOGNIZED", "error": "no"}),
            501,
            json!({"errcode": "M_UNRECOGNIZED", "error": "no"}),
        ),
        (
            401,
            json!({"errcode": "M_UNAUTHORIZED", "error": "who", "flows": []}),
            403,
            json!({"errcode": "M_FORBIDDEN", "error": "who"}),
        ),
    ] {
        let fixture = bound_at(&[ID], ALICE).await;
        fixture.identity_servers.next_is(ServerReply::Refused(refusal(status, &body)));
        match fixture.contacts.unbind(request(ALICE, Some(ID))).await {
            Err(UnbindError::Refused(passed)) => assert_eq!(passed, refusal(expected_status, &expected)),
            other => assert!(matches!(other, Err(UnbindError::Refused(_))), "{other:?}"),
        }
        assert_eq!(recorded(&fixture), [ID]);
    }
}

#[tokio::test]
async fn where_nobody_can_sign_for_the_account_there_is_no_support_and_the_record_stays() {
    let stranger = "@alice:elsewhere.example";
    let fixture = bound_at(&[ID], stranger).await;
    for server in [Some(ID), None] {
        let answer = fixture.contacts.unbind(request(stranger, server)).await.unwrap();
        assert_eq!((answer, answer.as_str()), (UnbindResult::NoSupport, "no-support"));
    }
    assert_eq!((recorded(&fixture), asked(&fixture)), (vec![ID.to_owned()], vec![]));
}

#[tokio::test]
async fn what_a_deletion_owes_is_owed_no_more_once_it_is_done() {
    let fixture = bound_at(&[ID], ALICE).await;
    fixture.identity_servers.next_is(ServerReply::Down);
    let delete =
        Delete { user_id: Fixture::user(ALICE), address: Fixture::address(ADDRESS), id_server: None };
    fixture.contacts.delete(delete).await.unwrap();
    assert_eq!(fixture.store.outbox_rows().len(), 1);
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.contacts.unbind(request(ALICE, None)).await.unwrap(), UnbindResult::Success);
    assert_eq!((fixture.store.outbox_rows(), recorded(&fixture)), (vec![], vec![]));
}

#[tokio::test]
async fn what_is_bound_anew_while_the_server_is_asked_stays_on_record() {
    let fixture = bound_at(&[ID], ALICE).await;
    let (store, clock) = (fixture.store.clone(), fixture.clock.clone());
    let mut server = crate::ports::MockIdentityServer::new();
    server.expect_unbind().times(1).returning(move |_, _, _| {
        clock.advance(Duration::from_millis(1));
        let anew = store.all_bindings().remove(0);
        let anew = Binding { since: crate::ports::Clock::now(&*clock), ..anew };
        let unit = UnitOfWork::new().put_binding(anew);
        futures_util::FutureExt::now_or_never(crate::ports::Store::commit(&*store, unit)).unwrap().unwrap();
        Ok(Unbound::Done)
    });
    let identity_servers = std::sync::Arc::new(server);
    let ports = ContactsPorts { identity_servers, ..fixture.ports.clone() };
    fixture.contacts_with(ports).unbind(request(ALICE, Some(ID))).await.unwrap();
    assert_eq!(recorded(&fixture), [ID]);
}

#[tokio::test]
async fn a_crash_before_it_is_recorded_is_mended_by_the_same_request() {
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        let fixture = bound_at(&[ID], ALICE).await;
        fixture.store.fail_commits(1, failure);
        let lost = fixture.contacts.unbind(request(ALICE, Some(ID))).await;
        assert!(matches!(lost, Err(UnbindError::Unavailable(_))), "{failure:?}");
        assert_eq!(fixture.contacts.unbind(request(ALICE, Some(ID))).await.unwrap(), UnbindResult::Success);
        assert_eq!(recorded(&fixture), [""; 0]);
    }
    let fixture = bound_at(&[ID], ALICE).await;
    fixture.store.set_available(false);
    let answer = fixture.contacts.unbind(request(ALICE, None)).await;
    assert!(matches!(answer, Err(UnbindError::Unavailable(_))));
    assert_eq!(asked(&fixture), [""; 0]);
}

#[tokio::test]
async fn a_server_that_forbids_changes_still_unbinds() {
    let policy = Policy { changes: Changes::Forbidden, trusted: Fixture::trusted(), ..Policy::default() };
    let fixture = Fixture::with_policy(policy);
    let binding = Binding {
        user_id: Fixture::user(ALICE),
        address: Fixture::address(ADDRESS),
        server: Fixture::server(ID),
        state: BindingState::Pending,
        since: crate::testing::FixedClock::START,
    };
    fixture.ports.store.commit(UnitOfWork::new().put_binding(binding)).await.unwrap();
    assert_eq!(fixture.contacts.unbind(request(ALICE, None)).await.unwrap(), UnbindResult::Success);
    assert_eq!((asked(&fixture), recorded(&fixture)), (vec![ID.to_owned()], vec![]), "a pending one, too");
}
