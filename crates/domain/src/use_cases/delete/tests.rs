#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use serde_json::json;

use super::*;
use crate::model::{IdAccessToken, RemoteRefusal, Sid};
use crate::testing::{CommitFailure, FixedClock, Fixture, RowState, ServerReply};
use crate::use_cases::interleaving::{at_once, contacts};
use crate::use_cases::{AddError, Bind, Delivered, Policy};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const ID: &str = "id.example";
const BINDS: &str = "binds.example";
const ADDRESS: &str = "shared@example.org";
const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

fn request(user: &str, id_server: Option<&str>) -> Delete {
    Delete {
        user_id: Fixture::user(user),
        address: Fixture::address(ADDRESS),
        id_server: id_server.map(Fixture::server),
    }
}

async fn delete(fixture: &Fixture) -> UnbindResult {
    fixture.contacts.delete(request(ALICE, None)).await.unwrap()
}

fn refused(status: u16, errcode: &str) -> ServerReply {
    let body = json!({"errcode": errcode, "error": "no"}).as_object().cloned().unwrap();
    ServerReply::Refused(RemoteRefusal { status, body })
}

/// The servers that were asked to unbind, in order.
fn asked(fixture: &Fixture) -> Vec<String> {
    let asked = fixture.identity_servers.asked().into_iter().filter(|asked| asked.call == "unbind");
    asked.map(|asked| asked.server.to_string()).collect()
}

fn owners(fixture: &Fixture) -> Vec<String> {
    fixture.store.all_threepids().into_iter().map(|threepid| threepid.user_id.to_string()).collect()
}

fn recorded(fixture: &Fixture) -> Vec<String> {
    fixture.store.all_bindings().into_iter().map(|binding| binding.server.to_string()).collect()
}

fn published(fixture: &Fixture, server: &str) -> Option<String> {
    let owner = fixture.identity_servers.published(&Fixture::server(server), &Fixture::address(ADDRESS));
    owner.map(|owner| owner.to_string())
}

/// Where unbinds are still owed.
fn owed(fixture: &Fixture) -> Vec<String> {
    let rows = fixture.store.outbox_rows().into_iter().filter(|row| row.state == RowState::Owed);
    rows.filter_map(|row| Some(row.message.payload.binding()?.server.to_string())).collect()
}

async fn bind(fixture: &Fixture, server: &str, user: &str) {
    let bind = Bind {
        user_id: Fixture::user(user),
        id_server: Fixture::server(server),
        id_access_token: IdAccessToken::new("token"),
        sid: fixture.proven_at(server, ADDRESS, "secret"),
        client_secret: Fixture::secret("secret"),
    };
    fixture.contacts.bind(bind).await.unwrap();
}

/// An address on Alice's account, bound at `servers`; no mail is owed.
async fn added_and_bound_at(servers: &[&str]) -> Fixture {
    let fixture = Fixture::trusting();
    let sid = fixture.proven(ADDRESS, "own").await;
    fixture.add(ALICE, &sid, "own").await.unwrap();
    fixture.deliver().await;
    for server in servers {
        bind(&fixture, server, ALICE).await;
    }
    fixture
}

#[tokio::test]
async fn an_address_is_removed_here_and_forgotten_wherever_it_was_bound() {
    let fixture = added_and_bound_at(&[ID, BINDS]).await;
    assert_eq!(delete(&fixture).await, UnbindResult::Success);
    assert_eq!((owners(&fixture), recorded(&fixture), owed(&fixture)), (vec![], vec![], vec![]));
    assert_eq!((published(&fixture, ID), published(&fixture, BINDS)), (None, None));
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [], "nothing is owed");
    assert_eq!(asked(&fixture), [BINDS, ID]);
}

#[tokio::test]
async fn a_second_time_and_an_address_that_is_not_there_are_no_errors() {
    let fixture = added_and_bound_at(&[ID]).await;
    for expected in [UnbindResult::Success, UnbindResult::NoSupport, UnbindResult::NoSupport] {
        assert_eq!(delete(&fixture).await, expected);
    }
    assert_eq!((asked(&fixture), owed(&fixture)), (vec![ID.to_owned()], vec![]));
}

#[tokio::test]
async fn an_address_is_found_in_every_spelling() {
    for spelling in ["SHARED@example.ORG", " shared@EXAMPLE.org "] {
        let fixture = added_and_bound_at(&[ID]).await;
        let delete = Delete { address: Fixture::address(spelling), ..request(ALICE, None) };
        assert_eq!(fixture.contacts.delete(delete).await.unwrap(), UnbindResult::Success);
        assert_eq!(owners(&fixture), [""; 0]);
    }
}

