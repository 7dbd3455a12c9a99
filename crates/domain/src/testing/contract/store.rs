//! What a [`Store`] owes.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

mod audit;
mod elsewhere;

pub use audit::*;
pub use elsewhere::*;

use super::{Backend, Spawner, race};
use crate::model::{
    Address, EmailAddress, Generation, IssuedToken, KeyedHash, LeaseId, Lifetimes, Medium, MessageId,
    NextLink, OutboxMessage, Payload, SendAttempt, SessionRecord, SessionState, Sid, Threepid, Timestamp,
    UnitOfWork, UserId, ValidationSession,
};
use crate::ports::{CommitError, Conflict, Store};

/// 9999-12-31T23:59:59.999Z.
pub const END_OF_YEAR_9999: Timestamp = Timestamp::from_ms(253_402_300_799_999);

/// So many contenders run a race.
const CONTENDERS: u8 = 16;

/// 2026-01-01T00:00:00Z.
pub(super) const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);

pub(super) fn email(text: &str) -> Address {
    Address::parse(Medium::Email, text).expect("an email address")
}

pub(super) fn user(text: &str) -> UserId {
    UserId::parse(text).expect("a user ID")
}

pub(super) fn key(byte: u8) -> KeyedHash {
    KeyedHash::new([byte; 32])
}

pub(super) fn session(sid: &str, key: KeyedHash) -> ValidationSession {
    let attempt = SendAttempt::new(1).expect("a send_attempt");
    let address = email("alice@example.org");
    ValidationSession::open(Sid::new(sid), key, address, attempt, None, NOW, &Lifetimes::default())
}

pub(super) fn threepid(owner: &str, address: &str) -> Threepid {
    Threepid { user_id: user(owner), address: email(address), validated_at: NOW, added_at: NOW }
}

pub(super) fn message(id: &str, due_at: Timestamp) -> OutboxMessage {
    let to = EmailAddress::parse("alice@example.org").expect("an email address");
    OutboxMessage {
        id: MessageId::new(id),
        payload: Payload::ValidationMail {
            to,
            sid: Sid::new("sid"),
            generation: Generation(1),
            with_code: false,
        },
        created_at: due_at,
        due_at,
        not_after: END_OF_YEAR_9999,
    }
}

/// Commits what has to go through.
pub(super) async fn commit(store: &dyn Store, unit: UnitOfWork) {
    store.commit(unit).await.expect("the unit meets no conflict");
}

async fn put(store: &dyn Store, session: ValidationSession) {
    commit(store, UnitOfWork::new().put_session(session)).await;
}

pub(super) async fn read(store: &dyn Store, sid: &str) -> Option<ValidationSession> {
    store.session(&Sid::new(sid)).await.expect("the store answers")
}

async fn stored(store: &dyn Store, sid: &str) -> ValidationSession {
    read(store, sid).await.expect("the session is stored")
}

async fn current(store: &dyn Store, key: KeyedHash) -> Option<ValidationSession> {
    store.current_session(key).await.expect("the store answers")
}

async fn owner(store: &dyn Store, address: &Address) -> Option<UserId> {
    store.owner(address).await.expect("the store answers")
}

async fn listed(store: &dyn Store, user_id: &str) -> Vec<Threepid> {
    store.threepids(&user(user_id)).await.expect("the store answers")
}

#[expect(clippy::panic, reason = "a store that is down fails the case")]
pub(super) fn conflict(answer: Result<(), CommitError>) -> Option<Conflict> {
    match answer {
        Ok(()) => None,
        Err(CommitError::Conflict(conflict)) => Some(conflict),
        Err(CommitError::Unavailable(error)) => panic!("the store answers: {error}"),
    }
}

/// Commits a session; what it conflicts with, if it does.
async fn put_conflict(store: &dyn Store, session: ValidationSession) -> Option<Conflict> {
    conflict(store.commit(UnitOfWork::new().put_session(session)).await)
}

/// How many messages the outbox holds; they are claimed by this.
async fn owed(backend: &Backend) -> usize {
    let claimed =
        backend.outbox.claim(END_OF_YEAR_9999, Duration::ZERO, LeaseId::new("counting"), 1000).await;
    claimed.expect("the outbox answers").len()
}

pub(super) fn revised(
    session: &ValidationSession,
    revise: impl FnOnce(&mut SessionRecord),
) -> ValidationSession {
    let mut record = session.record().clone();
    revise(&mut record);
    ValidationSession::from_record(record)
}

