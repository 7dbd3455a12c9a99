//! What is kept about one account, for whoever operates the server.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{
    AuditEntry, Binding, Challenge, MessageRecord, RemoteSession, SpentProof, Threepid, UserId,
    ValidationSession,
};

/// Everything that is kept about one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountRecord {
    /// Its threepids.
    pub threepids: Vec<Threepid>,
    /// The sessions that it has spent, and those that prove an address which it owns, whoever opened them.
    pub sessions: Vec<ValidationSession>,
    /// The sessions of identity servers for an address that it owns, whoever opened them.
    pub remote_sessions: Vec<RemoteSession>,
    /// The identity servers' proofs that it has spent.
    pub spent_proofs: Vec<SpentProof>,
    /// Where its addresses are published, or about to be.
    pub bindings: Vec<Binding>,
    /// The challenges that were passed on to it, spent or not.
    pub challenges: Vec<Challenge>,
    /// Messages about it, and mails to an address that it owns, whatever became of them.
    pub messages: Vec<MessageRecord>,
    /// How its contacts changed.
    pub audit: Vec<AuditEntry>,
}

/// Looks everything up that is kept about one account.
///
/// An adapter:
/// - MUST find everything of each kind that [`AccountRecord`] names, and nothing of another account's;
/// - MUST tell each kind in the order of its times, the oldest first.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait AccountRecords: Send + Sync {
    /// Everything that is kept about an account; all of it is empty for one that nothing is kept about.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn kept_about(&self, user: UserId) -> Result<AccountRecord, Unavailable>;
}
