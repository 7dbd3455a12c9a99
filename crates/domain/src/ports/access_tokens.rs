//! Whose access token is this?

use std::net::IpAddr;

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{AccessToken, Caller, RemoteRefusal, UserId};

/// What a client shows to say who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its access token.
    pub access_token: AccessToken,
    /// The user an application service acts for (`?user_id=`).
    pub user_id: Option<UserId>,
    /// The client's address, passed on so that the homeserver sees who really asked.
    pub client_ip: Option<IpAddr>,
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// A good answer that was given a short while ago will do.
    ForReading,
    /// It has to be asked now.
    ForChange,
}

/// Knows access tokens: the homeserver, or a table of our own.
///
/// An adapter MUST ask anew for [`Freshness::ForChange`], MUST remember only good answers and only for a bounded time,
/// MUST forget a token that was refused, and MUST NOT log a token.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait AccessTokens: Send + Sync {
    /// The account behind a token.
    ///
    /// # Errors
    /// [`WhoseTokenError`].
    async fn whose(&self, credentials: Credentials, freshness: Freshness) -> Result<Caller, WhoseTokenError>;
}

/// A token that tells no account.
#[derive(Debug, thiserror::Error)]
pub enum WhoseTokenError {
    /// No account has this token.
    #[error("unknown access token")]
    Unknown,
    /// The homeserver refused it (or asked to slow down); the answer is passed on whole.
    #[error("the homeserver refused the access token with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It cannot be known now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
