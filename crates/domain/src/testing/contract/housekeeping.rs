//! What [`Housekeeping`] owes.

use std::time::Duration;

use super::store::{commit, conflict, email, key, message, read, revised, session, user};
use super::{Backend, Spawner, race};
use crate::model::{
    AuditAction, AuditDoor, AuditEntry, AuditQuery, Challenge, Generation, IdentityServerName, IssuedToken,
    LeaseId, MessageId, RemoteSession, SessionState, Settlement, Sid, SpentProof, Timestamp, UnitOfWork,
};
use crate::ports::{Housekeeping, Perishable, Store};

/// So many things are more than any case keeps.
const ALL: usize = 10_000;

/// 2026-01-01T00:00:00Z, and so many milliseconds.
fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(super::store::NOW.as_ms() + ms)
}

fn housekeeping(backend: &Backend) -> &dyn Housekeeping {
    &**backend.housekeeping.as_ref().expect("the backend says who keeps it")
}

async fn purge(backend: &Backend, what: Perishable, before: Timestamp, limit: usize) -> usize {
    housekeeping(backend).purge(what, before, limit).await.expect("storage answers")
}

/// Removes everything of every other kind, however young; so a case sees that it removed nothing else.
async fn purge_all_but(backend: &Backend, kept: Perishable) {
    for what in Perishable::ALL.into_iter().filter(|what| *what != kept) {
        purge(backend, what, super::store::END_OF_YEAR_9999, ALL).await;
    }
}

fn server(name: &str) -> IdentityServerName {
    IdentityServerName::parse(name).expect("a server name")
}

/// Nothing to remove is no error.
pub async fn an_empty_storage_has_nothing_to_remove(backend: &Backend) {
    for what in Perishable::ALL {
        assert_eq!(purge(backend, what, super::store::END_OF_YEAR_9999, ALL).await, 0, "{}", what.as_str());
    }
}

/// Opening, the end of a token, the proof: whichever comes last. Not at that time, and after it.
pub async fn a_session_leaves_by_the_last_time_that_it_speaks_of(backend: &Backend) {
    let store = &*backend.store;
    let token = |ms| IssuedToken {
        generation: Generation(1),
        expires_at: at(ms),
        next_link: None,
        with_code: false,
        withheld: false,
    };
    let by = || user("@alice:example.org");
    let states = [
        ("opened", 1000, vec![token(1)], SessionState::Pending { wrong_tokens: 0 }),
        ("issued", 1, vec![token(500), token(1000)], SessionState::Pending { wrong_tokens: 4 }),
        ("burnt", 1, vec![token(1000)], SessionState::Burnt),
        ("validated", 1, vec![token(500)], SessionState::Validated { at: at(1000) }),
        ("consumed", 1, vec![token(500)], SessionState::Consumed { validated_at: at(1000), by: by() }),
    ];
    for (byte, (sid, created, tokens, state)) in (1..).zip(states.clone()) {
        let session = revised(&session(sid, key(byte)), |record| {
            record.created_at = at(created);
            record.tokens = tokens;
            record.state = state;
        });
        commit(store, UnitOfWork::new().put_session(session)).await;
    }
    purge_all_but(backend, Perishable::Sessions).await;
    assert_eq!(purge(backend, Perishable::Sessions, at(1000), ALL).await, 0);
    for (sid, ..) in &states {
        assert!(read(store, sid).await.is_some(), "{sid}");
    }
    assert_eq!(purge(backend, Perishable::Sessions, at(1001), ALL).await, states.len());
    for (sid, ..) in &states {
        assert!(read(store, sid).await.is_none(), "{sid}");
    }
}

/// Its key is free again, and whoever has read it before meets a conflict.
pub async fn a_session_that_left_can_neither_be_changed_nor_found(backend: &Backend) {
    let store = &*backend.store;
    commit(store, UnitOfWork::new().put_session(session("old", key(1)))).await;
    let old = read(store, "old").await.expect("it is there");
    assert_eq!(purge(backend, Perishable::Sessions, super::store::END_OF_YEAR_9999, ALL).await, 1);
    assert_eq!(store.current_session(key(1)).await.expect("the store answers"), None);
    let changed = revised(&old, |record| record.state = SessionState::Burnt);
    let answer = store.commit(UnitOfWork::new().put_session(changed)).await;
    assert!(conflict(answer).is_some(), "what left is not made anew by a change");
    commit(store, UnitOfWork::new().put_session(session("new", key(1)))).await;
}

