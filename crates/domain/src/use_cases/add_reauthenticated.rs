//! `POST /account/3pid/add`: a proven address goes to an account whose user has proven again who they are.
//!
//! Three things make the second proof sound. A challenge counts only where we passed it on to this user for this
//! session, and once: the add spends it in its own unit. It counts only where somebody is asked: before each answer a
//! bare request must still be challenged. And nothing is spent before both proofs stand.

use serde_json::{Map, Value};

use super::{Add, AddError, Changes, Contacts, DECISIONS, audit, too_many_conflicts};
use crate::model::{
    AuditAction, AuditDoor, Challenge, ClientSecret, RemoteRefusal, Sid, SpendRefusal, Threepid, UnitOfWork,
    UserId,
};
use crate::ports::{
    Answered, AskedAgain, ChallengeToPassOn, CommitError, Conflict, Credentials, Limit, OverLimit,
    Reauthentication, ReauthenticationError, Unavailable,
};

/// Who adds what, and what they answer to the challenge.
#[derive(Clone, Debug)]
pub struct AddReauthenticated {
    /// The account.
    pub user_id: UserId,
    /// What the client showed.
    pub credentials: Credentials,
    /// The session that proves the address.
    pub sid: Sid,
    /// The secret that the session was opened under.
    pub client_secret: ClientSecret,
    /// The client's `auth` object.
    pub auth: Option<Auth>,
}

/// What a client answers to a challenge. Its `Debug` shows no part of it: it may hold a password.
#[derive(Clone, PartialEq)]
pub struct Auth(pub Map<String, Value>);

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(…)")
    }
}

