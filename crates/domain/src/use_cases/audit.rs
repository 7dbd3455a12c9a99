//! What the commands remember of the contacts that they change: an entry in the unit of the change, whole; and once it
//! is committed a line of log, masked.

use super::Contacts;
use crate::model::{Address, AuditAction, AuditDoor, AuditEntry, BindingKey, UnitOfWork, UserId};
use crate::ports::{CommitError, Store};

impl Contacts {
    /// The same commands, as one request asks for them: `id` is how its lines of log are found, and the audit trail
    /// refers to it.
    #[must_use]
    pub fn for_request(mut self, id: String) -> Self {
        self.request_id = Some(id);
        self
    }

    pub(super) fn audit_of_contact(
        &self,
        action: AuditAction,
        door: AuditDoor,
        user_id: &UserId,
        address: &Address,
    ) -> AuditEntry {
        AuditEntry {
            at: self.clock.now(),
            user_id: user_id.clone(),
            address: address.clone(),
            action,
            door,
            server: None,
            reference: self.request_id.clone(),
        }
    }

    pub(super) fn audit_of_binding(
        &self,
        action: AuditAction,
        door: AuditDoor,
        key: &BindingKey,
    ) -> AuditEntry {
        let server = Some(key.server.clone());
        AuditEntry { server, ..self.audit_of_contact(action, door, &key.user_id, &key.address) }
    }
}

/// Commits a unit, and says what it changed of contacts.
pub(super) async fn commit(store: &dyn Store, unit: UnitOfWork) -> Result<(), CommitError> {
    let entries: Vec<_> = unit.audited().cloned().collect();
    store.commit(unit).await?;
    for AuditEntry { user_id, address, action, door, server, .. } in &entries {
        let (address, action, door) = (address.masked(), action.as_str(), door.as_str());
        let server = server.as_ref().map(tracing::field::display);
        if action == AuditAction::Removed.as_str() {
            tracing::info!(%user_id, address, action, door, server, "a contact is not there any more");
        } else {
            tracing::info!(%user_id, address, action, door, server, "a contact was changed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
