//! What an operator decides about messages: to look at them, to try one again, to drop one.

use std::sync::Arc;
use std::time::Duration;

use super::{DECISIONS, too_many_conflicts};
use crate::model::{MessageId, MessageRecord, MessageState, Payload, Timestamp};
use crate::ports::{Clock, OutboxRecords, Unavailable};

/// The messages, for whoever operates the server.
#[derive(Clone)]
pub struct OutboxDesk {
    records: Arc<dyn OutboxRecords>,
    clock: Arc<dyn Clock>,
    worth_trying: Duration,
}

/// Why a message is not tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// There is no such message.
    #[error("there is no such message")]
    NotThere,
    /// It was sent, or had expired.
    #[error("it is settled: {}", .0.as_str())]
    Settled(MessageState),
    /// Somebody may be trying it.
    #[error("it is being tried now")]
    BeingTried,
    /// The link or code in the message would be good no more; who still wants one asks for a new message.
    #[error("its link has ended, or its code: whoever still wants it asks for a new mail or SMS")]
    TokenEnded,
    /// This program cannot read it.
    #[error("it is none that this version can read")]
    Unreadable,
    /// It cannot be done now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a message is not dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// There is no such message.
    #[error("there is no such message")]
    NotThere,
    /// It was sent, or had expired, and leaves by itself.
    #[error("it is settled ({}) and leaves by itself", .0.as_str())]
    Settled(MessageState),
    /// Somebody may be trying it.
    #[error("it is being tried now")]
    BeingTried,
    /// It cannot be done now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What a message that was dropped leaves undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// A mail does not arrive. Its user can ask for another.
    Mail,
    /// An SMS does not arrive. Its user can ask for another.
    Sms,
    /// An identity server goes on publishing the binding: it is not asked again to forget it, unless its user unbinds or
    /// deletes the address once more.
    Unbind,
    /// The homeserver's copy of the account's contacts stays as it is, until the next change of the account's contacts.
    Mirror,
    /// Nobody can tell.
    Unknown,
}

impl OutboxDesk {
    /// The desk on these ports. An unbind or a mirror that is tried again is worth trying for `worth_trying` more.
    pub fn new(records: Arc<dyn OutboxRecords>, clock: Arc<dyn Clock>, worth_trying: Duration) -> Self {
        Self { records, clock, worth_trying }
    }

    /// The messages in these states, those owed first in front; at most `limit`.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn list(
        &self,
        states: Vec<MessageState>,
        limit: usize,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        self.records.messages(states, limit).await
    }

    /// One message.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn show(&self, id: &MessageId) -> Result<Option<MessageRecord>, Unavailable> {
        self.records.message(id).await
    }

    /// Has a message tried again, now. A dead one is owed again. A mail or SMS is worth sending until its link or code ends,
    /// as it was; everything else is given time anew.
    ///
    /// # Errors
    /// [`RetryError`]; nothing was changed.
    pub async fn retry(&self, id: &MessageId) -> Result<MessageRecord, RetryError> {
        for _ in 0..DECISIONS {
            let record = self.records.message(id).await?.ok_or(RetryError::NotThere)?;
            let now = self.clock.now();
            let not_after = self.worth_trying_until(&record, now)?;
            if self.records.owe_again(id, now, not_after).await? {
                return Ok(record);
            }
        }
        Err(too_many_conflicts().into())
    }

    fn worth_trying_until(&self, record: &MessageRecord, now: Timestamp) -> Result<Timestamp, RetryError> {
        match record.state {
            MessageState::Sent | MessageState::Expired => return Err(RetryError::Settled(record.state)),
            MessageState::Queued if record.is_being_tried(now) => return Err(RetryError::BeingTried),
            MessageState::Queued | MessageState::Dead => {}
        }
        match &record.payload {
            None => Err(RetryError::Unreadable),
            Some(
                Payload::ValidationMail { .. }
                | Payload::ValidationSms { .. }
                | Payload::InUseMail { .. }
                | Payload::InUseSms { .. },
            ) => {
                if now < record.not_after {
                    Ok(record.not_after)
                } else {
                    Err(RetryError::TokenEnded)
                }
            }
            Some(Payload::Unbind { .. } | Payload::Mirror { .. }) => {
                Ok(record.not_after.max(now.plus(self.worth_trying)))
            }
        }
    }

    /// Forgets a message that is dead, or owed and not being tried; says what stays undone by that.
    ///
    /// # Errors
    /// [`DropError`]; nothing was changed.
    pub async fn discard(&self, id: &MessageId) -> Result<(MessageRecord, Undone), DropError> {
        for _ in 0..DECISIONS {
            let record = self.records.message(id).await?.ok_or(DropError::NotThere)?;
            let now = self.clock.now();
            match record.state {
                MessageState::Sent | MessageState::Expired => return Err(DropError::Settled(record.state)),
                MessageState::Queued if record.is_being_tried(now) => return Err(DropError::BeingTried),
                MessageState::Queued | MessageState::Dead => {}
            }
            if self.records.forget(id, now).await? {
                let undone = match &record.payload {
                    Some(Payload::ValidationMail { .. } | Payload::InUseMail { .. }) => Undone::Mail,
                    Some(Payload::ValidationSms { .. } | Payload::InUseSms { .. }) => Undone::Sms,
                    Some(Payload::Unbind { .. }) => Undone::Unbind,
                    Some(Payload::Mirror { .. }) => Undone::Mirror,
                    None => Undone::Unknown,
                };
                return Ok((record, undone));
            }
        }
        Err(too_many_conflicts().into())
    }
}

#[cfg(test)]
mod tests;