/// Sessions by when they were opened, proofs by when they were spent.
pub async fn what_other_servers_said_leaves_by_its_age(backend: &Backend) {
    let store = &*backend.store;
    let sid = Sid::new("sid");
    for (name, ms) in [("old.example", 1), ("new.example", 2)] {
        let address = email("a@example.org");
        let opened = RemoteSession {
            server: server(name),
            sid: sid.clone(),
            address: address.clone(),
            opened_at: at(ms),
        };
        let user_id = user("@alice:example.org");
        let (server, sid) = (server(name), sid.clone());
        let spent = SpentProof { server, sid, user_id, key: key(1), address, spent_at: at(ms) };
        commit(store, UnitOfWork::new().put_remote_session(opened).spend_proof(spent)).await;
    }
    let left = async || {
        let sessions = store.remote_sessions(&sid).await.expect("the store answers").len();
        let mut proofs = 0;
        for name in ["old.example", "new.example"] {
            let proof = store.spent_proof(&server(name), &sid).await.expect("the store answers");
            proofs += usize::from(proof.is_some());
        }
        (sessions, proofs)
    };
    for (what, after) in [(Perishable::RemoteSessions, (1, 2)), (Perishable::SpentProofs, (1, 1))] {
        assert_eq!(purge(backend, what, at(1), ALL).await, 0);
        assert_eq!(purge(backend, what, at(2), ALL).await, 1);
        assert_eq!(left().await, after);
    }
    let sessions = store.remote_sessions(&sid).await.expect("the store answers");
    assert_eq!(sessions.first().map(|session| session.server.clone()), Some(server("new.example")));
}

/// By when it was passed on.
pub async fn a_challenge_leaves_by_its_age_spent_or_not(backend: &Backend) {
    let store = &*backend.store;
    let challenge = |session: &str, ms| Challenge {
        session: session.to_owned(),
        user_id: user("@alice:example.org"),
        sid: Sid::new("sid"),
        issued_at: at(ms),
    };
    let unit = UnitOfWork::new()
        .put_challenge(challenge("spent", 1))
        .put_challenge(challenge("unspent", 1))
        .put_challenge(challenge("new", 2))
        .spend_challenge(challenge("spent", 1));
    commit(store, unit).await;
    purge_all_but(backend, Perishable::Challenges).await;
    assert_eq!(purge(backend, Perishable::Challenges, at(1), ALL).await, 0);
    assert_eq!(purge(backend, Perishable::Challenges, at(2), ALL).await, 2);
    let known = async |session: &str| store.challenge(session).await.expect("the store answers").is_some();
    assert_eq!((known("unspent").await, known("new").await), (false, true));
    let answer = store.commit(UnitOfWork::new().spend_challenge(challenge("unspent", 1))).await;
    assert!(conflict(answer).is_some(), "what is not remembered is not spent");
}

async fn settle(backend: &Backend, id: &str, now: Timestamp, settlement: Settlement) {
    let outbox = &*backend.outbox;
    commit(&*backend.store, UnitOfWork::new().enqueue(message(id, at(0)))).await;
    let claimed = outbox.claim(now, Duration::from_secs(60), LeaseId::new(id), ALL).await;
    assert!(claimed.expect("the outbox answers").iter().any(|claimed| claimed.message.id.as_str() == id));
    let settled = outbox.settle(&MessageId::new(id), &LeaseId::new(id), now, settlement).await;
    assert!(settled.expect("the outbox answers"), "{id}");
}

/// A message that is owed, waits, is tried or is dead stays, however old.
pub async fn settled_messages_leave_by_when_they_were_settled_and_others_stay(backend: &Backend) {
    let reason = || "why".to_owned();
    settle(backend, "sent", at(1000), Settlement::Sent).await;
    settle(backend, "expired", at(1000), Settlement::Expired).await;
    settle(backend, "later", at(2000), Settlement::Sent).await;
    settle(backend, "dead", at(1000), Settlement::Dead { reason: reason() }).await;
    settle(backend, "waits", at(1000), Settlement::Retry { at: at(5000), reason: reason() }).await;
    commit(&*backend.store, UnitOfWork::new().enqueue(message("owed", at(0)))).await;
    purge_all_but(backend, Perishable::SettledMessages).await;
    // A storage may forget a settled message at once.
    let early = purge(backend, Perishable::SettledMessages, at(1000), ALL).await;
    assert_eq!(early, 0, "none was settled before");
    assert!(purge(backend, Perishable::SettledMessages, at(1001), ALL).await <= 2);
    assert!(purge(backend, Perishable::SettledMessages, super::store::END_OF_YEAR_9999, ALL).await <= 1);
    let owed = backend.outbox.claim(at(5000), Duration::ZERO, LeaseId::new("again"), ALL).await;
    let mut owed: Vec<_> = owed.expect("the outbox answers").into_iter().map(|one| one.message.id).collect();
    owed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    assert_eq!(owed, [MessageId::new("owed"), MessageId::new("waits")]);
    if let Some(records) = &backend.records {
        let dead = records.message(&MessageId::new("dead")).await.expect("the outbox answers");
        assert!(dead.is_some(), "a dead message stays until an operator decides");
    }
}