#[tokio::test]
async fn another_accounts_address_and_binding_stay() {
    let fixture = added_and_bound_at(&[ID]).await;
    for (server, expected) in [(None, UnbindResult::NoSupport), (Some(ID), UnbindResult::Success)] {
        assert_eq!(fixture.contacts.delete(request(BOB, server)).await.unwrap(), expected);
        assert_eq!((owners(&fixture), recorded(&fixture)), (vec![ALICE.to_owned()], vec![ID.to_owned()]));
        assert_eq!(published(&fixture, ID).as_deref(), Some(ALICE));
    }
}

#[tokio::test]
async fn a_named_server_alone_is_asked_if_it_is_trusted_even_where_no_binding_is_known() {
    let fixture = added_and_bound_at(&[BINDS]).await;
    let answer = fixture.contacts.delete(request(ALICE, Some(ID))).await.unwrap();
    assert_eq!((answer, asked(&fixture)), (UnbindResult::Success, vec![ID.to_owned()]));
    assert_eq!((owners(&fixture), recorded(&fixture)), (vec![], vec![BINDS.to_owned()]));

    for server in ["validates.example", "stranger.example"] {
        let fixture = added_and_bound_at(&[ID]).await;
        let answer = fixture.contacts.delete(request(ALICE, Some(server))).await.unwrap();
        assert_eq!((answer, asked(&fixture)), (UnbindResult::NoSupport, vec![]), "{server}");
        assert_eq!((owners(&fixture), recorded(&fixture)), (vec![], vec![ID.to_owned()]), "{server}");
        assert_eq!(owed(&fixture), [""; 0], "{server}");
    }
}

#[tokio::test]
async fn a_dead_identity_server_neither_blocks_nor_undoes_a_deletion_and_is_asked_later() {
    for reply in [ServerReply::Down, ServerReply::AnswerLost] {
        let fixture = added_and_bound_at(&[ID]).await;
        fixture.identity_servers.next_is(reply);
        assert_eq!(delete(&fixture).await, UnbindResult::NoSupport);
        assert_eq!((owners(&fixture), owed(&fixture)), (vec![], vec![ID.to_owned()]));
        assert_eq!(recorded(&fixture), [ID]);

        fixture.clock.advance(LEFT_TO_THE_REQUEST - Duration::from_millis(1));
        assert_eq!(fixture.deliver().await, [], "it is still left to the request");
        fixture.clock.advance(Duration::from_millis(1));
        fixture.identity_servers.next_is(ServerReply::Down);
        assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
        fixture.clock.advance(HOUR);
        assert_eq!(fixture.deliver().await, [Delivered::Sent]);
        assert_eq!((recorded(&fixture), owed(&fixture)), (vec![], vec![]));
        assert_eq!((owners(&fixture), published(&fixture, ID)), (vec![], None));
    }
}

#[tokio::test]
async fn an_unbind_is_owed_for_as_long_as_the_operator_says() {
    let fixture = added_and_bound_at(&[ID]).await;
    let began = FixedClock::START;
    fixture.identity_servers.next_is(ServerReply::Down);
    delete(&fixture).await;
    let row = fixture.store.outbox_rows().pop().unwrap();
    assert_eq!(row.message.not_after, began.plus(30 * 24 * HOUR));
    fixture.clock.set(row.message.not_after);
    assert_eq!(fixture.deliver().await, [Delivered::Expired]);
    assert_eq!((asked(&fixture).len(), recorded(&fixture)), (1, vec![ID.to_owned()]));
}

#[tokio::test]
async fn a_refusal_ends_what_is_owed_and_keeps_the_record() {
    for reply in [
        refused(400, "M_INVALID_PARAM"),
        refused(401, "M_UNAUTHORIZED"),
        refused(403, "M_FORBIDDEN"),
        refused(404, "M_NOT_FOUND"),
        refused(501, "M_UNRECOGNIZED"),
    ] {
        // In the request.
        let fixture = added_and_bound_at(&[ID]).await;
        fixture.identity_servers.next_is(reply.clone());
        assert_eq!(delete(&fixture).await, UnbindResult::NoSupport, "{reply:?}");
        assert_eq!((owners(&fixture), owed(&fixture)), (vec![], vec![]), "{reply:?}");
        assert_eq!(recorded(&fixture), [ID], "{reply:?}");

        // By the relay.
        let fixture = added_and_bound_at(&[ID]).await;
        fixture.identity_servers.next_is(ServerReply::Down);
        delete(&fixture).await;
        fixture.clock.advance(HOUR);
        fixture.identity_servers.next_is(reply.clone());
        assert_eq!(fixture.deliver().await, [Delivered::Dead], "{reply:?}");
        assert_eq!((owed(&fixture), recorded(&fixture)), (vec![], vec![ID.to_owned()]), "{reply:?}");
    }
}

