//! What a store owes about other servers: the sessions that they opened, the proofs of theirs that were spent, where an
//! address is published, what is still owed to them, and the challenges that were passed on.

use super::*;
use crate::model::{
    AuditAction, AuditDoor, AuditEntry, AuditQuery, Binding, BindingState, Challenge, IdentityServerName,
    RemoteSession, Settlement, SpentProof,
};

fn server(name: &str) -> IdentityServerName {
    IdentityServerName::parse(name).expect("a server name")
}

fn phone() -> Address {
    Address::parse(Medium::Msisdn, "447700900813").expect("a phone number")
}

fn remote_session(name: &str, sid: &str, opened_at: Timestamp) -> RemoteSession {
    RemoteSession { server: server(name), sid: Sid::new(sid), address: email("a@example.org"), opened_at }
}

fn proof(name: &str, sid: &str, by: &str) -> SpentProof {
    SpentProof {
        server: server(name),
        sid: Sid::new(sid),
        user_id: user(by),
        key: key(1),
        address: email("a@example.org"),
        spent_at: NOW,
    }
}

fn binding(owner: &str, address: Address, name: &str, state: BindingState) -> Binding {
    Binding { user_id: user(owner), address, server: server(name), state, since: NOW }
}

fn challenge(session: &str, owner: &str, sid: &str) -> Challenge {
    Challenge { session: session.to_owned(), user_id: user(owner), sid: Sid::new(sid), issued_at: NOW }
}

fn owed_unbind(id: &str, of: &Binding) -> OutboxMessage {
    let Binding { user_id, address, server, .. } = of.clone();
    OutboxMessage { payload: Payload::Unbind { user_id, address, server, forget: false }, ..message(id, NOW) }
}

async fn remote(store: &dyn Store, sid: &str) -> Vec<RemoteSession> {
    store.remote_sessions(&Sid::new(sid)).await.expect("the store answers")
}

async fn spent(store: &dyn Store, name: &str, sid: &str) -> Option<SpentProof> {
    store.spent_proof(&server(name), &Sid::new(sid)).await.expect("the store answers")
}

async fn bound(store: &dyn Store, owner: &str, address: &Address) -> Vec<Binding> {
    store.bindings(&user(owner), address).await.expect("the store answers")
}

async fn passed_on(store: &dyn Store, session: &str) -> Option<Challenge> {
    store.challenge(session).await.expect("the store answers")
}

async fn spend(store: &dyn Store, challenge: Challenge) -> Option<Conflict> {
    conflict(store.commit(UnitOfWork::new().spend_challenge(challenge)).await)
}

async fn claimed(backend: &Backend, lease: &str) -> Vec<String> {
    let minute = Duration::from_secs(60);
    let claimed = backend.outbox.claim(NOW, minute, LeaseId::new(lease), 100).await;
    let claimed = claimed.expect("the outbox answers").into_iter();
    let mut ids: Vec<_> = claimed.map(|claimed| claimed.message.id.as_str().to_owned()).collect();
    ids.sort();
    ids
}

/// Two servers may have chosen the same sid. What is remembered last under server and sid counts.
pub async fn sessions_of_identity_servers_are_listed_newest_first(backend: &Backend) {
    let store = &*backend.store;
    assert_eq!(remote(store, "sid").await, []);
    let at = |ms| Timestamp::from_ms(NOW.as_ms() + ms);
    let phone = RemoteSession { address: phone(), ..remote_session("[2001:db8::1]:8090", "sid", at(2)) };
    let sessions = [
        remote_session("b.example", "sid", at(1)),
        phone.clone(),
        remote_session("a.example", "sid", at(1)),
        remote_session("c.example", "sid", at(0)),
        remote_session("c.example", "SID", END_OF_YEAR_9999),
    ];
    let unit = sessions.into_iter().fold(UnitOfWork::new(), UnitOfWork::put_remote_session);
    commit(store, unit).await;
    let same_time = [remote_session("a.example", "sid", at(1)), remote_session("b.example", "sid", at(1))];
    let last = remote_session("c.example", "sid", at(0));
    let [a, b] = same_time.clone();
    assert_eq!(remote(store, "sid").await, [phone.clone(), a, b, last]);
    assert_eq!(remote(store, "SID").await, [remote_session("c.example", "SID", END_OF_YEAR_9999)]);

    let again = RemoteSession {
        address: email("other@example.org"),
        ..remote_session("c.example", "sid", END_OF_YEAR_9999)
    };
    commit(store, UnitOfWork::new().put_remote_session(again.clone())).await;
    let [a, b] = same_time;
    assert_eq!(remote(store, "sid").await, [again, phone, a, b]);
}