/// By when each change was decided.
pub async fn audit_entries_leave_by_their_age(backend: &Backend) {
    let store = &*backend.store;
    for ms in [1, 2, 3] {
        let entry = AuditEntry {
            at: at(ms),
            user_id: user("@alice:example.org"),
            address: email("a@example.org"),
            action: AuditAction::Added,
            door: AuditDoor::Add,
            server: None,
            reference: None,
        };
        commit(store, UnitOfWork::new().audit(entry)).await;
    }
    purge_all_but(backend, Perishable::AuditEntries).await;
    assert_eq!(purge(backend, Perishable::AuditEntries, at(1), ALL).await, 0);
    assert_eq!(purge(backend, Perishable::AuditEntries, at(3), ALL).await, 2);
    let query = AuditQuery { user_id: None, address: None, limit: ALL };
    let left = store.audit_trail(query).await.expect("the store answers");
    assert_eq!(left.into_iter().map(|entry| entry.at).collect::<Vec<_>>(), [at(3)]);
}

async fn open_many(store: &dyn Store, count: u8) {
    for byte in 0..count {
        let session = revised(&session(&format!("sid{byte}"), key(byte)), |record| {
            record.created_at = at(u64::from(byte));
            record.tokens.iter_mut().for_each(|token| token.expires_at = at(u64::from(byte)));
        });
        commit(store, UnitOfWork::new().put_session(session)).await;
    }
}

/// A limit of nothing removes nothing.
pub async fn the_oldest_leave_first_up_to_the_limit(backend: &Backend) {
    let store = &*backend.store;
    open_many(store, 10).await;
    for (limit, removed, oldest) in [(0, 0, 0), (3, 3, 3), (4, 4, 7), (4, 1, 8), (4, 0, 8)] {
        assert_eq!(purge(backend, Perishable::Sessions, at(8), limit).await, removed);
        for byte in 0..10 {
            let is_there = read(store, &format!("sid{byte}")).await.is_some();
            assert_eq!(is_there, byte >= oldest, "sid{byte}");
        }
    }
}

/// Whoever opens the storage once more does not find it either.
pub async fn what_left_stays_away_after_a_restart(backend: &Backend) {
    open_many(&*backend.store, 2).await;
    assert_eq!(purge(backend, Perishable::Sessions, at(1), ALL).await, 1);
    let again = backend.reopened().await;
    assert_eq!(read(&*again.store, "sid0").await, None);
    assert!(read(&*again.store, "sid1").await.is_some());
}

/// Several instances do this at any time; together they remove all of it.
pub async fn many_that_remove_at_once_count_each_thing_once(backend: &Backend, spawn: Spawner) {
    open_many(&*backend.store, 60).await;
    let housekeeping = backend.housekeeping.as_ref().expect("the backend says who keeps it");
    let task = |_| {
        let housekeeping = housekeeping.clone();
        async move {
            let mut removed = 0;
            for _ in 0..20 {
                let batch = housekeeping.purge(Perishable::Sessions, at(1000), 7).await;
                removed += batch.expect("storage answers");
            }
            removed
        }
    };
    let removed: usize = race(spawn, (0..4).map(task).collect()).await.into_iter().sum();
    let rest = purge(backend, Perishable::Sessions, at(1000), ALL).await;
    assert_eq!(removed + rest, 60);
}

/// A unit either came first, and then the session is young again and stays, or it meets a conflict.
pub async fn a_session_that_is_used_meanwhile_is_whole_or_gone(backend: &Backend, spawn: Spawner) {
    for round in 0..8_u8 {
        let sid = format!("sid{round}");
        commit(&*backend.store, UnitOfWork::new().put_session(session(&sid, key(round)))).await;
        let stored = read(&*backend.store, &sid).await.expect("it is there");
        let used = revised(&stored, |record| record.state = SessionState::Validated { at: at(1 << 40) });
        let (store, keeping) = (backend.store.clone(), backend.housekeeping.clone());
        let before = at(1 << 39);
        let tasks: Vec<super::BoxFuture<usize>> = vec![
            Box::pin(async move {
                let answer = store.commit(UnitOfWork::new().put_session(used)).await;
                usize::from(conflict(answer).is_none())
            }),
            Box::pin(async move {
                let keeping = keeping.expect("the backend says who keeps it");
                keeping.purge(Perishable::Sessions, before, ALL).await.expect("storage answers")
            }),
        ];
        let answers = race(spawn, tasks).await;
        let is_there = read(&*backend.store, &sid).await.is_some();
        assert_eq!(answers, [usize::from(is_there), usize::from(!is_there)], "round {round}");
    }
}