/// A session that is not there, an address nobody owns and an account without threepids are no errors.
pub async fn absence_is_none_and_not_an_error(backend: &Backend) {
    let store = &*backend.store;
    assert_eq!(read(store, "sid").await, None);
    assert_eq!(current(store, key(1)).await, None);
    assert_eq!(owner(store, &email("alice@example.org")).await, None);
    assert_eq!(listed(store, "@alice:example.org").await, []);
}

/// A sid that came from a client may be any text.
pub async fn any_text_is_a_sid_that_names_no_session(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("sid", key(1))).await;
    let long = "s".repeat(10_000);
    for text in ["", "'", "sid' OR '1'='1", "%", "_", "si\0d", "sid\0", "ſid", "\u{1f980}", long.as_str()] {
        assert_eq!(read(store, text).await, None, "{text:?}");
    }
}

/// What is read is what was written, whatever the state, and revision 1.
pub async fn every_field_of_a_session_survives_in_every_state(backend: &Backend) {
    let store = &*backend.store;
    let bob = user("@bob:example.org");
    let states = [
        SessionState::Pending { wrong_tokens: 0 },
        SessionState::Pending { wrong_tokens: 4 },
        SessionState::Validated { at: END_OF_YEAR_9999 },
        SessionState::Consumed { validated_at: Timestamp::from_ms(1), by: bob },
        SessionState::Burnt,
    ];
    let addresses = [
        email("é+tag@bücher.example"),
        Address::parse(Medium::Msisdn, "447700900813").expect("a phone number"),
    ];
    let link = NextLink::parse("https://app.example/a?b=c%20d&e='\"#/room/ü").expect("a link");
    let attempts = [0, 1, (1 << 53) - 1];
    let mut count = 0_u8;
    for state in states {
        for address in &addresses {
            for attempt in attempts {
                count += 1;
                let sid = format!("s.{count}=_-");
                let token = |generation, expires_at, next_link| IssuedToken {
                    generation: Generation(generation),
                    expires_at,
                    next_link,
                    with_code: generation % 2 == 0,
                    withheld: generation % 3 == 0,
                };
                let record = SessionRecord {
                    sid: Sid::new(sid.clone()),
                    key: KeyedHash::new(std::array::from_fn(|i| {
                        count.wrapping_mul(31).wrapping_add(i as u8)
                    })),
                    current: count.is_multiple_of(2),
                    address: address.clone(),
                    state: state.clone(),
                    send_attempt: SendAttempt::new(attempt).expect("a send_attempt"),
                    tokens: vec![
                        token(3, NOW, None),
                        token(4, END_OF_YEAR_9999, Some(link.clone())),
                        token(u32::MAX, Timestamp::from_ms(0), None),
                    ],
                    created_at: END_OF_YEAR_9999,
                    revision: 0,
                };
                put(store, ValidationSession::from_record(record.clone())).await;
                let expected = SessionRecord { revision: 1, ..record };
                assert_eq!(stored(store, &sid).await.record(), &expected);
                if expected.current {
                    let found = current(store, expected.key).await;
                    assert_eq!(found.as_ref().map(ValidationSession::record), Some(&expected));
                }
            }
        }
    }
}

/// Only the current session is found by its key.
pub async fn a_session_is_found_by_its_key_while_it_is_current(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("one", key(1))).await;
    put(store, session("two", key(2))).await;
    assert_eq!(current(store, key(1)).await, Some(stored(store, "one").await));
    assert_eq!(current(store, key(2)).await, Some(stored(store, "two").await));
    assert_eq!(current(store, key(3)).await, None);
    let mut one = stored(store, "one").await;
    one.supersede();
    put(store, one).await;
    assert_eq!(current(store, key(1)).await, None);
    assert!(!stored(store, "one").await.record().current, "it is still there, by its sid");
}

/// A session of revision n is stored as revision n + 1.
pub async fn each_write_adds_one_to_the_revision(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("sid", key(1))).await;
    for revision in 1..5 {
        let session = stored(store, "sid").await;
        assert_eq!(session.record().revision, revision);
        put(store, session).await;
    }
}