#[tokio::test]
async fn where_nobody_can_sign_for_the_account_nothing_is_owed_and_the_record_stays() {
    let fixture = Fixture::trusting();
    let stranger = "@alice:elsewhere.example";
    bind(&fixture, ID, stranger).await;
    for server in [None, Some(ID)] {
        let answer = fixture.contacts.delete(request(stranger, server)).await.unwrap();
        assert_eq!((answer, answer.as_str()), (UnbindResult::NoSupport, "no-support"));
        assert_eq!((owed(&fixture), recorded(&fixture)), (vec![], vec![ID.to_owned()]));
    }
}

#[tokio::test]
async fn of_several_servers_all_are_asked_and_only_what_failed_is_owed() {
    let fixture = added_and_bound_at(&[ID, BINDS]).await;
    fixture.identity_servers.next_is(ServerReply::Down);
    assert_eq!(delete(&fixture).await, UnbindResult::NoSupport);
    assert_eq!(
        (asked(&fixture), owed(&fixture)),
        (vec![BINDS.to_owned(), ID.to_owned()], vec![BINDS.to_owned()])
    );
    assert_eq!((recorded(&fixture), published(&fixture, ID)), (vec![BINDS.to_owned()], None));
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    assert_eq!((recorded(&fixture), published(&fixture, BINDS)), (vec![], None));
}

#[tokio::test]
async fn a_deletion_that_is_repeated_owes_the_unbind_once() {
    let fixture = added_and_bound_at(&[ID]).await;
    for _ in 0..3 {
        fixture.identity_servers.next_is(ServerReply::Down);
        assert_eq!(delete(&fixture).await, UnbindResult::NoSupport);
        assert_eq!(owed(&fixture), [ID]);
    }
    assert_eq!(delete(&fixture).await, UnbindResult::Success, "it is tried again at once");
    assert_eq!((owed(&fixture), recorded(&fixture)), (vec![], vec![]));
}

#[tokio::test]
async fn a_store_that_fails_before_the_removal_leaves_everything_and_asks_nobody() {
    let fixture = added_and_bound_at(&[ID]).await;
    for down in [true, false] {
        if down {
            fixture.store.set_available(false);
        } else {
            fixture.store.fail_commits(1, CommitFailure::BeforeApply);
        }
        let answer = fixture.contacts.delete(request(ALICE, None)).await;
        assert!(matches!(answer, Err(DeleteError::Unavailable(_))), "{answer:?}");
        fixture.store.set_available(true);
        assert_eq!((owners(&fixture), owed(&fixture)), (vec![ALICE.to_owned()], vec![]));
        assert_eq!(asked(&fixture), [""; 0]);
    }
}

#[tokio::test]
async fn after_a_crash_once_the_removal_is_stored_the_relay_unbinds() {
    let fixture = added_and_bound_at(&[ID]).await;
    fixture.store.fail_commits(1, CommitFailure::AfterApply);
    assert!(fixture.contacts.delete(request(ALICE, None)).await.is_err());
    assert_eq!((owners(&fixture), owed(&fixture), asked(&fixture)), (vec![], vec![ID.to_owned()], vec![]));
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    assert_eq!((recorded(&fixture), published(&fixture, ID)), (vec![], None));
}

#[tokio::test]
async fn a_crash_after_the_unbind_makes_the_relay_ask_once_more() {
    let fixture = added_and_bound_at(&[ID]).await;
    fixture.store.fail_commits_after(1, 1, CommitFailure::BeforeApply);
    assert_eq!(delete(&fixture).await, UnbindResult::Success, "the server has forgotten");
    assert_eq!((owed(&fixture), recorded(&fixture)), (vec![ID.to_owned()], vec![ID.to_owned()]));
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    assert_eq!((owed(&fixture), recorded(&fixture), asked(&fixture).len()), (vec![], vec![], 2));
}

