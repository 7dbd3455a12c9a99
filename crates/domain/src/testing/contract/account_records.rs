//! What [`AccountRecords`](crate::ports::AccountRecords) owe.

use super::Backend;
use super::store::{NOW, commit, email, key, message, revised, session, threepid, user};
use crate::model::{
    AuditAction, AuditDoor, AuditEntry, Binding, BindingState, Challenge, EmailAddress, Generation,
    IdentityServerName, MessageId, OutboxMessage, Payload, RemoteSession, SessionState, Sid, SpentProof,
    Timestamp, UnitOfWork,
};
use crate::ports::AccountRecord;

const ALICE: &str = "@alice:example.org";
/// A pattern of which would match Alice.
const PATTERN: &str = "@al_ce:example.org";

fn later(ms: u64) -> Timestamp {
    Timestamp::from_ms(NOW.as_ms() + ms)
}

pub(super) async fn kept_about(backend: &Backend, name: &str) -> AccountRecord {
    let accounts = backend.accounts.as_ref().expect("the backend says what knows its accounts");
    accounts.kept_about(user(name)).await.expect("storage answers")
}

/// One of everything, of an account that owns `address`; its ids begin with `name`.
pub(super) fn everything(account: &str, name: &str, address: &str, at: Timestamp) -> UnitOfWork {
    let id = |what: &str| format!("{name}-{what}");
    let byte = name.len().try_into().unwrap_or(0);
    let (user_id, address, to) =
        (user(account), email(address), EmailAddress::parse(address).expect("an email address"));
    let server = IdentityServerName::parse("id.example").expect("a server name");
    let pending = revised(&session(&id("pending"), key(byte)), |record| {
        record.address = address.clone();
        record.created_at = at;
    });
    // Of an address that the account does not own any more.
    let consumed = revised(&session(&id("consumed"), key(byte + 100)), |record| {
        record.address = email("gone@example.org");
        record.created_at = at.plus(std::time::Duration::from_millis(1));
        record.state = SessionState::Consumed { validated_at: NOW, by: user_id.clone() };
    });
    let owed = |what: &str, payload| OutboxMessage { payload, created_at: at, ..message(&id(what), NOW) };
    let mail = Payload::ValidationMail {
        to,
        sid: Sid::new(id("pending")),
        generation: Generation(1),
        with_code: false,
    };
    let unbind = Payload::Unbind {
        user_id: user_id.clone(),
        address: email("gone@example.org"),
        server: server.clone(),
        forget: false,
    };
    UnitOfWork::new()
        .put_threepid(threepid(account, address.as_str()))
        .put_session(pending)
        .put_session(consumed)
        .put_remote_session(RemoteSession {
            server: server.clone(),
            sid: Sid::new(id("remote")),
            address: address.clone(),
            opened_at: at,
        })
        .spend_proof(SpentProof {
            server: server.clone(),
            sid: Sid::new(id("proof")),
            user_id: user_id.clone(),
            key: key(byte),
            address: address.clone(),
            spent_at: at,
        })
        .put_binding(Binding {
            user_id: user_id.clone(),
            address: address.clone(),
            server,
            state: BindingState::Bound,
            since: at,
        })
        .put_challenge(Challenge {
            session: id("challenge"),
            user_id: user_id.clone(),
            sid: Sid::new(id("pending")),
            issued_at: at,
        })
        .enqueue(owed("mail", mail))
        .enqueue(owed("unbind", unbind))
        .enqueue(owed("zmirror", Payload::Mirror { user_id: user_id.clone() }))
        .audit(AuditEntry {
            at,
            user_id,
            address,
            action: AuditAction::Added,
            door: AuditDoor::Add,
            server: None,
            reference: None,
        })
}

/// No error.
pub async fn nothing_is_kept_about_an_account_that_was_never_here(backend: &Backend) {
    assert_eq!(kept_about(backend, ALICE).await, AccountRecord::default());
}

/// And nothing of another account's, however alike their names and addresses are.
pub async fn everything_about_an_account_is_found(backend: &Backend) {
    let store = &*backend.store;
    commit(store, everything(ALICE, "a", "alice@example.org", NOW)).await;
    commit(store, everything(PATTERN, "bb", "al_ce@example.org", NOW)).await;
    commit(store, everything("@alice:example.org:8448", "ccc", "malice@example.org", NOW)).await;
    for (account, name, address) in [
        (ALICE, "a", "alice@example.org"),
        (PATTERN, "bb", "al_ce@example.org"),
        ("@alice:example.org:8448", "ccc", "malice@example.org"),
    ] {
        let kept = kept_about(backend, account).await;
        let id = |what: &str| format!("{name}-{what}");
        let addresses: Vec<_> = kept.threepids.iter().map(|one| one.address.as_str()).collect();
        assert_eq!(addresses, [address]);
        let sids: Vec<_> = kept.sessions.iter().map(|one| one.sid().as_str().to_owned()).collect();
        assert_eq!(sids, [id("pending"), id("consumed")]);
        let sids: Vec<_> = kept.remote_sessions.iter().map(|one| one.sid.as_str().to_owned()).collect();
        assert_eq!(sids, [id("remote")]);
        let sids: Vec<_> = kept.spent_proofs.iter().map(|one| one.sid.as_str().to_owned()).collect();
        assert_eq!(sids, [id("proof")]);
        let bound: Vec<_> = kept.bindings.iter().map(|one| one.address.as_str()).collect();
        assert_eq!(bound, [address]);
        let asked: Vec<_> = kept.challenges.iter().map(|one| one.session.clone()).collect();
        assert_eq!(asked, [id("challenge")]);
        let mut messages: Vec<_> = kept.messages.iter().map(|one| one.id.clone()).collect();
        messages.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(messages, ["mail", "unbind", "zmirror"].map(|what| MessageId::new(id(what))));
        assert_eq!(kept.audit.iter().map(|one| one.address.as_str()).collect::<Vec<_>>(), [address]);
    }
}

/// By when it was opened, spent, bound, asked, owed or decided.
pub async fn what_is_kept_about_an_account_is_told_oldest_first(backend: &Backend) {
    let store = &*backend.store;
    commit(store, everything(ALICE, "bb", "b@example.org", later(2000))).await;
    commit(store, everything(ALICE, "a", "a@example.org", later(1000))).await;
    let kept = kept_about(backend, ALICE).await;
    let first = (
        kept.sessions.first().map(|one| one.sid().as_str().to_owned()),
        kept.remote_sessions.first().map(|one| one.sid.as_str().to_owned()),
        kept.spent_proofs.first().map(|one| one.sid.as_str().to_owned()),
        kept.challenges.first().map(|one| one.session.clone()),
    );
    let is = |what: &str| Some(format!("a-{what}"));
    assert_eq!(first, (is("pending"), is("remote"), is("proof"), is("challenge")));
    assert_eq!(kept.bindings.first().map(|one| one.since), Some(later(1000)));
    assert_eq!(kept.messages.first().map(|one| one.created_at), Some(later(1000)));
    assert_eq!(kept.audit.first().map(|one| one.at), Some(later(1000)));
}
