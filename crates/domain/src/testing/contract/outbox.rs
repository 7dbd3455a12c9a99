//! What an [`Outbox`] owes. That dead messages are kept for the operator cannot be seen through
//! the port; it is for the adapter's own tests.

use std::collections::HashSet;
use std::time::Duration;

use super::store::{END_OF_YEAR_9999, NOW, message};
use super::{Backend, BoxFuture, Spawner, race};
use crate::model::{
    Claimed, EmailAddress, Generation, LeaseId, MessageId, Msisdn, OutboxMessage, Payload, Settlement, Sid,
    Timestamp, UnitOfWork, UserId,
};
use crate::ports::Outbox;

const LEASE: Duration = Duration::from_secs(60);

fn later(ms: u64) -> Timestamp {
    Timestamp::from_ms(NOW.as_ms() + ms)
}

async fn owe(backend: &Backend, message: OutboxMessage) {
    backend.store.commit(UnitOfWork::new().enqueue(message)).await.expect("the unit meets no conflict");
}

async fn claim(outbox: &dyn Outbox, now: Timestamp, lease_id: &str, limit: usize) -> Vec<Claimed> {
    outbox.claim(now, LEASE, LeaseId::new(lease_id), limit).await.expect("the outbox answers")
}

/// The identifiers of what can be claimed.
async fn claimed(outbox: &dyn Outbox, now: Timestamp, lease_id: &str, limit: usize) -> Vec<String> {
    let claimed = claim(outbox, now, lease_id, limit).await;
    claimed.into_iter().map(|claimed| claimed.message.id.as_str().to_owned()).collect()
}

async fn settle(outbox: &dyn Outbox, id: &str, lease_id: &str, settlement: Settlement) -> bool {
    let answer = outbox.settle(&MessageId::new(id), &LeaseId::new(lease_id), NOW, settlement).await;
    answer.expect("the outbox answers")
}

fn retry(at: Timestamp) -> Settlement {
    Settlement::Retry { at, reason: "451 greylisted: é'\"".to_owned() }
}

fn mirror_of(user: &str, id: &str, due_at: Timestamp) -> OutboxMessage {
    let user_id = UserId::parse(user).expect("a user ID");
    OutboxMessage { payload: Payload::Mirror { user_id }, ..message(id, due_at) }
}

async fn owe_mirror(backend: &Backend, message: OutboxMessage) {
    let unit = UnitOfWork::new().enqueue_mirror(message);
    backend.store.commit(unit).await.expect("the unit meets no conflict");
}

/// One message that waits is enough for an account: the newest. What is owed to others stays.
pub async fn a_newer_message_that_mirrors_an_account_replaces_one_that_waits(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("mail", NOW)).await;
    owe_mirror(backend, mirror_of("@bob:example.org", "bob", NOW)).await;
    owe_mirror(backend, mirror_of("@alice:example.org", "tried", NOW)).await;
    assert_eq!(claimed(outbox, NOW, "first", 10).await.len(), 3);
    for (id, waits) in [("tried", true), ("bob", true), ("mail", true)] {
        assert_eq!(settle(outbox, id, "first", retry(later(5))).await, waits, "{id}");
    }
    owe_mirror(backend, mirror_of("@alice:example.org", "newer", later(1))).await;
    owe_mirror(backend, mirror_of("@alice:example.org", "newest", later(2))).await;
    let mut left = claimed(outbox, later(5), "second", 10).await;
    left.sort();
    assert_eq!(left, ["bob", "mail", "newest"]);
    for id in ["bob", "mail", "newest"] {
        assert!(settle(outbox, id, "second", Settlement::Sent).await, "{id}");
    }
    owe_mirror(backend, mirror_of("@alice:example.org", "later", NOW)).await;
    assert_eq!(claimed(outbox, END_OF_YEAR_9999, "third", 10).await, ["later"]);
}

/// Nobody knows how far it is; if its sender dies, its lease ends and it is tried again.
pub async fn a_message_that_mirrors_and_is_being_tried_is_not_replaced(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe_mirror(backend, mirror_of("@alice:example.org", "tried", NOW)).await;
    assert_eq!(claimed(outbox, NOW, "first", 10).await, ["tried"]);
    owe_mirror(backend, mirror_of("@alice:example.org", "newer", NOW)).await;
    assert_eq!(claimed(outbox, NOW, "second", 10).await, ["newer"]);
    assert!(settle(outbox, "newer", "second", Settlement::Sent).await);
    assert_eq!(claimed(outbox, END_OF_YEAR_9999, "heir", 10).await, ["tried"]);
}