/// Two sessions never share a sid.
pub async fn a_new_session_under_an_existing_sid_is_stale(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("sid", key(1))).await;
    let before = stored(store, "sid").await;
    assert_eq!(put_conflict(store, session("sid", key(2))).await, Some(Conflict::StaleSession));
    assert_eq!(stored(store, "sid").await, before);
    assert_eq!(current(store, key(2)).await, None);
}

/// A session is replaced only by whoever has read what is stored.
pub async fn a_session_of_another_revision_is_stale(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("sid", key(1))).await;
    let first = stored(store, "sid").await;
    put(store, first.clone()).await;
    let before = stored(store, "sid").await;
    for revision in [1, 3, 1 << 40] {
        let other = revised(&before, |record| {
            record.revision = revision;
            record.state = SessionState::Burnt;
        });
        assert_eq!(put_conflict(store, other).await, Some(Conflict::StaleSession), "revision {revision}");
    }
    let unknown = revised(&session("unknown", key(2)), |record| record.revision = 1);
    assert_eq!(put_conflict(store, unknown).await, Some(Conflict::StaleSession), "never stored");
    assert_eq!(stored(store, "sid").await, before);
    assert_eq!(read(store, "unknown").await, None);
}

/// One key has one current session, whether the second comes new or changed.
pub async fn a_second_current_session_under_one_key_is_refused(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("one", key(1))).await;
    assert_eq!(put_conflict(store, session("two", key(1))).await, Some(Conflict::SessionExists));
    assert_eq!(read(store, "two").await, None);
    for sid in ["old", "older"] {
        put(store, revised(&session(sid, key(1)), |record| record.current = false)).await;
    }
    let risen = revised(&stored(store, "old").await, |record| record.current = true);
    assert_eq!(put_conflict(store, risen).await, Some(Conflict::SessionExists));
    assert!(!stored(store, "old").await.record().current);
    assert_eq!(current(store, key(1)).await, Some(stored(store, "one").await));
}

/// The old one steps back and the new one takes its place, in one unit.
pub async fn a_unit_may_replace_the_current_session_under_a_key(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("old", key(1))).await;
    let mut old = stored(store, "old").await;
    old.supersede();
    commit(store, UnitOfWork::new().put_session(old).put_session(session("new", key(1)))).await;
    assert_eq!(current(store, key(1)).await, Some(stored(store, "new").await));
    assert!(!stored(store, "old").await.record().current);
}

/// Matrix user IDs of old, and sids, may differ by case alone.
pub async fn sids_and_users_are_told_apart_by_case(backend: &Backend) {
    let store = &*backend.store;
    put(store, session("sid", key(1))).await;
    put(store, session("SID", key(2))).await;
    assert_eq!(stored(store, "sid").await.record().key, key(1));
    assert_eq!(stored(store, "SID").await.record().key, key(2));
    commit(store, UnitOfWork::new().put_threepid(threepid("@Alice:example.org", "a@example.org"))).await;
    assert_eq!(listed(store, "@alice:example.org").await, []);
    let other = UnitOfWork::new().put_threepid(threepid("@alice:example.org", "a@example.org"));
    assert_eq!(conflict(store.commit(other).await), Some(Conflict::AddressOwned));
}

/// Another account's address is refused; nothing of the first owner's changes.
pub async fn an_address_belongs_to_whoever_added_it_first(backend: &Backend) {
    let store = &*backend.store;
    let first = threepid("@alice:example.org", "shared@example.org");
    commit(store, UnitOfWork::new().put_threepid(first.clone())).await;
    assert_eq!(owner(store, &first.address).await, Some(first.user_id.clone()));
    let late =
        Threepid { validated_at: END_OF_YEAR_9999, ..threepid("@bob:example.org", "shared@example.org") };
    let answer = store.commit(UnitOfWork::new().put_threepid(late)).await;
    assert_eq!(conflict(answer), Some(Conflict::AddressOwned));
    assert_eq!(owner(store, &first.address).await, Some(first.user_id.clone()));
    assert_eq!(listed(store, "@alice:example.org").await, [first]);
    assert_eq!(listed(store, "@bob:example.org").await, []);
}

