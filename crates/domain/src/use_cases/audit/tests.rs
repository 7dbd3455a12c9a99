#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::time::Duration;

use crate::model::{AccessToken, AuditEntry, IdAccessToken, Sid};
use crate::ports::{Clock as _, Credentials};
use crate::testing::{FakeReauthentication, FixedClock, Fixture, ServerReply};
use crate::use_cases::{AddReauthenticated, AddReauthenticatedError, Auth, Bind, Contacts, Delete, Unbind};

const ALICE: &str = "@alice:example.org";
const ADDRESS: &str = "a@example.org";
const ID: &str = "id.example";

/// What the trail says, oldest first: action, door, server, reference.
fn trail(fixture: &Fixture) -> Vec<String> {
    let line = |entry: AuditEntry| {
        let server = entry.server.map_or_else(|| "-".to_owned(), |server| server.to_string());
        let reference = entry.reference.unwrap_or_else(|| "-".to_owned());
        format!("{} {} {server} {reference}", entry.action.as_str(), entry.door.as_str())
    };
    fixture.store.audit_entries().into_iter().map(line).collect()
}

fn contacts(fixture: &Fixture, request: &str) -> Contacts {
    fixture.contacts.clone().for_request(request.to_owned())
}

async fn add(fixture: &Fixture, request: &str) {
    let sid = fixture.proven(ADDRESS, "secret").await;
    contacts(fixture, request).add(Fixture::add_of(ALICE, &sid, "secret")).await.unwrap();
}

async fn bind(fixture: &Fixture, request: &str) {
    let bind = Bind {
        user_id: Fixture::user(ALICE),
        id_server: Fixture::server(ID),
        id_access_token: IdAccessToken::new("token"),
        sid: fixture.proven_at(ID, ADDRESS, "secret"),
        client_secret: Fixture::secret("secret"),
    };
    contacts(fixture, request).bind(bind).await.unwrap();
}

async fn delete(fixture: &Fixture, user: &str, request: &str) {
    let delete = Delete { user_id: Fixture::user(user), address: Fixture::address(ADDRESS), id_server: None };
    contacts(fixture, request).delete(delete).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_added_is_remembered_once_with_who_what_door_and_when() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    fixture.clock.advance(Duration::from_secs(7));
    for _ in 0..2 {
        contacts(&fixture, "r1").add(Fixture::add_of(ALICE, &sid, "secret")).await.unwrap();
    }
    let remembered = fixture.store.audit_entries();
    assert_eq!(trail(&fixture), ["added account/3pid - r1"], "the same request again changes nothing");
    assert_eq!(remembered[0].user_id, Fixture::user(ALICE));
    assert_eq!(remembered[0].address, Fixture::address(ADDRESS));
    assert_eq!(remembered[0].at, FixedClock::START.plus(Duration::from_secs(7)));
}

#[tokio::test]
async fn what_is_refused_is_not_remembered() {
    let fixture = Fixture::trusting();
    let unproven = fixture.request(ADDRESS, "secret", 1).await.unwrap();
    assert!(fixture.add(ALICE, &unproven, "secret").await.is_err());
    let stranger = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.identity_servers.next_is(ServerReply::Down);
    let foreign = Fixture::add_from(ID, ALICE, &stranger, "secret", true);
    assert!(fixture.contacts.add(foreign).await.is_err());
    delete(&fixture, ALICE, "r1").await;
    assert_eq!(trail(&fixture), [""; 0]);
}

#[tokio::test]
async fn what_an_identity_server_proves_and_publishes_is_remembered_with_its_name() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    for _ in 0..2 {
        let foreign = Fixture::add_from(ID, ALICE, &sid, "secret", true);
        contacts(&fixture, "r1").add(foreign).await.unwrap();
    }
    let expected = ["added account/3pid id.example r1", "bound account/3pid id.example r1"];
    assert_eq!(trail(&fixture), expected);
}

#[tokio::test]
async fn an_address_that_is_added_after_re_authentication_is_remembered_under_that_door() {
    let fixture = Fixture::new();
    let sid: Sid = fixture.proven(ADDRESS, "secret").await;
    let add = |auth| AddReauthenticated {
        user_id: Fixture::user(ALICE),
        credentials: Credentials { access_token: AccessToken::new("token"), user_id: None, client_ip: None },
        sid: sid.clone(),
        client_secret: Fixture::secret("secret"),
        auth,
    };
    let asked = contacts(&fixture, "r1").add_reauthenticated(add(None)).await;
    let Err(AddReauthenticatedError::Challenged(challenge)) = asked else { unreachable!("{asked:?}") };
    assert_eq!(trail(&fixture), [""; 0]);
    let answer = Auth(FakeReauthentication::auth(Some(&challenge.session), "right"));
    contacts(&fixture, "r2").add_reauthenticated(add(Some(answer))).await.unwrap();
    assert_eq!(trail(&fixture), ["added account/3pid/add - r2"]);
}

#[tokio::test]
async fn a_binding_is_remembered_once_the_server_has_it_and_once_it_has_forgotten_it() {
    let fixture = Fixture::trusting();
    bind(&fixture, "r1").await;
    let unbind = Unbind {
        user_id: Fixture::user(ALICE),
        address: Fixture::address(ADDRESS),
        id_server: Some(Fixture::server(ID)),
    };
    fixture.identity_servers.next_is(ServerReply::Down);
    assert!(contacts(&fixture, "r2").unbind(unbind.clone()).await.is_err());
    contacts(&fixture, "r3").unbind(unbind).await.unwrap();
    let expected = ["bound account/3pid/bind id.example r1", "unbound account/3pid/unbind id.example r3"];
    assert_eq!(trail(&fixture), expected);
}

#[tokio::test]
async fn a_deletion_is_remembered_where_it_took_something_with_what_it_unbound() {
    let fixture = Fixture::trusting();
    add(&fixture, "r1").await;
    bind(&fixture, "r2").await;
    delete(&fixture, "@bob:example.org", "r3").await;
    delete(&fixture, ALICE, "r4").await;
    delete(&fixture, ALICE, "r5").await;
    let expected = [
        "added account/3pid - r1",
        "bound account/3pid/bind id.example r2",
        "removed account/3pid/delete - r4",
        "unbound account/3pid/delete id.example r4",
    ];
    assert_eq!(trail(&fixture), expected);
}

#[tokio::test]
async fn an_unbind_that_the_relay_brings_about_later_is_remembered_as_the_relays() {
    let fixture = Fixture::trusting();
    add(&fixture, "r1").await;
    bind(&fixture, "r2").await;
    fixture.deliver().await;
    fixture.identity_servers.next_is(ServerReply::Down);
    delete(&fixture, ALICE, "r3").await;
    assert_eq!(trail(&fixture).last().map(String::as_str), Some("removed account/3pid/delete - r3"));
    fixture.clock.advance(Duration::from_secs(60));
    fixture.deliver().await;
    let last = fixture.store.audit_entries().pop().unwrap();
    let owed = fixture.store.outbox_rows().pop().unwrap();
    assert_eq!(last.reference.as_deref(), Some(owed.message.id.as_str()));
    assert_eq!((last.action.as_str(), last.door.as_str()), ("unbound", "relay"));
    assert_eq!(last.at, fixture.clock.now());
}
