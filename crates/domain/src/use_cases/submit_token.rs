//! A token comes back: by the page behind the link, or by a client's JSON.

use std::net::IpAddr;

use super::{Contacts, DECISIONS, client_subject, too_many_conflicts};
use crate::model::{ClientSecret, NextLink, Sid, SubmitRefusal, Token, UnitOfWork};
use crate::ports::{CommitError, Limit, OverLimit, Unavailable};

/// The token, and for which session.
#[derive(Clone, Debug)]
pub struct SubmitToken {
    /// The session.
    pub sid: Sid,
    /// The token.
    pub token: Token,
    /// Through which door it came.
    pub door: Door,
    /// Who gives it back, for the limit per client.
    pub client_ip: Option<IpAddr>,
}

/// How a token came back.
#[derive(Clone, Debug)]
pub enum Door {
    /// By the link in the mail: whoever holds it needs no client secret.
    Link,
    /// From the client that opened the session.
    Client(ClientSecret),
}

/// The address is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
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
    /// Judges a token that came back. A right one validates its session, and says so again when it is repeated.
    ///
    /// # Errors
    /// [`SubmitTokenError`].
    pub async fn submit_token(&self, submit: SubmitToken) -> Result<Confirmed, SubmitTokenError> {
        if let Some(ip) = submit.client_ip {
            self.take::<SubmitTokenError>(Limit::SubmitPerClient, client_subject(ip)).await?;
        }
        let mut is_counted = false;
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
            let before = session.clone();
            let derive = |generation| self.secrets.token(&submit.sid, generation);
            let judged = session.submit(&submit.token, derive, self.clock.now(), &self.policy.lifetimes);
            if session != before {
                match self.store.commit(UnitOfWork::new().put_session(session)).await {
                    Ok(()) => {}
                    Err(CommitError::Conflict(_)) => continue,
                    Err(CommitError::Unavailable(error)) => return Err(error.into()),
                }
            }
            return match judged {
                Ok(submitted) => Ok(Confirmed { next_link: submitted.next_link }),
                Err(SubmitRefusal::Wrong | SubmitRefusal::Burnt) => Err(SubmitTokenError::Incorrect),
                Err(SubmitRefusal::Expired) => Err(SubmitTokenError::Expired),
            };
        }
        Err(too_many_conflicts().into())
    }
}

#[cfg(test)]
mod tests;
