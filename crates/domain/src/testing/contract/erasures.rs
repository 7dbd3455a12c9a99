//! What [`Erasures`](crate::ports::Erasures) owe, over a storage whose accounts can be looked up.

use std::time::Duration;

use super::account_records::{everything, kept_about};
use super::store::{NOW, commit, conflict, email, message, user};
use super::{Backend, BoxFuture, Spawner, race};
use crate::model::{
    AuditEntry, AuditQuery, Binding, BindingKey, BindingState, Claimed, EmailAddress, Erased, Erasure,
    Generation, IdentityServerName, LeaseId, MessageId, MessageRecord, MessageState, OutboxMessage, Payload,
    Settlement, Sid, SpentProof, Threepid, UnitOfWork, UponErasure, UserId,
};
use crate::ports::{AccountRecord, Conflict, EndOfErasure};

const ALICE: &str = "@alice:example.org";
/// A pattern of which would match Alice.
const PATTERN: &str = "@al_ce:example.org";

fn unbind(id: &str, key: &BindingKey, forget: bool) -> OutboxMessage {
    let BindingKey { user_id, address, server } = key.clone();
    OutboxMessage { payload: Payload::Unbind { user_id, address, server, forget }, ..message(id, NOW) }
}

fn key_of(account: &str, address: &str) -> BindingKey {
    let server = IdentityServerName::parse("id.example").expect("a server name");
    BindingKey { user_id: user(account), address: email(address), server }
}

/// The end of an account as it stands, with an unbind for each binding and each one owed; their ids begin with `name`.
fn erasure(account: &str, name: &str, record: &AccountRecord) -> Erasure {
    let is_replaced = |message: &&MessageRecord| message.upon_erasure() == Some(UponErasure::IsReplaced);
    let replaced: Vec<_> = record.messages.iter().filter(is_replaced).collect();
    let bindings: Vec<_> = record.bindings.iter().map(Binding::key).collect();
    let owed = replaced.iter().filter_map(|message| message.payload.as_ref()?.binding());
    let keys = bindings.iter().cloned().chain(owed);
    let unbinds = keys.enumerate().map(|(number, key)| unbind(&format!("{name}-{number}"), &key, true));
    Erasure {
        user_id: user(account),
        addresses: record.threepids.iter().map(|threepid| threepid.address.clone()).collect(),
        unbinds: unbinds.collect(),
        bindings,
        replaced: replaced.iter().map(|message| message.id.clone()).collect(),
        subjects: vec![account.to_owned()],
    }
}

async fn erase(backend: &Backend, erasure: Erasure) -> EndOfErasure {
    let erasures = backend.erasures.as_ref().expect("the backend says what erases its accounts");
    erasures.erase(erasure).await.expect("storage answers")
}

/// Erases what is there now.
async fn erase_now(backend: &Backend, account: &str, name: &str) -> EndOfErasure {
    erase(backend, erasure(account, name, &kept_about(backend, account).await)).await
}

async fn claim(backend: &Backend, lease: &str) -> Vec<Claimed> {
    let claimed = backend.outbox.claim(NOW, Duration::from_secs(60), LeaseId::new(lease), 100).await;
    claimed.expect("the outbox answers")
}

async fn settle(backend: &Backend, id: &str, lease: &str, settlement: Settlement) -> bool {
    let settled = backend.outbox.settle(&MessageId::new(id), &LeaseId::new(lease), NOW, settlement).await;
    settled.expect("the outbox answers")
}

async fn named(backend: &Backend, limit: usize) -> Vec<String> {
    let accounts = backend.accounts.as_ref().expect("the backend says what knows its accounts");
    let (mut all, mut last): (Vec<String>, Option<UserId>) = (Vec::new(), None);
    loop {
        let page = accounts.accounts(last, limit).await.expect("storage answers");
        assert!(page.len() <= limit, "{page:?}");
        last = page.last().cloned();
        all.extend(page.iter().map(|user_id| user_id.as_str().to_owned()));
        if last.is_none() {
            return all;
        }
    }
}