/// By whomever: server and sid are spent once. Another server's session of the same sid is another proof.
pub async fn an_identity_servers_proof_is_spent_once(backend: &Backend) {
    let store = &*backend.store;
    assert_eq!(spent(store, "a.example", "sid").await, None);
    let first = SpentProof {
        key: KeyedHash::new(std::array::from_fn(|i| i as u8)),
        address: phone(),
        spent_at: END_OF_YEAR_9999,
        ..proof("a.example", "sid", "@alice/ü:example.org:8448")
    };
    commit(store, UnitOfWork::new().spend_proof(first.clone())).await;
    for by in ["@alice/ü:example.org:8448", "@bob:example.org"] {
        let again = UnitOfWork::new().spend_proof(proof("a.example", "sid", by));
        assert_eq!(conflict(store.commit(again).await), Some(Conflict::ProofSpent), "{by}");
    }
    for (name, sid) in [("b.example", "sid"), ("a.example:8090", "sid"), ("a.example", "SID")] {
        let other = proof(name, sid, "@bob:example.org");
        assert_eq!(spent(store, name, sid).await, None);
        commit(store, UnitOfWork::new().spend_proof(other.clone())).await;
        assert_eq!(spent(store, name, sid).await, Some(other));
    }
    assert_eq!(spent(store, "a.example", "sid").await, Some(first));
}

/// One binding for each account, address and server, the last one put; listed by server name.
pub async fn there_is_one_binding_for_each_account_address_and_server(backend: &Backend) {
    use BindingState::{Bound, Pending};

    let store = &*backend.store;
    let (alice, bob, address) = ("@alice:example.org", "@bob:example.org", email("a@example.org"));
    assert_eq!(bound(store, alice, &address).await, []);
    let pending = |name| binding(alice, address.clone(), name, Pending);
    let others = [
        binding(bob, address.clone(), "b.example", Bound),
        binding("@Alice:example.org", address.clone(), "b.example", Bound),
        binding(alice, email("b@example.org"), "b.example", Bound),
        binding(alice, phone(), "b.example", Bound),
    ];
    let own = ["c.example", "b.example:1", "a.example", "b.example"].map(pending);
    let all = own.into_iter().chain(others.clone());
    commit(store, all.fold(UnitOfWork::new(), UnitOfWork::put_binding)).await;
    let listed = ["a.example", "b.example", "b.example:1", "c.example"].map(pending);
    assert_eq!(bound(store, alice, &address).await, listed);

    let settled = Binding { since: END_OF_YEAR_9999, ..binding(alice, address.clone(), "b.example", Bound) };
    commit(store, UnitOfWork::new().put_binding(settled.clone())).await;
    let [a, _, b1, c] = listed;
    assert_eq!(bound(store, alice, &address).await, [a.clone(), settled.clone(), b1.clone(), c.clone()]);

    let just_before = Timestamp::from_ms(END_OF_YEAR_9999.as_ms() - 1);
    commit(store, UnitOfWork::new().remove_binding(settled.key(), just_before)).await;
    let all = [a.clone(), settled.clone(), b1.clone(), c.clone()];
    assert_eq!(bound(store, alice, &address).await, all, "it was recorded anew since");
    let nothing = pending("x.example").key();
    let unit = UnitOfWork::new().remove_binding(settled.key(), END_OF_YEAR_9999).remove_binding(nothing, NOW);
    commit(store, unit).await;
    assert_eq!(bound(store, alice, &address).await, [a, b1, c]);
    for other in others {
        assert_eq!(bound(store, other.user_id.as_str(), &other.address).await, [other]);
    }
}

