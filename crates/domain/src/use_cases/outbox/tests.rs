#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use super::*;
use crate::model::{BindingKey, OutboxMessage, UnitOfWork};
use crate::ports::{MockOutboxRecords, Store as _};
use crate::testing::{Fixture, Reply, RowState, ServerReply};
use crate::use_cases::Delivered;

const HOUR: Duration = Duration::from_secs(60 * 60);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const ID: &str = "id.example";

fn desk(fixture: &Fixture) -> OutboxDesk {
    OutboxDesk::new(fixture.store.clone(), fixture.clock.clone(), MONTH)
}

fn states(fixture: &Fixture) -> Vec<RowState> {
    fixture.store.outbox_rows().into_iter().map(|row| row.state).collect()
}

/// A mail that the next hop has refused for good.
async fn dead_mail(fixture: &Fixture) -> MessageId {
    fixture.mailer.next_is(Reply::Permanent);
    fixture.request("a@example.org", "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Dead]);
    fixture.store.outbox_rows().pop().unwrap().message.id
}

/// An unbind that the identity server has refused.
async fn dead_unbind(fixture: &Fixture) -> MessageId {
    let key = BindingKey {
        user_id: Fixture::user("@alice:example.org"),
        address: Fixture::address("a@example.org"),
        server: Fixture::server(ID),
    };
    let now = fixture.clock.now();
    let BindingKey { user_id, address, server } = key;
    let id = MessageId::new("unbind");
    let message = OutboxMessage {
        id: id.clone(),
        payload: Payload::Unbind { user_id, address, server, forget: false },
        created_at: now,
        due_at: now,
        not_after: now.plus(HOUR),
    };
    fixture.store.commit(UnitOfWork::new().enqueue(message)).await.unwrap();
    let refusal = crate::model::RemoteRefusal { status: 403, body: serde_json::Map::new() };
    fixture.identity_servers.next_is(ServerReply::Refused(refusal));
    assert_eq!(fixture.deliver().await, [Delivered::Dead]);
    id
}

#[tokio::test]
async fn a_dead_mail_whose_link_is_good_goes_out_when_it_is_tried_again() {
    let fixture = Fixture::new();
    let id = dead_mail(&fixture).await;
    fixture.clock.advance(HOUR / 2);
    let record = desk(&fixture).retry(&id).await.unwrap();
    assert_eq!((record.state, record.attempts), (MessageState::Dead, 1));
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let row = fixture.store.outbox_rows().pop().unwrap();
    assert_eq!((row.attempts, row.message.not_after), (2, record.not_after), "its end stays what it was");
}

#[tokio::test]
async fn a_mail_whose_link_has_ended_is_not_tried_again() {
    let fixture = Fixture::new();
    let id = dead_mail(&fixture).await;
    fixture.clock.advance(HOUR);
    let refused = desk(&fixture).retry(&id).await;
    assert!(matches!(refused, Err(RetryError::TokenEnded)), "{refused:?}");
    assert!(matches!(*states(&fixture), [RowState::Dead(_)]));
}

#[tokio::test]
async fn a_dead_unbind_is_given_time_anew() {
    let fixture = Fixture::trusting();
    let id = dead_unbind(&fixture).await;
    fixture.clock.advance(1000 * HOUR);
    desk(&fixture).retry(&id).await.unwrap();
    let row = fixture.store.outbox_rows().pop().unwrap();
    assert_eq!(row.message.not_after, fixture.clock.now().plus(MONTH));
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
}

#[tokio::test]
async fn what_is_settled_or_being_tried_is_left_alone() {
    let fixture = Fixture::new();
    let desk = desk(&fixture);
    fixture.request("a@example.org", "secret", 1).await.unwrap();
    let id = fixture.store.outbox_rows().pop().unwrap().message.id;
    let claimed = fixture.relay.claim(1).await.unwrap().pop().unwrap();
    assert!(matches!(desk.retry(&id).await, Err(RetryError::BeingTried)));
    assert!(matches!(desk.discard(&id).await, Err(DropError::BeingTried)));
    assert_eq!(fixture.relay.deliver(claimed).await.unwrap(), Delivered::Sent);
    assert!(matches!(desk.retry(&id).await, Err(RetryError::Settled(MessageState::Sent))));
    assert!(matches!(desk.discard(&id).await, Err(DropError::Settled(MessageState::Sent))));
    let nobody = MessageId::new("nobody");
    assert!(matches!(desk.retry(&nobody).await, Err(RetryError::NotThere)));
    assert!(matches!(desk.discard(&nobody).await, Err(DropError::NotThere)));
    assert_eq!(states(&fixture), [RowState::Sent]);
}

#[tokio::test]
async fn a_message_that_waits_long_is_tried_at_once_when_asked_for() {
    let fixture = Fixture::new();
    fixture.mailer.next_is(Reply::Transient);
    fixture.request("a@example.org", "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
    assert_eq!(fixture.deliver().await, []);
    let id = fixture.store.outbox_rows().pop().unwrap().message.id;
    desk(&fixture).retry(&id).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
}

#[tokio::test]
async fn what_is_dropped_is_gone_and_what_stays_undone_is_said() {
    let fixture = Fixture::trusting();
    let desk = desk(&fixture);
    let (mail, unbind) = (dead_mail(&fixture).await, dead_unbind(&fixture).await);
    for (id, undone) in [(mail, Undone::Mail), (unbind, Undone::Unbind)] {
        assert_eq!(desk.discard(&id).await.unwrap().1, undone);
        assert!(matches!(desk.discard(&id).await, Err(DropError::NotThere)), "it is gone");
    }
    assert_eq!(states(&fixture), []);
}

#[tokio::test]
async fn an_sms_is_tried_again_until_its_code_ends_and_dropped_as_a_mail_is() {
    let fixture = Fixture::new();
    let desk = desk(&fixture);
    fixture.sms.next_is(Reply::Permanent);
    fixture.sms.next_is(Reply::Permanent);
    fixture.request_sms("447700900813", "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Dead]);
    let id = fixture.store.outbox_rows().pop().unwrap().message.id;
    desk.retry(&id).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Dead]);
    fixture.clock.advance(HOUR);
    assert!(matches!(desk.retry(&id).await, Err(RetryError::TokenEnded)));
    assert_eq!(desk.discard(&id).await.unwrap().1, Undone::Sms);
}

#[tokio::test]
async fn an_unreadable_message_can_be_dropped_and_not_tried_again() {
    let record = MessageRecord {
        id: MessageId::new("m"),
        kind: "carrier_pigeon".to_owned(),
        payload: None,
        state: MessageState::Dead,
        attempts: 1,
        created_at: Timestamp::from_ms(0),
        due_at: Timestamp::from_ms(0),
        not_after: Timestamp::from_ms(u64::MAX),
        leased_until: None,
        settled_at: None,
        last_error: None,
    };
    let mut records = MockOutboxRecords::new();
    records.expect_message().returning(move |_| Ok(Some(record.clone())));
    records.expect_forget().once().returning(|_, _| Ok(true));
    let fixture = Fixture::new();
    let desk = OutboxDesk::new(Arc::new(records), fixture.clock.clone(), MONTH);
    let id = MessageId::new("m");
    assert!(matches!(desk.retry(&id).await, Err(RetryError::Unreadable)));
    assert_eq!(desk.discard(&id).await.unwrap().1, Undone::Unknown);
}

#[tokio::test]
async fn the_list_tells_what_was_asked_for() {
    let fixture = Fixture::new();
    let desk = desk(&fixture);
    let dead = dead_mail(&fixture).await;
    fixture.clock.advance(Duration::from_secs(1));
    fixture.request("b@example.org", "secret", 1).await.unwrap();
    let ids = async |states: &[MessageState], limit| -> Vec<MessageId> {
        desk.list(states.to_vec(), limit).await.unwrap().into_iter().map(|record| record.id).collect()
    };
    assert_eq!(ids(&[MessageState::Dead], 10).await, std::slice::from_ref(&dead));
    let all = ids(&MessageState::ALL, 10).await;
    assert_eq!((all.len(), all.first()), (2, Some(&dead)));
    assert_eq!(ids(&MessageState::ALL, 1).await, std::slice::from_ref(&dead));
    assert_eq!(ids(&[MessageState::Sent, MessageState::Expired], 10).await, []);
    let shown = desk.show(&dead).await.unwrap().unwrap();
    assert!(shown.last_error.is_some() && shown.settled_at.is_some(), "{shown:?}");
}
