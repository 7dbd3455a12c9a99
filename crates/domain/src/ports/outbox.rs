//! What is owed and not yet sent.

use std::time::Duration;

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{Backlog, Claimed, LeaseId, MessageId, Settlement, Timestamp};

/// The queue of owed messages. They enter it through [`Store::commit`](super::Store::commit) alone.
///
/// An adapter:
/// - MUST claim only messages that are due at `now`, unsettled, and under no lease that is still good at `now`;
///   oldest due first, at most `limit`. A lease is good before its end and no longer at it;
/// - MUST NOT give one message to two claims whose leases overlap, whatever the number of processes;
/// - MUST count each claim as an attempt, and keep count and lease over restarts;
/// - MUST ignore a settlement whose lease is no longer the message's, and then answer `false`. A lease that has ended
///   stays the message's until another claim takes it; a settlement gives it back;
/// - MUST count what is owed and what is dead, and nothing else, by kind; a claimed message is owed until it is settled;
/// - MUST keep dead messages for the operator; sent and expired ones MUST NOT be claimed again;
/// - MUST keep nothing of a message that is settled as [`Settlement::Forget`].
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Claims due messages until `now` + `lease`, all under `lease_id`.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now; nothing was claimed, or the lease ends by itself.
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        lease_id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Claimed>, Unavailable>;

    /// Records how a try ended. `false` when the lease is no longer the message's.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now; the lease ends by itself.
    async fn settle(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, Unavailable>;

    /// How much there is of each kind, in the order of their names; kinds of which there is nothing may be left out. It is
    /// asked every few seconds, so it has to be cheap.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    async fn backlog(&self) -> Result<Vec<Backlog>, Unavailable>;

    /// Returns when a message may have become claimable since the last call. It may return for no reason, and a relay
    /// polls besides; an adapter MUST return soon after a unit of its own process that enqueues is committed, also
    /// where that was just before the call.
    async fn woken(&self);
}
