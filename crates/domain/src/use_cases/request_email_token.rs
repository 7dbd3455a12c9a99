//! `POST /account/3pid/email/requestToken`: a client wants to prove an email address.

use std::net::IpAddr;

use super::Contacts;
use super::request_token::{Opened, Request, RequestTokenError};
use crate::model::{ClientSecret, EmailAddress, IdAccessToken, IdentityServerName, NextLink, SendAttempt};
use crate::ports::RemoteRecipient;

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
    ///
    /// [`Validation::IdentityServer`]: crate::model::Validation::IdentityServer
    pub id_server: Option<IdentityServerName>,
    /// The client's token there. Without one the server is spoken to in v1.
    pub id_access_token: Option<IdAccessToken>,
}

impl Contacts {
    /// Opens or continues a validation session, and has the mail sent that proves its address. The answer is durable: a
    /// session of ours is returned only once it and its mail are stored.
    ///
    /// # Errors
    /// [`RequestTokenError`].
    pub async fn request_email_token(&self, request: RequestEmailToken) -> Result<Opened, RequestTokenError> {
        let RequestEmailToken {
            client_secret,
            email,
            send_attempt,
            next_link,
            client_ip,
            id_server,
            id_access_token,
        } = request;
        let to = RemoteRecipient::Email(email);
        let request =
            Request { client_secret, to, send_attempt, next_link, client_ip, id_server, id_access_token };
        self.request_token(request).await
    }
}

#[cfg(test)]
mod tests;