/// Why the address was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddReauthenticatedError {
    /// Accounts may not change their contacts.
    #[error("changes are switched off")]
    ChangesForbidden,
    /// The client is to answer this first.
    #[error("a challenge is to be answered")]
    Challenged(ChallengeToPassOn),
    /// Nobody could be asked who is asking, so nobody was believed.
    #[error("nobody was asked who is asking")]
    NotAsked,
    /// The homeserver refused; its answer is passed on whole.
    #[error("the homeserver refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// Too many wrong answers for this account.
    #[error(transparent)]
    Limited(#[from] OverLimit),
    /// The address was not added for a reason of its own.
    #[error(transparent)]
    Add(#[from] AddError),
}

impl From<Unavailable> for AddReauthenticatedError {
    fn from(error: Unavailable) -> Self {
        Self::Add(error.into())
    }
}

impl AddReauthenticatedError {
    /// Whether whoever asked was asked who they are, and was wrong. A challenge of which more is to be answered is no
    /// such thing: homeservers put an `errcode` beside it only where the last answer was wrong.
    fn is_wrong_answer(&self) -> bool {
        match self {
            Self::Challenged(challenge) => challenge.body.contains_key("errcode"),
            Self::Refused(refusal) => matches!(refusal.status, 401 | 403),
            _ => false,
        }
    }
}

impl From<ReauthenticationError> for AddReauthenticatedError {
    fn from(error: ReauthenticationError) -> Self {
        match error {
            ReauthenticationError::NotAsked => Self::NotAsked,
            ReauthenticationError::Refused(refusal) => Self::Refused(refusal),
            ReauthenticationError::Unavailable(error) => error.into(),
        }
    }
}

impl Contacts {
    /// Adds a proven address once its account's user has proven again who they are.
    ///
    /// # Errors
    /// [`AddReauthenticatedError`]; nothing was spent then.
    pub async fn add_reauthenticated(&self, add: AddReauthenticated) -> Result<(), AddReauthenticatedError> {
        if self.policy.changes == Changes::Forbidden {
            return Err(AddReauthenticatedError::ChangesForbidden);
        }
        let challenge = match &self.reauthentication {
            Some(port) => Some(self.reauthenticate_within_limit(port.as_ref(), &add).await?),
            None => None,
        };
        self.spend_both(&add, challenge.as_ref()).await
    }

    /// As [`Contacts::reauthenticate`], as often as an account may be wrong. An answer is counted before it is judged, so
    /// that guesses which come together are counted too, and given back where it was not wrong.
    async fn reauthenticate_within_limit(
        &self,
        port: &dyn Reauthentication,
        add: &AddReauthenticated,
    ) -> Result<Challenge, AddReauthenticatedError> {
        if add.auth.is_none() {
            return self.reauthenticate(port, add).await;
        }
        let (limit, subject) = (Limit::FailedReauthenticationPerAccount, add.user_id.as_str());
        self.take::<AddReauthenticatedError>(limit, subject.to_owned()).await?;
        let judged = self.reauthenticate(port, add).await;
        if !judged.as_ref().is_err_and(AddReauthenticatedError::is_wrong_answer) {
            self.give_back(limit, subject.to_owned()).await;
        }
        judged
    }

    /// The challenge that was answered; it is not spent yet.
    async fn reauthenticate(
        &self,
        port: &dyn Reauthentication,
        add: &AddReauthenticated,
    ) -> Result<Challenge, AddReauthenticatedError> {
        let asked = AskedAgain {
            credentials: add.credentials.clone(),
            user_id: add.user_id.clone(),
            sid: add.sid.clone(),
        };
        // Asked on every request: an answer proves something only where a bare request is still challenged.
        let fresh = port.challenge(asked.clone()).await?;
        let Some(Auth(auth)) = add.auth.clone() else {
            return Err(self.pass_on(fresh, add).await);
        };
        let (challenge, auth) = match auth.get("session").and_then(Value::as_str) {
            Some(session) => match self.store.challenge(session).await? {
                Some(known) if known.user_id == add.user_id && known.sid == add.sid => (known, auth),
                _ => return Err(self.pass_on(fresh, add).await),
            },
            None => {
                let challenge = self.remember(&fresh, add).await?;
                let mut auth = auth;
                auth.insert("session".to_owned(), challenge.session.clone().into());
                (challenge, auth)
            }
        };
        match port.answer(asked, auth).await? {
            Answered::Proven => Ok(challenge),
            Answered::Again(again) if again.session == challenge.session => {
                Err(AddReauthenticatedError::Challenged(again))
            }
            Answered::Again(another) => Err(self.pass_on(another, add).await),
        }
    }

    async fn pass_on(
        &self,
        challenge: ChallengeToPassOn,
        add: &AddReauthenticated,
    ) -> AddReauthenticatedError {
        match self.remember(&challenge, add).await {
            Ok(_) => AddReauthenticatedError::Challenged(challenge),
            Err(error) => error.into(),
        }
    }

    async fn remember(
        &self,
        asked: &ChallengeToPassOn,
        add: &AddReauthenticated,
    ) -> Result<Challenge, Unavailable> {
        let challenge = Challenge {
            session: asked.session.clone(),
            user_id: add.user_id.clone(),
            sid: add.sid.clone(),
            issued_at: self.clock.now(),
        };
        self.commit_unrivalled(UnitOfWork::new().put_challenge(challenge.clone())).await?;
        Ok(challenge)
    }

    async fn spend_both(
        &self,
        add: &AddReauthenticated,
        challenge: Option<&Challenge>,
    ) -> Result<(), AddReauthenticatedError> {
        for _ in 0..DECISIONS {
            let Some(mut session) = self.store.session(&add.sid).await? else {
                return Ok(self.add_proxied(add, challenge).await?);
            };
            if !session.was_opened_under(&self.secrets.session_key(session.address(), &add.client_secret)) {
                return Err(AddError::AuthFailed.into());
            }
            let now = self.clock.now();
            let proof = match session.spend(&add.user_id, now, &self.policy.lifetimes) {
                Ok(proof) => proof,
                Err(SpendRefusal::SpentByCaller) => {
                    return Ok(self.still_has(&add.user_id, session.address()).await?);
                }
                Err(SpendRefusal::NotValidated | SpendRefusal::Expired | SpendRefusal::Spent) => {
                    return Err(AddError::AuthFailed.into());
                }
            };
            let (address, proven_at) = (proof.address.clone(), proof.validated_at);
            let (action, door) = (AuditAction::Added, AuditDoor::AddReauthenticated);
            let entry = self.audit_of_contact(action, door, &add.user_id, &proof.address);
            let unit = UnitOfWork::new().put_session(session).audit(entry).put_threepid(Threepid {
                user_id: add.user_id.clone(),
                address: proof.address,
                validated_at: proof.validated_at,
                added_at: now,
            });
            let unit = challenge.cloned().into_iter().fold(unit, UnitOfWork::spend_challenge);
            match audit::commit(&*self.store, self.mirrored(unit, &add.user_id)).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict(Conflict::AddressOwned)) => {
                    self.owned_elsewhere(&address, proven_at).await?;
                }
                // The same answer came in twice at once, and the other one was first.
                Err(CommitError::Conflict(Conflict::ChallengeSpent)) => {
                    return Err(AddError::AuthFailed.into());
                }
                Err(CommitError::Conflict(_)) => {}
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(too_many_conflicts().into())
    }

    /// In `identity_server` validation the request names neither server nor token: the server that we had asked for
    /// the session is asked over v1, and must name the address that it was asked for.
    async fn add_proxied(
        &self,
        add: &AddReauthenticated,
        challenge: Option<&Challenge>,
    ) -> Result<(), AddError> {
        let sessions = self.store.remote_sessions(&add.sid).await?;
        let mut last = AddError::AuthFailed;
        for session in sessions.into_iter().filter(|session| self.policy.trusted.validates(&session.server)) {
            let asked = Add {
                user_id: add.user_id.clone(),
                sid: add.sid.clone(),
                client_secret: add.client_secret.clone(),
                id_server: Some(session.server),
                id_access_token: None,
                bind: false,
            };
            match self
                .add_foreign(asked, AuditDoor::AddReauthenticated, Some(&session.address), challenge)
                .await
            {
                Err(AddError::AuthFailed) => {}
                Err(error @ AddError::Unavailable(_)) => last = error,
                settled => return settled,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests;