/// Another account's address stays; one that is not there is no error; one's own is anybody's afterwards.
pub async fn an_address_is_taken_only_from_the_account_that_is_named(backend: &Backend) {
    let store = &*backend.store;
    let (hers, his) =
        (threepid("@alice:example.org", "a@example.org"), threepid("@bob:example.org", "b@example.org"));
    let other = Threepid { address: phone(), ..hers.clone() };
    let unit = UnitOfWork::new().put_threepid(hers.clone()).put_threepid(his.clone()).put_threepid(other);
    commit(store, unit).await;
    for (owner, address) in [
        ("@bob:example.org", &hers.address),
        ("@Alice:example.org", &hers.address),
        ("@alice:example.org", &his.address),
        ("@alice:example.org", &email("nobodys@example.org")),
    ] {
        commit(store, UnitOfWork::new().remove_threepid(user(owner), address.clone())).await;
    }
    assert_eq!(owner(store, &hers.address).await, Some(hers.user_id.clone()));
    assert_eq!(owner(store, &his.address).await, Some(his.user_id.clone()));

    let now_his = Threepid { user_id: his.user_id.clone(), ..hers.clone() };
    let moved = UnitOfWork::new()
        .remove_threepid(hers.user_id.clone(), hers.address.clone())
        .put_threepid(now_his.clone());
    commit(store, moved).await;
    assert_eq!(listed(store, "@bob:example.org").await, [now_his, his]);
    let left: Vec<_> = listed(store, "@alice:example.org").await.into_iter().map(|t| t.address).collect();
    assert_eq!(left, [phone()]);
}

/// What is owed is claimed as it was written, whatever the medium and the server's name.
pub async fn an_owed_unbind_is_claimed_whole(backend: &Backend) {
    let of = binding("@alice/ü:example.org:8448", phone(), "[2001:db8::1]:8090", BindingState::Bound);
    let owed = owed_unbind("unbind", &of);
    commit(&*backend.store, UnitOfWork::new().enqueue(owed.clone())).await;
    let claimed = backend.outbox.claim(NOW, Duration::from_secs(60), LeaseId::new("lease"), 10).await;
    let claimed: Vec<_> = claimed.expect("the outbox answers").into_iter().map(|c| c.message).collect();
    assert_eq!(claimed, [owed]);
}

/// Waiting, waiting for its next try, or under a claim: it is not claimed again. Whatever else is owed stays owed.
pub async fn an_owed_unbind_is_cancelled_by_its_binding_claimed_or_not(backend: &Backend) {
    let (store, outbox) = (&*backend.store, &*backend.outbox);
    let of = |owner, address, name| binding(owner, address, name, BindingState::Bound);
    let (alice, address) = ("@alice:example.org", email("a@example.org"));
    let ours = of(alice, address.clone(), "a.example");
    let others = [
        ("bobs", of("@bob:example.org", address.clone(), "a.example")),
        ("elsewhere", of(alice, address.clone(), "b.example")),
        ("other port", of(alice, address, "a.example:1")),
        ("other address", of(alice, email("b@example.org"), "a.example")),
        ("phone", of(alice, phone(), "a.example")),
    ];
    let unit = others.iter().fold(UnitOfWork::new(), |unit, (id, of)| unit.enqueue(owed_unbind(id, of)));
    commit(store, unit.enqueue(message("mail", NOW)).enqueue(owed_unbind("leased", &ours))).await;
    let all = ["bobs", "elsewhere", "leased", "mail", "other address", "other port", "phone"];
    assert_eq!(claimed(backend, "first").await, all);
    commit(store, UnitOfWork::new().enqueue(owed_unbind("waiting", &ours))).await;
    commit(store, UnitOfWork::new().cancel_unbind(ours.key())).await;
    assert_eq!(claimed(backend, "second").await, [""; 0], "the waiting one is gone");

    // The claim on the cancelled one is void, the others' claims still hold.
    let settle = async |id: &str| {
        let retry = Settlement::Retry { at: NOW, reason: "later".to_owned() };
        let settled = outbox.settle(&MessageId::new(id), &LeaseId::new("first"), NOW, retry).await;
        settled.expect("the outbox answers")
    };
    for id in all {
        assert_eq!(settle(id).await, id != "leased", "{id}");
    }
    let left = ["bobs", "elsewhere", "mail", "other address", "other port", "phone"];
    assert_eq!(claimed(backend, "third").await, left);

    // In its order: what is owed after the cancelling stays, and to cancel nothing is no error.
    let unit = UnitOfWork::new().cancel_unbind(ours.key()).enqueue(owed_unbind("anew", &ours));
    commit(store, unit.cancel_unbind(of(alice, phone(), "x.example").key())).await;
    assert_eq!(claimed(backend, "fourth").await, ["anew"]);
}

