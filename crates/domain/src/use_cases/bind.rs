//! `POST /account/3pid/bind`: an identity server's session is published for the account, also where the address is not
//! on the account.
//!
//! The binding's address is known only once the server has said what it published, so the session's proof is asked
//! first where nothing here tells it; the binding is recorded as pending before it is asked for.

use super::Contacts;
use crate::model::{
    Address, AuditAction, AuditDoor, Binding, BindingState, ClientSecret, IdAccessToken, IdentityServerName,
    Medium, RemoteRefusal, Sid, UnitOfWork, UserId,
};
use crate::ports::{IdentityServerError, RemoteCredentials, Unavailable};

/// What is to be published, and where.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The account.
    pub user_id: UserId,
    /// The identity server.
    pub id_server: IdentityServerName,
    /// The client's token there.
    pub id_access_token: IdAccessToken,
    /// The session there.
    pub sid: Sid,
    /// The session's secret.
    pub client_secret: ClientSecret,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The identity server is not trusted to bind.
    #[error("the identity server is not trusted")]
    ServerNotTrusted,
    /// The identity server refused.
    #[error("the identity server refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// The identity server does not say that the session is validated.
    #[error("the session is not validated")]
    NotValidated,
    /// It cannot be done now; the same request again is harmless.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Publishes a session's address for the account at its identity server, recorded as pending before and as bound
    /// after. A bind cancels an owed unbind of the same binding.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(&self, bind: Bind) -> Result<(), BindError> {
        let Bind { user_id, id_server, id_access_token, sid, client_secret } = bind;
        if !self.policy.trusted.binds(&id_server) {
            return Err(BindError::ServerNotTrusted);
        }
        let session = RemoteCredentials { sid, client_secret };
        let token = Some(id_access_token);
        let asked = self.identity_servers.validated(id_server.clone(), session.clone(), token.clone()).await;
        let said = asked.map_err(refused_or_down)?.ok_or(BindError::NotValidated)?;
        let address =
            Medium::parse(&said.medium).and_then(|medium| Address::parse(medium, &said.address).ok());
        let address = address.ok_or(BindError::NotValidated)?;
        let pending = Binding {
            user_id: user_id.clone(),
            address,
            server: id_server.clone(),
            state: BindingState::Pending,
            since: self.clock.now(),
        };
        let unit = UnitOfWork::new().cancel_unbind(pending.key()).put_binding(pending.clone());
        self.commit_unrivalled(unit).await?;
        let bound = self.identity_servers.bind(id_server.clone(), session, user_id, token).await;
        if bound.map_err(refused_or_down)? != pending.address {
            let cause = format!("{id_server} published another address than the one it validated");
            return Err(Unavailable::new("identity server", cause).into());
        }
        let entry = self.audit_of_binding(AuditAction::Bound, AuditDoor::Bind, &pending.key());
        let bound = Binding { state: BindingState::Bound, ..pending };
        Ok(self.commit_unrivalled(UnitOfWork::new().put_binding(bound).audit(entry)).await?)
    }
}

fn refused_or_down(error: IdentityServerError) -> BindError {
    match error {
        IdentityServerError::Refused(refusal) => BindError::Refused(refusal.of_identity_server()),
        IdentityServerError::Unavailable(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
