//! `POST /account/3pid/msisdn/requestToken`: a client wants to prove a phone number.

use std::net::IpAddr;

use super::Contacts;
use super::request_token::{Opened, Request, RequestTokenError};
use crate::model::{ClientSecret, Country, IdAccessToken, IdentityServerName, Msisdn, NextLink, SendAttempt};
use crate::ports::RemoteRecipient;

/// What the client asks.
#[derive(Clone, Debug)]
pub struct RequestMsisdnToken {
    /// The secret that the session is opened under.
    pub client_secret: ClientSecret,
    /// The number to be proven.
    pub number: Msisdn,
    /// The country that the client read the number in, for an identity server.
    pub country: Country,
    /// A higher count asks for another SMS.
    pub send_attempt: SendAttempt,
    /// Where the browser goes after a confirmation by link, where the SMS has one.
    pub next_link: Option<NextLink>,
    /// Who asks, for the limit per client.
    pub client_ip: Option<IpAddr>,
    /// The identity server that the client would have validate; only [`Validation::IdentityServer`] heeds it.
    ///
    /// [`Validation::IdentityServer`]: crate::model::Validation::IdentityServer
    pub id_server: Option<IdentityServerName>,
    /// The client's token there. Without one the server is spoken to in v1.
    pub id_access_token: Option<IdAccessToken>,
}

impl Contacts {
    /// Opens or continues a validation session, and has the SMS sent whose code proves its number. The answer is
    /// durable: a session of ours is returned only once it and its SMS are stored.
    ///
    /// # Errors
    /// [`RequestTokenError`].
    pub async fn request_msisdn_token(
        &self,
        request: RequestMsisdnToken,
    ) -> Result<Opened, RequestTokenError> {
        let RequestMsisdnToken {
            client_secret,
            number,
            country,
            send_attempt,
            next_link,
            client_ip,
            id_server,
            id_access_token,
        } = request;
        let to = RemoteRecipient::Msisdn { number, country };
        let request =
            Request { client_secret, to, send_attempt, next_link, client_ip, id_server, id_access_token };
        self.request_token(request).await
    }
}

#[cfg(test)]
mod tests;
