//! The outbox as an operator sees it.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{MessageId, MessageRecord, MessageState, Timestamp};

/// Owed and dead messages, looked at and decided upon by hand.
///
/// A lease is good before its end and no longer at it.
///
/// An adapter:
/// - MUST show every message that is owed or dead, with why it is dead, also where it cannot read the payload; it shows
///   a settled one as long as it keeps it;
/// - MUST owe again a message that is dead, or that is owed and under no lease which is good at `now`: unsettled, due at
///   `now`, under no lease, with its count of attempts, so that the next claim finds it; MUST NOT change any other;
/// - MUST forget a message that is dead, or that is owed and under no lease which is good at `now`; MUST NOT forget any
///   other;
/// - MUST answer whether it did, and where two ask at once, one of them MUST come first.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait OutboxRecords: Send + Sync {
    /// The messages in one of these states: those owed first stand first, those of the same millisecond by id. At most
    /// `limit`.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn messages(
        &self,
        states: Vec<MessageState>,
        limit: usize,
    ) -> Result<Vec<MessageRecord>, Unavailable>;

    /// One message.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn message(&self, id: &MessageId) -> Result<Option<MessageRecord>, Unavailable>;

    /// Owes a message again, from `now` on and until `not_after`.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now; whether it was done is unknown.
    async fn owe_again(
        &self,
        id: &MessageId,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<bool, Unavailable>;

    /// Forgets a message.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now; whether it was done is unknown.
    async fn forget(&self, id: &MessageId, now: Timestamp) -> Result<bool, Unavailable>;
}
