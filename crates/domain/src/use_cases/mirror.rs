//! What the homeserver is owed where it keeps a copy of contacts: with each change of an account's, in the same unit, a
//! message that says whose. What they are is read when it is delivered, so one message that waits is enough.

use std::time::Duration;

use super::Contacts;
use crate::model::{OutboxMessage, Payload, UnitOfWork, UserId};

/// A copy that is behind for longer is the operator's to mend.
const WORTH_TRYING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Contacts {
    /// A unit that changes an account's contacts, with what is owed for it.
    pub(super) fn mirrored(&self, unit: UnitOfWork, user_id: &UserId) -> UnitOfWork {
        if !self.policy.mirrors {
            return unit;
        }
        let now = self.clock.now();
        unit.enqueue_mirror(OutboxMessage {
            id: self.secrets.new_message_id(),
            payload: Payload::Mirror { user_id: user_id.clone() },
            created_at: now,
            due_at: now,
            not_after: now.plus(WORTH_TRYING),
        })
    }
}

#[cfg(test)]
mod tests;
