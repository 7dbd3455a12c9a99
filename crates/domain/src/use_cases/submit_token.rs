//! A token or a code comes back: by the page behind the link, or by a client's JSON.

use std::net::IpAddr;

use super::{Contacts, DECISIONS, client_subject, too_many_conflicts};
use crate::model::{
    ClientSecret, Code, Medium, NextLink, Sid, SubmitRefusal, Token, UnitOfWork, ValidationSession,
};
use crate::ports::{CommitError, Limit, OverLimit, Unavailable};

/// The token or code, and for which session.
#[derive(Clone, Debug)]
pub struct SubmitToken {
    /// The session.
    pub sid: Sid,
    /// The token of the link; or the code, as its user wrote it.
    pub token: Token,
    /// Through which door it came.
    pub door: Door,
    /// Who gives it back, for the limit per client.
    pub client_ip: Option<IpAddr>,
}

/// How a token came back.
#[derive(Clone, Debug)]
pub enum Door {
    /// By the page: whoever holds the link, or was sent the code and knows the `sid`, needs no client secret.
    Link,
    /// From the client that opened the session.
    Client(ClientSecret),
}

/// The address is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// What kind of address it is.
    pub medium: Medium,
    /// Where the browser goes now, with the `sid` in its query.
    pub next_link: Option<NextLink>,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum SubmitTokenError {
    /// No such session, another secret, a wrong token, or a burnt session: all the same.
    #[error("the token is incorrect")]
    Incorrect,
    /// The token was right once.
    #[error("the session has expired")]
    Expired,
    /// Too many tokens were given back.
    #[error(transparent)]
    Limited(#[from] OverLimit),
    /// It cannot be done now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Judges a token or code that came back. A right one validates its session, and says so again when it is repeated.
    ///
    /// # Errors
    /// [`SubmitTokenError`].
    pub async fn submit_token(&self, submit: SubmitToken) -> Result<Confirmed, SubmitTokenError> {
        if let Some(ip) = submit.client_ip {
            self.take::<SubmitTokenError>(Limit::SubmitPerClient, client_subject(ip)).await?;
        }
        let (mut is_counted, mut guessed) = (false, None);
        for _ in 0..DECISIONS {
            let session = self.store.session(&submit.sid).await?;
            let mut session = session.ok_or(SubmitTokenError::Incorrect)?;
            if let Door::Client(secret) = &submit.door {
                let key = self.secrets.session_key(session.address(), secret);
                if !session.was_opened_under(&key) {
                    return Err(SubmitTokenError::Incorrect);
                }
            }
            // Only sessions of ours are counted, so that nobody fills the memory with others.
            if !std::mem::replace(&mut is_counted, true) {
                self.take::<SubmitTokenError>(Limit::SubmitPerSession, submit.sid.as_str().to_owned())
                    .await?;
            }
            // Codes are few, so guesses at them are counted over all sessions of the address.
            let code = code_given(&submit.token, &session);
            if code.is_some() && guessed.is_none() {
                let subject = self.secrets.address_key(session.address()).to_hex();
                self.take::<SubmitTokenError>(Limit::CodesPerAddress, subject.clone()).await?;
                guessed = Some(subject);
            }
            let (before, medium) = (session.clone(), session.address().medium());
            let (sid, now, lifetimes) = (&submit.sid, self.clock.now(), &self.policy.lifetimes);
            let judged = match code {
                Some(code) => session.submit_code(&code, |nth| self.secrets.code(sid, nth), now, lifetimes),
                None => session.submit(&submit.token, |nth| self.secrets.token(sid, nth), now, lifetimes),
            };
            if session != before {
                match self.store.commit(UnitOfWork::new().put_session(session)).await {
                    Ok(()) => {}
                    Err(CommitError::Conflict(_)) => continue,
                    Err(CommitError::Unavailable(error)) => return Err(error.into()),
                }
            }
            return match judged {
                Ok(submitted) => {
                    if let Some(subject) = guessed {
                        self.give_back(Limit::CodesPerAddress, subject).await;
                    }
                    Ok(Confirmed { medium, next_link: submitted.next_link })
                }
                Err(SubmitRefusal::Wrong | SubmitRefusal::Burnt) => Err(SubmitTokenError::Incorrect),
                Err(SubmitRefusal::Expired) => Err(SubmitTokenError::Expired),
            };
        }
        Err(too_many_conflicts().into())
    }
}

/// What was given, where it can be the code of a session that was sent one.
fn code_given(token: &Token, session: &ValidationSession) -> Option<Code> {
    Code::given(token.expose()).filter(|_| session.has_code())
}

#[cfg(test)]
mod tests;
