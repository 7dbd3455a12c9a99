//! The identity service of other servers.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{
    Address, ClientSecret, Country, EmailAddress, IdAccessToken, IdentityServerName, Msisdn, NextLink,
    RemoteRefusal, SendAttempt, Sid, Timestamp, UserId,
};

/// What an identity server is asked to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTokenRequest {
    /// The client's secret, which the session there is opened under.
    pub client_secret: ClientSecret,
    /// The address to be proven.
    pub to: RemoteRecipient,
    /// The client's count.
    pub send_attempt: SendAttempt,
    /// Where the browser goes after the confirmation.
    pub next_link: Option<NextLink>,
}

/// Whom an identity server is asked to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteRecipient {
    /// By mail.
    Email(EmailAddress),
    /// By SMS.
    Msisdn {
        /// The number, which the server is given with its country code.
        number: Msisdn,
        /// The country that the client named beside it.
        country: Country,
    },
}

impl RemoteRecipient {
    /// The address to be proven.
    pub fn address(&self) -> Address {
        match self {
            Self::Email(email) => Address::Email(email.clone()),
            Self::Msisdn { number, .. } => Address::Msisdn(number.clone()),
        }
    }
}

/// A session that an identity server opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRemotely {
    /// Its identifier there.
    pub sid: Sid,
    /// Where the client submits the token, if the server says so.
    pub submit_url: Option<String>,
}

/// A session at an identity server, with the secret that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCredentials {
    /// Its identifier there.
    pub sid: Sid,
    /// Its secret.
    pub client_secret: ClientSecret,
}

/// What an identity server says was validated, unread: the domain judges it.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteValidation {
    /// The medium's name.
    pub medium: String,
    /// The address in the server's spelling.
    pub address: String,
    /// When it was validated.
    pub validated_at: Timestamp,
}

impl std::fmt::Debug for RemoteValidation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteValidation").field("validated_at", &self.validated_at).finish_non_exhaustive()
    }
}

/// Asks identity servers. With an `id_access_token` it speaks v2, without one v1.
///
/// An adapter:
/// - MUST send nothing to another host than the named server's, follow no redirect, and end within a bounded time;
/// - MUST judge the address that it connects to, unless the operator's settings name it;
/// - MUST take only 2xx with a whole JSON object of the expected form for success: an `errcode` in it, or
///   `success: false`, is none;
/// - MUST give a Matrix error of status 4xx (on unbind 501 too) as [`IdentityServerError::Refused`], whole, and
///   everything else as [`Unavailable`];
/// - MUST send an unbind only where it can sign, and otherwise say [`Unbound::NoSupport`];
/// - MUST NOT keep or log a token, a secret or an address.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait IdentityServer: Send + Sync {
    /// Asks the server to send a validation mail ([v2], v1 alike) or a [validation SMS].
    ///
    /// # Errors
    /// [`IdentityServerError`].
    ///
    /// [v2]: https://spec.matrix.org/v1.18/identity-service-api/#post_matrixidentityv2validateemailrequesttoken
    /// [validation SMS]: https://spec.matrix.org/v1.18/identity-service-api/#post_matrixidentityv2validatemsisdnrequesttoken
    async fn request_token(
        &self,
        server: IdentityServerName,
        request: RemoteTokenRequest,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<OpenedRemotely, IdentityServerError>;

    /// What a session there proves (`getValidated3pid`); `None` where the server answers without saying so.
    ///
    /// # Errors
    /// [`IdentityServerError`].
    async fn validated(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Option<RemoteValidation>, IdentityServerError>;

    /// Publishes the session's address for an account, and returns what the server says it published.
    ///
    /// # Errors
    /// [`IdentityServerError`].
    async fn bind(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        user_id: UserId,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Address, IdentityServerError>;

    /// Asks the server to forget a binding, in a request signed as the account's homeserver.
    ///
    /// # Errors
    /// [`IdentityServerError`].
    async fn unbind(
        &self,
        server: IdentityServerName,
        user_id: UserId,
        address: Address,
    ) -> Result<Unbound, IdentityServerError>;
}

/// How an identity server answered an unbind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbound {
    /// The binding is gone.
    Done,
    /// It does not support this (400, 404 or 501 without a Matrix error), or we cannot sign.
    NoSupport,
}

/// What an identity server did not do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityServerError {
    /// It refused, in the Matrix error format with a status of 4xx.
    #[error("the identity server refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It is down, slow, or answers what is no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// No identity server at all, for a server that trusts none: nothing is asked, and nothing can be unbound.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIdentityServers;

impl NoIdentityServers {
    fn none() -> IdentityServerError {
        Unavailable::new("identity server", "none is configured").into()
    }
}

#[async_trait]
impl IdentityServer for NoIdentityServers {
    async fn request_token(
        &self,
        _server: IdentityServerName,
        _request: RemoteTokenRequest,
        _id_access_token: Option<IdAccessToken>,
    ) -> Result<OpenedRemotely, IdentityServerError> {
        Err(Self::none())
    }

    async fn validated(
        &self,
        _server: IdentityServerName,
        _session: RemoteCredentials,
        _id_access_token: Option<IdAccessToken>,
    ) -> Result<Option<RemoteValidation>, IdentityServerError> {
        Err(Self::none())
    }

    async fn bind(
        &self,
        _server: IdentityServerName,
        _session: RemoteCredentials,
        _user_id: UserId,
        _id_access_token: Option<IdAccessToken>,
    ) -> Result<Address, IdentityServerError> {
        Err(Self::none())
    }

    async fn unbind(
        &self,
        _server: IdentityServerName,
        _user_id: UserId,
        _address: Address,
    ) -> Result<Unbound, IdentityServerError> {
        Ok(Unbound::NoSupport)
    }
}