/// Storage compares canonical forms byte by byte: no accent, case or script is folded once more.
pub async fn addresses_that_look_alike_are_different(backend: &Backend) {
    let store = &*backend.store;
    let alike = ["e@example.org", "é@example.org", "е@example.org", "e@éxample.org", "ss@example.org"];
    for (at, address) in alike.iter().enumerate() {
        let unit = UnitOfWork::new().put_threepid(threepid(&format!("@user{at}:example.org"), address));
        assert_eq!(conflict(store.commit(unit).await), None, "{address}");
    }
    for (at, address) in alike.iter().enumerate() {
        let expected = user(&format!("@user{at}:example.org"));
        assert_eq!(owner(store, &email(address)).await, Some(expected), "{address}");
    }
}

/// One's own address with a new proof.
pub async fn a_new_proof_moves_validated_at_and_keeps_added_at(backend: &Backend) {
    let store = &*backend.store;
    let first = threepid("@alice:example.org", "alice@example.org");
    commit(store, UnitOfWork::new().put_threepid(first.clone())).await;
    let later = Timestamp::from_ms(NOW.as_ms() + 5_000);
    let again = Threepid { validated_at: later, added_at: later, ..first.clone() };
    commit(store, UnitOfWork::new().put_threepid(again)).await;
    let expected = Threepid { validated_at: later, ..first };
    assert_eq!(listed(store, "@alice:example.org").await, [expected]);
}

/// What another server knew is no newer than what is known here.
pub async fn an_imported_address_changes_nothing_that_is_there(backend: &Backend) {
    let store = &*backend.store;
    let imported = threepid("@alice:example.org", "alice@example.org");
    commit(store, UnitOfWork::new().import_threepid(imported.clone())).await;
    assert_eq!(listed(store, "@alice:example.org").await, std::slice::from_ref(&imported));
    for at in [0, NOW.as_ms() + 5_000] {
        let at = Timestamp::from_ms(at);
        let again = Threepid { validated_at: at, added_at: at, ..imported.clone() };
        commit(store, UnitOfWork::new().import_threepid(again)).await;
        assert_eq!(listed(store, "@alice:example.org").await, std::slice::from_ref(&imported));
    }
    let fresh = threepid("@bob:example.org", "bob@example.org");
    let others = threepid("@bob:example.org", "alice@example.org");
    let answer = store.commit(UnitOfWork::new().import_threepid(fresh).import_threepid(others)).await;
    assert_eq!(conflict(answer), Some(Conflict::AddressOwned));
    assert_eq!(listed(store, "@bob:example.org").await, [], "all or nothing");
}

/// By `added_at`, then by the canonical address's bytes; of this account alone.
pub async fn threepids_are_listed_oldest_first_then_by_address(backend: &Backend) {
    let store = &*backend.store;
    let at = |address: &str, ms: u64| Threepid {
        added_at: Timestamp::from_ms(ms),
        ..threepid("@alice:example.org", address)
    };
    let expected =
        [at("z@example.org", 1), at("b@example.org", 9), at("x@example.org", 10), at("é@example.org", 10)];
    for place in [2, 0, 3, 1] {
        commit(store, UnitOfWork::new().put_threepid(expected[place].clone())).await;
        let others = threepid("@bob:example.org", &format!("bob{place}@example.org"));
        commit(store, UnitOfWork::new().put_threepid(others)).await;
    }
    assert_eq!(listed(store, "@alice:example.org").await, expected);
}

/// What is listed is what was added, whatever the medium.
pub async fn every_field_of_a_threepid_survives(backend: &Backend) {
    let store = &*backend.store;
    let alice = user("@alice/ü:example.org:8448");
    let phone = Threepid {
        user_id: alice.clone(),
        address: Address::parse(Medium::Msisdn, "447700900813").expect("a phone number"),
        validated_at: Timestamp::from_ms(0),
        added_at: NOW,
    };
    let mail = Threepid {
        user_id: alice.clone(),
        address: email("o'brien+é@bücher.example"),
        validated_at: END_OF_YEAR_9999,
        added_at: END_OF_YEAR_9999,
    };
    commit(store, UnitOfWork::new().put_threepid(mail.clone()).put_threepid(phone.clone())).await;
    assert_eq!(store.threepids(&alice).await.expect("the store answers"), [phone.clone(), mail.clone()]);
    for address in [&phone.address, &mail.address] {
        assert_eq!(owner(store, address).await, Some(alice.clone()));
    }
}

