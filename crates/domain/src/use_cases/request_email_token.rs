//! `POST /account/3pid/email/requestToken`: a client wants to prove an email address.

use std::net::IpAddr;

use super::{Changes, Contacts, DECISIONS, client_subject, too_many_conflicts};
use crate::model::{
    Address, ClientSecret, EmailAddress, IdAccessToken, IdentityServerName, IssuedToken, NextLink,
    OutboxMessage, Payload, RemoteRefusal, RemoteSession, SendAttempt, Sid, Timestamp, UnitOfWork,
    Validation, ValidationSession,
};
use crate::ports::{
    CommitError, EVERYBODY, IdentityServerError, Limit, OpenedRemotely, OverLimit, RemoteTokenRequest,
    Unavailable,
};

/// What the client asks.
#[derive(Clone, Debug)]
pub struct RequestEmailToken {
    /// The secret that the session is opened under.
    pub client_secret: ClientSecret,
    /// The address to be proven.
    pub email: EmailAddress,
    /// A higher count asks for another mail.
    pub send_attempt: SendAttempt,
    /// Where the browser goes after the confirmation.
    pub next_link: Option<NextLink>,
    /// Who asks, for the limit per client.
    pub client_ip: Option<IpAddr>,
    /// The identity server that the client would have validate; only [`Validation::IdentityServer`] heeds it.
    pub id_server: Option<IdentityServerName>,
    /// The client's token there. Without one the server is spoken to in v1.
    pub id_access_token: Option<IdAccessToken>,
}