/// Nothing owed is no error.
pub async fn an_empty_outbox_has_nothing_to_claim(backend: &Backend) {
    assert_eq!(claim(&*backend.outbox, END_OF_YEAR_9999, "lease", 10).await, []);
}

/// What is claimed is what was owed, under the claimer's lease, at its first attempt.
pub async fn a_message_is_claimed_whole(backend: &Backend) {
    let to = EmailAddress::parse("o'brien+é@bücher.example").expect("an email address");
    let number = Msisdn::parse("447700900813").expect("a number");
    let (sid, generation) = (Sid::new("s.i=d_-"), Generation(u32::MAX));
    let payloads = [
        Payload::ValidationMail { to: to.clone(), sid: sid.clone(), generation, with_code: false },
        Payload::ValidationMail { to: to.clone(), sid: sid.clone(), generation, with_code: true },
        Payload::ValidationSms { to: number.clone(), sid, generation },
        Payload::InUseMail { to },
        Payload::InUseSms { to: number },
    ];
    for (at, payload) in payloads.into_iter().enumerate() {
        let owed = OutboxMessage {
            id: MessageId::new(format!("message{at}")),
            payload,
            created_at: Timestamp::from_ms(0),
            due_at: NOW,
            not_after: END_OF_YEAR_9999,
        };
        owe(backend, owed.clone()).await;
        let id = owed.id.clone();
        let expected = Claimed { message: owed, attempt: 1, lease: LeaseId::new("lease") };
        assert_eq!(claim(&*backend.outbox, NOW, "lease", 10).await, [expected]);
        assert!(settle(&*backend.outbox, id.as_str(), "lease", Settlement::Sent).await);
    }
}

/// Not a millisecond before `due_at`, and at it.
pub async fn a_message_is_not_claimed_before_it_is_due(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", later(1000))).await;
    assert_eq!(claimed(outbox, NOW, "a", 10).await.len(), 0);
    assert_eq!(claimed(outbox, later(999), "b", 10).await.len(), 0);
    let claimed = claim(outbox, later(1000), "c", 10).await;
    assert_eq!(claimed.first().map(|claimed| claimed.attempt), Some(1), "looking in vain is no attempt");
}

/// Oldest due first, at most `limit`, the rest later.
pub async fn the_oldest_due_are_claimed_first_up_to_the_limit(backend: &Backend) {
    let outbox = &*backend.outbox;
    for (id, due) in [("d", 9), ("a", 1), ("e", 100), ("c", 3), ("b", 2)] {
        owe(backend, message(id, later(due))).await;
    }
    assert_eq!(claimed(outbox, later(10), "one", 3).await, ["a", "b", "c"]);
    assert_eq!(claimed(outbox, later(10), "two", 3).await, ["d"]);
    assert_eq!(claimed(outbox, later(100), "three", 3).await, ["e"]);
}

/// A relay without a free hand claims nothing and costs no attempt.
pub async fn a_limit_of_nothing_claims_nothing(backend: &Backend) {
    owe(backend, message("message", NOW)).await;
    assert_eq!(claim(&*backend.outbox, NOW, "none", 0).await, []);
    let claimed = claim(&*backend.outbox, NOW, "one", 1).await;
    assert_eq!(claimed.first().map(|claimed| claimed.attempt), Some(1));
}

/// A lease is good before its end and no longer at it.
pub async fn a_claimed_message_is_not_claimed_again_before_its_lease_ends(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", NOW)).await;
    assert_eq!(claimed(outbox, NOW, "one", 10).await, ["message"]);
    assert_eq!(claimed(outbox, NOW, "two", 10).await.len(), 0);
    assert_eq!(claimed(outbox, later(59_999), "three", 10).await.len(), 0);
    assert_eq!(claimed(outbox, later(60_000), "four", 10).await, ["message"]);
    assert_eq!(claimed(outbox, later(60_001), "five", 10).await.len(), 0, "the new lease holds");
}

/// The count goes up with each claim, whether the last try was settled or its lease ran out.
pub async fn each_claim_counts_as_an_attempt(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", NOW)).await;
    let mut now = NOW;
    for attempt in 1..=6_u32 {
        let lease = format!("lease{attempt}");
        let claimed = claim(outbox, now, &lease, 10).await;
        assert_eq!(claimed.first().map(|claimed| claimed.attempt), Some(attempt));
        now = now.plus(LEASE);
        if attempt.is_multiple_of(2) {
            assert!(settle(outbox, "message", &lease, retry(now)).await);
        }
    }
}

