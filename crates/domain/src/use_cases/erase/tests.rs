#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use super::*;
use crate::model::{Challenge, IdAccessToken, Sid, UnitOfWork};
use crate::ports::{IdentityServerError, MockErasures, MockIdentityServer, Store as _, Unbound};
use crate::testing::{Fixture, RowState, ServerReply};
use crate::use_cases::{Bind, Delete, Delivered, Policy, RelayPorts};

const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";
const ID: &str = "id.example";
const BINDS: &str = "binds.example";
const HOUR: Duration = Duration::from_secs(60 * 60);

fn ports(fixture: &Fixture) -> EraserPorts {
    EraserPorts {
        records: fixture.store.clone(),
        erasures: fixture.store.clone(),
        clock: fixture.clock.clone(),
        secrets: fixture.secrets.clone(),
    }
}

fn eraser(fixture: &Fixture) -> Eraser {
    Eraser::new(ports(fixture), HOUR)
}

async fn erase(fixture: &Fixture) -> Erased {
    eraser(fixture).erase(&Fixture::user(ALICE)).await.unwrap()
}

async fn kept(fixture: &Fixture, user: &str) -> AccountRecord {
    fixture.store.kept_about(Fixture::user(user)).await.unwrap()
}

async fn bind(fixture: &Fixture, server: &str, user: &str, address: &str) {
    let bind = Bind {
        user_id: Fixture::user(user),
        id_server: Fixture::server(server),
        id_access_token: IdAccessToken::new("token"),
        sid: fixture.proven_at(server, address, "secret"),
        client_secret: Fixture::secret("secret"),
    };
    fixture.contacts.bind(bind).await.unwrap();
}

/// An address that this server has proven, bound at two servers, one that an identity server has proven, a challenge, and
/// a mail that is still owed.
async fn fill(fixture: &Fixture, user: &str, name: &str) {
    let own = format!("{name}@example.org");
    let sid = fixture.proven(&own, "own").await;
    fixture.deliver().await;
    fixture.add(user, &sid, "own").await.unwrap();
    for server in [ID, BINDS] {
        bind(fixture, server, user, &own).await;
    }
    let foreign = format!("foreign.{name}@example.org");
    let sid = fixture.proven_at(ID, &foreign, "foreign");
    fixture.contacts.add(Fixture::add_from(ID, user, &sid, "foreign", false)).await.unwrap();
    let late = format!("late.{name}@example.org");
    let sid = fixture.proven(&late, "late").await;
    fixture.add(user, &sid, "late").await.unwrap();
    let (session, issued_at) = (format!("challenge of {name}"), fixture.clock.now());
    let challenge = Challenge { session, user_id: Fixture::user(user), sid: Sid::new("sid"), issued_at };
    fixture.store.commit(UnitOfWork::new().put_challenge(challenge)).await.unwrap();
}

#[tokio::test]
async fn what_is_foreseen_is_what_is_erased_and_the_second_time_it_is_nothing() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    fill(&fixture, BOB, "bob").await;
    let bobs = kept(&fixture, BOB).await;
    let foreseen = eraser(&fixture).foresee(&Fixture::user(ALICE)).await.unwrap();
    let expected = Erased {
        threepids: 3,
        sessions: 2,
        spent_proofs: 1,
        bindings: 2,
        challenges: 1,
        messages: 2,
        owed_unbinds: 2,
        audit_entries: 5,
        ..Erased::default()
    };
    assert_eq!(foreseen, expected);
    assert_eq!(erase(&fixture).await, expected);
    assert_eq!(kept(&fixture, BOB).await, bobs);
    assert_eq!(eraser(&fixture).foresee(&Fixture::user(ALICE)).await.unwrap(), Erased::default());
    assert_eq!(erase(&fixture).await, Erased::default());
    let entries = fixture.store.audit_entries();
    assert_eq!(entries.iter().filter(|entry| entry.user_id == UserId::erased()).count(), 5);
}

