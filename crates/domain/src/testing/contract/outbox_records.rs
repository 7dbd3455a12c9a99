//! What [`OutboxRecords`] owe.

use std::time::Duration;

use super::store::{END_OF_YEAR_9999, NOW, commit, email, message, user};
use super::{Backend, BoxFuture, Spawner, race};
use crate::model::{
    IdentityServerName, LeaseId, MessageId, MessageRecord, MessageState, OutboxMessage, Payload, Settlement,
    Timestamp, UnitOfWork,
};
use crate::ports::OutboxRecords;

const ALL: usize = 1000;
const LEASE: Duration = Duration::from_secs(60);

fn later(ms: u64) -> Timestamp {
    Timestamp::from_ms(NOW.as_ms() + ms)
}

fn records(backend: &Backend) -> &dyn OutboxRecords {
    &**backend.records.as_ref().expect("the backend says what shows it")
}

async fn shown(backend: &Backend, id: &str) -> Option<MessageRecord> {
    records(backend).message(&MessageId::new(id)).await.expect("the outbox answers")
}

async fn listed(backend: &Backend, states: &[MessageState], limit: usize) -> Vec<String> {
    let listed = records(backend).messages(states.to_vec(), limit).await.expect("the outbox answers");
    listed.into_iter().map(|record| record.id.as_str().to_owned()).collect()
}

async fn owe_again(backend: &Backend, id: &str, now: Timestamp) -> bool {
    let owed = records(backend).owe_again(&MessageId::new(id), now, later(1_000_000)).await;
    owed.expect("the outbox answers")
}

async fn forget(backend: &Backend, id: &str, now: Timestamp) -> bool {
    records(backend).forget(&MessageId::new(id), now).await.expect("the outbox answers")
}

async fn owe(backend: &Backend, message: OutboxMessage) {
    commit(&*backend.store, UnitOfWork::new().enqueue(message)).await;
}

async fn claimed(backend: &Backend, now: Timestamp) -> Vec<(String, u32)> {
    let claimed = backend.outbox.claim(now, LEASE, LeaseId::new("lease"), ALL).await;
    let claimed = claimed.expect("the outbox answers").into_iter();
    claimed.map(|claimed| (claimed.message.id.as_str().to_owned(), claimed.attempt)).collect()
}

async fn settle(backend: &Backend, id: &str, now: Timestamp, settlement: Settlement) {
    let settled = backend.outbox.settle(&MessageId::new(id), &LeaseId::new("lease"), now, settlement).await;
    assert!(settled.expect("the outbox answers"), "{id}");
}

/// A message that died at its first try.
async fn dead(backend: &Backend, id: &str) {
    owe(backend, message(id, NOW)).await;
    claimed(backend, NOW).await;
    settle(backend, id, NOW, Settlement::Dead { reason: "550 no such user: é'\"".to_owned() }).await;
}

/// Nothing there is no error.
pub async fn an_empty_outbox_shows_nothing(backend: &Backend) {
    assert_eq!(listed(backend, &MessageState::ALL, ALL).await, <[String; 0]>::default());
    assert_eq!(shown(backend, "message").await, None);
    assert!(!owe_again(backend, "message", NOW).await && !forget(backend, "message", NOW).await);
}

/// What was owed, and how far it is.
pub async fn every_field_of_a_message_is_shown(backend: &Backend) {
    let payload = Payload::Unbind {
        user_id: user("@alice/ü:example.org:8448"),
        address: email("é+tag@bücher.example"),
        server: IdentityServerName::parse("[2001:db8::1]:8090").expect("a server name"),
        forget: true,
    };
    let owed = OutboxMessage {
        id: MessageId::new("unbind"),
        payload: payload.clone(),
        created_at: later(1),
        due_at: later(2),
        not_after: END_OF_YEAR_9999,
    };
    owe(backend, owed).await;
    let expected = MessageRecord {
        id: MessageId::new("unbind"),
        kind: "unbind".to_owned(),
        payload: Some(payload),
        state: MessageState::Queued,
        attempts: 0,
        created_at: later(1),
        due_at: later(2),
        not_after: END_OF_YEAR_9999,
        leased_until: None,
        settled_at: None,
        last_error: None,
    };
    assert_eq!(shown(backend, "unbind").await, Some(expected.clone()));
    assert_eq!(claimed(backend, later(2)).await.len(), 1);
    let leased_until = Some(later(2).plus(LEASE));
    assert_eq!(shown(backend, "unbind").await, Some(MessageRecord { attempts: 1, leased_until, ..expected }));
}

/// An operator decides by it.
pub async fn a_dead_message_says_why(backend: &Backend) {
    dead(backend, "dead").await;
    let shown = shown(backend, "dead").await.expect("a dead message stays");
    assert_eq!((shown.state, shown.attempts, shown.settled_at), (MessageState::Dead, 1, Some(NOW)));
    assert_eq!(shown.last_error.as_deref(), Some("550 no such user: é'\""));
    assert_eq!(shown.leased_until, None);
}

/// Those of the same millisecond by id; only those in the states that are asked for; no more than the limit.
pub async fn messages_are_shown_in_the_order_in_which_they_were_owed(backend: &Backend) {
    dead(backend, "dead").await;
    for (id, ms) in [("d", 3), ("b", 2), ("c", 2), ("a", 4)] {
        owe(backend, message(id, later(ms))).await;
    }
    let both = [MessageState::Dead, MessageState::Queued];
    assert_eq!(listed(backend, &both, ALL).await, ["dead", "b", "c", "d", "a"]);
    assert_eq!(listed(backend, &both, 2).await, ["dead", "b"]);
    assert_eq!(listed(backend, &[MessageState::Queued], ALL).await, ["b", "c", "d", "a"]);
    assert_eq!(listed(backend, &[MessageState::Dead], ALL).await, ["dead"]);
    assert_eq!(listed(backend, &[], ALL).await, <[String; 0]>::default());
}