/// It is neither claimed nor counted again, and another settlement finds nothing. Under a lost lease it stays.
pub async fn a_message_that_is_to_leave_nothing_leaves_nothing(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", NOW)).await;
    assert_eq!(claim(outbox, NOW, "lease", 10).await.len(), 1);
    assert!(!settle(outbox, "message", "never given", Settlement::Forget).await);
    assert!(settle(outbox, "message", "lease", Settlement::Forget).await);
    assert!(!settle(outbox, "message", "lease", Settlement::Sent).await);
    assert_eq!(claim(outbox, END_OF_YEAR_9999, "again", 10).await, []);
    let left = outbox.backlog().await.expect("the outbox answers");
    assert!(left.iter().all(|of| of.owed == 0 && of.dead == 0), "{left:?}");
    // The id is free: nothing is left under it.
    owe(backend, message("message", NOW)).await;
    assert_eq!(claimed(outbox, NOW, "anew", 10).await, ["message"]);
}

/// Sent, dead and expired are ends.
pub async fn settled_messages_are_never_claimed_again(backend: &Backend) {
    let outbox = &*backend.outbox;
    for id in ["sent", "dead", "expired"] {
        owe(backend, message(id, NOW)).await;
    }
    assert_eq!(claim(outbox, NOW, "lease", 10).await.len(), 3);
    assert!(settle(outbox, "sent", "lease", Settlement::Sent).await);
    assert!(
        settle(outbox, "dead", "lease", Settlement::Dead { reason: "550 no such user: é'\"".into() }).await
    );
    assert!(settle(outbox, "expired", "lease", Settlement::Expired).await);
    for now in [NOW, later(60_000), END_OF_YEAR_9999] {
        assert_eq!(claim(outbox, now, "again", 10).await, []);
    }
}

/// Not a millisecond before the time that the settlement says, and at it, though the lease would have lasted longer.
pub async fn a_message_to_be_tried_again_waits_for_its_time(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("soon", NOW)).await;
    owe(backend, message("late", NOW)).await;
    assert_eq!(claim(outbox, NOW, "lease", 10).await.len(), 2);
    assert!(settle(outbox, "soon", "lease", retry(later(5_000))).await);
    assert!(settle(outbox, "late", "lease", retry(later(100_000))).await);
    assert_eq!(claimed(outbox, later(4_999), "a", 10).await.len(), 0);
    assert_eq!(claimed(outbox, later(5_000), "b", 10).await, ["soon"]);
    assert!(settle(outbox, "soon", "b", Settlement::Sent).await);
    assert_eq!(claimed(outbox, later(99_999), "c", 10).await.len(), 0);
    assert_eq!(claimed(outbox, later(100_000), "d", 10).await, ["late"]);
}

/// Whoever comes back after another has claimed changes nothing and is told so.
pub async fn a_lost_lease_settles_nothing(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", NOW)).await;
    claim(outbox, NOW, "first", 10).await;
    assert_eq!(claimed(outbox, later(60_000), "second", 10).await, ["message"]);
    for settlement in
        [Settlement::Sent, Settlement::Expired, Settlement::Dead { reason: String::new() }, retry(NOW)]
    {
        assert!(!settle(outbox, "message", "first", settlement).await);
    }
    assert!(!settle(outbox, "message", "never given", Settlement::Sent).await);
    assert_eq!(claimed(outbox, later(119_999), "third", 10).await.len(), 0, "the second lease still holds");
    assert!(settle(outbox, "message", "second", retry(later(120_000))).await);
    assert_eq!(claimed(outbox, later(120_000), "fourth", 10).await, ["message"]);
}

/// A lease that has run out stays the message's until another claim takes it: a mail that was sent slowly is not sent
/// twice for that.
pub async fn a_late_settlement_counts_while_nobody_else_has_claimed(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", NOW)).await;
    claim(outbox, NOW, "lease", 10).await;
    let answer = outbox
        .settle(&MessageId::new("message"), &LeaseId::new("lease"), later(90_000), Settlement::Sent)
        .await;
    assert!(answer.expect("the outbox answers"));
    assert_eq!(claim(outbox, END_OF_YEAR_9999, "again", 10).await, []);
}

/// A settlement gives the lease back.
pub async fn a_message_is_settled_once_per_claim(backend: &Backend) {
    let outbox = &*backend.outbox;
    for id in ["sent", "again"] {
        owe(backend, message(id, NOW)).await;
    }
    claim(outbox, NOW, "lease", 10).await;
    assert!(settle(outbox, "sent", "lease", Settlement::Sent).await);
    assert!(!settle(outbox, "sent", "lease", retry(NOW)).await);
    assert!(settle(outbox, "again", "lease", retry(later(1))).await);
    assert!(!settle(outbox, "again", "lease", Settlement::Sent).await);
    assert_eq!(claimed(outbox, later(1), "next", 10).await, ["again"]);
}