/// However many addresses there are, and sessions and mails for them.
pub async fn an_account_of_thousands_of_addresses_is_shown_and_erased(backend: &Backend) {
    const MANY: usize = 2_500;
    let mut unit = UnitOfWork::new();
    for number in 0..MANY {
        let address = format!("a{number}@example.org");
        let threepid =
            Threepid { user_id: user(ALICE), address: email(&address), validated_at: NOW, added_at: NOW };
        let mail = Payload::ValidationMail {
            to: EmailAddress::parse(&address).expect("an address"),
            sid: Sid::new(format!("of{number}")),
            generation: Generation(1),
            with_code: false,
        };
        unit = unit.put_threepid(threepid);
        unit = unit.enqueue(OutboxMessage { payload: mail, ..message(&format!("mail{number}"), NOW) });
    }
    commit(&*backend.store, unit).await;
    let kept = kept_about(backend, ALICE).await;
    assert_eq!((kept.threepids.len(), kept.messages.len()), (MANY, MANY));
    let erased = Erased { threepids: MANY, messages: MANY, ..Erased::default() };
    assert_eq!(erase_now(backend, ALICE, "e").await, EndOfErasure::Done(erased));
    assert_eq!(kept_about(backend, ALICE).await, AccountRecord::default());
}

/// It is no error, and nothing is counted.
pub async fn an_account_that_was_never_here_is_erased_without_a_trace(backend: &Backend) {
    commit(&*backend.store, everything(PATTERN, "bb", "al_ce@example.org", NOW)).await;
    let before = kept_about(backend, PATTERN).await;
    assert_eq!(erase_now(backend, ALICE, "e").await, EndOfErasure::Done(Erased::default()));
    assert_eq!(kept_about(backend, PATTERN).await, before);
}

/// However alike names and addresses are, nothing of another account's is touched.
pub async fn everything_of_an_account_goes_and_its_neighbours_stay(backend: &Backend) {
    let store = &*backend.store;
    let neighbours =
        [(PATTERN, "bb", "al_ce@example.org"), ("@alice:example.org:8448", "ccc", "malice@example.org")];
    commit(store, everything(ALICE, "a", "alice@example.org", NOW)).await;
    let mut before = Vec::new();
    for (account, name, address) in neighbours {
        commit(store, everything(account, name, address, NOW)).await;
        before.push(kept_about(backend, account).await);
    }
    let erased = Erased {
        threepids: 1,
        sessions: 2,
        remote_sessions: 1,
        spent_proofs: 1,
        bindings: 1,
        challenges: 1,
        messages: 2,
        owed_unbinds: 2,
        audit_entries: 1,
        ..Erased::default()
    };
    assert_eq!(erase_now(backend, ALICE, "e").await, EndOfErasure::Done(erased));

    let mut kept = kept_about(backend, ALICE).await;
    let owed: Vec<_> = kept.messages.iter().map(|message| (message.id.as_str(), message.state)).collect();
    assert_eq!(owed, [("e-0", MessageState::Queued), ("e-1", MessageState::Queued)]);
    kept.messages.clear();
    assert_eq!(kept, AccountRecord::default());
    for ((account, _, _), before) in neighbours.into_iter().zip(before) {
        assert_eq!(kept_about(backend, account).await, before);
    }
    let sessions =
        [store.session(&Sid::new("a-pending")).await, store.session(&Sid::new("a-consumed")).await];
    assert!(sessions.iter().all(|session| matches!(session, Ok(None))), "{sessions:?}");
    let claimed: Vec<_> = claim(backend, "lease").await.into_iter().map(|one| one.message.id).collect();
    let expected =
        ["bb-mail", "bb-unbind", "bb-zmirror", "ccc-mail", "ccc-unbind", "ccc-zmirror", "e-0", "e-1"];
    let mut claimed: Vec<_> = claimed.iter().map(MessageId::as_str).collect();
    claimed.sort_unstable();
    assert_eq!(claimed, expected);
}

/// The proof stays spent, the entry stays counted; neither says whose it was.
pub async fn what_stays_of_an_account_has_no_name(backend: &Backend) {
    let store = &*backend.store;
    commit(store, everything(ALICE, "a", "alice@example.org", NOW)).await;
    let proof = kept_about(backend, ALICE).await.spent_proofs.remove(0);
    erase_now(backend, ALICE, "e").await;
    let stays = store.spent_proof(&proof.server, &proof.sid).await.expect("the store answers");
    assert_eq!(stays, Some(proof.clone().nameless()));
    let again = SpentProof { user_id: user("@bob:example.org"), ..proof };
    let answer = store.commit(UnitOfWork::new().spend_proof(again)).await;
    assert_eq!(conflict(answer), Some(Conflict::ProofSpent));
    let query = AuditQuery { user_id: None, address: None, limit: 10 };
    let entries = store.audit_trail(query).await.expect("the store answers");
    let entry = entries.first().expect("the entry stays");
    assert_eq!((entries.len(), entry), (1, &entry.clone().nameless()));
    assert_eq!(entry.at, NOW);
}