#[tokio::test]
async fn identity_servers_forget_an_erased_account_and_then_nothing_of_it_is_left() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    erase(&fixture).await;
    let audited = fixture.store.audit_entries();
    let sent = fixture.deliver().await;
    assert_eq!(sent, [Delivered::Sent; 2]);
    for server in [ID, BINDS] {
        let (server, address) = (Fixture::server(server), Fixture::address("alice@example.org"));
        assert_eq!(fixture.identity_servers.published(&server, &address), None);
    }
    assert_eq!(kept(&fixture, ALICE).await, AccountRecord::default());
    assert_eq!(fixture.store.outbox_rows(), []);
    assert_eq!(fixture.store.audit_entries(), audited, "no entry that says whose");
}

#[tokio::test]
async fn an_unbind_that_nobody_takes_in_time_leaves_nothing_and_one_that_is_refused_waits_for_the_operator() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    erase(&fixture).await;
    let refused = ServerReply::Refused(crate::model::RemoteRefusal { status: 403, body: Default::default() });
    fixture.identity_servers.next_is(refused);
    fixture.identity_servers.next_is(ServerReply::Down);
    let mut ends = fixture.deliver().await;
    ends.sort_by_key(|end| format!("{end:?}"));
    assert_eq!(ends, [Delivered::Dead, Delivered::Retrying]);
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [Delivered::Expired]);
    let rows = fixture.store.outbox_rows();
    assert!(matches!(&rows[..], [row] if matches!(row.state, RowState::Dead(_))), "{rows:?}");
    assert!(rows[0].message.payload.leaves_nothing(), "should it be tried again");
    assert_eq!(erase(&fixture).await, Erased::default());
}

#[tokio::test]
async fn an_unbind_that_is_owed_already_stays_owed_and_leaves_nothing() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    fixture.deliver().await;
    for _ in 0..2 {
        fixture.identity_servers.next_is(ServerReply::Down);
    }
    let (user_id, address) = (Fixture::user(ALICE), Fixture::address("alice@example.org"));
    fixture.contacts.delete(Delete { user_id, address, id_server: None }).await.unwrap();
    let before: Vec<_> =
        fixture.store.outbox_rows().into_iter().filter(|row| row.state == RowState::Owed).collect();
    assert_eq!(before.len(), 2);
    let erased = erase(&fixture).await;
    assert_eq!((erased.owed_unbinds, erased.bindings, erased.threepids), (2, 2, 2));
    let after = fixture.store.outbox_rows();
    assert_eq!(after.len(), 2);
    for row in &after {
        let message = &row.message;
        let other = before.iter().find(|row| row.message.payload.binding() == message.payload.binding());
        let other = &other.unwrap().message;
        assert_ne!(message.id, other.id, "whoever tries the other one does not settle this one");
        assert_eq!((message.due_at, message.not_after), (other.due_at, other.not_after));
    }
    fixture.clock.advance(Duration::from_secs(15));
    assert_eq!(fixture.deliver().await, [Delivered::Sent; 2]);
    assert_eq!(kept(&fixture, ALICE).await, AccountRecord::default());
}

/// Erases the account while an identity server is asked, and says that it is done.
fn erased_meanwhile(fixture: &Fixture) -> MockIdentityServer {
    let (mut server, eraser) = (MockIdentityServer::new(), eraser(fixture));
    server.expect_unbind().returning(move |_, _, _| {
        let erased = futures_util::FutureExt::now_or_never(eraser.erase(&Fixture::user(ALICE)));
        assert!(matches!(erased, Some(Ok(_))), "in memory nothing waits");
        Ok::<_, IdentityServerError>(Unbound::Done)
    });
    server
}