/// Then the account was erased while an identity server was asked. Of another binding, or once nothing is owed any more,
/// it is remembered, whether or not the message that had it done is still there.
pub async fn an_unbind_done_while_one_that_leaves_nothing_is_owed_is_not_remembered(backend: &Backend) {
    let store = &*backend.store;
    let of = |address: &str| binding("@alice:example.org", email(address), "a.example", BindingState::Bound);
    let (erased, other) = (of("a@example.org"), of("b@example.org"));
    let mut forgotten = owed_unbind("forgotten", &erased);
    forgotten.payload = forgotten.payload.to_leave_nothing();
    commit(store, UnitOfWork::new().enqueue(forgotten).enqueue(owed_unbind("other", &other))).await;
    let entry = |of: &Binding| AuditEntry {
        at: NOW,
        user_id: of.user_id.clone(),
        address: of.address.clone(),
        action: AuditAction::Unbound,
        door: AuditDoor::Relay,
        server: Some(of.server.clone()),
        reference: None,
    };
    let remembered = async || {
        let query = AuditQuery { user_id: None, address: None, limit: 10 };
        store.audit_trail(query).await.expect("the store answers").len()
    };
    let unbound = |of: &Binding, id: &str| UnitOfWork::new().audit_unbind(entry(of), MessageId::new(id));
    commit(store, unbound(&erased, "gone")).await;
    commit(store, unbound(&erased, "forgotten")).await;
    assert_eq!(remembered().await, 0);
    commit(store, unbound(&other, "other")).await;
    commit(store, unbound(&other, "gone")).await;
    assert_eq!(remembered().await, 2);
    commit(store, UnitOfWork::new().cancel_unbind(erased.key())).await;
    commit(store, unbound(&erased, "gone")).await;
    assert_eq!(remembered().await, 3);
}

/// A challenge is good for the user and the sid that it was passed on for, until it is spent.
pub async fn a_challenge_is_spent_once_by_its_user_for_its_sid(backend: &Backend) {
    let store = &*backend.store;
    assert_eq!(passed_on(store, "s").await, None);
    let hers = Challenge { issued_at: END_OF_YEAR_9999, ..challenge("s é", "@alice:example.org", "sid") };
    commit(store, UnitOfWork::new().put_challenge(hers.clone())).await;
    for session in ["S é", "s", "s é ", "s e", "%", "", "s é\0", "'"] {
        assert_eq!(passed_on(store, session).await, None, "{session:?}");
    }
    for (owner, sid) in [
        ("@bob:example.org", "sid"),
        ("@Alice:example.org", "sid"),
        ("@alice:example.org", "SID"),
        ("@alice:example.org", "other"),
    ] {
        let answer = spend(store, challenge("s é", owner, sid)).await;
        assert_eq!(answer, Some(Conflict::ChallengeSpent), "{owner} {sid}");
        assert_eq!(passed_on(store, "s é").await, Some(hers.clone()), "{owner} {sid}");
    }
    let unknown = challenge("unknown", "@alice:example.org", "sid");
    assert_eq!(spend(store, unknown).await, Some(Conflict::ChallengeSpent), "never passed on");
    assert_eq!(spend(store, hers.clone()).await, None);
    assert_eq!(passed_on(store, "s é").await, None);
    assert_eq!(spend(store, hers).await, Some(Conflict::ChallengeSpent));
}

