//! The messages in memory, as an operator sees them.

use async_trait::async_trait;

use super::{MemoryStore, OutboxRow, RowState};
use crate::model::{MessageId, MessageRecord, MessageState, Timestamp};
use crate::ports::{OutboxRecords, Unavailable};
use crate::testing::lock;

impl OutboxRow {
    pub(super) fn record(&self) -> MessageRecord {
        let (state, last_error) = match &self.state {
            RowState::Owed => (MessageState::Queued, self.last_error.clone()),
            RowState::Sent => (MessageState::Sent, self.last_error.clone()),
            RowState::Expired => (MessageState::Expired, self.last_error.clone()),
            RowState::Dead(reason) => (MessageState::Dead, Some(reason.clone())),
        };
        MessageRecord {
            id: self.message.id.clone(),
            kind: self.message.payload.kind().to_owned(),
            payload: Some(self.message.payload.clone()),
            state,
            attempts: self.attempts,
            created_at: self.message.created_at,
            due_at: self.message.due_at,
            not_after: self.message.not_after,
            leased_until: self.lease.as_ref().map(|(_, until)| *until),
            settled_at: self.settled_at,
            last_error,
        }
    }

    /// Whether an operator may decide about it.
    fn is_decidable(&self, now: Timestamp) -> bool {
        match self.state {
            RowState::Dead(_) => true,
            RowState::Owed => self.lease.as_ref().is_none_or(|(_, until)| *until <= now),
            RowState::Sent | RowState::Expired => false,
        }
    }
}

#[async_trait]
impl OutboxRecords for MemoryStore {
    async fn messages(
        &self,
        states: Vec<MessageState>,
        limit: usize,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        self.available()?;
        let mut found: Vec<_> = lock(&self.state).outbox.iter().map(OutboxRow::record).collect();
        found.retain(|record| states.contains(&record.state));
        found.sort_by(|a, b| (a.created_at, a.id.as_str()).cmp(&(b.created_at, b.id.as_str())));
        found.truncate(limit);
        Ok(found)
    }

    async fn message(&self, id: &MessageId) -> Result<Option<MessageRecord>, Unavailable> {
        self.available()?;
        Ok(lock(&self.state).outbox.iter().find(|row| row.message.id == *id).map(OutboxRow::record))
    }

    async fn owe_again(
        &self,
        id: &MessageId,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<bool, Unavailable> {
        self.available()?;
        let owed = {
            let mut state = lock(&self.state);
            let found = state.outbox.iter_mut().find(|row| row.message.id == *id && row.is_decidable(now));
            found.map(|row| {
                if let RowState::Dead(reason) = std::mem::replace(&mut row.state, RowState::Owed) {
                    row.last_error = Some(reason);
                }
                row.lease = None;
                row.settled_at = None;
                row.message.due_at = now;
                row.message.not_after = not_after;
            })
        };
        if owed.is_some() {
            self.ring();
        }
        Ok(owed.is_some())
    }

    async fn forget(&self, id: &MessageId, now: Timestamp) -> Result<bool, Unavailable> {
        self.available()?;
        let mut state = lock(&self.state);
        let had = state.outbox.len();
        state.outbox.retain(|row| row.message.id != *id || !row.is_decidable(now));
        Ok(state.outbox.len() < had)
    }
}
