//! Where sessions and threepids are kept.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{Address, KeyedHash, Sid, Threepid, UnitOfWork, UserId, ValidationSession};

/// Durable storage. Reads see every unit of work committed before they began.
///
/// An adapter:
/// - MUST apply a unit of work wholly or not at all, in its order, and MUST NOT answer before it is durable;
/// - MUST refuse a session of revision 0 whose sid exists ([`Conflict::StaleSession`]), a session whose stored revision
///   is another ([`Conflict::StaleSession`]), and a second `current` session under one key
///   ([`Conflict::SessionExists`]);
/// - MUST store a session of revision n as revision n + 1;
/// - MUST refuse an address that another account owns ([`Conflict::AddressOwned`]), by a unique key and not by a look
///   before the write; MUST only move `validated_at` where the same account owns it;
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
    /// Another account owns the address.
    #[error("another account owns the address")]
    AddressOwned,
}