/// Neither for another user or sid, nor, once spent, for the same: what was remembered first counts.
pub async fn a_challenge_that_is_remembered_is_not_passed_on_anew(backend: &Backend) {
    let store = &*backend.store;
    let hers = challenge("s", "@alice:example.org", "sid");
    commit(store, UnitOfWork::new().put_challenge(hers.clone())).await;
    for other in [challenge("s", "@bob:example.org", "sid"), challenge("s", "@alice:example.org", "other")] {
        commit(store, UnitOfWork::new().put_challenge(other.clone())).await;
        assert_eq!(passed_on(store, "s").await, Some(hers.clone()));
        assert_eq!(spend(store, other).await, Some(Conflict::ChallengeSpent));
    }
    assert_eq!(spend(store, hers.clone()).await, None);
    commit(store, UnitOfWork::new().put_challenge(hers.clone())).await;
    assert_eq!(passed_on(store, "s").await, None);
    assert_eq!(spend(store, hers).await, Some(Conflict::ChallengeSpent));
}

/// Proof, address, binding and owed messages stand or fall together with the challenge.
pub async fn a_unit_about_other_servers_is_whole_or_nothing(backend: &Backend) {
    let store = &*backend.store;
    let alice = "@alice:example.org";
    let (own, taken) = (threepid(alice, "a@example.org"), threepid("@bob:example.org", "taken@example.org"));
    let known = binding(alice, own.address.clone(), "a.example", BindingState::Bound);
    let (good, used) = (challenge("good", alice, "sid"), challenge("used", alice, "sid"));
    let before = UnitOfWork::new()
        .put_threepid(own.clone())
        .put_threepid(taken.clone())
        .put_binding(known.clone())
        .spend_proof(proof("a.example", "used", alice))
        .enqueue(owed_unbind("owed", &known))
        .put_challenge(good.clone())
        .put_challenge(used.clone())
        .spend_challenge(used.clone());
    commit(store, before).await;
    let everything = || {
        UnitOfWork::new()
            .spend_challenge(good.clone())
            .put_challenge(challenge("new", alice, "sid"))
            .spend_proof(proof("a.example", "new", alice))
            .put_remote_session(remote_session("a.example", "new", NOW))
            .remove_threepid(own.user_id.clone(), own.address.clone())
            .remove_binding(known.key(), NOW)
            .put_binding(binding(alice, own.address.clone(), "b.example", BindingState::Pending))
            .cancel_unbind(known.key())
            .enqueue(message("mail", NOW))
    };
    for (conflicting, expected) in [
        (everything().put_threepid(threepid(alice, "taken@example.org")), Conflict::AddressOwned),
        (everything().spend_proof(proof("a.example", "used", alice)), Conflict::ProofSpent),
        (everything().spend_proof(proof("a.example", "new", alice)), Conflict::ProofSpent),
        (everything().spend_challenge(used), Conflict::ChallengeSpent),
        (everything().spend_challenge(good.clone()), Conflict::ChallengeSpent),
    ] {
        assert_eq!(conflict(store.commit(conflicting).await), Some(expected));
        assert_eq!(passed_on(store, "good").await, Some(good.clone()), "{expected}");
        assert_eq!(passed_on(store, "new").await, None, "{expected}");
        assert_eq!(spent(store, "a.example", "new").await, None, "{expected}");
        assert_eq!(remote(store, "new").await, [], "{expected}");
        assert_eq!(owner(store, &own.address).await, Some(own.user_id.clone()), "{expected}");
        assert_eq!(bound(store, alice, &own.address).await, std::slice::from_ref(&known), "{expected}");
    }
    assert_eq!(claimed(backend, "lease").await, ["owed"]);
}

