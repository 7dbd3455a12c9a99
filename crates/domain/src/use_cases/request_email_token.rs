//! `POST /account/3pid/email/requestToken`: a client wants to prove an email address.

use std::net::IpAddr;
use std::time::Duration;

use super::{Contacts, DECISIONS, too_many_conflicts};
use crate::model::{
    Address, ClientSecret, EmailAddress, IssuedToken, NextLink, OutboxMessage, Payload, SendAttempt, Sid,
    Timestamp, UnitOfWork, ValidationSession,
};
use crate::ports::{CommitError, Conflict, Limit, Unavailable, Verdict};

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
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum RequestTokenError {
    /// This server sends no mail.
    #[error("this server sends no mail")]
    MediumNotSupported,
    /// The operator's rules refuse the address.
    #[error("the address is not permitted")]
    Denied,
    /// An account has the address already.
    #[error("the address is in use")]
    InUse,
    /// Too many requests.
    #[error("too many requests")]
    Limited {
        /// When to try again.
        retry_after: Duration,
    },
    /// It cannot be done now; nothing was changed that a retry would not mend.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Opens or continues a validation session, and owes the mail that proves its address.
    ///
    /// The answer is durable: a session is returned only once it and its mail are stored.
    ///
    /// # Errors
    /// [`RequestTokenError`].
    pub async fn request_email_token(&self, request: RequestEmailToken) -> Result<Sid, RequestTokenError> {
        if !self.policy.sends_mail {
            return Err(RequestTokenError::MediumNotSupported);
        }
        let address = Address::Email(request.email.clone());
        if !self.policy.rules.permit(&address) {
            return Err(RequestTokenError::Denied);
        }
        if let Some(ip) = request.client_ip {
            self.take(Limit::RequestTokenPerClient, ip.to_string()).await?;
        }
        self.take(Limit::RequestTokenPerAddress, self.secrets.address_key(&address).to_hex()).await?;
        if self.store.owner(&address).await?.is_some() {
            return Err(RequestTokenError::InUse);
        }
        let key = self.secrets.session_key(&address, &request.client_secret);
        for _ in 0..DECISIONS {
            let (sid, unit) = match self.store.current_session(key).await? {
                Some(session) => self.continue_session(session, &request, &address),
                None => self.open_session(UnitOfWork::new(), &request, &address),
            };
            let Some(unit) = unit else { return Ok(sid) };
            match self.store.commit(unit).await {
                Ok(()) => return Ok(sid),
                Err(CommitError::Conflict(Conflict::StaleSession | Conflict::SessionExists)) => {}
                Err(CommitError::Conflict(Conflict::AddressOwned)) => return Err(RequestTokenError::InUse),
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(too_many_conflicts().into())
    }

    async fn take(&self, limit: Limit, subject: String) -> Result<(), RequestTokenError> {
        match self.rate_limiter.take(limit, subject).await? {
            Verdict::Allowed => Ok(()),
            Verdict::RetryAfter(retry_after) => Err(RequestTokenError::Limited { retry_after }),
        }
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
