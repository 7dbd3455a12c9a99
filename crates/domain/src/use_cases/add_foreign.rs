//! `POST /account/3pid` with a session of an identity server: its word is verified, spent once, and on request the
//! address is published there.
//!
//! Binding is crash-safe: it is recorded as pending together with the address, and as bound once the server has said
//! so. The same request again resumes it.

use std::time::Duration;

use super::{Add, AddError, Contacts, DECISIONS, audit, too_many_conflicts};
use crate::model::{
    Address, AuditAction, AuditDoor, AuditEntry, Binding, BindingState, Challenge, IdentityServerName,
    KeyedHash, Medium, SpentProof, Threepid, Timestamp, UnitOfWork,
};
use crate::ports::{
    CommitError, Conflict, IdentityServerError, RemoteCredentials, RemoteValidation, Unavailable,
};

/// So far may an identity server's clock be ahead of ours.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(5 * 60);

/// What an identity server's word proves, once we have judged it.
struct ForeignProof {
    address: Address,
    validated_at: Timestamp,
}

impl Contacts {
    /// `door` is where the request came in; `expected` is the address that the session was asked for, where it was asked through us; `challenge` is spent
    /// with the proof, where one was answered.
    pub(super) async fn add_foreign(
        &self,
        add: Add,
        door: AuditDoor,
        expected: Option<&Address>,
        challenge: Option<&Challenge>,
    ) -> Result<(), AddError> {
        let server = self.server_for(&add)?;
        for _ in 0..DECISIONS {
            if let Some(spent) = self.store.spent_proof(&server, &add.sid).await? {
                return self.repeat_foreign(&add, &server, spent).await;
            }
            let proof = self.ask_what_it_proves(&add, &server).await?;
            if expected.is_some_and(|address| *address != proof.address) {
                return Err(AddError::AuthFailed);
            }
            let (address, proven_at) = (proof.address.clone(), proof.validated_at);
            let pending = add.bind.then(|| self.pending(&add, &server, proof.address.clone()));
            let unit = self.spend_foreign(&add, door, &server, proof, pending.clone());
            let unit = challenge.cloned().into_iter().fold(unit, UnitOfWork::spend_challenge);
            match audit::commit(&*self.store, unit).await {
                Ok(()) => {
                    return match pending {
                        Some(pending) => self.publish(&add, pending).await,
                        None => Ok(()),
                    };
                }
                Err(CommitError::Conflict(Conflict::AddressOwned)) => {
                    self.owned_elsewhere(&address, proven_at).await?;
                }
                Err(CommitError::Conflict(Conflict::ChallengeSpent)) => return Err(AddError::AuthFailed),
                Err(CommitError::Conflict(_)) => {}
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(too_many_conflicts().into())
    }

    /// The named server, if it is trusted for all that is asked. Where no server validates, naming one would not help.
    fn server_for(&self, add: &Add) -> Result<IdentityServerName, AddError> {
        let trusted = &self.policy.trusted;
        match &add.id_server {
            Some(server) if trusted.validates(server) && (!add.bind || trusted.binds(server)) => {
                Ok(server.clone())
            }
            Some(_) => Err(AddError::ServerNotTrusted),
            None if trusted.first_that_validates().is_some() => Err(AddError::IdServerMissing),
            None => Err(AddError::AuthFailed),
        }
    }

    /// The proof was spent before: by this very request, then its bind may be unfinished; or by another, and then it
    /// proves nothing any more.
    async fn repeat_foreign(
        &self,
        add: &Add,
        server: &IdentityServerName,
        spent: SpentProof,
    ) -> Result<(), AddError> {
        let key = self.secrets.session_key(&spent.address, &add.client_secret);
        if spent.user_id != add.user_id || spent.key != key {
            return Err(AddError::AuthFailed);
        }
        self.still_has(&add.user_id, &spent.address).await?;
        if !add.bind {
            return Ok(());
        }
        let bindings = self.store.bindings(&add.user_id, &spent.address).await?;
        match bindings.iter().find(|binding| binding.server == *server) {
            Some(binding) if binding.state == BindingState::Bound => Ok(()),
            _ => {
                let pending = self.pending(add, server, spent.address);
                let unit = UnitOfWork::new().cancel_unbind(pending.key()).put_binding(pending.clone());
                self.commit_unrivalled(unit).await?;
                self.publish(add, pending).await
            }
        }
    }

    async fn ask_what_it_proves(
        &self,
        add: &Add,
        server: &IdentityServerName,
    ) -> Result<ForeignProof, AddError> {
        let asked =
            self.identity_servers.validated(server.clone(), credentials(add), add.id_access_token.clone());
        let said = match asked.await {
            Ok(said) => said.ok_or(AddError::AuthFailed)?,
            Err(IdentityServerError::Refused(refusal)) if refusal.says_unproven() => {
                return Err(AddError::AuthFailed);
            }
            Err(error) => return Err(refused_or_down(error)),
        };
        self.judge(said)
    }

    /// An identity server's word passes the same rules as our own proofs.
    fn judge(&self, said: RemoteValidation) -> Result<ForeignProof, AddError> {
        let medium = Medium::parse(&said.medium).ok_or(AddError::AuthFailed)?;
        let address = Address::parse(medium, &said.address).map_err(|_| AddError::AuthFailed)?;
        let now = self.clock.now();
        let is_too_early = said.validated_at > now.plus(CLOCKS_DIFFER_BY);
        if is_too_early || now >= said.validated_at.plus(self.policy.lifetimes.validated) {
            return Err(AddError::AuthFailed);
        }
        if !self.policy.rules.permit(&address) {
            return Err(AddError::Denied);
        }
        Ok(ForeignProof { address, validated_at: said.validated_at.min(now) })
    }

    fn spend_foreign(
        &self,
        add: &Add,
        door: AuditDoor,
        server: &IdentityServerName,
        proof: ForeignProof,
        pending: Option<Binding>,
    ) -> UnitOfWork {
        let now = self.clock.now();
        let entry = self.audit_of_contact(AuditAction::Added, door, &add.user_id, &proof.address);
        let key: KeyedHash = self.secrets.session_key(&proof.address, &add.client_secret);
        let unit = UnitOfWork::new()
            .spend_proof(SpentProof {
                server: server.clone(),
                sid: add.sid.clone(),
                user_id: add.user_id.clone(),
                key,
                address: proof.address.clone(),
                spent_at: now,
            })
            .put_threepid(Threepid {
                user_id: add.user_id.clone(),
                address: proof.address,
                validated_at: proof.validated_at,
                added_at: now,
            })
            .audit(AuditEntry { server: Some(server.clone()), ..entry });
        let unit = self.mirrored(unit, &add.user_id);
        match pending {
            Some(pending) => unit.cancel_unbind(pending.key()).put_binding(pending),
            None => unit,
        }
    }

    /// Asks the server to publish what is recorded as pending, and records that it did.
    async fn publish(&self, add: &Add, pending: Binding) -> Result<(), AddError> {
        let (server, token) = (pending.server.clone(), add.id_access_token.clone());
        let bound = self.identity_servers.bind(server, credentials(add), add.user_id.clone(), token).await;
        if bound.map_err(refused_or_down)? != pending.address {
            let cause = format!("{} published another address than the one it validated", pending.server);
            return Err(Unavailable::new("identity server", cause).into());
        }
        // An unbind that is owed by now stays owed: the address was deleted while the server was asked.
        let entry = self.audit_of_binding(AuditAction::Bound, AuditDoor::Add, &pending.key());
        let bound = Binding { state: BindingState::Bound, ..pending };
        Ok(self.commit_unrivalled(UnitOfWork::new().put_binding(bound).audit(entry)).await?)
    }

    fn pending(&self, add: &Add, server: &IdentityServerName, address: Address) -> Binding {
        Binding {
            user_id: add.user_id.clone(),
            address,
            server: server.clone(),
            state: BindingState::Pending,
            since: self.clock.now(),
        }
    }
}

fn credentials(add: &Add) -> RemoteCredentials {
    RemoteCredentials { sid: add.sid.clone(), client_secret: add.client_secret.clone() }
}

fn refused_or_down(error: IdentityServerError) -> AddError {
    match error {
        IdentityServerError::Refused(refusal) => AddError::Refused(refusal.of_identity_server()),
        IdentityServerError::Unavailable(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