/// A later change meets what an earlier one of the same unit did.
pub async fn a_unit_is_applied_in_its_order(backend: &Backend) {
    let store = &*backend.store;
    let first = session("sid", key(1));
    let second = revised(&first, |record| {
        record.revision = 1;
        record.state = SessionState::Burnt;
    });
    commit(store, UnitOfWork::new().put_session(first).put_session(second)).await;
    let now = stored(store, "sid").await;
    assert_eq!((now.record().revision, &now.record().state), (2, &SessionState::Burnt));

    let both = UnitOfWork::new()
        .put_threepid(threepid("@alice:example.org", "both@example.org"))
        .put_threepid(threepid("@bob:example.org", "both@example.org"));
    assert_eq!(conflict(store.commit(both).await), Some(Conflict::AddressOwned));
    assert_eq!(owner(store, &email("both@example.org")).await, None);

    put(store, session("old", key(2))).await;
    let mut old = stored(store, "old").await;
    old.supersede();
    let too_early = UnitOfWork::new().put_session(session("new", key(2))).put_session(old);
    assert_eq!(conflict(store.commit(too_early).await), Some(Conflict::SessionExists));
    assert_eq!(read(store, "new").await, None);
}

/// Whatever the third change conflicts with, the first two and the fourth leave no trace.
pub async fn a_unit_whose_third_change_conflicts_changes_nothing(backend: &Backend) {
    let store = &*backend.store;
    let taken = threepid("@bob:example.org", "taken@example.org");
    commit(store, UnitOfWork::new().put_threepid(taken).put_session(session("sid", key(1)))).await;
    let before = stored(store, "sid").await;
    let changed = || revised(&before, |record| record.state = SessionState::Burnt);
    let fresh = || threepid("@alice:example.org", "fresh@example.org");
    let head = || UnitOfWork::new().put_threepid(fresh()).enqueue(message("lost", NOW));
    let units = [
        (
            head().put_threepid(threepid("@alice:example.org", "taken@example.org")).put_session(changed()),
            Conflict::AddressOwned,
        ),
        (
            UnitOfWork::new()
                .put_session(changed())
                .enqueue(message("lost", NOW))
                .put_threepid(threepid("@alice:example.org", "taken@example.org"))
                .put_threepid(fresh()),
            Conflict::AddressOwned,
        ),
        (
            head().put_session(session("sid", key(2))).put_session(session("new", key(3))),
            Conflict::StaleSession,
        ),
        (
            head()
                .put_session(revised(&before, |record| record.revision = 7))
                .put_session(session("new", key(3))),
            Conflict::StaleSession,
        ),
        (head().put_session(session("other", key(1))).put_session(changed()), Conflict::SessionExists),
    ];
    for (place, (unit, expected)) in units.into_iter().enumerate() {
        assert_eq!(conflict(store.commit(unit).await), Some(expected), "unit {place}");
        assert_eq!(stored(store, "sid").await, before, "unit {place}");
        assert_eq!(read(store, "new").await, None, "unit {place}");
        assert_eq!(read(store, "other").await, None, "unit {place}");
        assert_eq!(owner(store, &fresh().address).await, None, "unit {place}");
        assert_eq!(owner(store, &email("taken@example.org")).await, Some(user("@bob:example.org")));
        assert_eq!(owed(backend).await, 0, "unit {place}");
    }
}

/// Nothing to change is no error.
pub async fn an_empty_unit_is_committed(backend: &Backend) {
    assert_eq!(conflict(backend.store.commit(UnitOfWork::new()).await), None);
}

/// State and message go together.
pub async fn a_message_is_claimable_once_its_unit_is_committed(backend: &Backend) {
    let store = &*backend.store;
    let unit = UnitOfWork::new().put_session(session("sid", key(1))).enqueue(message("mail", NOW));
    commit(store, unit).await;
    let claimed = backend.outbox.claim(NOW, Duration::from_secs(60), LeaseId::new("lease"), 10).await;
    let claimed: Vec<_> = claimed.expect("the outbox answers").into_iter().map(|c| c.message).collect();
    assert_eq!(claimed, [message("mail", NOW)]);
}

/// Whoever opens the storage once more sees all of it.
pub async fn what_was_committed_is_there_after_a_restart(backend: &Backend) {
    let own = threepid("@alice:example.org", "alice@example.org");
    let unit = UnitOfWork::new()
        .put_session(session("sid", key(1)))
        .put_threepid(own.clone())
        .enqueue(message("mail", NOW));
    commit(&*backend.store, unit).await;
    let again = backend.reopened().await;
    assert_eq!(stored(&*again.store, "sid").await, stored(&*backend.store, "sid").await);
    assert_eq!(listed(&*again.store, "@alice:example.org").await, [own]);
    let claimed = again.outbox.claim(NOW, Duration::from_secs(60), LeaseId::new("lease"), 10).await;
    assert_eq!(claimed.expect("the outbox answers").len(), 1);
}