#[tokio::test]
async fn whoever_was_asking_when_the_account_was_erased_leaves_no_trace_of_it() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    let asking = Arc::new(erased_meanwhile(&fixture));
    let ports = crate::use_cases::ContactsPorts { identity_servers: asking, ..fixture.ports.clone() };
    let (user_id, address) = (Fixture::user(ALICE), Fixture::address("alice@example.org"));
    let delete = Delete { user_id, address, id_server: None };
    fixture.contacts_with(ports).delete(delete).await.unwrap();
    assert_eq!(kept(&fixture, ALICE).await, AccountRecord::default());

    // The relay, too; what is owed in place of its message waits until its lease has ended.
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    fixture.deliver().await;
    for _ in 0..2 {
        fixture.identity_servers.next_is(ServerReply::Down);
    }
    let (user_id, address) = (Fixture::user(ALICE), Fixture::address("alice@example.org"));
    fixture.contacts.delete(Delete { user_id, address, id_server: None }).await.unwrap();
    fixture.clock.advance(Duration::from_secs(15));
    let asking = Arc::new(erased_meanwhile(&fixture));
    let relay = fixture.relay_with(RelayPorts { identity_servers: asking, ..fixture.relay_ports.clone() });
    for claimed in relay.claim(10).await.unwrap() {
        assert_eq!(relay.deliver(claimed).await.unwrap(), Delivered::LeaseLost);
    }
    assert_eq!(kept(&fixture, ALICE).await.audit, []);
    assert_eq!(fixture.deliver().await, [], "the leases have not ended");
    fixture.clock.advance(HOUR / 2);
    assert_eq!(fixture.deliver().await, [Delivered::Sent; 2]);
    assert_eq!(kept(&fixture, ALICE).await, AccountRecord::default());
}

#[tokio::test]
async fn the_homeservers_copy_is_not_told() {
    let fixture = Fixture::with_policy(Policy { sends_mail: true, mirrors: true, ..Policy::default() });
    let sid = fixture.proven("alice@example.org", "secret").await;
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    assert_eq!(erase(&fixture).await.messages, 2, "the mail, and what was to be told");
    assert_eq!(fixture.store.outbox_rows(), []);
}

#[tokio::test]
async fn what_is_added_later_is_there_and_is_erased_by_the_next_time() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    erase(&fixture).await;
    fill(&fixture, ALICE, "again").await;
    let kept = kept(&fixture, ALICE).await;
    assert_eq!((kept.threepids.len(), kept.bindings.len()), (3, 2));
    let erased = erase(&fixture).await;
    assert_eq!((erased.threepids, erased.bindings, erased.audit_entries), (3, 2, 5));
}

/// What is counted for an address bounds the guesses at it, whoever has it now.
#[tokio::test]
async fn its_own_counts_are_forgotten_and_those_of_its_addresses_go_on() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    let mut erasures = MockErasures::new();
    erasures.expect_erase().times(1).returning(move |erasure| {
        assert_eq!(erasure.subjects, [ALICE]);
        Ok(EndOfErasure::Done(Erased::default()))
    });
    let ports = EraserPorts { erasures: Arc::new(erasures), ..ports(&fixture) };
    Eraser::new(ports, HOUR).erase(&Fixture::user(ALICE)).await.unwrap();
}

#[tokio::test]
async fn a_storm_of_changes_is_given_up_and_an_outage_is_said() {
    let fixture = Fixture::trusting();
    let mut erasures = MockErasures::new();
    erasures.expect_erase().times(DECISIONS).returning(|_| Ok(EndOfErasure::Outdated));
    let stormy = EraserPorts { erasures: Arc::new(erasures), ..ports(&fixture) };
    let ended = Eraser::new(stormy, HOUR).erase(&Fixture::user(ALICE)).await;
    assert!(matches!(ended, Err(EraseError::Unavailable(_))), "{ended:?}");
    fixture.store.set_available(false);
    let ended = eraser(&fixture).erase(&Fixture::user(ALICE)).await;
    assert!(matches!(ended, Err(EraseError::Unavailable(_))), "{ended:?}");
}

#[tokio::test]
async fn the_erased_themselves_are_no_account() {
    let fixture = Fixture::trusting();
    fill(&fixture, ALICE, "alice").await;
    erase(&fixture).await;
    let ended = eraser(&fixture).erase(&UserId::erased()).await;
    assert!(matches!(ended, Err(EraseError::Nobody)), "{ended:?}");
    let foreseen = eraser(&fixture).foresee(&UserId::erased()).await;
    assert!(matches!(foreseen, Err(EraseError::Nobody)), "{foreseen:?}");
}