/// The second time there is nothing, and what the first left owing stays owed, under the same ids.
pub async fn an_account_that_is_erased_twice_is_erased_once(backend: &Backend) {
    commit(&*backend.store, everything(ALICE, "a", "alice@example.org", NOW)).await;
    erase_now(backend, ALICE, "first").await;
    let left = kept_about(backend, ALICE).await;
    assert_eq!(erase_now(backend, ALICE, "second").await, EndOfErasure::Done(Erased::default()));
    assert_eq!(kept_about(backend, ALICE).await, left);
}

/// What came between the look and the erasure is not lost in it.
pub async fn an_erasure_that_does_not_know_all_changes_nothing(backend: &Backend) {
    let store = &*backend.store;
    commit(store, everything(ALICE, "a", "alice@example.org", NOW)).await;
    let before = erasure(ALICE, "e", &kept_about(backend, ALICE).await);
    let key = key_of(ALICE, "new@example.org");
    let bound = Binding {
        user_id: key.user_id.clone(),
        address: key.address.clone(),
        server: key.server.clone(),
        state: BindingState::Pending,
        since: NOW,
    };
    for unit in [
        UnitOfWork::new().put_threepid(super::store::threepid(ALICE, "new@example.org")),
        UnitOfWork::new().put_binding(bound),
        UnitOfWork::new().enqueue(unbind("owed anew", &key, false)),
    ] {
        commit(store, unit).await;
        let now = kept_about(backend, ALICE).await;
        assert_eq!(erase(backend, before.clone()).await, EndOfErasure::Outdated);
        assert_eq!(kept_about(backend, ALICE).await, now);
        commit(store, UnitOfWork::new().remove_threepid(user(ALICE), email("new@example.org"))).await;
        commit(store, UnitOfWork::new().remove_binding(key.clone(), NOW).cancel_unbind(key.clone())).await;
    }
    // Nor one that knows what is not there any more.
    commit(store, UnitOfWork::new().remove_threepid(user(ALICE), email("alice@example.org"))).await;
    assert_eq!(erase(backend, before).await, EndOfErasure::Outdated);
}

/// A dead one stays dead, a settled one goes, and of the owed one another is owed, whoever is trying it.
pub async fn an_unbind_becomes_one_that_will_leave_nothing(backend: &Backend) {
    let store = &*backend.store;
    let keys = ["dead", "sent", "tried"].map(|name| (name, key_of(ALICE, &format!("{name}@example.org"))));
    let unit = keys.iter().fold(UnitOfWork::new(), |unit, (id, key)| unit.enqueue(unbind(id, key, false)));
    commit(store, unit).await;
    assert_eq!(claim(backend, "lease").await.len(), 3);
    assert!(settle(backend, "dead", "lease", Settlement::Dead { reason: "refused".to_owned() }).await);
    assert!(settle(backend, "sent", "lease", Settlement::Sent).await);
    let erased = Erased { messages: 1, owed_unbinds: 1, dead_unbinds: 1, ..Erased::default() };
    assert_eq!(erase_now(backend, ALICE, "e").await, EndOfErasure::Done(erased));
    let mut left: Vec<_> = kept_about(backend, ALICE).await.messages;
    left.sort_by(|a, b| a.id.cmp(&b.id));
    let told: Vec<_> = left.iter().map(|record| (record.id.as_str(), record.state)).collect();
    assert_eq!(told, [("dead", MessageState::Dead), ("e-0", MessageState::Queued)]);
    assert!(
        left.iter().all(|record| record.payload.as_ref().is_some_and(Payload::leaves_nothing)),
        "{left:?}"
    );
    assert_eq!(left.first().and_then(|record| record.last_error.as_deref()), Some("refused"));
    assert!(!settle(backend, "tried", "lease", Settlement::Sent).await, "the claim on it is void");
    let again: Vec<_> = claim(backend, "again").await.into_iter().map(|one| one.message.id).collect();
    assert_eq!(again, [MessageId::new("e-0")]);
    assert!(settle(backend, "e-0", "again", Settlement::Forget).await);
    assert_eq!(kept_about(backend, ALICE).await.messages.len(), 1);
}