/// No message, or one that nobody has claimed.
pub async fn settling_what_is_not_there_answers_false(backend: &Backend) {
    let outbox = &*backend.outbox;
    owe(backend, message("message", NOW)).await;
    assert!(!settle(outbox, "another", "lease", Settlement::Sent).await);
    assert!(!settle(outbox, "message", "lease", Settlement::Sent).await);
    assert_eq!(claimed(outbox, NOW, "lease", 10).await, ["message"]);
}

/// Messages of one claim share a lease, and are settled one by one.
pub async fn one_settlement_touches_one_message(backend: &Backend) {
    let outbox = &*backend.outbox;
    for id in ["a", "b", "c"] {
        owe(backend, message(id, NOW)).await;
    }
    assert_eq!(claim(outbox, NOW, "lease", 10).await.len(), 3);
    assert!(settle(outbox, "b", "lease", Settlement::Sent).await);
    let mut left = claimed(outbox, later(60_000), "next", 10).await;
    left.sort();
    assert_eq!(left, ["a", "c"]);
}

/// What was sent or has expired is not counted; what is claimed is, and so is what waits for its time.
pub async fn what_is_owed_and_what_is_dead_is_counted_by_kind(backend: &Backend) {
    let outbox = &*backend.outbox;
    let counted = async || {
        let backlog = outbox.backlog().await.expect("the outbox answers").into_iter();
        let there = backlog.filter(|of| (of.owed, of.dead) != (0, 0));
        there.map(|of| (of.kind, of.owed, of.oldest, of.dead)).collect::<Vec<_>>()
    };
    assert_eq!(counted().await, []);
    for (id, at) in [("sent", 0), ("dead", 1), ("expired", 2), ("retried", 3), ("claimed", 4)] {
        owe(backend, message(id, later(at))).await;
    }
    owe(backend, message("waits", later(60_000))).await;
    owe_mirror(backend, mirror_of("@alice:example.org", "mirror", later(5))).await;
    let (mail, mirror) = ("validation_mail".to_owned(), "mirror".to_owned());
    let mirrors = (mirror, 1, Some(later(5)), 0);
    assert_eq!(counted().await, [mirrors.clone(), (mail.clone(), 6, Some(NOW), 0)]);
    assert_eq!(claim(outbox, later(10), "lease", 10).await.len(), 6);
    assert_eq!(
        counted().await,
        [mirrors.clone(), (mail.clone(), 6, Some(NOW), 0)],
        "claimed, and owed still"
    );
    assert!(settle(outbox, "sent", "lease", Settlement::Sent).await);
    assert!(settle(outbox, "dead", "lease", Settlement::Dead { reason: "550".to_owned() }).await);
    assert!(settle(outbox, "expired", "lease", Settlement::Expired).await);
    assert!(settle(outbox, "retried", "lease", retry(later(90_000))).await);
    assert_eq!(counted().await, [mirrors, (mail.clone(), 3, Some(later(3)), 1)]);
    assert!(settle(outbox, "mirror", "lease", Settlement::Sent).await);
    assert_eq!(counted().await, [(mail, 3, Some(later(3)), 1)]);
}

/// A process that starts anew neither takes a message that another holds nor forgets how often it was tried.
pub async fn leases_and_counts_outlive_a_restart(backend: &Backend) {
    owe(backend, message("message", NOW)).await;
    claim(&*backend.outbox, NOW, "before", 10).await;
    let again = backend.reopened().await;
    assert_eq!(claim(&*again.outbox, later(59_999), "early", 10).await, []);
    let claimed = claim(&*again.outbox, later(60_000), "after", 10).await;
    assert_eq!(claimed.first().map(|claimed| claimed.attempt), Some(2));
    assert!(!settle(&*backend.outbox, "message", "before", Settlement::Sent).await);
    assert!(settle(&*again.outbox, "message", "after", Settlement::Sent).await);
    assert_eq!(claim(&*backend.outbox, END_OF_YEAR_9999, "end", 10).await, []);
}

/// A relay that has just looked in vain does not sleep over what came in between.
pub async fn woken_returns_for_a_message_owed_just_before(backend: &Backend) {
    for turn in 0..4 {
        let id = format!("message{turn}");
        owe(backend, message(&id, NOW)).await;
        backend.outbox.woken().await;
        assert_eq!(claimed(&*backend.outbox, NOW, &id, 10).await, [id]);
    }
}