/// A caller that goes away in the middle leaves no half of a unit, and nothing that holds up others.
pub async fn a_commit_that_is_abandoned_is_whole_or_nothing(backend: &Backend) {
    let store = &*backend.store;
    for polls in 1..=24_u8 {
        let (sid, address) = (format!("sid{polls}"), format!("user{polls}@example.org"));
        let unit = UnitOfWork::new()
            .put_session(session(&sid, key(polls)))
            .enqueue(message(&sid, NOW))
            .put_threepid(threepid("@alice:example.org", &address));
        {
            let mut commit = pin!(store.commit(unit));
            let mut polled = 0;
            // The future is dropped after so many polls, done or not.
            poll_fn(|context| {
                polled += 1;
                let is_done = commit.as_mut().poll(context).is_ready();
                if is_done || polled >= polls { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        commit(store, UnitOfWork::new().put_session(session(&format!("next{polls}"), key(100 + polls))))
            .await;
        // The unit may still be on its way. What shows one half of it at any time must show the other right after.
        if read(store, &sid).await.is_some() {
            assert!(owner(store, &email(&address)).await.is_some(), "a session alone, after {polls} polls");
        } else if owner(store, &email(&address)).await.is_some() {
            assert!(read(store, &sid).await.is_some(), "a threepid alone, after {polls} polls");
        }
    }
}

/// The readiness probe of a store that is well.
pub async fn the_check_says_that_it_answers(backend: &Backend) {
    backend.store.check().await.expect("the store answers");
}

/// Exactly one account gets the address; the others' proofs are not spent.
pub async fn two_accounts_that_add_one_address_at_once_have_one_winner(backend: &Backend, spawn: Spawner) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    for round in 0..8_u8 {
        let address = format!("shared{round}@example.org");
        let (count, mut adds) = (usize::from(CONTENDERS), Vec::new());
        for contender in 0..CONTENDERS {
            let store = handles[usize::from(contender) % handles.len()].clone();
            let sid = format!("sid{round}.{contender}");
            put(
                &*store,
                session(&sid, KeyedHash::new([round, contender].repeat(16).try_into().expect("32"))),
            )
            .await;
            let spent = revised(&stored(&*store, &sid).await, |record| record.state = SessionState::Burnt);
            let own = threepid(&format!("@user{contender}:example.org"), &address);
            let unit = UnitOfWork::new().put_session(spent).put_threepid(own);
            adds.push(async move { conflict(store.commit(unit).await) });
        }
        let answers = race(spawn, adds).await;
        let winners: Vec<_> = (0..count).filter(|contender| answers[*contender].is_none()).collect();
        let losers = answers.iter().filter(|answer| **answer == Some(Conflict::AddressOwned)).count();
        assert_eq!((winners.len(), losers), (1, count - 1), "{answers:?}");
        let winner = user(&format!("@user{}:example.org", winners[0]));
        assert_eq!(owner(&*backend.store, &email(&address)).await, Some(winner));
        for contender in 0..count {
            let session = stored(&*backend.store, &format!("sid{round}.{contender}")).await;
            let is_spent = session.record().state == SessionState::Burnt;
            assert_eq!(is_spent, winners.contains(&contender), "contender {contender}");
        }
    }
}

/// Of several sessions opened under one key at once, one is stored and each other gets `conflict`.
async fn one_opens(
    backend: &Backend,
    spawn: Spawner,
    expected: Conflict,
    open: impl Fn(u8, u8) -> ValidationSession,
) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    for round in 0..8_u8 {
        let task = |contender: u8| {
            let store = handles[usize::from(contender) % handles.len()].clone();
            let opened = open(round, contender);
            let id = format!("mail{round}.{contender}");
            let unit = UnitOfWork::new().put_session(opened).enqueue(message(&id, NOW));
            async move { conflict(store.commit(unit).await) }
        };
        let answers = race(spawn, (0..CONTENDERS).map(task).collect()).await;
        let won = answers.iter().filter(|answer| answer.is_none()).count();
        let lost = answers.iter().filter(|answer| **answer == Some(expected)).count();
        assert_eq!((won, lost), (1, usize::from(CONTENDERS) - 1), "{answers:?}");
        let claimed = backend.outbox.claim(NOW, Duration::from_secs(1_000_000), LeaseId::new("l"), 100).await;
        assert_eq!(claimed.expect("the outbox answers").len(), 1, "one mail");
    }
}

/// The same request twice at once: one session, one message, and whoever lost knows why.
pub async fn one_key_used_twice_at_once_opens_one_session(backend: &Backend, spawn: Spawner) {
    let open = |round, contender| session(&format!("sid{round}.{contender}"), key(round));
    one_opens(backend, spawn, Conflict::SessionExists, open).await;
}

/// Two new sessions that share a sid: one is stored.
pub async fn one_sid_used_twice_at_once_opens_one_session(backend: &Backend, spawn: Spawner) {
    let open = |round: u8, contender: u8| {
        let key = KeyedHash::new([round, contender].repeat(16).try_into().expect("32"));
        session(&format!("sid{round}"), key)
    };
    one_opens(backend, spawn, Conflict::StaleSession, open).await;
}

/// Of several who have read one revision, one replaces it.
pub async fn one_revision_is_replaced_once(backend: &Backend, spawn: Spawner) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    put(&*backend.store, session("sid", key(1))).await;
    for revision in 1..=8_u64 {
        let read = stored(&*backend.store, "sid").await;
        assert_eq!(read.record().revision, revision);
        let task = |contender: u8| {
            let store = handles[usize::from(contender) % handles.len()].clone();
            let changed = revised(&read, |record| record.send_attempt = attempt(contender));
            async move { put_conflict(&*store, changed).await }
        };
        let answers = race(spawn, (0..CONTENDERS).map(task).collect()).await;
        let winners: Vec<u8> = (0..CONTENDERS).filter(|c| answers[usize::from(*c)].is_none()).collect();
        let stale = answers.iter().filter(|answer| **answer == Some(Conflict::StaleSession)).count();
        assert_eq!((winners.len(), stale), (1, usize::from(CONTENDERS) - 1), "{answers:?}");
        assert_eq!(stored(&*backend.store, "sid").await.record().send_attempt, attempt(winners[0]));
    }
}

fn attempt(count: u8) -> SendAttempt {
    SendAttempt::new(count.into()).expect("a send_attempt")
}

/// Writers that have nothing in common wait for each other at most; none is turned away.
pub async fn units_that_do_not_meet_are_all_committed(backend: &Backend, spawn: Spawner) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    let task = |contender: u8| {
        let store = handles[usize::from(contender) % handles.len()].clone();
        let sid = format!("sid{contender}");
        let unit = UnitOfWork::new()
            .put_session(session(&sid, key(contender)))
            .put_threepid(threepid("@alice:example.org", &format!("user{contender}@example.org")))
            .enqueue(message(&sid, NOW));
        async move { conflict(store.commit(unit).await) }
    };
    let answers = race(spawn, (0..64).map(task).collect()).await;
    assert!(answers.iter().all(Option::is_none), "{answers:?}");
    assert_eq!(listed(&*backend.store, "@alice:example.org").await.len(), 64);
    let claimed = backend.outbox.claim(NOW, Duration::from_secs(60), LeaseId::new("lease"), 100).await;
    let ids: HashSet<_> = claimed.expect("the outbox answers").into_iter().map(|c| c.message.id).collect();
    assert_eq!(ids.len(), 64);
}

/// A read that begins after a commit was answered sees it, through any handle.
pub async fn whoever_reads_after_a_commit_sees_it(backend: &Backend, spawn: Spawner) {
    let other = Arc::new(backend.reopened().await);
    let task = |writer: u8| {
        let (store, other) = (backend.store.clone(), other.clone());
        async move {
            for turn in 0..8_u8 {
                let sid = format!("sid{writer}.{turn}");
                let key = KeyedHash::new([writer, turn].repeat(16).try_into().expect("32"));
                put(&*store, session(&sid, key)).await;
                assert!(read(&*other.store, &sid).await.is_some(), "by another handle");
                assert!(current(&*store, key).await.is_some(), "by the same handle");
            }
        }
    };
    let answers: Vec<()> = race(spawn, (0..8).map(task).collect()).await;
    assert_eq!(answers.len(), 8);
}
