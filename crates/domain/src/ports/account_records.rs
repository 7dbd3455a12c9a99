//! What is kept about one account, for whoever operates the server.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{
    AuditEntry, Binding, Challenge, MessageRecord, RemoteSession, SpentProof, Threepid, Timestamp, UserId,
    ValidationSession,
};

/// Everything that is kept about one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountRecord {
    /// Its threepids.
    pub threepids: Vec<Threepid>,
    /// The sessions that it has spent, and those that prove an address which it owns, whoever opened them.
    pub sessions: Vec<ValidationSession>,
    /// The sessions of identity servers for an address that it owns, whoever opened them, and those whose proof it has
    /// spent.
    pub remote_sessions: Vec<RemoteSession>,
    /// The identity servers' proofs that it has spent.
    pub spent_proofs: Vec<SpentProof>,
    /// Where its addresses are published, or about to be.
    pub bindings: Vec<Binding>,
    /// The challenges that were passed on to it, spent or not.
    pub challenges: Vec<Challenge>,
    /// Messages about it, mails to an address that it owns, and mails of a session that it has spent, whatever became of
    /// them: see [`Payload::is_about`](crate::model::Payload::is_about).
    pub messages: Vec<MessageRecord>,
    /// How its contacts changed.
    pub audit: Vec<AuditEntry>,
    /// Whether it is an account of the storage's own.
    pub is_local: bool,
    /// The access tokens of the storage's own account.
    pub access_tokens: Vec<LocalToken>,
    /// What is counted under its user ID by a [`RateLimiter`](super::RateLimiter) on the same storage.
    pub counts: Vec<Counted>,
}

/// An access token of the storage's own, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalToken {
    /// Of which device, if it is of one.
    pub device_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A count under a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The limit's name, as it was written.
    pub limit: String,
    /// From when on it says nothing.
    pub until: Timestamp,
}

/// Looks everything up that is kept about one account.
///
/// An adapter:
/// - MUST find everything of each kind that [`AccountRecord`] names, and nothing of another account's;
/// - MUST tell each kind in the order of its times, the oldest first;
/// - MUST name, over all pages, every account that anything is kept about, and each once, but neither who is only named by
///   unbinds that are to leave nothing nor [`UserId::erased`].
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait AccountRecords: Send + Sync {
    /// Everything that is kept about an account; all of it is empty for one that nothing is kept about.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn kept_about(&self, user: UserId) -> Result<AccountRecord, Unavailable>;

    /// The accounts that anything is kept about, in an order of the storage's own: those after `after`, or from the
    /// beginning, at most `limit`.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn accounts(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserId>, Unavailable>;
}
