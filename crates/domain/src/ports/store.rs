//! Where sessions and threepids are kept.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{
    Address, AuditEntry, AuditQuery, Binding, Challenge, IdentityServerName, KeyedHash, RemoteSession, Sid,
    SpentProof, Threepid, UnitOfWork, UserId, ValidationSession,
};

/// Durable storage. Reads see every unit of work committed before they began.
///
/// An adapter:
/// - MUST apply a unit of work wholly or not at all, in its order, and MUST NOT answer before it is durable;
/// - MUST refuse a session of revision 0 whose sid exists ([`Conflict::StaleSession`]), a session whose stored revision
///   is another ([`Conflict::StaleSession`]), and a second `current` session under one key
///   ([`Conflict::SessionExists`]);
/// - MUST store a session of revision n as revision n + 1;
/// - MUST refuse an address that another account owns ([`Conflict::AddressOwned`]), by a unique key and not by a look
///   before the write; MUST only move `validated_at` where the same account owns it, and MUST NOT move even that where the
///   address is imported;
/// - MUST refuse an identity server's proof whose server and sid were spent before ([`Conflict::ProofSpent`]), by a
///   unique key;
/// - MUST keep one session for each identity server and sid, the last one put;
/// - MUST keep one binding for each account, address and server, the last one put;
/// - MUST forget a binding only where it does not stand since later than the change says;
/// - MUST take an address only from the account named with it;
/// - MUST cancel an owed unbind by its binding, claimed or not, so that no later claim finds it;
/// - MUST drop, with a message that mirrors an account, those that mirror the same account and wait under no lease, and
///   MUST NOT drop one that a claim has and has not given back;
/// - MUST keep what is first remembered of a challenge: to remember it again, spent or not, changes nothing;
/// - MUST refuse to spend a challenge that is not remembered for its user and sid, or that was spent before
///   ([`Conflict::ChallengeSpent`]);
/// - MUST keep every audit entry, in its unit; one that comes with a removal MUST be kept only where the removal took the
///   address, and one about an unbind only where no unbind of the same binding is owed that is to leave nothing;
/// - MUST make an enqueued message claimable through [`Outbox`](super::Outbox) in the same unit;
/// - MUST NOT hold anything open between calls, and MUST NOT let a caller that goes away leave half a unit.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Store: Send + Sync {
    /// The session with this sid.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable>;

    /// The current session under this key.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable>;

    /// The account that owns an address.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable>;

    /// An account's threepids, oldest `added_at` first; those added in the same millisecond by address.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable>;

    /// The sessions that identity servers opened under this sid, since two servers may choose the same: newest first;
    /// those of the same millisecond by server name.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable>;

    /// How an identity server's proof was spent, if it was.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable>;

    /// Where an account's address is bound or about to be, by server name.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable>;

    /// The challenge of this session, if it was passed on and is unspent.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable>;

    /// What is remembered of contacts' changes: newest first; those of the same millisecond, last committed first. At
    /// most as many as are asked for.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable>;

    /// Commits a unit of work.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when another unit came first, and nothing was changed: read again, decide again.
    /// [`CommitError::Unavailable`] when storage cannot answer now; whether it was committed is unknown.
    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError>;

    /// Whether storage answers, for the readiness probe.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not.
    async fn check(&self) -> Result<(), Unavailable>;
}

/// A unit of work that was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another unit came first. Nothing was changed.
    #[error("conflict: {0}")]
    Conflict(Conflict),
    /// Storage cannot answer now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What another unit of work did first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The session was changed since it was read.
    #[error("the session was changed since it was read")]
    StaleSession,
    /// There is a current session under this key already.
    #[error("a current session exists under this key")]
    SessionExists,
    /// The identity server's proof was spent before.
    #[error("the identity server's proof was spent before")]
    ProofSpent,
    /// The challenge was spent before, or was never passed on to this user for this session.
    #[error("the challenge was spent before")]
    ChallengeSpent,
    /// Another account owns the address.
    #[error("another account owns the address")]
    AddressOwned,
}