/// Whoever opens the storage once more sees all of it.
pub async fn what_is_kept_about_other_servers_is_there_after_a_restart(backend: &Backend) {
    let alice = "@alice:example.org";
    let (good, used) = (challenge("good", alice, "sid"), challenge("used", alice, "sid"));
    let known = binding(alice, phone(), "a.example", BindingState::Pending);
    let (session, proof) = (remote_session("a.example", "sid", NOW), proof("a.example", "sid", alice));
    let unit = UnitOfWork::new()
        .put_remote_session(session.clone())
        .spend_proof(proof.clone())
        .put_binding(known.clone())
        .enqueue(owed_unbind("owed", &known))
        .put_challenge(good.clone())
        .put_challenge(used.clone())
        .spend_challenge(used.clone());
    commit(&*backend.store, unit).await;
    let again = backend.reopened().await;
    let store = &*again.store;
    assert_eq!(remote(store, "sid").await, [session]);
    assert_eq!(spent(store, "a.example", "sid").await, Some(proof));
    assert_eq!(bound(store, alice, &phone()).await, std::slice::from_ref(&known));
    assert_eq!(passed_on(store, "used").await, None);
    assert_eq!(spend(store, used).await, Some(Conflict::ChallengeSpent), "a restart revives nothing");
    assert_eq!(spend(store, good).await, None);
    commit(store, UnitOfWork::new().cancel_unbind(known.key())).await;
    assert_eq!(claimed(backend, "lease").await, [""; 0]);
}

/// Exactly one account spends it, with the address that it proves.
pub async fn an_identity_servers_proof_presented_many_times_at_once_is_spent_once(
    backend: &Backend,
    spawn: Spawner,
) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    for round in 0..8_u8 {
        let (sid, count) = (format!("sid{round}"), usize::from(CONTENDERS));
        let task = |contender: u8| {
            let store = handles[usize::from(contender) % handles.len()].clone();
            let (by, address) =
                (format!("@user{contender}:example.org"), format!("{round}.{contender}@example.org"));
            let unit = UnitOfWork::new().put_threepid(threepid(&by, &address)).spend_proof(proof(
                "a.example",
                &sid,
                &by,
            ));
            async move { conflict(store.commit(unit).await) }
        };
        let answers = race(spawn, (0..CONTENDERS).map(task).collect()).await;
        let winners: Vec<_> = (0..count).filter(|contender| answers[*contender].is_none()).collect();
        let losers = answers.iter().filter(|answer| **answer == Some(Conflict::ProofSpent)).count();
        assert_eq!((winners.len(), losers), (1, count - 1), "{answers:?}");
        let by = user(&format!("@user{}:example.org", winners[0]));
        let stored = spent(&*backend.store, "a.example", &sid).await;
        assert_eq!(stored.map(|proof| proof.user_id), Some(by));
        for contender in 0..count {
            let address = email(&format!("{round}.{contender}@example.org"));
            let is_added = owner(&*backend.store, &address).await.is_some();
            assert_eq!(is_added, winners.contains(&contender), "contender {contender}");
        }
    }
}

/// The same answer in several requests at once permits one thing.
pub async fn a_challenge_answered_many_times_at_once_is_spent_once(backend: &Backend, spawn: Spawner) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    for round in 0..8_u8 {
        let hers = challenge(&format!("session{round}"), "@alice:example.org", "sid");
        commit(&*backend.store, UnitOfWork::new().put_challenge(hers.clone())).await;
        let task = |contender: u8| {
            let store = handles[usize::from(contender) % handles.len()].clone();
            let permitted = threepid("@alice:example.org", &format!("{round}.{contender}@example.org"));
            let unit = UnitOfWork::new().put_threepid(permitted).spend_challenge(hers.clone());
            async move { conflict(store.commit(unit).await) }
        };
        let answers = race(spawn, (0..CONTENDERS).map(task).collect()).await;
        let won = answers.iter().filter(|answer| answer.is_none()).count();
        let lost = answers.iter().filter(|answer| **answer == Some(Conflict::ChallengeSpent)).count();
        assert_eq!((won, lost), (1, usize::from(CONTENDERS) - 1), "{answers:?}");
        let permitted = listed(&*backend.store, "@alice:example.org").await.len();
        assert_eq!(permitted, usize::from(round) + 1, "each round permits one");
    }
}
