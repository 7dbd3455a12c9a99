//! Every change is owed to the homeserver's copy, and the copy ends equal to what is stored.

#![expect(clippy::expect_used, reason = "a test that is given nonsense fails")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::model::{Threepid, UserId};
use crate::ports::{DeliveryError, Mirror};
use crate::testing::{FixedClock, Fixture, OutboxRow, RowState};
use crate::use_cases::{Delete, Delivered, Policy, Relay, RelayPorts, RetryPolicy};

use super::*;

const ALICE: &str = "@alice:example.org";

fn mirroring() -> Fixture {
    Fixture::with_policy(Policy { sends_mail: true, mirrors: true, ..Policy::default() })
}

fn owed(fixture: &Fixture) -> Vec<OutboxRow> {
    let mirrors = |row: &OutboxRow| row.message.payload.mirrored().is_some();
    fixture.store.outbox_rows().into_iter().filter(mirrors).collect()
}

async fn add(fixture: &Fixture, email: &str, client_secret: &str) {
    let sid = fixture.proven(email, client_secret).await;
    fixture.add(ALICE, &sid, client_secret).await.expect("the address is free");
}

async fn delete(fixture: &Fixture, email: &str) {
    let address = Fixture::address(email);
    let delete = Delete { user_id: Fixture::user(ALICE), address, id_server: None };
    fixture.contacts.delete(delete).await.expect("the store answers");
}

/// A homeserver that notes what its copy is, and during the first call meets whatever `meanwhile` does.
#[derive(Default)]
struct Copy {
    lists: Mutex<Vec<Vec<String>>>,
    meanwhile: Mutex<Option<Fixture>>,
    fails: Mutex<Vec<DeliveryError>>,
}

#[async_trait]
impl Mirror for Copy {
    async fn put(&self, user_id: UserId, threepids: Vec<Threepid>) -> Result<(), DeliveryError> {
        assert_eq!(user_id, Fixture::user(ALICE));
        if let Some(error) = self.fails.lock().expect("no test panicked").pop() {
            return Err(error);
        }
        let meanwhile = self.meanwhile.lock().expect("no test panicked").take();
        if let Some(fixture) = meanwhile {
            delete(&fixture, "alice@example.org").await;
        }
        let list = threepids.iter().map(|threepid| threepid.address.as_str().to_owned()).collect();
        self.lists.lock().expect("no test panicked").push(list);
        Ok(())
    }
}

impl Copy {
    fn lists(&self) -> Vec<Vec<String>> {
        self.lists.lock().expect("no test panicked").clone()
    }
}

/// Delivers everything that is due, with this copy.
async fn deliver(fixture: &Fixture, copy: &Arc<Copy>) -> Vec<Delivered> {
    let ports = RelayPorts { mirror: Some(copy.clone()), ..fixture.relay_ports.clone() };
    deliver_on(ports).await
}

async fn deliver_on(ports: RelayPorts) -> Vec<Delivered> {
    let base = url::Url::parse("https://contacts.example/").expect("a URL");
    let links = crate::use_cases::ConfirmLinks::new(&base);
    let relay = Relay::new(ports, links, std::time::Duration::from_secs(3600), RetryPolicy::default());
    let mut delivered = Vec::new();
    for claimed in relay.claim(100).await.expect("the outbox answers") {
        if claimed.message.payload.mirrored().is_some() {
            delivered.push(relay.deliver(claimed).await.expect("the outbox answers"));
        }
    }
    delivered
}

#[tokio::test]
async fn nothing_is_owed_where_there_is_no_copy() {
    let fixture = Fixture::new();
    add(&fixture, "alice@example.org", "secret").await;
    delete(&fixture, "alice@example.org").await;
    assert!(owed(&fixture).is_empty());
}

#[tokio::test]
async fn an_add_and_a_delete_are_told_as_the_list_that_they_lead_to() {
    let (fixture, copy) = (mirroring(), Arc::new(Copy::default()));
    add(&fixture, "alice@example.org", "one").await;
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Sent]);
    fixture.clock.advance(std::time::Duration::from_secs(1));
    add(&fixture, "work@example.org", "two").await;
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Sent]);
    delete(&fixture, "alice@example.org").await;
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Sent]);
    assert_eq!(
        copy.lists(),
        [vec!["alice@example.org"], vec!["alice@example.org", "work@example.org"], vec!["work@example.org"]]
    );
}

#[tokio::test]
async fn changes_that_wait_are_told_once() {
    let (fixture, copy) = (mirroring(), Arc::new(Copy::default()));
    add(&fixture, "alice@example.org", "one").await;
    add(&fixture, "work@example.org", "two").await;
    delete(&fixture, "alice@example.org").await;
    assert_eq!(owed(&fixture).len(), 1);
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Sent]);
    assert_eq!(copy.lists(), [["work@example.org"]]);
}

#[tokio::test]
async fn a_change_while_the_copy_is_told_is_told_after_it() {
    let (fixture, copy) = (mirroring(), Arc::new(Copy::default()));
    add(&fixture, "alice@example.org", "one").await;
    *copy.meanwhile.lock().expect("no test panicked") = Some(fixture.clone());
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Sent]);
    assert_eq!(copy.lists().last(), Some(&Vec::new()), "the copy ends equal to what is stored");
    assert_eq!(owed(&fixture).iter().filter(|row| row.state == RowState::Owed).count(), 1, "told once more");
}

#[tokio::test]
async fn a_homeserver_that_is_down_is_told_later_and_one_that_refuses_is_not() {
    let (fixture, copy) = (mirroring(), Arc::new(Copy::default()));
    add(&fixture, "alice@example.org", "one").await;
    copy.fails.lock().expect("no test panicked").push(DeliveryError::Transient("down".into()));
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Retrying]);
    fixture.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Sent]);
    delete(&fixture, "alice@example.org").await;
    copy.fails.lock().expect("no test panicked").push(DeliveryError::Permanent("no such account".into()));
    assert_eq!(deliver(&fixture, &copy).await, [Delivered::Dead]);
}

#[tokio::test]
async fn what_is_owed_to_a_copy_that_was_switched_off_is_kept_as_dead() {
    let fixture = mirroring();
    add(&fixture, "alice@example.org", "one").await;
    assert_eq!(deliver_on(fixture.relay_ports.clone()).await, [Delivered::Dead]);
    assert_eq!(owed(&fixture)[0].message.not_after, FixedClock::START.plus(WORTH_TRYING));
}
