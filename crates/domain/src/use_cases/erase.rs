//! The end of an account: all that is kept about it goes in one step. What identity servers publish of it is owed to be
//! forgotten, and the relay goes on with that; what has to stay for others stays under no name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{DECISIONS, too_many_conflicts};
use crate::model::{
    Address, Binding, BindingKey, Erased, Erasure, MessageRecord, OutboxMessage, Payload, Timestamp,
    UponErasure, UserId, ValidationSession,
};
use crate::ports::{AccountRecord, AccountRecords, Clock, EndOfErasure, Erasures, Secrets, Unavailable};

/// Erases accounts.
#[derive(Clone)]
pub struct Eraser {
    ports: EraserPorts,
    unbind_within: Duration,
}

/// The ports that [`Eraser`] stands on.
#[derive(Clone)]
pub struct EraserPorts {
    /// What is kept about an account.
    pub records: Arc<dyn AccountRecords>,
    /// What removes it, from the same storage.
    pub erasures: Arc<dyn Erasures>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Ids, and what addresses are counted under.
    pub secrets: Arc<dyn Secrets>,
}

/// Why an account was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// It is the name that what is left of erased accounts stands under.
    #[error("this is whom what is left of erased accounts stands under, and no account")]
    Nobody,
    /// It cannot be done now. Whether it was done is unknown; to do it again is harmless.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Eraser {
    /// What erases, on these ports. An unbind that is owed from then on is worth trying for `unbind_within`.
    pub fn new(ports: EraserPorts, unbind_within: Duration) -> Self {
        Self { ports, unbind_within }
    }

    /// Erases an account, and says how much there was. What is committed for it later is there again, whole.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn erase(&self, user_id: &UserId) -> Result<Erased, EraseError> {
        for _ in 0..DECISIONS {
            let record = self.look(user_id).await?;
            match self.ports.erasures.erase(self.decide(user_id, &record)).await? {
                EndOfErasure::Done(erased) => {
                    // Without its name, which would be left in the log.
                    tracing::info!(
                        threepids = erased.threepids,
                        owed_unbinds = erased.owed_unbinds,
                        "an account was erased"
                    );
                    return Ok(erased);
                }
                EndOfErasure::Outdated => {}
            }
        }
        Err(too_many_conflicts().into())
    }

    /// How much would be erased now, and nothing is.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn foresee(&self, user_id: &UserId) -> Result<Erased, EraseError> {
        let record = self.look(user_id).await?;
        let owns = |address: &Address| record.threepids.iter().any(|threepid| threepid.address == *address);
        let goes = |session: &&ValidationSession| session.record().goes_with(user_id, owns);
        Ok(Erased {
            threepids: record.threepids.len(),
            sessions: record.sessions.iter().filter(goes).count(),
            remote_sessions: record.remote_sessions.len(),
            spent_proofs: record.spent_proofs.len(),
            bindings: record.bindings.len(),
            challenges: record.challenges.len(),
            messages: those(&record, UponErasure::Goes).count(),
            owed_unbinds: self.decide(user_id, &record).unbinds.len(),
            dead_unbinds: those(&record, UponErasure::IsMarked).count(),
            audit_entries: record.audit.len(),
            is_local: record.is_local,
        })
    }

    async fn look(&self, user_id: &UserId) -> Result<AccountRecord, EraseError> {
        if *user_id == UserId::erased() {
            return Err(EraseError::Nobody);
        }
        Ok(self.ports.records.kept_about(user_id.clone()).await?)
    }

    fn decide(&self, user_id: &UserId, record: &AccountRecord) -> Erasure {
        let now = self.ports.clock.now();
        let bindings: Vec<_> = record.bindings.iter().map(Binding::key).collect();
        let mut unbinds: BTreeMap<_, _> =
            bindings.iter().map(|key| (key.clone(), self.owed_from(key, now))).collect();
        let mut replaced = Vec::new();
        for message in those(record, UponErasure::IsReplaced) {
            replaced.push(message.id.clone());
            if let Some(key) = message.payload.as_ref().and_then(Payload::binding) {
                let owed = self.in_place_of(message, &key);
                unbinds.insert(key, owed);
            }
        }
        Erasure {
            user_id: user_id.clone(),
            addresses: record.threepids.iter().map(|threepid| threepid.address.clone()).collect(),
            bindings,
            replaced,
            unbinds: unbinds.into_values().collect(),
            // Not those of its addresses: they would be counted anew for whoever has one now, or guesses at it. They are
            // keyed hashes, and leave by themselves.
            subjects: vec![user_id.as_str().to_owned()],
        }
    }

    fn owed_from(&self, key: &BindingKey, now: Timestamp) -> OutboxMessage {
        let BindingKey { user_id, address, server } = key.clone();
        OutboxMessage {
            id: self.ports.secrets.new_message_id(),
            payload: Payload::Unbind { user_id, address, server, forget: true },
            created_at: now,
            due_at: now,
            not_after: now.plus(self.unbind_within),
        }
    }

    /// Whoever is trying the other one has until the lease ends.
    fn in_place_of(&self, other: &MessageRecord, key: &BindingKey) -> OutboxMessage {
        let due_at = other.leased_until.map_or(other.due_at, |until| until.max(other.due_at));
        let MessageRecord { created_at, not_after, .. } = *other;
        OutboxMessage { created_at, due_at, not_after, ..self.owed_from(key, created_at) }
    }
}

/// The messages that this becomes of.
fn those(record: &AccountRecord, fate: UponErasure) -> impl Iterator<Item = &MessageRecord> {
    record.messages.iter().filter(move |message| message.upon_erasure() == Some(fate))
}

#[cfg(test)]
mod tests;