/// Whatever kind of thing names it. Who is erased, or only named by what will leave nothing, is not among them.
pub async fn every_account_is_named_once(backend: &Backend) {
    let store = &*backend.store;
    assert_eq!(named(backend, 1).await, [""; 0]);
    let accounts =
        ["@a:example.org", "@B:example.org", "@b:example.org", "@é:example.org", "@_:example.org:8448"];
    for (number, account) in accounts.into_iter().enumerate() {
        let name = "x".repeat(number + 1);
        commit(store, everything(account, &name, &format!("{name}@example.org"), NOW)).await;
    }
    let alone = "@owed:example.org";
    commit(store, UnitOfWork::new().enqueue(unbind("alone", &key_of(alone, "o@example.org"), false))).await;
    for limit in [1, 2, 100] {
        let mut all = named(backend, limit).await;
        all.sort_unstable();
        let mut expected = [&accounts[..], &[alone]].concat();
        expected.sort_unstable();
        assert_eq!(all, expected, "{limit} at a time");
    }
    for account in accounts.into_iter().chain([alone]) {
        erase_now(backend, account, account).await;
    }
    assert_eq!(named(backend, 2).await, [""; 0]);
}

/// What is added at once is there whole, or gone whole: the erasure, which has looked before, sees it or does not.
pub async fn what_is_added_at_once_is_whole_or_gone(backend: &Backend, spawn: Spawner) {
    const TURNS: usize = 40;
    for turn in 1..=TURNS {
        let name = "x".repeat(turn);
        let (store, unit) =
            (backend.store.clone(), everything(ALICE, &name, &format!("{name}@example.org"), NOW));
        let seen = erasure(ALICE, &format!("seen{turn}"), &kept_about(backend, ALICE).await);
        let erasures = backend.erasures.clone().expect("the backend says what erases its accounts");
        let accounts = backend.accounts.clone().expect("the backend says what knows its accounts");
        let add: BoxFuture<()> = Box::pin(async move { commit(&*store, unit).await });
        let end: BoxFuture<()> = Box::pin(async move {
            let mut next = seen;
            while erasures.erase(next).await.expect("storage answers") == EndOfErasure::Outdated {
                let record = accounts.kept_about(user(ALICE)).await.expect("storage answers");
                next = erasure(ALICE, &format!("again{turn}"), &record);
            }
        });
        race(spawn, vec![end, add]).await;
        let kept = kept_about(backend, ALICE).await;
        let is_its_own = |message: &&MessageRecord| message.upon_erasure() != Some(UponErasure::Stays);
        let counts = [
            kept.threepids.len(),
            kept.sessions.len(),
            kept.remote_sessions.len(),
            kept.spent_proofs.len(),
            kept.bindings.len(),
            kept.challenges.len(),
            kept.audit.len(),
            kept.messages.iter().filter(is_its_own).count(),
        ];
        assert!(counts == [0; 8] || counts == [1, 2, 1, 1, 1, 1, 1, 3], "turn {turn}: {counts:?}");
        erase_now(backend, ALICE, &format!("last{turn}")).await;
        let owed = kept_about(backend, ALICE).await.messages.len();
        assert_eq!(owed, 2 * turn, "turn {turn}: what was bound is owed to be forgotten");
    }
    let query = AuditQuery { user_id: None, address: None, limit: 100 };
    let entries = backend.store.audit_trail(query).await.expect("the store answers");
    assert!(entries.iter().all(|entry| *entry == AuditEntry::nameless(entry.clone())), "{entries:?}");
    assert_eq!(entries.len(), TURNS);
}

/// The whole of an erasure outlives the process.
pub async fn what_was_erased_is_gone_after_a_restart(backend: &Backend) {
    commit(&*backend.store, everything(ALICE, "a", "alice@example.org", NOW)).await;
    erase_now(backend, ALICE, "e").await;
    let again = backend.reopened().await;
    let threepids = again.store.threepids(&user(ALICE)).await.expect("the store answers");
    assert_eq!(threepids, []);
    let claimed = again.outbox.claim(NOW, Duration::from_secs(60), LeaseId::new("lease"), 100).await;
    assert_eq!(claimed.expect("the outbox answers").len(), 2);
}
