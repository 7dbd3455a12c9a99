//! `POST /account/3pid`: a proven address goes to an account.

use super::{Changes, Contacts, DECISIONS, DeprecatedAdd, audit, too_many_conflicts};
use crate::model::{
    Address, AuditAction, AuditDoor, ClientSecret, IdAccessToken, IdentityServerName, RemoteRefusal, Sid,
    SpendRefusal, Threepid, Timestamp, UnitOfWork, UserId,
};
use crate::ports::{CommitError, Conflict, Unavailable};

/// Who adds what.
#[derive(Clone, Debug)]
pub struct Add {
    /// The account.
    pub user_id: UserId,
    /// The session that proves the address: one of ours, or an identity server's.
    pub sid: Sid,
    /// The secret that the session was opened under.
    pub client_secret: ClientSecret,
    /// The identity server whose session it is. One of ours needs none, and ignores it.
    pub id_server: Option<IdentityServerName>,
    /// The client's token there. Without one the server is spoken to in v1.
    pub id_access_token: Option<IdAccessToken>,
    /// Whether the address is to be published at the identity server too. A session of ours takes it as false.
    pub bind: bool,
}

/// Why the address was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Accounts may not change their contacts, or not through this door.
    #[error("changes are switched off")]
    ChangesForbidden,
    /// The session proves nothing to this account: unknown, another secret, not validated, expired, or spent; or, with
    /// [`Policy::hide_in_use`](super::Policy::hide_in_use), validated while another account had the address. Which of them is
    /// not told.
    #[error("the address is not proven")]
    AuthFailed,
    /// Another account has the address. The proof is kept.
    #[error("the address is in use")]
    InUse,
    /// The operator's rules refuse the address.
    #[error("the address is not permitted")]
    Denied,
    /// The session is none of ours, and no identity server is named.
    #[error("no identity server is named")]
    IdServerMissing,
    /// The identity server is not trusted for what is asked.
    #[error("the identity server is not trusted")]
    ServerNotTrusted,
    /// The identity server refused: to say what it validated, and then nothing was added; or to bind, and then the
    /// address is added, and the same request tries again to bind.
    #[error("the identity server refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It cannot be done now; the proof is kept.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Spends a session's proof and adds its address to the account, in one unit.
    ///
    /// The same request again is harmless while the address is still on the account. A session of ours is never looked
    /// up elsewhere.
    ///
    /// # Errors
    /// [`AddError`]; nothing was spent then, but where a bind was refused.
    pub async fn add(&self, add: Add) -> Result<(), AddError> {
        let policy = &self.policy;
        if policy.changes == Changes::Forbidden || policy.deprecated_add == DeprecatedAdd::Off {
            return Err(AddError::ChangesForbidden);
        }
        for _ in 0..DECISIONS {
            let Some(mut session) = self.store.session(&add.sid).await? else {
                return self.add_foreign(add, AuditDoor::Add, None, None).await;
            };
            if self.policy.deprecated_add == DeprecatedAdd::IdentityServerOnly {
                return Err(AddError::ChangesForbidden);
            }
            let key = self.secrets.session_key(session.address(), &add.client_secret);
            if !session.was_opened_under(&key) {
                return Err(AddError::AuthFailed);
            }
            let now = self.clock.now();
            let proof = match session.spend(&add.user_id, now, &self.policy.lifetimes) {
                Ok(proof) => proof,
                Err(SpendRefusal::SpentByCaller) => {
                    return self.still_has(&add.user_id, session.address()).await;
                }
                Err(SpendRefusal::NotValidated | SpendRefusal::Expired | SpendRefusal::Spent) => {
                    return Err(AddError::AuthFailed);
                }
            };
            let threepid = Threepid {
                user_id: add.user_id.clone(),
                address: proof.address,
                validated_at: proof.validated_at,
                added_at: now,
            };
            let (address, proven_at) = (threepid.address.clone(), threepid.validated_at);
            let (action, door) = (AuditAction::Added, AuditDoor::Add);
            let entry = self.audit_of_contact(action, door, &add.user_id, &threepid.address);
            let unit = UnitOfWork::new().put_session(session).put_threepid(threepid).audit(entry);
            match audit::commit(&*self.store, self.mirrored(unit, &add.user_id)).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict(Conflict::AddressOwned)) => {
                    self.owned_elsewhere(&address, proven_at).await?;
                }
                Err(CommitError::Conflict(_)) => {}
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(too_many_conflicts().into())
    }

    /// Refuses an address that another account has. Where it is hidden which addresses are in use, that is told only to
    /// whoever proved it before it was taken; a later proof has failed. `Ok` where nobody has it by now: decide again.
    pub(super) async fn owned_elsewhere(
        &self,
        address: &Address,
        proven_at: Timestamp,
    ) -> Result<(), AddError> {
        if !self.policy.hides_in_use() {
            return Err(AddError::InUse);
        }
        let Some(owner) = self.store.owner(address).await? else { return Ok(()) };
        let held = self.store.threepids(&owner).await?;
        let Some(held) = held.into_iter().find(|held| held.address == *address) else { return Ok(()) };
        Err(if held.added_at > proven_at { AddError::InUse } else { AddError::AuthFailed })
    }

    pub(super) async fn still_has(&self, user: &UserId, address: &Address) -> Result<(), AddError> {
        match self.store.owner(address).await? {
            Some(owner) if owner == *user => Ok(()),
            _ => Err(AddError::AuthFailed),
        }
    }
}

#[cfg(test)]
mod tests;