#[tokio::test]
async fn a_binding_whose_unbind_is_owed_is_in_doubt() {
    let fixture = added_and_bound_at(&[ID]).await;
    fixture.identity_servers.next_is(ServerReply::Down);
    fixture.clock.advance(SECOND);
    delete(&fixture).await;
    let binding = fixture.store.all_bindings().remove(0);
    assert_eq!((binding.state, binding.since), (BindingState::Pending, FixedClock::START.plus(SECOND)));
}

#[tokio::test]
async fn an_unbind_in_flight_does_not_take_the_record_of_a_binding_made_meanwhile() {
    let fixture = added_and_bound_at(&[ID]).await;
    fixture.identity_servers.next_is(ServerReply::Down);
    delete(&fixture).await;
    fixture.clock.advance(HOUR);
    // The relay's question is on its way when the account binds anew, and is answered after.
    let (other, clock) = (fixture.clone(), fixture.clock.clone());
    let mut server = crate::ports::MockIdentityServer::new();
    server.expect_unbind().times(1).returning(move |_, _, _| {
        clock.advance(SECOND);
        futures_util::FutureExt::now_or_never(bind(&other, ID, ALICE)).unwrap();
        Ok(Unbound::Done)
    });
    let identity_servers = std::sync::Arc::new(server);
    let ports = crate::use_cases::RelayPorts { identity_servers, ..fixture.relay_ports.clone() };
    let claimed = fixture.relay.claim(10).await.unwrap().remove(0);
    assert_eq!(fixture.relay_with(ports).deliver(claimed).await.unwrap(), Delivered::LeaseLost);
    assert_eq!((recorded(&fixture), owed(&fixture)), (vec![ID.to_owned()], vec![]));
}

#[tokio::test]
async fn a_deleted_address_is_free_and_its_spent_proof_worthless() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven(ADDRESS, "own").await;
    let his = fixture.proven(ADDRESS, "bob").await;
    fixture.add(ALICE, &sid, "own").await.unwrap();
    delete(&fixture).await;
    assert!(matches!(fixture.add(ALICE, &sid, "own").await, Err(AddError::AuthFailed)));
    fixture.add(BOB, &his, "bob").await.unwrap();
    assert!(matches!(fixture.add(ALICE, &sid, "own").await, Err(AddError::AuthFailed)));
    delete(&fixture).await;
    assert_eq!(owners(&fixture), [BOB]);
}

#[tokio::test]
async fn a_server_that_forbids_changes_removes_nothing() {
    let fixture = added_and_bound_at(&[ID]).await;
    let policy = Policy { changes: Changes::Forbidden, trusted: Fixture::trusted(), ..Policy::default() };
    let contacts = Contacts::new(fixture.ports.clone(), policy);
    let answer = contacts.delete(request(ALICE, None)).await;
    assert!(matches!(answer, Err(DeleteError::ChangesForbidden)));
    assert_eq!((owners(&fixture), asked(&fixture)), (vec![ALICE.to_owned()], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deletions_at_once_all_succeed_and_leave_nothing_owed() {
    let fixture = added_and_bound_at(&[ID, BINDS]).await;
    let contacts = contacts(&fixture);
    let answers = at_once((0..20).map(|_| {
        let contacts = contacts.clone();
        async move { contacts.delete(request(ALICE, None)).await }
    }))
    .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((owners(&fixture), recorded(&fixture), owed(&fixture)), (vec![], vec![], vec![]));
    assert_eq!((published(&fixture, ID), published(&fixture, BINDS)), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_add_and_a_deletion_at_once_end_as_one_after_the_other() {
    for _ in 0..20 {
        let fixture = Fixture::trusting();
        let sid: Sid = fixture.proven(ADDRESS, "own").await;
        let contacts = contacts(&fixture);
        let (adding, deleting) = (contacts.clone(), contacts);
        let add = Fixture::add_of(ALICE, &sid, "own");
        let added = tokio::spawn(async move { adding.add(add).await });
        let deleted = tokio::spawn(async move { deleting.delete(request(ALICE, None)).await });
        assert!(added.await.unwrap().is_ok());
        assert!(deleted.await.unwrap().is_ok());
        assert!(owners(&fixture).len() <= 1);
        assert!(!matches!(fixture.add(BOB, &sid, "own").await, Ok(())), "the proof is spent either way");
    }
}
