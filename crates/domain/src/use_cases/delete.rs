//! `POST /account/3pid/delete`: an address leaves its account, here first; the unbind is owed in the same unit and
//! tried at once. A dead identity server never blocks or undoes a deletion.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Changes, Contacts, UnbindResult};
use crate::model::{
    Address, AuditAction, AuditDoor, Binding, BindingKey, BindingState, IdentityServerName, MessageId,
    OutboxMessage, Payload, Timestamp, UnitOfWork, UserId,
};
use crate::ports::{IdentityServerError, Unavailable, Unbound};

/// So long an owed unbind is left to the request that is about to try it; then the relay takes it over.
const LEFT_TO_THE_REQUEST: Duration = Duration::from_secs(15);

/// What is to be removed.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The account.
    pub user_id: UserId,
    /// The address.
    pub address: Address,
    /// The identity server to unbind from; without one, every server that a binding is recorded at.
    pub id_server: Option<IdentityServerName>,
}

/// Why the address was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Accounts may not change their contacts.
    #[error("changes are switched off")]
    ChangesForbidden,
    /// It cannot be done now; nothing was changed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Removes an address from the account, and unbinds it. Another account's address stays where it is; one that is
    /// not there is no error.
    ///
    /// # Errors
    /// [`DeleteError`].
    pub async fn delete(&self, delete: Delete) -> Result<UnbindResult, DeleteError> {
        if self.policy.changes == Changes::Forbidden {
            return Err(DeleteError::ChangesForbidden);
        }
        let Delete { user_id, address, id_server } = delete;
        let now = self.clock.now();
        let recorded = self.store.bindings(&user_id, &address).await?;
        let entry = self.audit_of_contact(AuditAction::Removed, AuditDoor::Delete, &user_id, &address);
        let unit = UnitOfWork::new().remove_threepid_audited(entry);
        let unit = self.mirrored(unit, &user_id);
        let (keys, doubtful): (Vec<_>, Vec<_>) = match id_server {
            Some(server) if self.policy.trusted.binds(&server) => {
                let doubtful = recorded.into_iter().filter(|binding| binding.server == server).collect();
                (vec![BindingKey { user_id, address, server }], doubtful)
            }
            Some(_) => (vec![], vec![]),
            None => (recorded.iter().map(Binding::key).collect(), recorded),
        };
        let owed: Vec<_> = keys.iter().map(|key| self.owed_unbind(key, now)).collect();
        let tries: Vec<_> = keys.into_iter().zip(owed.iter().map(|message| message.id.clone())).collect();
        let unit = tries
            .iter()
            .zip(owed)
            .fold(unit, |unit, ((key, _), owed)| unit.cancel_unbind(key.clone()).enqueue(owed));
        // From now on the server may know the binding or not; whoever asks for it anew is not to take it as settled.
        let in_doubt = |binding| Binding { state: BindingState::Pending, since: now, ..binding };
        let unit = doubtful.into_iter().map(in_doubt).fold(unit, UnitOfWork::put_binding);
        self.commit_unrivalled(unit).await?;
        let nobody_is_asked = tries.is_empty();
        let tries = tries.into_iter().map(|(key, message)| self.try_owed(key, message, now));
        let all_done = join_all(tries).await.into_iter().all(|done| done);
        Ok(if all_done && !nobody_is_asked { UnbindResult::Success } else { UnbindResult::NoSupport })
    }

    fn owed_unbind(&self, key: &BindingKey, now: Timestamp) -> OutboxMessage {
        let BindingKey { user_id, address, server } = key.clone();
        OutboxMessage {
            id: self.secrets.new_message_id(),
            payload: Payload::Unbind { user_id, address, server, forget: false },
            created_at: now,
            due_at: now.plus(LEFT_TO_THE_REQUEST),
            not_after: now.plus(self.policy.unbind_within),
        }
    }

    /// Tries an unbind that is owed. Whatever fails here is left to the relay, which says so in its log.
    async fn try_owed(&self, key: BindingKey, message: MessageId, owed_since: Timestamp) -> bool {
        let BindingKey { user_id, address, server } = key.clone();
        let (unit, done) = match self.identity_servers.unbind(server, user_id, address).await {
            Ok(Unbound::Done) => {
                let entry = self.audit_of_binding(AuditAction::Unbound, AuditDoor::Delete, &key);
                let unit = UnitOfWork::new().remove_binding(key.clone(), owed_since);
                (unit.audit_unbind(entry, message).cancel_unbind(key), true)
            }
            // A refusal ends what is owed, and keeps the record.
            Ok(Unbound::NoSupport) | Err(IdentityServerError::Refused(_)) => {
                (UnitOfWork::new().cancel_unbind(key), false)
            }
            Err(IdentityServerError::Unavailable(_)) => return false,
        };
        // If this is lost, the relay unbinds once more, which is harmless.
        let _ = self.commit_unrivalled(unit).await;
        done
    }
}

#[cfg(test)]
mod tests;
