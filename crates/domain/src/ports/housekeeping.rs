//! What has ended leaves, a little at a time.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::Timestamp;

/// What is kept for a time and then of no use, and by which of its times its age is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Perishable {
    /// Validation sessions, by [`SessionRecord::last_time`](crate::model::SessionRecord::last_time).
    Sessions,
    /// Sessions of identity servers, by `opened_at`.
    RemoteSessions,
    /// Identity servers' proofs that were spent here, by `spent_at`.
    SpentProofs,
    /// Challenges, spent or not, by `issued_at`.
    Challenges,
    /// Messages that were sent or had expired, by when they were settled. Never one that is owed, and never a dead one.
    SettledMessages,
    /// Entries of the audit trail, by `at`.
    AuditEntries,
    /// Counts under limits that every instance knows, by when they say nothing any more. A storage that keeps none has
    /// none to remove.
    Counts,
}

impl Perishable {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Sessions,
        Self::RemoteSessions,
        Self::SpentProofs,
        Self::Challenges,
        Self::SettledMessages,
        Self::AuditEntries,
        Self::Counts,
    ];

    /// The name, for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::RemoteSessions => "remote_sessions",
            Self::SpentProofs => "spent_proofs",
            Self::Challenges => "challenges",
            Self::SettledMessages => "settled_messages",
            Self::AuditEntries => "audit_entries",
            Self::Counts => "counts",
        }
    }
}

/// Removes what is of no use any more. What that is, and from when on, the domain says.
///
/// An adapter:
/// - MUST remove only what is of the given kind, and whose time, as [`Perishable`] names it, is before the given one;
/// - MUST remove the oldest first, at most `limit`, and MUST answer how many it removed;
/// - MUST NOT remove what is changed meanwhile so that it is not of that kind or age any more;
/// - MUST answer less than `limit` only where it has left nothing to remove, or others are removing or changing the rest;
/// - MUST let any number of processes call it at once, and then MUST count each thing once;
/// - MUST NOT keep units of work waiting for longer than the removal of `limit` things takes.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Housekeeping: Send + Sync {
    /// Removes up to `limit` of `what` whose time is before `before`, and says how many these were.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now; up to `limit` may have been removed.
    async fn purge(&self, what: Perishable, before: Timestamp, limit: usize) -> Result<usize, Unavailable>;
}
