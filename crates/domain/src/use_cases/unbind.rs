//! `POST /account/3pid/unbind`: identity servers are asked to forget a binding. Nothing is owed: who asked gets the
//! first failure, and the record stays.

use futures_util::future::join_all;

use super::Contacts;
use crate::model::{
    Address, AuditAction, AuditDoor, Binding, BindingKey, IdentityServerName, RemoteRefusal, UnitOfWork,
    UserId,
};
use crate::ports::{IdentityServerError, Unavailable, Unbound};

/// What is to be forgotten, and where.
#[derive(Clone, Debug)]
pub struct Unbind {
    /// The account.
    pub user_id: UserId,
    /// The address.
    pub address: Address,
    /// The identity server; without one, every server that a binding is recorded at.
    pub id_server: Option<IdentityServerName>,
}

/// `id_server_unbind_result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnbindResult {
    /// Every server that was asked has forgotten the binding.
    Success,
    /// Nobody was asked, or somebody has not.
    NoSupport,
}

impl UnbindResult {
    /// The result's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::NoSupport => "no-support",
        }
    }
}

/// Why an identity server did not forget.
#[derive(Debug, thiserror::Error)]
pub enum UnbindError {
    /// The identity server is not trusted.
    #[error("the identity server is not trusted")]
    ServerNotTrusted,
    /// The identity server refused. The record stays.
    #[error("the identity server refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It cannot be done now. The record stays.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Asks identity servers to forget a binding, all at once.
    ///
    /// # Errors
    /// [`UnbindError`], the first one.
    pub async fn unbind(&self, unbind: Unbind) -> Result<UnbindResult, UnbindError> {
        let Unbind { user_id, address, id_server } = unbind;
        let keys = match id_server {
            Some(server) if self.policy.trusted.binds(&server) => {
                vec![BindingKey { user_id, address, server }]
            }
            Some(_) => return Err(UnbindError::ServerNotTrusted),
            None => self.store.bindings(&user_id, &address).await?.iter().map(Binding::key).collect(),
        };
        let nobody_was_asked = keys.is_empty();
        let mut all_done = true;
        let answers = join_all(keys.into_iter().map(|key| self.forget(key))).await;
        for answer in answers {
            all_done &= answer? == Unbound::Done;
        }
        Ok(if all_done && !nobody_was_asked { UnbindResult::Success } else { UnbindResult::NoSupport })
    }

    /// Asks one server, and drops the record once it has forgotten.
    async fn forget(&self, key: BindingKey) -> Result<Unbound, UnbindError> {
        let BindingKey { user_id, address, server } = key.clone();
        let asked_at = self.clock.now();
        match self.identity_servers.unbind(server, user_id, address).await {
            Ok(Unbound::Done) => {
                let entry = self.audit_of_binding(AuditAction::Unbound, AuditDoor::Unbind, &key);
                let unit = UnitOfWork::new().remove_binding(key.clone(), asked_at).cancel_unbind(key);
                self.commit_unrivalled(unit.audit(entry)).await?;
                Ok(Unbound::Done)
            }
            Ok(Unbound::NoSupport) => Ok(Unbound::NoSupport),
            Err(IdentityServerError::Refused(refusal)) => {
                Err(UnbindError::Refused(refusal.of_identity_server()))
            }
            Err(IdentityServerError::Unavailable(error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