/// However many claim at once, through whichever handle: each message goes to one, and none is left.
pub async fn claims_at_once_share_no_message(backend: &Backend, spawn: Spawner) {
    let handles = [backend.outbox.clone(), backend.reopened().await.outbox];
    for at in 0..60 {
        owe(backend, message(&format!("message{at}"), later(at))).await;
    }
    let task = |claimer: usize| {
        let outbox = handles[claimer % handles.len()].clone();
        async move {
            let mut all = Vec::new();
            loop {
                let some = claim(&*outbox, later(1000), &format!("lease{claimer}"), 4).await;
                if some.is_empty() {
                    return all;
                }
                assert!(some.len() <= 4, "at most the limit");
                all.extend(some.into_iter().map(|claimed| (claimed.message.id, claimed.attempt)));
            }
        }
    };
    let claimed: Vec<_> = race(spawn, (0..8).map(task).collect()).await.into_iter().flatten().collect();
    let distinct: HashSet<_> = claimed.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!((claimed.len(), distinct.len()), (60, 60));
    assert!(claimed.iter().all(|(_, attempt)| *attempt == 1), "each was claimed once");
}

/// When a lease has run out, one of those who wait takes the message over.
pub async fn a_lease_has_one_heir(backend: &Backend, spawn: Spawner) {
    let handles = [backend.outbox.clone(), backend.reopened().await.outbox];
    owe(backend, message("message", NOW)).await;
    for round in 0..8_u32 {
        let now = NOW.plus(LEASE * round);
        let task = |claimer: usize| {
            let outbox = handles[claimer % handles.len()].clone();
            let lease = format!("lease{round}.{claimer}");
            async move { claim(&*outbox, now, &lease, 10).await }
        };
        let claimed: Vec<_> = race(spawn, (0..8).map(task).collect()).await.into_iter().flatten().collect();
        assert_eq!(claimed.len(), 1, "round {round}");
        assert_eq!(claimed.first().map(|claimed| claimed.attempt), Some(round + 1));
    }
}

/// Messages that are settled at once are each settled as was said, by whoever holds them.
pub async fn settlements_at_once_each_have_their_own_outcome(backend: &Backend, spawn: Spawner) {
    let handles = [backend.outbox.clone(), backend.reopened().await.outbox];
    for at in 0..16 {
        owe(backend, message(&format!("message{at:02}"), later(at))).await;
    }
    assert_eq!(claim(&*backend.outbox, later(100), "first", 16).await.len(), 16);
    let taken_over = claimed(&*backend.outbox, later(60_100), "second", 8).await;
    assert_eq!(taken_over.len(), 8);
    let task = |(at, lease): (usize, &'static str)| {
        let outbox = handles[at % handles.len()].clone();
        let id = format!("message{at:02}");
        let settlement = match at % 4 {
            0 => Settlement::Sent,
            1 => Settlement::Expired,
            2 => Settlement::Dead { reason: format!("reason {at}") },
            _ => retry(later(200_000 + u64::try_from(at).expect("a small number"))),
        };
        async move { (id.clone(), lease, settle(&*outbox, &id, lease, settlement).await) }
    };
    let both = (0..16).flat_map(|at| [(at, "first"), (at, "second")]);
    for (id, lease, is_settled) in race(spawn, both.map(task).collect()).await {
        let holder = if taken_over.contains(&id) { "second" } else { "first" };
        assert_eq!(is_settled, lease == holder, "{id} by the lease {lease}");
    }
    let again = claimed(&*backend.outbox, later(200_015), "third", 100).await;
    assert_eq!(again, ["message03", "message07", "message11", "message15"]);
    assert_eq!(claim(&*backend.outbox, END_OF_YEAR_9999, "fourth", 100).await.len(), 4, "and no others");
}

/// A relay that sleeps is woken.
pub async fn woken_returns_for_a_message_owed_while_waiting(backend: &Backend, spawn: Spawner) {
    let outbox = backend.outbox.clone();
    // A relay's own loop: whenever it is woken it looks, until it has seen what it waits for.
    let relay = Box::pin(async move {
        loop {
            outbox.woken().await;
            if !claim(&*outbox, NOW, "lease", 10).await.is_empty() {
                return;
            }
        }
    }) as BoxFuture<()>;
    let store = backend.store.clone();
    let owe = Box::pin(async move {
        let unit = UnitOfWork::new().enqueue(message("message", NOW));
        store.commit(unit).await.expect("the unit meets no conflict");
    }) as BoxFuture<()>;
    assert_eq!(race(spawn, vec![relay, owe]).await.len(), 2);
}
