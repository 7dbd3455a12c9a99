//! Who is asking: the account behind an access token, or what the homeserver says to whoever has it.
//!
//! Access tokens that prove to be nobody's are counted for the client that showed them. Beyond the limit the client is
//! refused before anybody is asked, so that guessing costs the homeserver nothing.

use std::net::IpAddr;
use std::sync::Arc;

use super::client_subject;
use crate::model::Caller;
use crate::ports::{
    AccessTokens, AnswerAsWritten, Credentials, Freshness, HomeserverCapabilities, Limit, OverLimit,
    RateLimiter, Unavailable, WhoseTokenError,
};

/// Asks whose access tokens are.
#[derive(Clone)]
pub struct WhoAsks {
    access_tokens: Arc<dyn AccessTokens>,
    capabilities: Option<Arc<dyn HomeserverCapabilities>>,
    rate_limiter: Arc<dyn RateLimiter>,
}

/// Why it is not known who is asking.
#[derive(Debug, thiserror::Error)]
pub enum WhoAsksError {
    /// Too many access tokens of this client were nobody's.
    #[error(transparent)]
    Limited(#[from] OverLimit),
    /// The token tells no account.
    #[error(transparent)]
    Whose(#[from] WhoseTokenError),
}

impl From<Unavailable> for WhoAsksError {
    fn from(error: Unavailable) -> Self {
        Self::Whose(error.into())
    }
}

impl WhoAsks {
    /// Asks `access_tokens`, as often as `rate_limiter` permits; `capabilities` where there is a homeserver.
    pub fn new(
        access_tokens: Arc<dyn AccessTokens>,
        capabilities: Option<Arc<dyn HomeserverCapabilities>>,
        rate_limiter: Arc<dyn RateLimiter>,
    ) -> Self {
        Self { access_tokens, capabilities, rate_limiter }
    }

    /// The account behind a token.
    ///
    /// # Errors
    /// [`WhoAsksError`].
    pub async fn whose(
        &self,
        credentials: Credentials,
        freshness: Freshness,
    ) -> Result<Caller, WhoAsksError> {
        let client_ip = credentials.client_ip;
        self.permit(client_ip).await?;
        let caller = self.access_tokens.whose(credentials, freshness).await;
        if caller.as_ref().is_err_and(is_nobodys) {
            self.count(client_ip).await?;
        }
        Ok(caller?)
    }

    /// What the homeserver says that it can do; `None` where there is none, once it is known that the token is
    /// somebody's.
    ///
    /// # Errors
    /// [`WhoAsksError`].
    pub async fn capabilities(
        &self,
        credentials: Credentials,
    ) -> Result<Option<AnswerAsWritten>, WhoAsksError> {
        let Some(homeserver) = &self.capabilities else {
            self.whose(credentials, Freshness::ForReading).await?;
            return Ok(None);
        };
        let client_ip = credentials.client_ip;
        self.permit(client_ip).await?;
        let answer = homeserver.capabilities(credentials).await?;
        if answer.status == UNAUTHORIZED {
            self.count(client_ip).await?;
        }
        Ok(Some(answer))
    }

    async fn permit(&self, client_ip: Option<IpAddr>) -> Result<(), WhoAsksError> {
        let Some(ip) = client_ip else { return Ok(()) };
        let verdict = self.rate_limiter.look(Limit::FailedTokensPerClient, client_subject(ip)).await?;
        Ok(verdict.over(Limit::FailedTokensPerClient)?)
    }

    async fn count(&self, client_ip: Option<IpAddr>) -> Result<(), Unavailable> {
        let Some(ip) = client_ip else { return Ok(()) };
        // Whoever is over the limit by this one learns it with the next.
        self.rate_limiter.take(Limit::FailedTokensPerClient, client_subject(ip)).await?;
        Ok(())
    }
}

/// What other servers answer to a token that is nobody's; the domain reads no other status.
const UNAUTHORIZED: u16 = 401;

fn is_nobodys(error: &WhoseTokenError) -> bool {
    match error {
        WhoseTokenError::Unknown => true,
        WhoseTokenError::Refused(refusal) => refusal.status == UNAUTHORIZED,
        WhoseTokenError::Unavailable(_) => false,
    }
}

#[cfg(test)]
mod tests;