/// The session that was opened or continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its identifier.
    pub sid: Sid,
    /// Where a client submits the token itself, where an identity server said so.
    pub submit_url: Option<String>,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum RequestTokenError {
    /// Accounts may not change their contacts.
    #[error("changes are switched off")]
    ChangesForbidden,
    /// Nobody is there to send a mail.
    #[error("nobody is there to send a mail")]
    MediumNotSupported,
    /// The operator's rules refuse the address.
    #[error("the address is not permitted")]
    Denied,
    /// An account has the address already.
    #[error("the address is in use")]
    InUse,
    /// Too many requests.
    #[error(transparent)]
    Limited(#[from] OverLimit),
    /// The identity server is not trusted to validate.
    #[error("the identity server is not trusted")]
    ServerNotTrusted,
    /// The identity server refused.
    #[error("the identity server refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It cannot be done now; nothing was changed that a retry would not mend.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Opens or continues a validation session, and has the mail sent that proves its address.
    ///
    /// The answer is durable: a session of ours is returned only once it and its mail are stored. With
    /// [`Validation::IdentityServer`] all our own rules are met first, then the identity server is asked.
    ///
    /// # Errors
    /// [`RequestTokenError`].
    pub async fn request_email_token(&self, request: RequestEmailToken) -> Result<Opened, RequestTokenError> {
        if self.policy.changes == Changes::Forbidden {
            return Err(RequestTokenError::ChangesForbidden);
        }
        let validator = self.validator(&request)?;
        let address = Address::Email(request.email.clone());
        if !self.policy.rules.permit(&address) {
            return Err(RequestTokenError::Denied);
        }
        if let Some(ip) = request.client_ip {
            self.take::<RequestTokenError>(Limit::RequestTokenPerClient, client_subject(ip)).await?;
        }
        let subject = self.secrets.address_key(&address).to_hex();
        self.take::<RequestTokenError>(Limit::RequestTokenPerAddress, subject).await?;
        if self.store.owner(&address).await?.is_some() {
            return Err(RequestTokenError::InUse);
        }
        match validator {
            Some(server) => self.request_remotely(server, request, address).await,
            None => self.request_here(request, address).await,
        }
    }

    /// Who sends the mail: an identity server, or (`None`) this server.
    fn validator(
        &self,
        request: &RequestEmailToken,
    ) -> Result<Option<IdentityServerName>, RequestTokenError> {
        let trusted = &self.policy.trusted;
        match (self.policy.validation, &request.id_server) {
            (Validation::Direct, _) if self.policy.sends_mail => Ok(None),
            (Validation::Direct, _) => Err(RequestTokenError::MediumNotSupported),
            (Validation::IdentityServer, Some(server)) if trusted.validates(server) => {
                Ok(Some(server.clone()))
            }
            (Validation::IdentityServer, Some(_)) => Err(RequestTokenError::ServerNotTrusted),
            (Validation::IdentityServer, None) => {
                let first = trusted.first_that_validates().ok_or(RequestTokenError::MediumNotSupported)?;
                Ok(Some(first.clone()))
            }
        }
    }

    async fn request_remotely(
        &self,
        server: IdentityServerName,
        request: RequestEmailToken,
        address: Address,
    ) -> Result<Opened, RequestTokenError> {
        let asked = RemoteTokenRequest {
            client_secret: request.client_secret,
            email: request.email,
            send_attempt: request.send_attempt,
            next_link: request.next_link,
        };
        let opened =
            self.identity_servers.request_email_token(server.clone(), asked, request.id_access_token).await;
        let OpenedRemotely { sid, submit_url } = opened.map_err(|error| match error {
            IdentityServerError::Refused(refusal) => RequestTokenError::Refused(refusal.of_identity_server()),
            IdentityServerError::Unavailable(error) => error.into(),
        })?;
        let session = RemoteSession { server, sid: sid.clone(), address, opened_at: self.clock.now() };
        self.commit_unrivalled(UnitOfWork::new().put_remote_session(session)).await?;
        Ok(Opened { sid, submit_url })
    }

    async fn request_here(
        &self,
        request: RequestEmailToken,
        address: Address,
    ) -> Result<Opened, RequestTokenError> {
        let key = self.secrets.session_key(&address, &request.client_secret);
        let mut is_counted = false;
        for _ in 0..DECISIONS {
            let (sid, unit) = match self.store.current_session(key).await? {
                Some(session) => self.continue_session(session, &request, &address),
                None => self.open_session(UnitOfWork::new(), &request, &address),
            };
            let opened = Opened { sid, submit_url: None };
            let Some(unit) = unit else { return Ok(opened) };
            if !std::mem::replace(&mut is_counted, true) {
                self.take_of_all(Limit::MailsInAll).await?;
            }
            match self.store.commit(unit).await {
                Ok(()) => return Ok(opened),
                Err(CommitError::Conflict(_another_request_came_first)) => {}
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(too_many_conflicts().into())
    }

    /// Counts one message of those that everybody has together. What is beyond is refused and not kept for later: its
    /// token would end before its turn came, and a flood that waits holds up all that comes after it.
    async fn take_of_all(&self, limit: Limit) -> Result<(), RequestTokenError> {
        let taken = self.take(limit, EVERYBODY.to_owned()).await;
        if let Err(RequestTokenError::Limited(over)) = &taken {
            self.held_back.say(over.limit, self.clock.now());
        }
        taken
    }

    fn continue_session(
        &self,
        mut session: ValidationSession,
        request: &RequestEmailToken,
        address: &Address,
    ) -> (Sid, Option<UnitOfWork>) {
        let now = self.clock.now();
        let next_link = request.next_link.clone();
        match session.request_again(request.send_attempt, next_link, now, &self.policy.lifetimes) {
            Ok(None) => (session.sid().clone(), None),
            Ok(Some(token)) => {
                let sid = session.sid().clone();
                let mail = self.validation_mail(&sid, &token, request, now);
                (sid, Some(UnitOfWork::new().put_session(session).enqueue(mail)))
            }
            Err(_ended) => {
                session.supersede();
                self.open_session(UnitOfWork::new().put_session(session), request, address)
            }
        }
    }

    fn open_session(
        &self,
        unit: UnitOfWork,
        request: &RequestEmailToken,
        address: &Address,
    ) -> (Sid, Option<UnitOfWork>) {
        let now = self.clock.now();
        let sid = self.secrets.new_sid();
        let session = ValidationSession::open(
            sid.clone(),
            self.secrets.session_key(address, &request.client_secret),
            address.clone(),
            request.send_attempt,
            request.next_link.clone(),
            now,
            &self.policy.lifetimes,
        );
        let mail = session.newest_token().map(|token| self.validation_mail(&sid, token, request, now));
        let unit = mail.into_iter().fold(unit.put_session(session), UnitOfWork::enqueue);
        (sid, Some(unit))
    }

    fn validation_mail(
        &self,
        sid: &Sid,
        token: &IssuedToken,
        request: &RequestEmailToken,
        now: Timestamp,
    ) -> OutboxMessage {
        OutboxMessage {
            id: self.secrets.new_message_id(),
            payload: Payload::ValidationMail {
                to: request.email.clone(),
                sid: sid.clone(),
                generation: token.generation,
            },
            created_at: now,
            due_at: now,
            not_after: token.expires_at,
        }
    }
}

#[cfg(test)]
mod tests;