/// With its count, and with the time that it is given.
pub async fn a_dead_message_that_is_owed_again_is_claimed_at_once(backend: &Backend) {
    dead(backend, "dead").await;
    assert!(owe_again(backend, "dead", later(5)).await);
    let shown = shown(backend, "dead").await.expect("it is there");
    assert_eq!((shown.state, shown.due_at, shown.settled_at), (MessageState::Queued, later(5), None));
    assert_eq!((shown.not_after, shown.attempts), (later(1_000_000), 1));
    assert_eq!(claimed(backend, later(4)).await, []);
    assert_eq!(claimed(backend, later(5)).await, [("dead".to_owned(), 2)]);
    settle(backend, "dead", later(5), Settlement::Sent).await;
}

/// Its wait is over.
pub async fn a_waiting_message_that_is_owed_again_is_claimed_at_once(backend: &Backend) {
    owe(backend, message("waits", NOW)).await;
    claimed(backend, NOW).await;
    let reason = "451 later".to_owned();
    settle(backend, "waits", NOW, Settlement::Retry { at: later(1_000_000), reason }).await;
    assert!(owe_again(backend, "waits", later(1)).await);
    assert_eq!(claimed(backend, later(1)).await, [("waits".to_owned(), 2)]);
}

/// Nobody knows how far it is.
pub async fn a_message_that_is_being_tried_is_left_alone(backend: &Backend) {
    owe(backend, message("tried", NOW)).await;
    claimed(backend, NOW).await;
    let before = shown(backend, "tried").await;
    for now in [NOW, later(59_999)] {
        assert!(!owe_again(backend, "tried", now).await && !forget(backend, "tried", now).await);
    }
    assert_eq!(shown(backend, "tried").await, before);
    settle(backend, "tried", NOW, Settlement::Sent).await;
}

/// Whoever held the lease settles nothing any more.
pub async fn a_message_whose_lease_has_ended_is_decided_upon(backend: &Backend) {
    for id in ["again", "forgotten"] {
        owe(backend, message(id, NOW)).await;
    }
    claimed(backend, NOW).await;
    assert!(
        owe_again(backend, "again", later(60_000)).await && forget(backend, "forgotten", later(60_000)).await
    );
    for id in ["again", "forgotten"] {
        let (message, lease) = (MessageId::new(id), LeaseId::new("lease"));
        let settled = backend.outbox.settle(&message, &lease, later(60_001), Settlement::Sent);
        assert!(!settled.await.expect("the outbox answers"), "{id}");
    }
    assert_eq!(claimed(backend, later(60_001)).await, [("again".to_owned(), 2)]);
}

/// Whatever it became.
pub async fn a_settled_message_is_left_alone(backend: &Backend) {
    for (id, settlement) in [("sent", Settlement::Sent), ("expired", Settlement::Expired)] {
        owe(backend, message(id, NOW)).await;
        claimed(backend, NOW).await;
        settle(backend, id, NOW, settlement).await;
        let before = shown(backend, id).await;
        assert!(!owe_again(backend, id, later(1)).await && !forget(backend, id, later(1)).await, "{id}");
        assert_eq!(shown(backend, id).await, before);
    }
    assert_eq!(claimed(backend, END_OF_YEAR_9999).await, []);
}

/// A dead one, and one that is owed; no other.
pub async fn a_forgotten_message_is_gone(backend: &Backend) {
    dead(backend, "dead").await;
    for id in ["owed", "other"] {
        owe(backend, message(id, NOW)).await;
    }
    for id in ["dead", "owed"] {
        assert!(forget(backend, id, NOW).await, "{id}");
        assert!(!forget(backend, id, NOW).await && !owe_again(backend, id, NOW).await, "{id} is gone");
    }
    assert_eq!(listed(backend, &MessageState::ALL, ALL).await, ["other"]);
    assert_eq!(claimed(backend, NOW).await, [("other".to_owned(), 1)]);
}

/// The decision is durable.
pub async fn what_was_decided_holds_after_a_restart(backend: &Backend) {
    dead(backend, "again").await;
    dead(backend, "forgotten").await;
    assert!(owe_again(backend, "again", NOW).await && forget(backend, "forgotten", NOW).await);
    let outbox = backend.reopened().await.outbox;
    let claimed = outbox.claim(NOW, LEASE, LeaseId::new("after"), ALL).await.expect("the outbox answers");
    assert_eq!(claimed.iter().map(|one| one.message.id.as_str()).collect::<Vec<_>>(), ["again"]);
}

/// A message that is forgotten while it is owed again is gone; one that a claim came first to is left alone.
pub async fn one_decision_about_a_message_comes_first(backend: &Backend, spawn: Spawner) {
    for round in 0..8 {
        let id = format!("message{round}");
        dead(backend, &id).await;
        let decide = |drops: bool| {
            let (records, id) = (backend.records.clone(), MessageId::new(&*id));
            let records = records.expect("the backend says what shows it");
            Box::pin(async move {
                let decided = if drops {
                    records.forget(&id, NOW).await
                } else {
                    records.owe_again(&id, NOW, END_OF_YEAR_9999).await
                };
                decided.expect("the outbox answers")
            }) as BoxFuture<bool>
        };
        let answers = race(spawn, vec![decide(true), decide(false), decide(true)]).await;
        let dropped =
            answers.iter().zip([true, false, true]).filter(|(done, drops)| **done && *drops).count();
        assert_eq!(dropped, 1, "it is forgotten once: {answers:?}");
        assert_eq!(shown(backend, &id).await, None);
    }
}
